"""Minari datasets: round trip, Minari itself, relabelling, and refusals with their messages."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from awac_pl import datasets, downloads
from awac_pl.datasets import dataset_ids, file_digest, load_dataset, read_episodes, read_metadata, save_dataset
from awac_pl.downloads import fetch_dataset
from awac_pl.errors import DatasetError
from awac_pl.tasks import find_task, inspect_spaces
from tests.toy import make_episode, reach_episodes


def data_file(root: Path, name: str = "toy/reach-v0") -> Path:
    return root / name / "data" / "main_data.hdf5"


def test_round_trip(reach, reach_dataset: str) -> None:
    written, dataset = reach_episodes(20), load_dataset(reach_dataset, *reach)
    for one, other in zip(written, dataset.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "success"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
        assert one.seed == other.seed
    assert dataset.clipped == 0
    assert reach_dataset in dataset_ids()


def test_minari_reads_what_we_write(reach, reach_dataset: str) -> None:
    dataset = minari.load_dataset(reach_dataset)
    assert (dataset.total_episodes, dataset.total_steps) == (20, 200)
    episode, ours = dataset[3], reach_episodes(20)[3]
    np.testing.assert_array_equal(episode.observations, ours.observations)
    np.testing.assert_array_equal(episode.infos["success"], ours.success)
    assert dataset.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,))


@pytest.mark.parametrize("info_rows", [10, 11])
def test_we_read_what_minari_writes(reach, info_rows: int) -> None:
    episodes = reach_episodes(3)
    buffers = [
        EpisodeBuffer(
            id=index,
            seed=index,
            observations=episode.observations,
            actions=episode.actions,
            rewards=list(episode.rewards + 7),  # another reward: it is relabelled
            terminations=[False] * 9 + [True],
            truncations=[False] * 10,
            infos={"success": np.concatenate([[False], episode.success])[-info_rows:]},
        )
        for index, episode in enumerate(episodes)
    ]
    box = gymnasium.spaces.Box
    with pytest.warns(UserWarning, match="is set to None|no environment spec"):
        minari.create_dataset_from_buffers(
            "toy/minari-v0",
            buffers,
            observation_space=box(-np.inf, np.inf, (2,), np.float32),
            action_space=box(-1.0, 1.0, (1,)),
        )
    for one, other in zip(episodes, load_dataset("toy/minari-v0", *reach).episodes, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(one.success, other.success)
        assert not other.terminated.any()
        assert other.truncated[-1]


def test_first_episodes_and_share(reach, reach_dataset: str) -> None:
    assert [episode.seed for episode in load_dataset(reach_dataset, *reach, num_episodes=3).episodes] == [0, 1, 2]
    assert len(list(read_episodes(reach_dataset, *reach, share=0.9))) == 18
    assert len(list(read_episodes(reach_dataset, *reach, num_episodes=10, share=0.5))) == 5


def test_more_than_ten_episodes_keep_their_order(reach, reach_dataset: str) -> None:
    assert [episode.seed for episode in load_dataset(reach_dataset, *reach).episodes] == list(range(20))


def test_success_is_recomputed_from_observations_where_the_task_can() -> None:
    task = find_task("pen")
    spaces = inspect_spaces(task)
    right = load_dataset("awac/pen/expert-v0", task, spaces, num_episodes=2).episodes
    lying = [make_episode(200, 45, 24, observations=e.observations, actions=e.actions, success=~e.success) for e in right]
    save_dataset("toy/lying-v0", lying, spaces, {})
    for one, other in zip(right, load_dataset("toy/lying-v0", task, spaces).episodes, strict=True):
        np.testing.assert_array_equal(one.success, other.success)
        np.testing.assert_array_equal(one.rewards, other.rewards)


def test_termination_on_success_cuts_the_episode(reach) -> None:
    task = find_task("tests.toy:Reach-v0", terminate_on_success=True)
    success = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1], bool)
    save_dataset("toy/reach-v0", [make_episode(success=success), make_episode(success=np.zeros(10, bool))], reach[1], {})
    cut, whole = load_dataset("toy/reach-v0", task, reach[1]).episodes
    assert (len(cut), cut.observations.shape, cut.rewards.tolist()) == (4, (5, 2), [-1, -1, -1, 0])
    assert (cut.terminated.tolist(), cut.truncated.any()) == ([False, False, False, True], False)
    assert (len(whole), whole.terminated.any(), whole.truncated[-1]) == (10, False, True)


def test_own_reward_keeps_rewards_and_ends() -> None:
    task = find_task("tests.toy:Wide-v0")
    spaces = inspect_spaces(task)
    terminated = np.array([False] * 9 + [True])
    episode = make_episode(success=None, rewards=np.arange(10, dtype=np.float32), terminated=terminated)
    save_dataset("toy/wide-v0", [episode], spaces, {})
    with h5py.File(datasets.local_root() / "toy/wide-v0/data/main_data.hdf5") as file:
        stored = file["episode_0/actions"][()]
    np.testing.assert_allclose(stored, 1 + 3 * episode.actions, rtol=1e-6)  # in the environment's units
    loaded = load_dataset("toy/wide-v0", task, spaces).episodes[0]
    np.testing.assert_allclose(loaded.actions, episode.actions, atol=1e-6)
    np.testing.assert_array_equal(loaded.rewards, episode.rewards)
    assert loaded.terminated[-1]
    assert loaded.success is None


def test_actions_outside_are_clipped_and_counted(reach) -> None:
    actions = np.full((10, 1), 0.5, np.float32)
    actions[[2, 5]] = [[1.37], [-4.0]]
    save_dataset("toy/reach-v0", [make_episode(actions=actions)], reach[1], {})
    dataset = load_dataset("toy/reach-v0", *reach)
    assert dataset.clipped == 2
    assert dataset.episodes[0].actions[[2, 5], 0].tolist() == [1.0, -1.0]


def _change(key: str, value) -> callable:
    def change(file: h5py.File) -> None:
        group = file["episode_7"]
        del group[key]
        if value is not None:
            group[key] = value

    return change


NAN = np.zeros((10, 1), np.float32)
NAN[4] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change("actions", NAN), r"episode_7: 'actions' has 1 values that are not finite \(first at \[4, 0\]\)"),
        (_change("observations", np.zeros((11, 3))), r"episode_7: observations are \[11, 3\], .* needs \[11, 2\]"),
        (_change("observations", np.zeros((10, 2))), r"are \[10, 2\].*needs \[11, 2\] \(T \+ 1 rows for 10 actions\)"),
        (_change("actions", np.zeros((10, 4))), r"episode_7: actions are \[10, 4\].*needs \[T, 1\]"),
        (_change("actions", None), "episode_7: no 'actions'; it is not a Minari episode"),
        (_change("infos", None), "no infos/success to make a binary reward from; use reward: environment"),
        (_change("observations", h5py.ExternalLink("/etc/passwd", "/")), "'observations' is a link to elsewhere"),
        (_change("observations", h5py.SoftLink("/episode_1/observations")), "'observations' is a link to elsewhere"),
    ],
)
def test_bad_files_are_refused(reach, reach_dataset: str, datasets_root: Path, change, message: str) -> None:
    with h5py.File(data_file(datasets_root), "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(reach_dataset, *reach)
    assert "main_data.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["episode_7", "episode_7/infos"])
def test_links_in_the_place_of_groups_are_refused(reach, reach_dataset: str, datasets_root: Path, name: str) -> None:
    with h5py.File(data_file(datasets_root), "a") as file:
        file.move(name, "elsewhere")
        file[name] = h5py.SoftLink("/elsewhere")
    with pytest.raises(DatasetError, match=f"'{name.split('/')[-1]}' is a link to elsewhere or no group; refused"):
        load_dataset(reach_dataset, *reach)


def test_files_that_are_no_datasets(reach, reach_dataset: str, datasets_root: Path) -> None:
    path = data_file(datasets_root)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r"main_data.hdf5: cannot be read as HDF5"):
        load_dataset(reach_dataset, *reach)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DatasetError, match=r"main_data.hdf5: has no episodes"):
        load_dataset(reach_dataset, *reach)
    path.with_name("metadata.json").write_text("{")
    with pytest.raises(DatasetError, match=r"metadata.json: not JSON"):
        read_metadata(reach_dataset)


def test_asking_for_what_is_not_there(reach, reach_dataset: str) -> None:
    with pytest.raises(DatasetError, match="has 20 episodes, 21 were asked for"):
        load_dataset(reach_dataset, *reach, num_episodes=21)
    with pytest.raises(DatasetError, match=r"'toy/raech-v0' is not here\. Did you mean 'toy/reach-v0'"):
        load_dataset("toy/raech-v0", *reach)
    with pytest.raises(DatasetError, match=r"'\.\./reach-v0' is no dataset id"):
        load_dataset("../reach-v0", *reach)
    with pytest.raises(DatasetError, match=r"there is no dataset 'awac/pen/expert-v1'. Did you mean 'awac/pen/expert-v0'"):
        fetch_dataset("awac/pen/expert-v1")


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)

    def no_network(*_args, **_kwargs):
        raise OSError

    monkeypatch.setattr(downloads.socket, "create_connection", no_network)
    start = time.monotonic()
    with pytest.raises(DatasetError, match=r"huggingface.co cannot be reached.*minari download D4RL/pen/human-v2"):
        fetch_dataset("D4RL/pen/human-v2")
    assert time.monotonic() - start < 5


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def hang(*_args, **_kwargs):
        answer.wait(30)
        raise OSError

    monkeypatch.setattr(downloads.socket, "create_connection", hang)
    start = time.monotonic()
    assert not downloads._reachable("huggingface.co", timeout=0.2)
    assert time.monotonic() - start < 5
    answer.set()


def test_writing_is_whole_or_not_at_all(reach, reach_dataset: str, datasets_root: Path, monkeypatch) -> None:
    before = file_digest(data_file(datasets_root))

    def full_disk(*_args):
        raise OSError("no space left on device")

    monkeypatch.setattr(datasets, "_write_episode", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_dataset(reach_dataset, reach_episodes(2), reach[1], {})
    assert file_digest(data_file(datasets_root)) == before
    assert sorted(path.name for path in (datasets_root / "toy").iterdir()) == ["namespace_metadata.json", "reach-v0"]


def test_reading_runs_no_code_that_metadata_name(reach, reach_dataset: str, datasets_root: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    metadata = data_file(datasets_root).with_name("metadata.json")
    spec = '{"id": "X-v0", "entry_point": "os:mkdir", "kwargs": {"path": "CANARY"}}'.replace("CANARY", str(canary))
    metadata.write_text('{"env_spec": ' + repr(spec).replace('"', '\\"').replace("'", '"') + "}")
    assert "os:mkdir" in read_metadata(reach_dataset)["env_spec"]
    load_dataset(reach_dataset, *reach)
    assert not canary.exists()
