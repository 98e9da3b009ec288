"""Formats of other programs, made by hand: which rows become which episode, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from awac_pl.commands.data_options import FORMATS as NAMED
from awac_pl.commands.main import main
from awac_pl.datasets.catalog import data_file, local_root, read_metadata, recorded_layout
from awac_pl.datasets.formats import FORMATS, Reading, choose_format, read_recordings
from awac_pl.datasets.formats.unpickling import unpickle
from awac_pl.datasets.importing import import_dataset
from awac_pl.datasets.minari_io import load_dataset
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.errors import DatasetError
from tests.conftest import REACH
from tests.mutations import outcome

OWN = find_task(REACH, reward="environment")  # 2 observations, 1 action, 10 steps


def episodes(file: Path, **how: Any):
    return list(read_recordings(file, choose_format(file), Reading(**{"horizon": 4, **how})))


def columns(steps: int) -> dict[str, np.ndarray]:
    """Flat columns in which each value tells its row: observation (t, -t), action t / 100, reward t."""
    row = np.arange(steps, dtype=np.float32)
    return {"observations": np.stack([row, -row], axis=1), "actions": row[:, None] / 100, "rewards": row}


def write(path: Path, **arrays: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
    return path


@pytest.fixture(params=["flat.hdf5", "flat.npz"])
def flat(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


@pytest.mark.parametrize(
    ("ends", "lengths", "found"),
    [
        ({}, [4, 4], ["time limit", "file"]),
        ({"terminals": np.zeros(8), "timeouts": np.zeros(8)}, [4, 4], ["time limit", "file"]),
        ({"dones": [0, 0, 1, 0, 0, 0, 1, 0]}, [3, 4, 1], ["done", "done", "file"]),
        ({"terminated": [0, 0, 0, 0, 0, 0, 0, 1], "truncated": [0, 1, 0, 0, 0, 0, 0, 0]}, [2, 6], ["timeout", "terminated"]),
        ({"episode_terminals": [0, 0, 0, 0, 0, 1, 0, 1]}, [6, 2], ["marked", "marked"]),
        ({"episode_ends": [3, 8]}, [3, 5], ["marked", "marked"]),
        ({"episode_index": [4, 4, 4, 4, 4, 2, 2, 2]}, [5, 3], ["marked", "file"]),
        ({"is_terminal": [0, 1, 0, 0, 0, 0, 0, 0]}, None, "rows 2 to 7 have no end that is marked, and 6 steps are no mul"),
    ],
)
def test_ends_cut_a_flat_file(flat: Path, ends: dict, lengths: list[int] | None, found: Any) -> None:
    write(flat, **columns(8), **ends)
    if lengths is None:
        with pytest.raises(DatasetError, match=found):
            episodes(flat)
        assert [len(raw.actions) for raw in episodes(flat, episode_steps=0)] == [2, 6]
        assert [len(raw.actions) for raw in episodes(flat, episode_steps=3)] == [2, 3, 3]
        return
    read = episodes(flat)
    assert [len(raw.actions) for raw in read] == lengths
    assert [raw.end for raw in read] == found
    np.testing.assert_array_equal(np.concatenate([raw.observations for raw in read]), columns(8)["observations"])
    np.testing.assert_array_equal(np.concatenate([raw.actions for raw in read]), columns(8)["actions"])


def test_jumps_cut_a_flat_file_and_shuffled_rows_are_refused(flat: Path) -> None:
    following = columns(8)["observations"] + [1, -1]
    following[2] = [50, 50]  # the outcome of the third step; the fourth row is another episode's first
    write(flat, **columns(8), next_observations=following)
    first, second = episodes(flat)
    assert (len(first.actions), first.end, len(second.actions), second.end) == (3, "jump", 5, "file")
    assert first.observations.tolist() == [[0, 0], [1, -1], [2, -2], [50, 50]]
    assert second.observations[[0, -1]].tolist() == [[3, -3], [8, -8]]
    order = [3, 0, 7, 5, 1, 6, 2, 4]
    write(flat, **{name: column[order] for name, column in columns(8).items()}, next_observations=following[order])
    with pytest.raises(DatasetError, match="of 7 rows is not the following row's observation; the rows are shuffled"):
        episodes(flat)


@pytest.mark.parametrize("name", ["terminals", "terminated", "terminations", "is_terminal"])
def test_terminals_of_npz_are_kept_with_their_action(tmp_path: Path, name: str) -> None:
    """Without next observations, too: what follows a terminal is never used."""
    observations, acted = np.arange(16.0).reshape(2, 4, 2), np.full((2, 4, 1), 0.5)
    ends = np.array([[0, 0, 0, 1], [0, 0, 0, 0]])
    write(tmp_path / "own.npz", observations=observations, actions=acted, rewards=np.ones((2, 4)), **{name: ends})
    report = import_dataset(tmp_path / "own.npz", "mine/own-v0", OWN, progress=False)
    assert (report["ends"], report["left_out_actions"], report["steps"]) == ({"terminated": 1, "file": 1}, 1, 7)
    first, second = load_dataset("mine/own-v0", OWN, inspect_spaces(OWN)).episodes
    assert first.terminated.tolist() == [False, False, False, True]
    assert first.observations[-2:].tolist() == [[6, 7], [6, 7]]
    assert (len(second), second.terminated.any(), second.truncated[-1]) == (3, False, True)


def test_dones_are_asked_about_only_where_they_matter(tmp_path: Path) -> None:
    rows = {"observations": np.zeros((1, 4, 2)), "actions": np.zeros((1, 3, 1)), "rewards": np.zeros((1, 3))}
    file = write(tmp_path / "own.npz", **rows, dones=[[0, 0, 1]], success=[[0, 1, 0]])
    with pytest.raises(DatasetError, match="pass --dones terminated or --dones truncated"):
        import_dataset(file, "mine/own-v0", OWN, progress=False)
    for dones, ended in (("terminated", True), ("truncated", False)):
        import_dataset(file, "mine/own-v0", OWN, how=Reading(dones=dones), progress=False, overwrite=True)
        assert load_dataset("mine/own-v0", OWN, inspect_spaces(OWN)).episodes[0].terminated[-1] == ended
    assert import_dataset(file, "mine/binary-v0", find_task(REACH), progress=False)["ends"] == {"done": 1}
    both = write(tmp_path / "both.npz", **rows, dones=[[0, 0, 1]], timeouts=[[0, 0, 1]])
    assert import_dataset(both, "mine/both-v0", OWN, progress=False)["ends"] == {"timeout": 1}


@pytest.mark.parametrize(
    "mark",
    [
        {"terminals": [[0, 1, 0, 0]]}, {"is_last": [[0, 1, 0, 0]]}, {"episode_index": [[7, 7, 8, 8]]},
        {"is_last": [0, 1, 0, 0]}, {"episode_index": [7, 7, 8, 8]}, {"episode_ends": [2, 4]},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("inner", "rows"),
    [("drop", [[0, 1, 2]]), ("split", [[0, 1], [2, 3, 4]]), ("keep", [[0, 1, 2, 3, 4]]), (None, "it at step 2 of 4")],
)
def test_an_end_within_a_row(tmp_path: Path, mark: dict, inner: Any, rows: Any) -> None:
    """What follows the end of another episode is that one's first observation, and no outcome."""
    observations, acted = np.arange(5.0)[:, None].repeat(2, 1), np.zeros((4, 1))
    shape = np.ndim(next(iter(mark.values())))
    own = (
        {"observations": observations[None], "actions": acted[None]}
        if shape == 2
        else {"observations": observations, "actions": acted}
    )
    file = write(tmp_path / "x.npz", **own, **mark)
    if inner is None:
        with pytest.raises(DatasetError, match=rows):
            episodes(file)
        return
    read = episodes(file, inner_ends=inner)
    assert [raw.observations[:, 0].tolist() for raw in read] == rows
    if inner == "split":
        following = np.where(observations == 2, 50, observations)[1:]
        write(file, **own, **mark, next_observations=following[None] if shape == 2 else following)
        read = episodes(file, inner_ends="split")
        assert [raw.observations[:, 0].tolist() for raw in read] == [[0, 1, 50], [2, 3, 4]]


