"""Minari datasets: round trip, Minari itself, relabelling, and refusals with their messages."""

from __future__ import annotations

import json
import shutil
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from awac_pl.datasets import downloading as downloads
from awac_pl.datasets import minari_io as datasets
from awac_pl.datasets.catalog import dataset_ids, read_metadata, recorded_environment
from awac_pl.datasets.downloading import fetch_dataset
from awac_pl.datasets.minari_io import load_dataset, read_episodes, save_dataset
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.errors import DatasetError, WriteError
from awac_pl.files import file_digest
from tests.toy import make_episode, reach_episodes


def data_file(root: Path, name: str = "toy/reach-v0") -> Path:
    return root / name / "data" / "main_data.hdf5"


def test_round_trip(reach, reach_dataset: str) -> None:
    written, dataset = reach_episodes(20), load_dataset(reach_dataset, *reach)
    for one, other in zip(written, dataset.episodes, strict=True):
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "success"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
        assert one.seed == other.seed
    assert dataset.entry["clipped_action_values"] == 0
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
    save_dataset("toy/lying-v0", lying, task, spaces, {})
    for one, other in zip(right, load_dataset("toy/lying-v0", task, spaces).episodes, strict=True):
        np.testing.assert_array_equal(one.success, other.success)
        np.testing.assert_array_equal(one.rewards, other.rewards)


def test_termination_on_success_cuts_the_episode(reach) -> None:
    task = find_task("tests.toy:Reach-v0", terminate_on_success=True)
    success = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1], bool)
    save_dataset("toy/reach-v0", [make_episode(success=success), make_episode(success=np.zeros(10, bool))], *reach, {})
    cut, whole = load_dataset("toy/reach-v0", task, reach[1]).episodes
    assert (len(cut), cut.observations.shape, cut.rewards.tolist()) == (4, (5, 2), [-1, -1, -1, 0])
    assert (cut.terminated.tolist(), cut.truncated.any()) == ([False, False, False, True], False)
    assert (len(whole), whole.terminated.any(), whole.truncated[-1]) == (10, False, True)


def test_own_reward_keeps_rewards_and_ends() -> None:
    task = find_task("tests.toy:Wide-v0")
    spaces = inspect_spaces(task)
    terminated = np.array([False] * 9 + [True])
    episode = make_episode(success=None, rewards=np.arange(10, dtype=np.float32), terminated=terminated)
    save_dataset("toy/wide-v0", [episode], task, spaces, {})
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
    save_dataset("toy/reach-v0", [make_episode(actions=actions)], *reach, {})
    dataset = load_dataset("toy/reach-v0", *reach)
    assert dataset.entry["clipped_action_values"] == 2
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
        (_change("actions", NAN), r"episode_7: 'actions': 1 values are not finite \(first at \[4, 0\]\)"),
        (_change("observations", np.zeros((11, 3))), r"episode_7: observations are \[11, 3\], .* needs \[11, 2\]"),
        (_change("observations", np.zeros((10, 2))), r"are \[10, 2\].*needs \[11, 2\] \(T \+ 1 rows for 10 actions\)"),
        (_change("actions", np.zeros((10, 4))), r"episode_7: actions are \[10, 4\].*needs \[T, 1\]"),
        (_change("actions", np.zeros((10, 1), int)), r"episode_7: 'actions' are int64; AWAC needs continuous ones"),
        (_change("actions", None), "episode_7: no 'actions'"),
        (_change("infos", None), "no success to make a binary reward from; use reward: environment"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as HDF5"),  # cut off
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer, not the file; fetch it",
        ),
        (b"<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page, not the file; download it anew"),
    ],
)
def test_files_that_are_no_datasets(
    reach, reach_dataset: str, datasets_root: Path, content: bytes | None, message: str
) -> None:
    path = data_file(datasets_root)
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    with pytest.raises(DatasetError, match=rf"main_data.hdf5: {message}"):
        load_dataset(reach_dataset, *reach)


def test_no_episodes_and_damaged_metadata(reach, reach_dataset: str, datasets_root: Path) -> None:
    path = data_file(datasets_root)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DatasetError, match=r"main_data.hdf5: has no episodes"):
        load_dataset(reach_dataset, *reach)
    for content in ("{", "[1]"):
        path.with_name("metadata.json").write_text(content)
        with pytest.raises(DatasetError, match=r"metadata.json: not the JSON of a dataset"):
            read_metadata(reach_dataset)
    path.with_name("metadata.json").write_text('{"recipe": "x", "env_spec": 3}')
    assert recorded_environment(read_metadata(reach_dataset)) is None


