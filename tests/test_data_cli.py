"""``awac data …`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from awac_pl.commands.main import main
from awac_pl.datasets.catalog import local_root, read_metadata
from awac_pl.datasets.editing import choose, split
from awac_pl.datasets.formats import Reading
from awac_pl.datasets.minari_io import load_dataset
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.episode import Episode
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
        (["split", "awac/pen/expert-v0", "--task", "pen", "--to", "my/a-v0", "my/a-v0"], "the two parts need two ids"),
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


def asked(monkeypatch: pytest.MonkeyPatch, function: str, answer: Any) -> list[tuple[tuple, dict[str, Any]]]:
    """A function that only answers; returns the list of what it will have been asked for."""
    calls: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(function, lambda *given, **named: calls.append((given, named)) or answer)
    return calls


def test_every_option_of_record_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts, replays = (
        asked(monkeypatch, f"awac_pl.datasets.from_runs.record_{name}", {}) for name in ("policy", "replay")
    )
    command = ["data", "record", "a.ckpt", "--task", REACH, "--to", "my/a-v0", "--horizon", "7"]
    options = ["--deterministic", "--episodes", "5", "--workers", "3", "--seed", "4", "--overwrite"]
    assert main([*command, *options]) == main([*command, "--replay", "--overwrite"]) == main([*command, "--replay"]) == 0
    task = find_task(REACH, horizon=7)
    named = {"num_episodes": 5, "deterministic": True, "num_workers": 3, "seed": 4, "overwrite": True}
    assert rollouts == [((Path("a.ckpt"), "my/a-v0", task), named)]
    as_it_is = find_task(REACH, horizon=7, clip_actions=False)
    assert replays == [((Path("a.ckpt"), "my/a-v0", as_it_is), {"overwrite": overwrite}) for overwrite in (True, False)]


def test_every_option_of_clone_arrives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    clones = asked(monkeypatch, "awac_pl.datasets.cloned.clone_dataset", {"success_stochastic": None})
    fetched = asked(monkeypatch, "awac_pl.datasets.downloading.fetch_dataset", None)
    assert main(["data", "clone", "door"]) == 0
    printed = capsys.readouterr().out
    assert "awac/door/cloned-v0: 500 episodes of a policy cloned from awac/door/expert-v0" in printed
    assert "success_stochastic     unknown" in printed
    options = [
        "--num_demonstrations",
        "5",
        "--normalize_observations",
        "--sampled_actions",
        "--episodes",
        "6",
        "--seed",
        "4",
    ]
    assert main(["data", "clone", "pen", "--from", "my/b-v0", *options, "--workers", "3", "--overwrite"]) == 0
    first, second = clones
    assert first[0] == ("awac/door/expert-v0", "awac/door/cloned-v0", find_task("door"))
    assert second[0] == ("my/b-v0", "awac/pen/cloned-5-sampled-normalized-v0", find_task("pen", clip_actions=False))
    assert second[1] == {
        "num_demonstrations": 5, "num_episodes": 6, "normalize_observations": True, "num_workers": 3, "seed": 4,
        "overwrite": True,
    }  # fmt: skip
    assert [given for given, _ in fetched] == [("awac/door/expert-v0",), ("my/b-v0",)]


def test_every_option_of_import_and_inspect_arrives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    findings = [{"finding": "a hole", "remedy": "fill it"}, {"finding": "a hump", "remedy": "cut it"}]
    report = {"episodes": 3, "expect": ["little"], "curves": {}, "fits": True, "findings": findings}
    imports = asked(monkeypatch, "awac_pl.datasets.importing.import_dataset", {"episodes": 3})
    inspections = asked(monkeypatch, "awac_pl.datasets.inspection.inspect_dataset", report)
    of_task = ["--task", REACH, "--horizon", "7", "--success_key", "won", "--reward", "environment"]
    reading = ["--format", "dapg", "--keys", "b, a", "--demos", "good", "--dones", "truncated", "--episode_steps", "0",
               "--inner_ends", "keep"]  # fmt: skip
    assert main(["data", "inspect", "a.npz", *of_task, *reading]) == 0
    own = ["--to", "my/a-v0", "--success_from", "end", "--licence", "MIT", "--overwrite"]
    assert main(["data", "import", "a.npz", *of_task, *reading, *own]) == 0
    task = find_task(REACH, horizon=7, success_key="won", reward="environment")
    how = Reading(keys=("b", "a"), demos="good", dones="truncated", episode_steps=0, inner_ends="keep")
    assert inspections == [((Path("a.npz"), task, "dapg", how), {"progress": True})]
    named = {"form": "dapg", "how": how, "success_from": "end", "licence": "MIT", "overwrite": True}
    assert imports == [((Path("a.npz"), "my/a-v0", task), named)]
    printed = capsys.readouterr().out
    assert "! a hole\n    fill it\n! a hump\n    cut it\n> little\nverdict: 2 findings\n" in printed
    del findings[1:]
    assert main(["data", "inspect", "a.npz", *of_task]) == 0
    assert "verdict: 1 finding\n" in capsys.readouterr().out


def stored(dataset: str) -> list[Episode]:
    task = find_task(REACH)
    return load_dataset(dataset, task, inspect_spaces(task)).episodes


def seeds(episodes: list[Episode]) -> list[int | None]:
    return [episode.seed for episode in episodes]


def test_episodes_are_chosen_by_number_and_seed(reach_dataset: str) -> None:
    task = ["--task", REACH, "--to"]
    whole = stored(reach_dataset)
    assert len(set(seeds(whole))) == 20
    assert main(["data", "subsample", reach_dataset, *task, "my/first-v0", "--episodes", "3"]) == 0
    assert main(["data", "subsample", reach_dataset, *task, "my/any-v0", "--episodes", "3", "--random", "1"]) == 0
    assert seeds(stored("my/first-v0")) == seeds(whole)[:3]
    assert seeds(stored("my/any-v0")) == seeds(choose(whole, 3, random_seed=1)) != seeds(whole)[:3]
    assert read_metadata("my/any-v0")["description"] == f"3 of the 20 episodes of {reach_dataset}"
    assert main(["data", "split", reach_dataset, *task, "my/train-v0", "my/test-v0", "--seed", "1"]) == 0
    train, test = split(whole, 0.9, seed=1)
    assert (seeds(stored("my/train-v0")), seeds(stored("my/test-v0"))) == (seeds(train), seeds(test))
    assert seeds(test) != seeds(split(whole, 0.9, seed=0)[1])


@pytest.mark.parametrize("command", ["relabel", "subsample", "combine", "split", "export"])
def test_what_is_there_is_replaced_only_when_that_is_meant(
    command: str, reach_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    targets = {"export": ["mine.hdf5"], "split": ["my/a-v0", "my/b-v0"]}.get(command, ["my/a-v0"])
    arguments = ["data", command, reach_dataset, "--task", REACH, "--to", *targets]
    assert main(arguments) == 0
    with monkeypatch.context() as patch:
        if command != "export":
            patch.setattr("awac_pl.datasets.editing.load_all", lambda *_, **__: pytest.fail("refused before the work"))
        assert main(arguments) == 2
    assert targets[0] in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("suffix", ["hdf5", "h5"])
def test_columns_are_exported(suffix: str, reach_dataset: str, tmp_path: Path) -> None:
    file = tmp_path / f"out.{suffix}"
    assert main(["data", "export", reach_dataset, "--task", REACH, "--to", str(file)]) == 0
    with h5py.File(file) as columns:
        assert columns["terminals"].shape == (200,)


def test_another_environments_dataset_is_relabelled_and_nothing_else(
    reach_dataset: str, capsys: pytest.CaptureFixture
) -> None:
    arguments = [reach_dataset, "--task", "tests.toy:Pictures-v0", "--to", "my/other-v0"]
    assert main(["data", "combine", *arguments]) == 2
    assert "awac data relabel" in capsys.readouterr().err
    assert main(["data", "relabel", *arguments]) == 0