def test_marks_of_whole_episodes_end_nothing_and_are_told(tmp_path: Path) -> None:
    rows = {"observations": np.zeros((2, 5, 2)), "actions": np.zeros((2, 4, 1))}
    file = write(tmp_path / "x.npz", **rows, episode_id=[3, 4], comment=[0])
    read = episodes(file)
    assert [len(raw.actions) for raw in read] == [4, 4]
    assert read[0].facts["not_read"] == ["comment", "episode_id"]


def test_names_that_mean_the_same_and_differ(tmp_path: Path) -> None:
    file = write(tmp_path / "x.npz", **columns(4), terminals=np.zeros(4), terminated=np.ones(4))
    with pytest.raises(DatasetError, match="'terminals' and 'terminated' mean the same and differ"):
        episodes(file)


def test_a_last_success_whose_outcome_is_unknown_stays(tmp_path: Path) -> None:
    rows = {"observations": np.arange(8.0).reshape(1, 4, 2), "actions": np.zeros((1, 4, 1))}
    file = write(tmp_path / "x.npz", **rows, rewards=[[0, 0, 0, 1]])
    task = find_task(REACH)
    with pytest.raises(DatasetError, match=r"no success .* import with --success_from"):
        import_dataset(file, "mine/x-v0", task, progress=False)
    for source in ("reward", "end"):
        report = import_dataset(file, "mine/x-v0", task, success_from=source, progress=False, overwrite=True)
        assert (report["successes"], report["steps"], report["left_out_actions"]) == (1, 4, 0)
    write(file, **rows, success=[[0, 1, 1, 1]])
    assert import_dataset(file, "mine/x-v0", task, progress=False, overwrite=True)["left_out_actions"] == 1


