"""MkDocs hook: files of the repository that lie outside ``docs/`` become part of the site when a page links to them.

Pages use the paths of the repository, so a link works in an editor and on the site: ``docs/presets.md`` links to
``../conf/base.yaml``. Markdown becomes a page, a picture is copied, every other text becomes a page that shows it.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")
COPIED = {".gif", ".png", ".svg", ".csv"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".json": "json"}
LINK = re.compile(r"(?<=]\()([^)\s#:]+)(?=[)#])")  # the path of a Markdown link or picture, not an address
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?")  # in notebooks; shown as code, since typesetting it takes a script


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page, or a file added here, links to."""
    waiting = [ROOT / name for name in FIRST] + [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.is_relative_to(DOCS):
            files.append(_site_file(path, config))
        if path.suffix == ".md":
            waiting += [
                target for link in LINK.findall(path.read_text()) if (target := (path.parent / link).resolve()).is_file()
            ]
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to where their files are in the site."""
    source = _repository_path(page.file)
    here = Path(page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        return os.path.relpath(_site_path(target), here) if target.is_file() else match[1]

    return LINK.sub(rewritten, markdown)


def _site_path(path: Path) -> str:
    """Path of a repository file among the site's sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return name if path.suffix in COPIED | {".md"} else f"{name}.md"


def _repository_path(file: File) -> Path:
    """The inverse of ``_site_path``."""
    inside = DOCS / file.src_uri
    return inside if inside.is_file() else ROOT / file.src_uri


def _site_file(path: Path, config: MkDocsConfig) -> File:
    uri = _site_path(path)
    if uri == path.relative_to(ROOT).as_posix():
        return File(uri, str(ROOT), config.site_dir, use_directory_urls=False)
    return File.generated(config, uri, content=_listing(path), inclusion=InclusionLevel.NOT_IN_NAV)


def _listing(path: Path) -> str:
    """A page that shows a text file, or a notebook with what its cells have printed and drawn."""
    parts = _cells(path) if path.suffix == ".ipynb" else [_fenced(path.read_text(), LANGUAGES.get(path.suffix, "text"))]
    name = path.relative_to(ROOT).as_posix()
    head = {"title": name, "search": {"exclude": True}}
    return "\n\n".join([f"---\n{json.dumps(head)}\n---", f"`{name}`", *parts])


def _cells(notebook: Path) -> Iterator[str]:
    for cell in json.loads(notebook.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield FORMULA.sub(lambda formula: f"`{' '.join(formula[1].split())}`", text)
            continue
        yield _fenced(text, "python")
        for output in cell["outputs"]:
            data = {kind: "".join(content) for kind, content in output.get("data", {}).items()}
            picture = next((kind for kind in data if kind.startswith("image/")), None)
            if picture is not None:
                content = b64encode(data[picture].encode()).decode() if "svg" in picture else data[picture].replace("\n", "")
                yield f"![output](data:{picture};base64,{content})"
            else:
                yield data.get("text/markdown") or _fenced(data.get("text/plain") or "".join(output["text"]))


def _fenced(text: str, language: str = "text") -> str:
    return f"~~~~~~{language}\n{text.rstrip()}\n~~~~~~"
