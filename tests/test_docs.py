"""The documentation names what exists: commands, options, files, metrics, errors. ``make docs`` checks its links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from awac_pl.commands.main import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SOURCE = "\n".join(path.read_text() for path in [*ROOT.glob("awac_pl/**/*.py"), ROOT / "Makefile"])
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every ``awac COMMAND`` in a code block or a code span."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"^(?:\s*|for .*; do )(awac [a-z].*)", text, re.M) + re.findall(r"`(awac [a-z][^`\n]*)`", text)
        for line in lines:
            yield page.name, re.split(r"\s+#|;|&", line)[0].split()


def known_options(command: tuple[str, ...], capsys: pytest.CaptureFixture) -> set[str]:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    hidden: set[str] = set()
    if command == ("sweep",):  # passes on what it does not know
        hidden = known_options(("fit",), capsys)
        with pytest.raises(SystemExit, match="0"):
            main(["sweep", "--help"])
    return set(re.findall(r"--[\w.]+", capsys.readouterr().out)) | hidden


def test_commands_and_their_options_exist(capsys: pytest.CaptureFixture) -> None:
    known: dict[tuple[str, ...], set[str]] = {}
    for page, words in commands():
        command = tuple(words[1:3] if words[1] == "data" and words[2:] and words[2].isalpha() else words[1:2])
        if command not in known:
            known[command] = known_options(command, capsys)
        asked = {match[1] for word in words if (match := re.match(r"'?(--\w[\w.]*)", word))} - {"--help"}
        assert asked <= known[command], f"{page}: {' '.join(words)}"


def test_options_exist() -> None:
    base = yaml.safe_load((ROOT / "conf/base.yaml").read_text())
    for path in (ROOT / "conf/algorithm").glob("*.yaml"):
        base["model"] |= yaml.safe_load(path.read_text())["model"]
    for page in PAGES:
        for section, key in re.findall(r"`(?:--)?(data|model|interaction|video)\.(\w+)", page.read_text()):
            assert key in base[section] or (section, key) == ("data", "replay"), f"{page.name}: {section}.{key}"


def test_the_table_of_folders_is_complete_and_names_files() -> None:
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", CONTRIBUTING.partition("| where is")[0], re.M))
    assert set(rows) == {path.parent.name for path in ROOT.glob("awac_pl/*/__init__.py")}
    for folder, files in rows.items():
        named = set(re.findall(r"`(\w+)`", files)) - {"awac" if folder == "commands" else ""}
        there = {path.stem for path in (ROOT / "awac_pl" / folder).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert named <= there, folder
        assert folder == "commands" or there - {"__init__", "__pycache__"} <= named, folder


def test_functions_that_answer_where_exist() -> None:
    table = CONTRIBUTING.partition("| where is")[2].partition("\n\n")[0]
    for name in re.findall(r"`(\w+)`", table):
        assert any(ROOT.glob(f"awac_pl/*/{name}.py")) or re.search(rf"(def|class) {name}\b", SOURCE), name


def test_metrics_and_errors_exist() -> None:
    for page in PAGES:
        for metric in re.findall(r"`(train/\w+)`", page.read_text()):
            assert metric in SOURCE, f"{page.name}: {metric}"
    for heading in re.findall(r"^### .*`.*$", (ROOT / "docs/troubleshooting.md").read_text(), re.M):
        for message in re.findall(r"`([^`]+)`", heading):
            fragments = re.split(r"…|'[^']*'|\b(?:4|2|16-mixed|nan|int64|graph)\b", message)
            longest = max((fragment.strip(" ,;:") for fragment in fragments), key=len)
            assert longest in SOURCE, f"docs/troubleshooting.md: {message}"