def test_columns_of_another_length_are_refused_before_they_are_stored(tmp_path: Path) -> None:
    rows = {"observations": np.zeros((21, 2)), "actions": np.zeros((20, 1))}
    for name in ("rewards", "terminals", "success"):
        (tmp_path / "x.pickle").write_bytes(pickle.dumps([rows | {"rewards": np.zeros(20)} | {name: np.zeros(3)}]))
        with pytest.raises(DatasetError, match=r"3 (rewards|terminations|success) for 20 actions"):
            import_dataset(tmp_path / "x.pickle", "mine/x-v0", OWN, progress=False)
    assert not local_root().exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_every_protocol_and_container(tmp_path: Path, protocol: int) -> None:
    path = {"observations": np.arange(6, dtype=np.float32).reshape(3, 2), "actions": np.array([[0.5], [0.25]])}
    lists = defaultdict(list, {name: list(value) for name, value in path.items()})
    for value in ([path], (path,), [lists], [OrderedDict(path)], {"demos": [path], "env": "Reach"}, path):
        (tmp_path / "x.pickle").write_bytes(pickle.dumps(value, protocol=protocol))
        (raw,) = episodes(tmp_path / "x.pickle")
        np.testing.assert_array_equal(raw.observations, path["observations"])
        np.testing.assert_array_equal(raw.actions, path["actions"])


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(
        DatasetError, match=r"pipe.npz: is no file, but a pipe or a device; save its content to a file first"
    ):
        choose_format(tmp_path / "pipe.npz", "npz")


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_pipes_in_strangers_folders_are_not_waited_for(name: str, reach_dataset: str, tmp_path: Path) -> None:
    path = data_file(reach_dataset).with_name(name)
    path.unlink()
    os.mkfifo(path)
    arguments = ["data", "inspect", reach_dataset, "--task", REACH]
    result = outcome(arguments, tmp_path / "log", patience=10)
    assert (result.status, result.fault) == (2, None), result.output