def test_what_is_being_written_is_not_listed(reach_dataset: str, datasets_root: Path) -> None:
    shutil.copytree(datasets_root / reach_dataset, datasets_root / "toy/.awac-x/new")
    assert [name for name in dataset_ids() if not name.startswith("awac/")] == [reach_dataset]


def test_the_environments_key_of_success_comes_before_another_that_was_recorded(
    reach, reach_dataset: str, datasets_root: Path
) -> None:
    task, spaces = reach
    with h5py.File(data_file(datasets_root), "r+") as file:
        for episode in file.values():
            episode["infos/is_success"] = np.zeros_like(episode["infos/success"][()])
    for key, succeed in (("success", 20), ("is_success", 0)):
        episodes = load_dataset(reach_dataset, task, replace(spaces, success_key=key)).episodes
        assert sum(bool(episode.success.any()) for episode in episodes) == succeed


def test_a_small_file_that_declares_terabytes(reach, reach_dataset: str, datasets_root: Path) -> None:
    path = data_file(datasets_root)
    with h5py.File(path, "w") as file:
        file.create_dataset("episode_0/observations", shape=(10**12, 2), dtype="f4", chunks=(1024, 2))
    assert path.stat().st_size < 5000
    with pytest.raises(DatasetError, match=r"episode_0: 'observations' declares 8000000000000 bytes and holds 0"):
        load_dataset(reach_dataset, *reach)


def test_asking_for_what_is_not_there(reach, reach_dataset: str) -> None:
    with pytest.raises(DatasetError, match="has 20 episodes, 21 were asked for"):
        load_dataset(reach_dataset, *reach, num_episodes=21)
    with pytest.raises(DatasetError, match=r"'toy/raech-v0' is not here\. Did you mean 'toy/reach-v0'"):
        load_dataset("toy/raech-v0", *reach)
    with pytest.raises(DatasetError, match=r"'\.\./reach-v0' is no dataset id"):
        load_dataset("../reach-v0", *reach)
    with pytest.raises(DatasetError, match=r"there is no dataset 'awac/pen/expert-v1'. Did you mean 'awac/pen/expert-v0'"):
        fetch_dataset("awac/pen/expert-v1")


def test_a_misspelt_dataset_of_ones_own_is_not_looked_for_elsewhere(reach_dataset: str, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "_reachable", lambda host: pytest.fail("asks the hub"))
    for name in ("toy/raech-v0", "toy/deep/reach-v0"):  # toy/ holds what was written here
        with pytest.raises(DatasetError, match=rf"^there is no dataset '{name}'\. Did you mean 'toy/reach-v0'\?$"):
            fetch_dataset(name)
    with pytest.raises(DatasetError, match=r"^there is no dataset 'awac/pen/mine-v0'\. "):
        fetch_dataset("awac/pen/mine-v0")


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)

    def no_network(*_args, **_kwargs):
        raise OSError

    monkeypatch.setattr(downloads.socket, "create_connection", no_network)
    start = time.monotonic()
    with pytest.raises(
        DatasetError, match=r"huggingface.co cannot be reached.*minari download D4RL/pen/human-v2.*bring your own"
    ):
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
    with pytest.raises(
        WriteError, match=r"toy/reach-v0: cannot be written \(no space left on device\); nothing was changed"
    ):
        save_dataset(reach_dataset, reach_episodes(2), *reach, {}, overwrite=True)
    assert file_digest(data_file(datasets_root)) == before
    assert sorted(path.name for path in (datasets_root / "toy").iterdir()) == ["namespace_metadata.json", "reach-v0"]


