"""Read and write Minari datasets over h5py.

Minari's own loader builds the environment that the metadata name, which can run any code; so reading does not use it. Files
keep Minari's HDF5 layout, and Minari reads what is written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from awac_pl import __version__
from awac_pl.datasets.catalog import (
    POLICY_FILE,
    check_environment,
    check_free,
    check_whole,
    data_file,
    local_root,
    recorded_layout,
)  # fmt: skip
from awac_pl.datasets.relabelling import RawEpisode, relabel_episode
from awac_pl.datasets.safe_hdf5 import read_array, read_group, writing
from awac_pl.datasets.untrusted import reading
from awac_pl.envs.observations import flatten
from awac_pl.envs.tasks import Spaces, Task, recorded_success_key, scale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError
from awac_pl.files import file_digest, replacing, write_text
from awac_pl.policies.numpy_policy import NumpyPolicy


@dataclass(frozen=True, kw_only=True)
class EpisodeDataset:
    """Checked episodes of one dataset, in the task's terms.

    Args:
        episodes: relabelled with the task's reward.
        entry: see ``manifest_entry``.
    """

    episodes: list[Episode]
    entry: dict[str, Any] = field(repr=False)


def load_dataset(
    dataset_id: str, task: Task, spaces: Spaces, *, num_episodes: int | None = None, any_environment: bool = False
) -> EpisodeDataset:
    """Load all episodes of a dataset at once; see ``read_episodes`` for arguments and errors."""
    pairs = list(read_episodes(dataset_id, task, spaces, num_episodes=num_episodes, any_environment=any_environment))
    episodes, clipped = [episode for episode, _ in pairs], sum(clipped for _, clipped in pairs)
    return EpisodeDataset(
        episodes=episodes,
        entry=manifest_entry(dataset_id, len(episodes), sum(map(len, episodes)), clipped),
    )


def manifest_entry(dataset_id: str, episodes: int, transitions: int, clipped: int) -> dict[str, Any]:
    """What a manifest, or a dataset made from this one, records about a dataset; with the SHA-256 of its data file."""
    digest = file_digest(data_file(dataset_id))
    counts = {"episodes": episodes, "transitions": transitions, "clipped_action_values": clipped}
    layout = recorded_layout(dataset_id)
    return {"id": dataset_id, "sha256": digest, **counts, **({"observation_layout": layout} if layout else {})}


def read_episodes(
    dataset_id: str,
    task: Task,
    spaces: Spaces,
    *,
    num_episodes: int | None = None,
    share: float = 1.0,
    any_environment: bool = False,
) -> Iterator[tuple[Episode, int]]:
    """Read a local or built-in dataset, one episode at a time; see ``relabel_episode`` for what becomes of an episode.

    Args:
        dataset_id: Minari id.
        task: defines success and reward.
        spaces: of the task's environment.
        num_episodes: read only the first episodes; None for all.
        share: read only the first episodes of these, as a share in (0, 1].
        any_environment: accept a dataset of another environment.

    Yields:
        An episode, and how many of its action values were clipped.

    Raises:
        DatasetError: the dataset is missing, damaged, empty, or does not fit the task; names file, episode and key.
    """
    path = data_file(dataset_id)
    check_environment(dataset_id, task, spaces, any_environment=any_environment)
    read = partial(_read_episode, task=task, spaces=spaces)
    for raw, where in stored_episodes(path, read, num_episodes, share):
        yield relabel_episode(raw, where, task, spaces)
    check_whole(dataset_id)  # last: damage within the file is named first


def stored_episodes(
    path: Path, read: Callable[[h5py.Group, str], RawEpisode], num_episodes: int | None = None, share: float = 1.0
) -> Iterator[tuple[RawEpisode, str]]:
    """The episodes of a dataset's file, in order, with their names for errors; see ``read_episodes``.

    ``read`` gets the HDF5 group of an episode and this name. It runs here, so that its errors name the file.
    """
    with reading(path), h5py.File(path, "r") as file:
        names = sorted((name for name in file if re.fullmatch(r"episode_\d+", name)), key=lambda name: int(name[8:]))
        if not names:
            raise DatasetError(f"{path}: has no episodes; make or download the dataset anew")
        if num_episodes is not None and num_episodes > len(names):
            raise DatasetError(f"{path}: has {len(names)} episodes, {num_episodes} were asked for")
        names = names[:num_episodes]
        for name in names[: max(1, int(share * len(names) + 1e-9))]:
            where = f"{path}: {name}"
            yield read(read_group(file, name, str(path)), where), where


def _read_episode(group: h5py.Group, where: str, task: Task, spaces: Spaces) -> RawEpisode:
    """The columns of an episode that the task needs."""
    observations, actions = read_observations(group, where, spaces), read_array(group, "actions", where, integers=False)
    steps = len(actions)
    success = rewards = terminations = None
    infos = read_group(group, "infos", where) if task.success is None and "infos" in group else {}
    if (key := recorded_success_key(infos, spaces.success_key)) is not None:
        success = read_array(infos, key, where, rows=(steps, steps + 1))[-steps:].astype(bool)
    if not uses_binary_reward(task, spaces):
        rewards = read_array(group, "rewards", where, rows=(steps,))
        terminations = read_array(group, "terminations", where, rows=(steps,)).astype(bool)
    seed = group.attrs.get("seed")
    return RawEpisode(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        success=success,
        seed=int(seed) if isinstance(seed, int | np.integer) else None,  # Minari 0.3 and 0.4 can write "None"
    )


def read_observations(group: h5py.Group, where: str, spaces: Spaces, *, finite: bool = True) -> np.ndarray:
    """The observations ``[T + 1, O]`` of a stored episode.

    A dict or a tuple of parts is flattened in the order of the task's environment, or, where that names no parts, as
    ``flatten`` does; arrays of more dimensions in C order.

    Raises:
        DatasetError: see ``read_array``; or a part is missing or has another size than the environment's.
    """
    if not isinstance(group.get("observations"), h5py.Group):
        rows = read_array(group, "observations", where, finite=finite)
        return rows.reshape(len(rows), -1) if rows.ndim > 2 else rows
    named = _read_parts(read_group(group, "observations", where), f"{where}: observations", finite)
    try:
        rows, layout = flatten(named, [part["key"] for part in spaces.observation_layout] or None)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from error
    if spaces.observation_layout and layout != spaces.observation_layout:
        part, wanted = next(pair for pair in zip(layout, spaces.observation_layout, strict=True) if pair[0] != pair[1])
        raise DatasetError(
            f"{where}: observation '{part['key']}' has {part['size']} values, the task needs {wanted['size']}"
        )
    return rows


def _read_parts(group: h5py.Group, where: str, finite: bool) -> dict[str, Any]:
    return {
        key: _read_parts(read_group(group, key, where), f"{where}/{key}", finite)
        if isinstance(group.get(key), h5py.Group)
        else read_array(group, key, where, finite=finite)
        for key in group
    }


def save_dataset(
    dataset_id: str,
    episodes: Sequence[Episode],
    task: Task,
    spaces: Spaces,
    metadata: dict[str, Any],
    *,
    policy: NumpyPolicy | None = None,
    overwrite: bool = False,
) -> Path:
    """Write episodes as a Minari dataset, completely or not at all.

    Args:
        dataset_id: Minari id.
        episodes: to write, with actions in the environment's units.
        task: the task of the episodes and of their reward.
        spaces: of the task's environment.
        metadata: JSON values, added to Minari's own.
        policy: that acted; stored beside the data as ``policy.safetensors``.
        overwrite: replace a dataset of this id.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: the id is invalid or taken, or there are no episodes.
        WriteError: the disk is full, or the folder cannot be written.
    """
    check_free(dataset_id, overwrite)
    if not episodes:
        raise DatasetError(f"dataset '{dataset_id}': no episodes to write")
    folder = local_root() / dataset_id
    with replacing(folder) as new:
        _write_files(new, dataset_id, episodes, task, spaces, metadata)
        if policy is not None:
            (new / POLICY_FILE).write_bytes(policy.to_bytes())
        namespace = folder.parent / "namespace_metadata.json"
        if folder.parent != local_root() and not namespace.exists():
            write_text(namespace, "{}")
    return folder


def _write_files(
    folder: Path, dataset_id: str, episodes: Sequence[Episode], task: Task, spaces: Spaces, metadata: dict[str, Any]
) -> None:
    """Write the data file and ``metadata.json`` of a new dataset."""
    data = folder / "data" / "main_data.hdf5"
    data.parent.mkdir(parents=True)
    with writing(data, track_order=True) as file:
        for index, episode in enumerate(episodes):
            _write_episode(file.create_group(f"episode_{index}"), index, episode, spaces)
    bound = [float("inf")] * spaces.observation_dim
    written = {
        "total_episodes": len(episodes),
        "total_steps": sum(len(episode) for episode in episodes),
        "data_format": "hdf5",
        "observation_space": _box([-value for value in bound], bound),
        "action_space": _box(spaces.action_low.tolist(), spaces.action_high.tolist()),
        "dataset_id": dataset_id,
        "env_id": task.env_id,
        "reward": "binary" if uses_binary_reward(task, spaces) else "environment",
        **({"env_spec": spaces.env_spec} if spaces.env_spec else {}),
        **({"observation_layout": spaces.observation_layout} if spaces.observation_layout else {}),
        "successes": count_successes(episodes),
        "minari_version": "0.5.0",
        "dataset_size": round(data.stat().st_size / 1e6, 1),
        "awac_pl_version": __version__,
        **{key: value for key, value in metadata.items() if key != "observation_layout" or not spaces.observation_layout},
    }
    data.with_name("metadata.json").write_text(json.dumps(written, indent=2))


def _write_episode(group: h5py.Group, index: int, episode: Episode, spaces: Spaces) -> None:
    group.attrs["id"] = index
    group.attrs["total_steps"] = len(episode)
    if episode.seed is not None:
        group.attrs["seed"] = episode.seed
    columns = {
        "observations": episode.observations,
        "actions": scale_action(episode.actions, spaces.action_low, spaces.action_high).astype(np.float32),
        "rewards": episode.rewards.astype(np.float64),
        "terminations": episode.terminated,
        "truncations": episode.truncated,
    }
    if episode.success is not None:
        columns["infos/success"] = episode.success
    for name, column in columns.items():
        group.create_dataset(name, data=column)  # not compressed: a simulator's floats shrink by at most a tenth


def dataset_bytes(episodes: int, spaces: Spaces) -> int:
    """Size of a data file with so many episodes of full length, from above."""
    row = 4 * (spaces.observation_dim + spaces.action_dim) + 8 + 3  # of ``_write_episode``
    return episodes * ((spaces.horizon + 1) * row + 5_000)  # HDF5 itself takes 4,100 to 4,200 bytes per episode


def _box(low: list[float], high: list[float]) -> str:
    """A Box space in Minari's JSON."""
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high})


def count_successes(episodes: Sequence[Episode]) -> int | None:
    """Number of episodes with a success at any step; None if the success of an episode is unknown."""
    successes = [bool(episode.success.any()) for episode in episodes if episode.success is not None]
    return sum(successes) if len(successes) == len(episodes) else None