def test_pickles_that_unfold_or_hash_for_ever() -> None:
    shared: Any = [0.0]
    for _ in range(60):
        shared = [shared, shared]
    nested = b"\x80\x02)q\x00" + b"".join(b"h" + bytes([i, 0x68, i, 0x86, 0x71, i + 1]) for i in range(60))
    for data, message in (
        (pickle.dumps([{"observations": shared, "actions": shared}]), "unpacks to more than"),
        (nested + b"}h\x3cK\x01s.", "a dict has a key of tuple"),
        (b"\x80\x04\x8f(h\x00\x90.", "holds a set"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "sets the state of a function"),
        (b"\x80\x02cbuiltins\nlist\nX\x02\x00\x00\x00aa\x85R.", "copies lists"),
    ):
        with pytest.raises(DatasetError, match=message):
            unpickle(io.BytesIO(data), len(data))


def test_no_bytes_of_a_pickle_pass_for_objects() -> None:
    """A dtype of objects whose flags say that they are none: numpy would take the bytes for pointers."""
    objects = np.array([None, None], dtype=object)
    whole = pickle.dumps(objects, protocol=2)
    state = whole[whole.rindex(b"K?t") :]  # the flags of the dtype, 0x3f
    pointers = whole.replace(state, b"K\x00tq\x07b\x89U\x10" + bytes(16) + b"tq\x08b.")
    assert unpickle(io.BytesIO(whole), len(whole)).tolist() == [None, None]
    with pytest.raises(DatasetError, match=r"an array of \[2\] holds 16 values; damaged"):
        unpickle(io.BytesIO(pointers), len(pointers))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_of_a_pickle_to_the_bit(protocol: int) -> None:
    arrays = [
        *(np.arange(6).astype(kind).reshape(2, 3) for kind in ("<f4", ">f8", "<i8", "u1", "?", ">i2", "<c16")),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3)), np.array(2.5), np.array(["ab", "c"]),
    ]  # fmt: skip
    data = pickle.dumps([*arrays, np.float32(0.1), np.bool_(True), np.int64(-3)], protocol=protocol)
    *read, scalar, flag, number = unpickle(io.BytesIO(data), len(data))
    for array, original in zip(read, arrays, strict=True):
        np.testing.assert_array_equal(array, original)
        assert (array.shape, array.dtype.newbyteorder("=")) == (original.shape, original.dtype.newbyteorder("="))
    assert (scalar, bool(flag), number) == (np.float32(0.1), True, -3)


def test_own_arrays(tmp_path: Path) -> None:
    parts = [columns(5), columns(3)]
    numbered = {f"{name}_{index}": parts[index][name] for index in (1, 0) for name in ("observations", "actions")}
    ragged: dict[str, Any] = {}
    for name in ("observations", "actions"):
        ragged[name] = np.empty(2, dtype=object)
        ragged[name][:] = [part[name] for part in parts]
    for arrays in (numbered, ragged):
        read = episodes(write(tmp_path / "x.npz", **arrays))
        assert [len(raw.actions) for raw in read] == [5, 3]
        np.testing.assert_array_equal(read[1].observations, parts[1]["observations"])
    np.save(tmp_path / "x.npy", {"obs": np.zeros((6, 2)), "actions": np.zeros((5, 1))})
    assert [len(raw.observations) for raw in episodes(tmp_path / "x.npy")] == [6]