@pytest.mark.parametrize("spaces", [True, False])
def test_reading_runs_no_code_that_metadata_name(
    reach, reach_dataset: str, datasets_root: Path, tmp_path: Path, spaces
) -> None:
    canary = tmp_path / "canary"
    path = data_file(datasets_root).with_name("metadata.json")
    spec = {"id": "Reach-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(canary)}}
    metadata = read_metadata(reach_dataset) | {"env_spec": json.dumps(spec)}
    if not spaces:  # where Minari makes the environment to learn them
        del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    assert len(load_dataset(reach_dataset, *reach).episodes) == 20
    assert not canary.exists()


def test_a_link_to_another_file_shows_nothing_of_it(reach, reach_dataset: str, datasets_root: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["observations"] = np.full((11, 2), 42.0)
    with h5py.File(data_file(datasets_root), "a") as file:
        del file["episode_7/observations"]
        file["episode_7/observations"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/observations")
    with pytest.raises(DatasetError, match="'observations' is a link to elsewhere; refused"):
        load_dataset(reach_dataset, *reach)


@pytest.fixture
def old_minari(datasets_root: Path) -> Path:
    """Two episodes each, by the collectors of Minari 0.4.3 (metadata are attributes of the HDF5 file) and 0.5.0."""
    with zipfile.ZipFile(Path(__file__).parent / "data/old_minari.zip") as archive:
        archive.extractall(datasets_root)
    return datasets_root


@pytest.mark.parametrize("name", ["minari-0.4.3/reach-v0", "minari-0.5.0/old/reach-v0"])
def test_datasets_of_older_minari(reach, old_minari: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    version, dataset_id = name.split("/", 1)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(old_minari / version))
    assert dataset_id in dataset_ids()
    dataset = load_dataset(dataset_id, *reach)
    assert [episode.seed for episode in dataset.episodes] == [0, 1]
    assert [episode.success.any() for episode in dataset.episodes] == [True, True]
    assert read_metadata(dataset_id)["total_steps"] == 20
    assert recorded_environment(read_metadata(dataset_id)) == "Reach-v0"


def test_named_observations_of_minari(reach, old_minari: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flattened with the task's parts in the task's order; with all parts, sorted, where the task has no names."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(old_minari / "minari-0.4.3"))
    with pytest.raises(DatasetError, match=r"observations are \[11, 3\], tests.toy:Reach-v0 needs \[11, 2\]"):
        load_dataset("dict-v0", *reach, any_environment=True)
    with h5py.File(old_minari / "minari-0.4.3/dict-v0/data/main_data.hdf5") as file:
        stored = {key: column[()] for key, column in file["episode_0/observations"].items()}
    layout = [{"key": "observation", "size": 2}, {"key": "goal", "size": 1}]
    spaces = replace(reach[1], observation_dim=3, observation_layout=layout)
    task = replace(reach[0], success=lambda rows: rows[:, 0] > 0)
    (episode,) = load_dataset("dict-v0", task, spaces, any_environment=True, num_episodes=1).episodes
    wanted = np.hstack([stored["observation"], stored["goal"]]).astype(np.float32)
    np.testing.assert_array_equal(episode.observations, wanted)
    for changed, message in (
        ([{"key": "observation", "size": 1}, {"key": "goal", "size": 2}], "'observation' has 2 values, the task needs 1"),
        ([{"key": "observation", "size": 2}, {"key": "gaol", "size": 1}], "no observation key 'gaol'. Did you mean 'goal'"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_dataset("dict-v0", task, replace(spaces, observation_layout=changed), any_environment=True)


@pytest.mark.parametrize("column", ["observations", "rewards"])
def test_values_that_no_loss_survives_are_refused(column: str) -> None:
    task = find_task("tests.toy:Wide-v0")
    spaces = inspect_spaces(task)
    (episode,) = reach_episodes(1)
    getattr(episode, column)[3] = 1e30
    save_dataset("toy/huge-v0", [episode], task, spaces, {"reward": "environment"})
    with pytest.raises(DatasetError, match=rf"episode_0: {column} of row 3 reach 1e\+30; above 1e\+15 a loss overflows"):
        load_dataset("toy/huge-v0", task, spaces)


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({}, "tests.toy:Ending-v0", r"was recorded in tests.toy:Reach-v0, the task is tests.toy:Ending-v0; if you know"),
        (
            {"env_id": "Reach-v3"},
            "tests.toy:Reach-v0",
            r"recorded in Reach-v3, another version than tests.toy:Reach-v0; if you know",
        ),
        ({"env_id": "ReachSparse-v0"}, "tests.toy:Reach-v0", None),  # binary rewards are made anew
        ({}, "environment", r"holds success - 1, not the rewards of tests.toy:Reach-v0"),
        (
            {"env_id": "ReachSparse-v0", "reward": "environment"},
            "environment",
            r"holds the rewards of ReachSparse-v0, not those of",
        ),
    ],
)
def test_another_environments_data_are_refused(
    reach, reach_dataset: str, datasets_root: Path, changes: dict, task: str, message: str | None
) -> None:
    path = data_file(datasets_root).with_name("metadata.json")
    path.write_text(json.dumps(read_metadata(reach_dataset) | changes))
    asked = find_task("tests.toy:Reach-v0", reward="environment") if task == "environment" else find_task(task)
    if message is None:
        assert len(load_dataset(reach_dataset, asked, reach[1]).episodes) == 20
        return
    with pytest.raises(DatasetError, match=message):
        load_dataset(reach_dataset, asked, reach[1])
    if task == "environment":  # rewards cannot be made anew
        with pytest.raises(DatasetError, match=message):
            load_dataset(reach_dataset, asked, reach[1], any_environment=True)
    else:
        assert len(load_dataset(reach_dataset, asked, reach[1], any_environment=True).episodes) == 20
