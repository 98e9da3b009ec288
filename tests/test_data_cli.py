"""``awac data …`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from awac_pl.commands.main import main
from awac_pl.datasets.catalog import local_root, read_metadata
from tests.conftest import REACH
from tests.test_formats import write
from tests.test_importing import actions, observations


@pytest.fixture
def file(tmp_path: Path) -> str:
    rows = [observations(6, 3 if index % 2 else None, index) for index in range(4)]
    np.savez(tmp_path / "mine.npz", observations=rows, actions=[actions(6, index) for index in range(4)])
    return str(tmp_path / "mine.npz")


def test_from_a_file_to_datasets_and_out_again(file: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pen = ["--task", "pen"]
    assert main(["data", "import", file, *pen, "--to", "my/pen-v0", "--licence", "MIT"]) == 0
    assert "successes              2" in capsys.readouterr().out
    assert main(["data", "relabel", "my/pen-v0", *pen, "--to", "my/again-v0"]) == 0
    assert main(["data", "subsample", "my/pen-v0", *pen, "--to", "my/good-v0", "--successful", "--cut"]) == 0
    assert "steps                  6" in capsys.readouterr().out
    assert main(["data", "combine", "my/good-v0", "my/again-v0", *pen, "--to", "my/all-v0"]) == 0
    assert main(["data", "split", "my/all-v0", *pen, "--share", "0.5", "--to", "my/train-v0", "my/test-v0"]) == 0
    assert main(["data", "export", "my/pen-v0", *pen, "--to", str(tmp_path / "out.npz")]) == 0
    assert np.load(tmp_path / "out.npz")["observations"].shape == (4, 7, 45)
    totals = {name: read_metadata(f"my/{name}-v0")["total_episodes"] for name in ("good", "all", "train", "test")}
    assert totals == {"good": 2, "all": 6, "train": 3, "test": 3}
    assert [origin["id"] for origin in read_metadata("my/all-v0")["origin"]] == ["my/good-v0", "my/again-v0"]
    capsys.readouterr()
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    row = next(line.split() for line in listed.splitlines() if line.startswith("my/pen-v0 "))
    assert row[1:5] == ["AdroitHandPenSparse-v1", "4", "24", "2"]


def test_inspect_prints_a_verdict_json_and_a_figure(file: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "inspect", file, "--task", "pen", "--figure", str(tmp_path / "look.png")]) == 0
    assert "verdict: nothing is wrong" in capsys.readouterr().out
    assert (tmp_path / "look.png").stat().st_size > 5000
    assert main(["data", "inspect", "awac/door/expert-v0", "--task", "pen", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["episodes"] == 25
    assert report["findings"][0]["remedy"] == "name the right --task, or record it anew"


BROKEN: dict[str, dict[str, Any]] = {
    "rewards that are no numbers.npz": {"rewards": np.full((2, 5), np.nan)},
    "text.npz": {"success": np.full((2, 5), "yes")},
    "nothing.npz": {"observations": np.zeros((2, 1, 2)), "actions": np.zeros((2, 0, 1))},
    "short.npz": {
        "observations": np.zeros((3, 1, 2)),
        "actions": np.zeros((3, 1, 1)),
        "rewards": np.zeros((3, 1)),
    },
    "flat.hdf5": {"observations": np.full((10, 2), np.nan), "actions": np.zeros((10, 1))},
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rewards that are no numbers.npz", "episode 1, step 0: 5 values of rewards are not finite"),
        ("text.npz", "text.npz: episode 0: 'success' is no array of numbers (ragged, or <U3)"),
        ("nothing.npz", "verdict: "),
        ("short.npz", "as many observations as actions: the outcome of the last action is unknown"),
        ("flat.hdf5", "episode 0, step 0: 20 values of observations are not finite"),
    ],
)
def test_what_is_broken_is_inspected(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    columns = {"observations": np.zeros((2, 6, 2)), "actions": np.zeros((2, 5, 1))} | BROKEN[name]
    path = write(tmp_path / name, **columns)
    refused = main(["data", "inspect", str(path), "--task", REACH]) == 2
    printed = capsys.readouterr()
    assert said in (printed.err if refused else printed.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "my/gone-v0", "--task", "pen"], "dataset 'my/gone-v0' is not in "),
        (["inspect", "awac/pen/expert-v0", "--task", "penn"], "unknown task 'penn'"),
        (["export", "awac/pen/expert-v0", "--task", "pen", "--to", "x.csv"], "write to a .npz or a .hdf5 file"),
        (["relabel", "awac/door/expert-v0", "--task", "pen", "--to", "my/pen-v0"], "observations are [201, 39]"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr("awac_pl.datasets.downloading._reachable", lambda host: False)
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["list", "inspect", "import", "relabel", "subsample", "combine", "split", "export", "clone"]
)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["data", command, "--help"])
    assert f"awac data {command}" in capsys.readouterr().out.split("examples:")[1]


def test_success_that_only_the_file_knows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The toy task tells success in ``info`` alone; without it in the file the environment's own reward is left."""
    shape = (3, 10, 1)
    arrays = {"observations": np.zeros((3, 11, 2)), "actions": np.zeros(shape), "rewards": np.full(shape[:2], -0.5)}
    np.savez(tmp_path / "with.npz", **arrays, success=np.arange(30).reshape(3, 10) == 7)
    np.savez(tmp_path / "without.npz", **arrays)
    task = ["--task", "tests.toy:Reach-v0", "--to", "my/reach-v0"]
    assert main(["data", "import", str(tmp_path / "with.npz"), *task]) == 0
    assert "successes              1" in capsys.readouterr().out
    assert main(["data", "import", str(tmp_path / "without.npz"), *task]) == 2
    assert main(["data", "import", str(tmp_path / "without.npz"), *task, "--reward", "environment", "--overwrite"]) == 0
    assert read_metadata("my/reach-v0")["reward"] == "environment"
    (local_root() / "my/reach-v0/data/metadata.json").write_text("{")
    assert main(["data", "list"]) == 0
    assert "damaged" in capsys.readouterr().out