def robomimic(path: Path, **demo: Any) -> Path:
    """Demos 10 and 9, in which ``object`` holds the number of the demo, and an image."""
    with h5py.File(path, "w") as file:
        file["mask/train"] = np.array([b"demo_10"])
        for number in (10, 9):
            group = file.create_group(f"data/demo_{number}")
            for name, add in (("obs", 0), ("next_obs", 1)):
                group[f"{name}/eef"] = np.arange(3.0)[:, None] + add
                group[f"{name}/object"] = np.full(3, float(number))
                group[f"{name}/front_image"] = np.zeros((3, 84, 84, 3), np.uint8)
            for name, value in {"actions": np.full((3, 1), 0.5), "rewards": [0.0, 1, 1], "dones": [0, 1, 1], **demo}.items():
                group[name] = value
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1})
    return path


def test_robomimic(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = robomimic(tmp_path / "low_dim.hdf5")
    assert choose_format(file) == "robomimic"
    first, second = episodes(file, keys=("object", "eef"))
    assert first.observations.tolist() == [[9, 0], [9, 1], [9, 2], [9, 3]]
    assert second.observations[0].tolist() == [10, 0]
    assert first.success.tolist() == [False, True, True]
    assert (
        main(["data", "import", str(file), "--task", REACH, "--keys", "object,eef", "--demos", "train", "--to", "my/a-v0"])
        == 0
    )
    out = capsys.readouterr().out
    for line in (
        r"recorded_in            Lift",
        "observation_keys       object, eef\n",
        "episodes               1\n",
        "front_image (image)",
    ):
        assert line in out
    metadata = read_metadata("my/a-v0")
    assert metadata["observation_layout"] == [{"key": "object", "size": 1}, {"key": "eef", "size": 1}]
    assert main(["data", "import", str(file), "--task", REACH, "--to", "my/b-v0"]) == 0
    assert "observation_keys       eef, object (sorted; for another order: --keys)" in capsys.readouterr().out
    for options, message in (
        (["--keys", "objet,eef"], "no observation key 'objet'. Did you mean 'object'?"),
        (["--keys", "front_image"], "'front_image' is an image; AWAC needs vectors"),
        (["--demos", "trian"], "no filter key 'trian'. Did you mean 'train'?"),
        (["--reward", "environment"], "pass --dones terminated"),
    ):
        assert main(["data", "import", str(file), "--task", REACH, "--to", "my/c-v0", *options]) == 2
        assert message in capsys.readouterr().err


def lerobot(root: Path, version: str) -> Path:
    """Episodes of 3 and 2 frames; of version 2, a file for each, of version 3, one file for both."""
    (root / "meta").mkdir(parents=True)
    info = {
        "codebase_version": version,
        "fps": 30,
        "total_episodes": 2,
        "features": {"observation.images.top": {"dtype": "video"}},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    tables = []
    for index, steps in enumerate((3, 2)):
        rows = [[float(10 * index + step), 0.5] for step in range(steps)]
        frames = {
            "observation.state": pyarrow.array([row[:1] for row in rows], pyarrow.list_(pyarrow.float32())),
            "observation.effort": pyarrow.array([row[1] for row in rows], pyarrow.float32()),
            "action": pyarrow.array([[0.25]] * steps, pyarrow.list_(pyarrow.float32(), 1)),
            "next.reward": [0.0] * steps, "next.success": [False] * (steps - 1) + [True],
            "episode_index": [index] * steps, "frame_index": list(range(steps)),
        }  # fmt: skip
        tables.append(pyarrow.table(frames))
    name = "data/chunk-000/file-000.parquet" if version == "v3.0" else "data/chunk-000/episode_000000.parquet"
    (root / name).parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables) if version == "v3.0" else tables[0], root / name)
    if version != "v3.0":
        pyarrow.parquet.write_table(tables[1], root / "data/chunk-000/episode_000001.parquet")
    return root


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(tmp_path: Path, version: str, capsys: pytest.CaptureFixture) -> None:
    root = lerobot(tmp_path / "bot", version)
    assert [raw.observations.tolist() for raw in episodes(root, keys=("observation.state", "observation.effort"))] == [
        [[0, 0.5], [1, 0.5], [2, 0.5]], [[10, 0.5], [11, 0.5]],
    ]  # fmt: skip
    report = import_dataset(root, "my/bot-v0", find_task(REACH), progress=False)
    assert (report["episodes"], report["steps"], report["successes"], report["left_out_actions"]) == (2, 5, 2, 0)
    assert report["not_read"] == ["observation.images.top"]
    assert read_metadata("my/bot-v0")["observation_layout"][0] == {"key": "observation.effort", "size": 1}
    file = sorted(root.rglob("*.parquet"))[0]
    assert len(episodes(file)) == (2 if version == "v3.0" else 1)
    capsys.readouterr()
    file.unlink()
    assert main(["data", "inspect", str(root), "--task", REACH]) == 2
    assert "download" in capsys.readouterr().err


