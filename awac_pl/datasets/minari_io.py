"""Minari datasets in and out, over h5py: reading a stranger's file never runs code that the file names.

Minari's own loader builds the environment which the metadata name, so it is not used for reading. Files keep Minari's
HDF5 layout, and Minari reads what is written here.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from awac_pl import __version__
from awac_pl.datasets.catalog import POLICY_FILE, check_environment, check_free, data_file, local_root, read_metadata
from awac_pl.datasets.relabelling import relabel_episode
from awac_pl.datasets.safe_hdf5 import read_array, read_group, reading
from awac_pl.envs.tasks import Spaces, Task, scale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError, first_line
from awac_pl.files import file_digest
from awac_pl.policies.numpy_policy import NumpyPolicy


@dataclass(frozen=True, kw_only=True)
class EpisodeDataset:
    """Checked episodes of one dataset, in the task's terms.

    Args:
        dataset_id: Minari id.
        digest: SHA-256 of the data file.
        episodes: relabelled with the task's reward.
        clipped: how many action values lay outside the bounds and were clipped.
        metadata: Minari's, as stored.
    """

    dataset_id: str
    digest: str
    episodes: list[Episode]
    clipped: int
    metadata: dict[str, Any] = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """What a run's manifest says of it."""
        return {
            "id": self.dataset_id,
            "sha256": self.digest,
            "episodes": len(self.episodes),
            "transitions": sum(len(episode) for episode in self.episodes),
            "clipped_action_values": self.clipped,
        }


def read_episodes(
    dataset_id: str,
    task: Task,
    spaces: Spaces,
    *,
    num_episodes: int | None = None,
    share: float = 1.0,
    any_environment: bool = False,
) -> Iterator[tuple[Episode, int]]:
    """Read, check and relabel a dataset that is here, one episode at a time.

    Success is recomputed from the observations where the task can, else taken from ``infos/success``. A binary reward is
    ``success - 1`` and never terminates except by ``task.terminate_on_success``, which cuts the episode there: an end in
    failure would otherwise be worth more than going on. Recorded ends count as time limits.

    Args:
        dataset_id: Minari id.
        task: whose success and reward to use.
        spaces: of the task's environment.
        num_episodes: the first so many episodes; None for all.
        share: the first so many of these, as a share in (0, 1].
        any_environment: take it whatever environment its metadata name.

    Yields:
        An episode, and how many of its action values were clipped.

    Raises:
        DatasetError: it is not here, damaged, empty, or does not fit the task; names file, episode and key.
    """
    path = data_file(dataset_id)
    check_environment(dataset_id, task, spaces, any_environment=any_environment)
    if num_episodes is not None and num_episodes < 1:
        raise DatasetError(f"num_demonstrations is {num_episodes}; it must be at least 1")
    if not 0 < share <= 1:
        raise DatasetError(f"train_split is {share}; it must lie in (0, 1]")
    with reading(path), h5py.File(path, "r") as file:
        names = sorted((name for name in file if re.fullmatch(r"episode_\d+", name)), key=lambda name: int(name[8:]))
        if not names:
            raise DatasetError(f"{path}: has no episodes; make or download the dataset anew")
        if num_episodes is not None and num_episodes > len(names):
            raise DatasetError(f"{path}: has {len(names)} episodes, {num_episodes} were asked for")
        names = names[:num_episodes]
        for name in names[: max(1, int(share * len(names) + 1e-9))]:
            yield _read_episode(read_group(file, name, str(path)), f"{path}: {name}", task, spaces)


def load_dataset(
    dataset_id: str, task: Task, spaces: Spaces, *, num_episodes: int | None = None, any_environment: bool = False
) -> EpisodeDataset:
    """All of a dataset at once; see ``read_episodes``."""
    metadata = read_metadata(dataset_id)
    pairs = list(read_episodes(dataset_id, task, spaces, num_episodes=num_episodes, any_environment=any_environment))
    return EpisodeDataset(
        dataset_id=dataset_id,
        digest=file_digest(data_file(dataset_id)),
        episodes=[episode for episode, _ in pairs],
        clipped=sum(clipped for _, clipped in pairs),
        metadata=metadata,
    )


