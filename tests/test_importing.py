"""Others' files: what they become, what is refused, and that none of them runs code."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from awac_pl.datasets.catalog import local_root, read_metadata
from awac_pl.datasets.editing import choose, export, load_all, split
from awac_pl.datasets.importing import import_dataset
from awac_pl.datasets.inspection import inspect_dataset
from awac_pl.datasets.minari_io import load_dataset, save_dataset
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.errors import DatasetError, WriteError
from tests.conftest import REACH, WIDE
from tests.toy import make_episode

PEN = find_task("pen")


def observations(steps: int, succeed_at: int | None = None, seed: int = 0) -> np.ndarray:
    """``[T + 1, 45]`` of the pen task; the pen is on its target at one row alone."""
    rows = np.random.default_rng(seed).normal(size=(steps + 1, 45))
    rows[:, 39:42] = 1.0
    if succeed_at is not None:
        rows[succeed_at, 39:42], rows[succeed_at, 33:36], rows[succeed_at, 36:39] = 0, [1, 0, 0], [1, 0, 0]
    return rows


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, size=(steps, 24))


def dapg(path: Path, *episodes: dict) -> Path:
    path.write_bytes(pickle.dumps(list(episodes), protocol=2))
    return path


def read(target: str):
    return load_dataset(target, PEN, inspect_spaces(PEN)).episodes


def test_dapg_leaves_out_the_action_whose_outcome_is_unknown(tmp_path: Path) -> None:
    acted = actions(6)
    acted[1, 3] = 1.5
    file = dapg(tmp_path / "d.pickle", {"observations": observations(5, 4), "actions": acted, "rewards": np.arange(6.0)})
    report = import_dataset(file, "mine/pen-v0", PEN, licence="MIT", progress=False)
    assert report == {
        "episodes": 1, "steps": 5, "successes": 1, "clipped_share": 1 / 120, "largest_action": 1.5, "reward_agreement": 0.0,
        "ends": {"file": 1}, "left_out_actions": 1,
    }  # fmt: skip
    (episode,) = read("mine/pen-v0")
    assert episode.success.tolist() == [False, False, False, True, False]
    assert episode.rewards.tolist() == [-1, -1, -1, 0, -1]
    assert episode.truncated.tolist() == [False, False, False, False, True]
    assert episode.actions[1, 3] == 1
    metadata = read_metadata("mine/pen-v0")
    assert metadata["licence"] == "MIT"
    assert (metadata["origin"]["file"], metadata["origin"]["format"]) == ("d.pickle", "dapg")
    assert len(metadata["origin"]["sha256"]) == 64


def test_rlkit_reads_observations_from_dicts(tmp_path: Path) -> None:
    rows = observations(4, 2)
    path = {
        "observations": [{"state_observation": row, "observation": row + 9} for row in rows[:-1]],
        "next_observations": [{"state_observation": row, "observation": row + 9} for row in rows[1:]],
        "actions": list(actions(4)),
        "rewards": np.array([-1.0, 0.0, -1.0, 0.0, -1.0]),  # one too many, as in the authors' file
        "terminals": np.zeros((4, 1)),
    }
    np.save(tmp_path / "pen.npy", np.array([path], dtype=object), allow_pickle=True)
    report = import_dataset(tmp_path / "pen.npy", "mine/pen-v0", PEN, progress=False)
    assert (report["steps"], report["successes"], report["reward_agreement"]) == (4, 1, 0.75)
    np.testing.assert_allclose(read("mine/pen-v0")[0].observations, rows, rtol=1e-6)


def test_d4rl_is_cut_at_terminals_and_timeouts(tmp_path: Path) -> None:
    rows = observations(9)[:-1]
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        file["observations"], file["actions"], file["rewards"] = rows, actions(9), np.zeros(9)
        file["terminals"] = np.arange(9) == 3
        file["timeouts"] = np.arange(9) == 5
    report = import_dataset(tmp_path / "flat.hdf5", "mine/pen-v0", PEN, progress=False)
    assert [len(episode) for episode in read("mine/pen-v0")] == [3, 1, 2]  # each less the step whose outcome is unknown
    assert report["episodes"] == 3


@pytest.mark.parametrize("form", ["npz", "d4rl"])
def test_what_is_exported_comes_back(tmp_path: Path, form: str) -> None:
    np.savez(
        tmp_path / "in.npz", observations=np.stack([observations(5, 2), observations(5, 3, seed=1)]),
        actions=np.stack([actions(5), actions(5, seed=1)]), reset_seed=[7, 8],
    )  # fmt: skip
    import_dataset(tmp_path / "in.npz", "mine/one-v0", PEN, progress=False)
    episodes, spaces, _ = load_all(["mine/one-v0"], PEN)
    assert [episode.seed for episode in episodes] == [7, 8]
    out = tmp_path / ("out.npz" if form == "npz" else "out.hdf5")
    export(episodes, spaces, out, form)
    import_dataset(out, "mine/two-v0", PEN, progress=False)
    for before, after in zip(episodes, read("mine/two-v0"), strict=True):
        np.testing.assert_array_equal(before.observations, after.observations)
        np.testing.assert_array_equal(before.actions, after.actions)
        np.testing.assert_array_equal(before.success, after.success)
    assert sorted(path.name for path in tmp_path.glob("out*")) == [out.name]


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "bad.pickle").write_bytes(pickle.dumps([Canary(canary)]))
    np.save(tmp_path / "bad.npy", np.array([Canary(canary)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "bad.npz", observations=np.array([Canary(canary)], dtype=object), actions=np.zeros(3))
    for name, message in (
        ("bad.pickle", r"bad.pickle: the file asks for posix.mkdir, which is no array; it may run code and was refused"),
        ("bad.npy", r"bad.npy: the file asks for posix.mkdir"),
        ("bad.npz", r"bad.npz: the file asks for posix.mkdir"),
    ):
        with pytest.raises(DatasetError, match=message):
            import_dataset(tmp_path / name, "mine/pen-v0", PEN, progress=False)
    assert not canary.exists()
    assert not local_root().exists()


def test_a_dataset_that_declares_more_than_it_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.hdf5", "w") as file:
        file.create_dataset("observations", shape=(10**11, 45), dtype="f4", chunks=(1024, 45))
    assert (tmp_path / "huge.hdf5").stat().st_size < 10_000
    with pytest.raises(DatasetError, match=r"'observations' declares 18000000000000 bytes and holds 0"):
        import_dataset(tmp_path / "huge.hdf5", "mine/pen-v0", PEN, progress=False)


def broken(**changes) -> dict:
    return {"observations": observations(5), "actions": actions(5)} | changes


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (broken(actions=actions(9)), r"observations are \[6, 45\], .* needs \[10, 45\] \(T \+ 1 rows for 9 actions\)"),
        (broken(observations=observations(5).T), r"observations are \[45, 6\]"),
        (broken(actions=actions(5)[:, :7]), r"actions are \[5, 7\]"),
        (broken(observations=np.full((6, 45), np.nan)), r"observations: 270 values are not finite \(first at \[0, 0\]\)"),
        (broken(actions=[[1.0], [1.0, 2.0]]), r"cannot be read as dapg"),
        (broken(actions=np.ones((5, 24), int)), r"episode 0: actions are int64; AWAC needs continuous ones"),
        (broken(actions=np.array([[1.0], [1.0, 2.0]], dtype=object)), r"actions: no array of numbers \(ragged, or object\)"),
        ({"obs": 3}, r"episode 0 has no 'observations' and 'actions'"),
        (broken(observations=[{"pixels": 3}]), r"observations are dicts of pixels; none is known"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, episode: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        import_dataset(dapg(tmp_path / "d.pkl", episode), "mine/pen-v0", PEN, progress=False)
    assert not (local_root() / "mine").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pickle", pickle.dumps([]), "has no episodes"),
        ("text.pickle", b"<!DOCTYPE html>", "is a web page, not the file; download it anew"),
        ("cut.hdf5", b"\x89HDF\r\n\x1a\n", "cannot be read as d4rl"),
        ("page.hdf5", b"<!DOCTYPE html><title>Sign in</title>", "is a web page"),
        (
            "pointer.hdf5",
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer, not the file; fetch it with: git lfs pull",
        ),
        ("cut.npz", b"PK\x03\x04", "cannot be read as npz"),
        (
            "what.bin",
            b"",
            "neither its content nor its suffix tells a format; pass --format, one of lerobot, minari, robomimic,",
        ),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        import_dataset(tmp_path / name, "mine/pen-v0", PEN, progress=False)
    with pytest.raises(DatasetError, match="no such file"):
        import_dataset(tmp_path / "gone.npz", "mine/pen-v0", PEN, progress=False)
    with pytest.raises(DatasetError, match="is no dataset id"):
        import_dataset(tmp_path / name, "../../x-v0", PEN, progress=False)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("awac_pl.datasets.minari_io._write_episode", full)
    with pytest.raises(WriteError, match=r"mine/pen-v0: cannot be written \(No space left on device\); nothing was changed"):
        import_dataset(dapg(tmp_path / "d.pkl", broken()), "mine/pen-v0", PEN, progress=False)
    assert not (local_root() / "mine").exists()


def test_choosing_cutting_and_splitting() -> None:
    spaces = inspect_spaces(PEN)
    path = Path(os.environ["MINARI_DATASETS_PATH"]) / "in.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, observations=np.stack([observations(6, 3 if index % 2 else None, index) for index in range(10)]),
        actions=np.stack([actions(6, index) for index in range(10)]), reset_seed=np.arange(10),
    )  # fmt: skip
    import_dataset(path, "mine/ten-v0", PEN, progress=False)
    episodes = read("mine/ten-v0")
    assert [episode.seed for episode in choose(episodes, 3)] == [0, 1, 2]
    assert [episode.seed for episode in choose(episodes, successful=True)] == [1, 3, 5, 7, 9]
    picked = [episode.seed for episode in choose(episodes, 4, random_seed=1)]
    assert picked == sorted(set(picked))
    assert picked != [0, 1, 2, 3]
    cut = choose(episodes, cut_after_success=True)
    assert [len(episode) for episode in cut] == [6, 3] * 5
    assert cut[1].rewards.tolist() == [-1, -1, 0]
    assert cut[1].truncated.tolist() == [False, False, True]
    save_dataset("mine/cut-v0", cut, PEN, spaces, {})
    first, rest = split(episodes, 0.9, seed=0)
    assert (len(first), len(rest)) == (9, 1)
    assert {episode.seed for episode in (*first, *rest)} == set(range(10))
    with pytest.raises(DatasetError, match="11 episodes were asked for, there are 10"):
        choose(episodes, 11)
    with pytest.raises(DatasetError, match="cannot split 1 episodes"):
        split(episodes[:1], 0.5, 0)
    with pytest.raises(DatasetError, match="episodes have 3 to 6 steps; npz needs one length"):
        export(cut, spaces, path.with_name("out.npz"), "npz")


@pytest.mark.parametrize("column", ["observations", "actions", "rewards"])
def test_the_doctor_finds_absurd_values(column: str, tmp_path: Path) -> None:
    """Sums of them are beyond all numbers, and a loss overflows: a finding, not a warning of numpy."""
    columns = {"observations": observations(5, 2), "actions": actions(5), "rewards": np.full(5, -1.0)}
    columns[column] = columns[column].astype(np.float64)
    columns[column][2:4] = -1.5e308
    report = inspect_dataset(dapg(tmp_path / "absurd.pickle", columns), PEN)
    assert report["too_large"] == [{"episode": 0, "column": column, "largest": 1.5e308}]
    assert report["findings"][0]["finding"] == (
        f"episode 0: {column} reach 1.5e+308, more than 1e+15; a loss would overflow"
    )
    assert report["curves"]["returns"] == ([None] if column == "rewards" else [-5.0])
    with pytest.raises(DatasetError, match=f"absurd.pickle.*{column}.* not finite"):
        import_dataset(tmp_path / "absurd.pickle", "mine/absurd-v0", replace(PEN, reward="environment"), progress=False)


def test_the_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = observations(5, 2)
    wrong[3, 7] = np.nan
    acted = actions(5)
    acted[0, 0] = -1.3
    file = dapg(
        tmp_path / "sick.pickle",
        {"observations": wrong, "actions": acted, "rewards": np.array([-1.0, -1.0, -1.0, -1.0, -1.0])},
        {"observations": observations(5, seed=1), "actions": acted, "rewards": np.full(5, -1.0)},
    )
    report = inspect_dataset(file, PEN)
    assert report["not_finite"] == [{"episode": 0, "column": "observations", "step": 3, "count": 1, "feature": 7}]
    assert report["success"] == {"stored": None, "recomputed": 1}
    assert report["rewards"]["agreement_with_success"] == pytest.approx(0.9)
    assert report["actions"]["outside_share"] == pytest.approx(2 / 240)
    assert report["duplicates"] == [[0, 1]]
    found = " | ".join(finding["finding"] for finding in report["findings"])
    for part in (
        "episode 0, step 3: 1 values of observations are not finite", "0.8 % of the action values lie outside",
        "agree with the success of the next observation in 90 %", "1 episodes repeat another one's actions (1 of 0)",
    ):  # fmt: skip
        assert part in found
    assert inspect_dataset("awac/pen/expert-v0", PEN)["findings"] == []


def test_the_doctor_says_what_a_policy_can_learn(tmp_path: Path) -> None:
    # 4 episodes of 6 steps; a policy has 4. One succeeds at step 3, one at step 5, two never.
    rows = [observations(6, success, seed) for seed, success in enumerate((3, 5, None, None))]
    np.savez(tmp_path / "late.npz", observations=rows, actions=[1.5 * actions(6, seed) for seed in range(4)])
    task = find_task("pen", horizon=4)
    report = inspect_dataset(tmp_path / "late.npz", task)
    successes = [success.sum() for success in (task.success(row[1:]) for row in rows)]
    assert report["training"] == {
        "horizon": 4, "longer": 4, "longer_share": 1.0, "later_share": pytest.approx(8 / 24), "succeed": 2,
        "succeed_in_time": 1, "rewarded_share": pytest.approx(sum(successes) / 24), "clipped_at_import": None,
    }  # fmt: skip
    found = {finding["finding"]: finding["remedy"] for finding in report["findings"]}
    longer = "4 of 4 episodes are longer than the task's 4 steps; 33 % of the steps lie behind them"
    assert "--data.horizon=6 gives the policy as much time" in found[longer]
    (few,) = (remedy for finding, remedy in found.items() if finding.startswith("1 of 4 episodes succeed within 4 steps (2"))
    assert "'--data.datasets={mine/name-v0: 20.0, …}'" in few
    import_dataset(tmp_path / "late.npz", "mine/late-v0", PEN, progress=False)
    assert any(
        "% of the action values were clipped at import" in line for line in inspect_dataset("mine/late-v0", PEN)["expect"]
    )


def test_the_doctor_knows_another_tasks_data() -> None:
    (finding, *_) = inspect_dataset("awac/door/expert-v0", PEN)["findings"]
    assert finding["finding"] == "observations of [39], actions of [28]; AdroitHandPenSparse-v1 needs 45 and 24"


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("observations.npy", bytes(70 << 20))
    with pytest.raises(DatasetError, match=r"bomb.npz: 'observations.npy' declares 73400320 bytes and holds \d{5}; damaged"):
        import_dataset(tmp_path / "bomb.npz", "mine/pen-v0", PEN, progress=False)


def test_no_dataset_is_replaced_unless_that_is_meant(tmp_path: Path) -> None:
    file = dapg(tmp_path / "d.pickle", broken())
    import_dataset(file, "mine/pen-v0", PEN, progress=False)
    for target in ("mine/pen-v0", "awac/pen/expert-v0"):  # the second one is built in
        with pytest.raises(DatasetError, match=f"there is a dataset '{target}'; choose another id, or pass --overwrite"):
            import_dataset(file, target, PEN, progress=False)
    import_dataset(dapg(file, broken(), broken()), "mine/pen-v0", PEN, progress=False, overwrite=True)
    assert len(read("mine/pen-v0")) == 2
    import_dataset(file, "mine/pen-v0/inner-v0", PEN, progress=False)
    (local_root() / "mine/raw-v0").mkdir()
    (local_root() / "mine/raw-v0/recordings.npz").touch()
    for target, lost in (("mine/pen-v0", "inner-v0/data/main_data.hdf5"), ("mine/raw-v0", "recordings.npz")):
        with pytest.raises(DatasetError, match=rf"{target} holds other files \({lost}\), which would be lost"):
            import_dataset(file, target, PEN, progress=False, overwrite=True)


# Values by hand


def test_a_success_per_state_is_that_after_the_action(tmp_path: Path) -> None:
    """Five values for four actions: the first is of the state before the first action."""
    rows = {"observations": np.arange(10.0).reshape(1, 5, 2), "actions": np.zeros((1, 4, 1))}
    np.savez(tmp_path / "x.npz", **rows, success=[[1, 0, 0, 1, 0]])
    task = find_task(REACH)
    import_dataset(tmp_path / "x.npz", "mine/x-v0", task, progress=False)
    (episode,) = load_dataset("mine/x-v0", task, inspect_spaces(task)).episodes
    assert episode.success is not None
    assert episode.success.tolist() == [False, False, True, False]


def test_an_end_that_is_also_a_timeout_is_no_termination(tmp_path: Path) -> None:
    rows = {"observations": np.zeros((2, 4, 2)), "actions": np.zeros((2, 3, 1)), "rewards": np.zeros((2, 3))}
    np.savez(tmp_path / "x.npz", **rows, dones=[[0, 0, 1], [0, 0, 1]], timeouts=[[0, 0, 1], [0, 0, 0]])
    task = find_task(REACH, reward="environment")
    import_dataset(tmp_path / "x.npz", "mine/x-v0", task, progress=False)
    episodes = load_dataset("mine/x-v0", task, inspect_spaces(task)).episodes
    assert [episode.terminated[-1] for episode in episodes] == [False, True]


def test_the_report_has_the_largest_action_of_all_episodes(tmp_path: Path) -> None:
    rows = {"observations": np.zeros((2, 3, 2)), "rewards": np.zeros((2, 2))}
    np.savez(tmp_path / "x.npz", **rows, actions=np.array([[[1.5], [-4.0]], [[0.5], [0.0]]]))
    report = import_dataset(tmp_path / "x.npz", "mine/x-v0", find_task(REACH, reward="environment"), progress=False)
    assert (report["largest_action"], report["clipped_share"]) == (4.0, 0.5)


def test_an_episode_is_cut_after_its_last_success() -> None:
    episode = make_episode(5, success=np.array([True, False, True, False, False]))
    (cut,) = choose([episode], cut_after_success=True)
    assert (len(cut), cut.truncated.tolist()) == (3, [False, False, True])


def test_d4rl_gets_actions_in_the_environments_units_and_ends_by_their_kind(tmp_path: Path) -> None:
    """The environment's actions lie in [-2, 4]."""
    moves, last = np.array([[0.5], [-1.0]], np.float32), np.array([[1.0]], np.float32)
    terminated, truncated = np.array([False, True]), np.zeros(2, bool)
    ended = make_episode(2, success=None, actions=moves, terminated=terminated, truncated=truncated)
    cut = make_episode(1, success=None, actions=last)
    export([ended, cut], inspect_spaces(find_task(WIDE)), tmp_path / "x.hdf5", "d4rl")
    with h5py.File(tmp_path / "x.hdf5") as file:
        np.testing.assert_allclose(file["actions"][:, 0], [2.5, -2, 4])
        assert file["terminals"][:].tolist() == [False, True, False]
        assert file["timeouts"][:].tolist() == [False, False, True]
        np.testing.assert_array_equal(file["next_observations"][:2], ended.observations[1:])