def test_lerobot_that_is_incomplete_or_of_another_kind(tmp_path: Path) -> None:
    root = lerobot(tmp_path / "bot", "v2.1")
    with pytest.raises(DatasetError, match=r"'observation\.images.top' is an image or a video"):
        episodes(root, keys=("observation.images.top",))
    with pytest.raises(DatasetError, match=r"no observation key 'observation\.stat'. Did you mean 'observation.state'"):
        episodes(root, keys=("observation.stat",))
    _, second = sorted(root.rglob("*.parquet"))
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(second).slice(1), second)
    with pytest.raises(DatasetError, match="episode 1: 1 frames are not numbered from 0 to 0"):
        episodes(root)
    second.unlink()
    with pytest.raises(DatasetError, match="says 2 episodes, 1 are here"):
        episodes(root)
    for info, message in (('{"codebase_version": "v1.6"}', "is of version v1.6"), ("[]", "not the JSON of a LeRobot")):
        (root / "meta/info.json").write_text(info)
        with pytest.raises(DatasetError, match=message):
            episodes(root)


def test_a_parquet_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    root = lerobot(tmp_path / "bot", "v3.0")
    rows = 3_000_000
    zeros = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(rows, np.int8)), pyarrow.array([0.0]))
    for name in ("state", "listx"):  # a list within a column is "….list.element" there
        table = pyarrow.table(dict.fromkeys((f"observation.{name}", "action", "episode_index", "frame_index"), zeros))
        pyarrow.parquet.write_table(table, next(root.rglob("*.parquet")))
        with pytest.raises(DatasetError, match=r"declares 96000000 bytes and holds \d+; damaged, or made to harm"):
            episodes(root)