def save_dataset(
    dataset_id: str,
    episodes: Sequence[Episode],
    task: Task,
    spaces: Spaces,
    metadata: dict[str, Any],
    root: Path | None = None,
    policy: NumpyPolicy | None = None,
    overwrite: bool = False,
) -> Path:
    """Write episodes as a Minari dataset, whole or not at all.

    Args:
        dataset_id: Minari id.
        episodes: their actions are stored in the environment's units.
        task: that they are episodes of, with its reward.
        spaces: of its environment.
        metadata: JSON values, added to Minari's own.
        root: datasets folder; ``local_root()`` by default.
        policy: who acted; kept beside the data as ``policy.safetensors``.
        overwrite: replace a dataset of that id.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: the id is not of its form or taken, there are no episodes, or the disk takes no more.
    """
    if root is None:
        check_free(dataset_id, overwrite)
    if not episodes:
        raise DatasetError(f"dataset '{dataset_id}': no episodes to write")
    folder = (root or local_root()) / dataset_id
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
    try:
        data = staging / "new" / "data"
        data.mkdir(parents=True)
        with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
            for index, episode in enumerate(episodes):
                _write_episode(file.create_group(f"episode_{index}"), index, episode, spaces)
        low, high = spaces.action_low.tolist(), spaces.action_high.tolist()
        bound = [float("inf")] * spaces.observation_dim
        written = {
            "total_episodes": len(episodes),
            "total_steps": sum(len(episode) for episode in episodes),
            "data_format": "hdf5",
            "observation_space": _box([-value for value in bound], bound),
            "action_space": _box(low, high),
            "dataset_id": dataset_id,
            "env_id": task.env_id,
            "reward": "binary" if uses_binary_reward(task, spaces) else "environment",
            **({"env_spec": spaces.env_spec} if spaces.env_spec else {}),
            "successes": count_successes(episodes),
            "minari_version": "0.5.0",
            "dataset_size": round((data / "main_data.hdf5").stat().st_size / 1e6, 1),
            "awac_pl_version": __version__,
            **metadata,
        }
        (data / "metadata.json").write_text(json.dumps(written, indent=2))
        if policy is not None:
            (data.parent / POLICY_FILE).write_bytes(policy.to_bytes())
        if folder.exists():
            folder.rename(staging / "old")
        data.parent.rename(folder)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be written ({first_line(error)}); nothing was changed") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    namespace = folder.parent / "namespace_metadata.json"
    if folder.parent != (root or local_root()) and not namespace.exists():
        namespace.write_text("{}")
    return folder


def count_successes(episodes: Sequence[Episode]) -> int | None:
    """How many episodes succeed at any step; None where somebody's success is unknown."""
    successes = [bool(episode.success.any()) for episode in episodes if episode.success is not None]
    return sum(successes) if len(successes) == len(episodes) else None


def _read_episode(group: h5py.Group, where: str, task: Task, spaces: Spaces) -> tuple[Episode, int]:
    """One stored episode in the task's terms, and how many of its action values were clipped."""
    observations = read_array(group, "observations", where)
    actions = read_array(group, "actions", where, whole=False)
    steps = len(actions)
    success = rewards = terminated = None
    if task.success is None and "infos" in group and "success" in (infos := read_group(group, "infos", where)):
        success = read_array(infos, "success", where, rows=(steps, steps + 1))[-steps:].astype(bool)
    if not uses_binary_reward(task, spaces):
        rewards = read_array(group, "rewards", where, rows=(steps,))
        terminated = read_array(group, "terminations", where, rows=(steps,)).astype(bool)
    seed = _seed(group.attrs.get("seed"))
    return relabel_episode(observations, actions, where, task, spaces, success, rewards, terminated, seed)


def _seed(recorded: Any) -> int | None:
    """A reset's seed; None where it is none (Minari 0.3 and 0.4 write ``"None"``)."""
    return int(recorded) if isinstance(recorded, int | np.integer) else None


def _write_episode(group: h5py.Group, index: int, episode: Episode, spaces: Spaces) -> None:
    group.attrs["id"] = index
    group.attrs["total_steps"] = len(episode)
    if episode.seed is not None:
        group.attrs["seed"] = episode.seed
    actions = scale_action(episode.actions, spaces.action_low, spaces.action_high)
    columns = {
        "observations": episode.observations,
        "actions": actions.astype(np.float32),
        "rewards": episode.rewards.astype(np.float64),
        "terminations": episode.terminated,
        "truncations": episode.truncated,
    }
    if episode.success is not None:
        columns["infos/success"] = episode.success
    for name, column in columns.items():
        group.create_dataset(name, data=column)  # floats of a simulator shrink by a tenth at most; not worth the time


def _box(low: list[float], high: list[float]) -> str:
    """A Box space as Minari serialises it."""
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high})