def test_a_minari_parquet_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """Refused by what it declares, before it is read."""
    folder = tmp_path / "mine/parquet-v0/data/0"
    folder.mkdir(parents=True)
    zeros = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(9_000_000, np.int8)), pyarrow.array([0.0]))
    pyarrow.parquet.write_table(pyarrow.table({"observations": zeros, "actions": zeros}), folder / "part-0.parquet")
    with pytest.raises(DatasetError, match=r"declares 144000000 bytes and holds \d+; damaged, or made to harm"):
        episodes(tmp_path / "mine/parquet-v0")


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_minari_arrow(key: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = local_root() / "mine/arrow-v0"
    for number in (0, 1):
        folder = root / f"data/{number}"
        folder.mkdir(parents=True)
        batch = pyarrow.RecordBatch.from_pydict({  # as Minari pads it: a last row that means nothing
            "observations": pyarrow.array([[number, 0], [1, 1], [2, 2]], pyarrow.list_(pyarrow.float64(), 2)),
            "actions": pyarrow.array([[0.5], [0.25], [0.0]], pyarrow.list_(pyarrow.float32(), 1)),
            "rewards": [-1.0, 0.0, 0.0], "terminations": [False, False, False], "truncations": [False, True, False],
            "infos": pyarrow.StructArray.from_arrays([pyarrow.array([False, False, True])], [key]),
        })  # fmt: skip
        with pyarrow.ipc.new_file(folder / "part-0.arrow", batch.schema) as file:
            file.write_batch(batch)
        (folder / "metadata.json").write_text('{"seed": 7}')
    (root / "data/metadata.json").write_text('{"data_format": "arrow"}')
    assert main(["data", "list"]) == 0
    assert "(arrow: awac data import)" in capsys.readouterr().out
    assert main(["data", "inspect", "mine/arrow-v0", "--task", REACH]) == 2
    assert f"is stored as arrow, not as HDF5; import it: awac data import {root}" in capsys.readouterr().err
    report = import_dataset(root, "mine/hdf5-v0", find_task(REACH), progress=False)
    assert (report["episodes"], report["steps"], report["successes"], report["ends"]) == (2, 4, 2, {"timeout": 2})
    (next(root.rglob("*.arrow"))).rename(root / "data/0/another.arrow")
    import_dataset(root, "mine/renamed-v0", find_task(REACH), progress=False)
    digests = [read_metadata(f"mine/{name}-v0")["origin"]["sha256"] for name in ("hdf5", "renamed")]
    assert digests[0] != digests[1]
    episode = load_dataset("mine/hdf5-v0", find_task(REACH), inspect_spaces(find_task(REACH))).episodes[1]
    assert (episode.observations.tolist(), episode.actions.tolist(), episode.seed) == (
        [[1, 0], [1, 1], [2, 2]],
        [[0.5], [0.25]],
        7,
    )


def test_a_broken_file_of_a_lerobot_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v3.0", "total_episodes": 1}')
    (tmp_path / "data/chunk-000").mkdir(parents=True)
    (tmp_path / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(DatasetError, match=r"file-000.parquet: cannot be read as Parquet \("):
        episodes(tmp_path)


def test_the_command_line_names_every_format() -> None:
    assert tuple(FORMATS) == NAMED


def test_the_order_of_keys_goes_on_into_what_is_made_of_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = str(robomimic(tmp_path / "low_dim.hdf5"))
    for name, keys in (("a", "object,eef"), ("b", "eef,object")):
        assert main(["data", "import", file, "--task", REACH, "--keys", keys, "--to", f"my/{name}-v0"]) == 0
    assert main(["data", "relabel", "my/a-v0", "--task", REACH, "--to", "my/again-v0"]) == 0
    assert [part["key"] for part in read_metadata("my/again-v0")["observation_layout"]] == ["object", "eef"]
    assert load_dataset("my/a-v0", find_task(REACH), inspect_spaces(find_task(REACH))).entry["observation_layout"][0] == {
        "key": "object",
        "size": 1,
    }
    assert main(["data", "combine", "my/a-v0", "my/b-v0", "--task", REACH, "--to", "my/all-v0"]) == 2
    message = "dataset 'my/a-v0' holds observations of object (1), eef (1), 'my/b-v0' of eef (1), object (1)"
    assert message in capsys.readouterr().err


def test_parts_of_other_sizes_are_told_apart(tmp_path: Path) -> None:
    file = str(robomimic(tmp_path / "low_dim.hdf5"))
    for name in "ab":
        assert main(["data", "import", file, "--task", REACH, "--keys", "object,eef", "--to", f"my/{name}-v0"]) == 0
    stored = local_root() / "my/b-v0/data/metadata.json"
    wider = [{"key": "object", "size": 1}, {"key": "eef", "size": 3}]
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"observation_layout": wider}))
    with pytest.raises(DatasetError, match=r"'my/a-v0' holds .* eef \(1\), 'my/b-v0' of object \(1\), eef \(3\)"):
        recorded_layout("my/a-v0", "my/b-v0")


@pytest.mark.parametrize("layout", [[3], [{"key": 3, "size": 1}], {"key": "a"}, "text", [{"key": "a", "size": "b"}]])
def test_a_layout_of_another_type_is_no_layout(reach_dataset: str, layout: Any) -> None:
    file = local_root() / reach_dataset / "data/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"observation_layout": layout}))
    assert recorded_layout(reach_dataset) == []
