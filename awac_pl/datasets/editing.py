"""New datasets from old ones: relabelled, thinned out, joined, split; and out of this package's format again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from awac_pl.datasets.minari_io import count_successes, load_dataset, save_dataset
from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, scale_action
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError
from awac_pl.files import replacing


def load_all(
    sources: Sequence[str], task: Task, *, any_environment: bool = False
) -> tuple[list[Episode], Spaces, list[dict[str, Any]]]:
    """The episodes of some datasets, relabelled for the task, with the facts of each dataset.

    Args:
        sources: their ids.
        task: whose terms to put them in.
        any_environment: take them whatever environment their metadata name.

    Raises:
        DatasetError: one is not here, damaged, or does not fit the task.
    """
    spaces = inspect_spaces(task)
    loaded = [load_dataset(source, task, spaces, any_environment=any_environment) for source in sources]
    return [episode for one in loaded for episode in one.episodes], spaces, [one.facts() for one in loaded]


def store(
    target: str, episodes: Sequence[Episode], task: Task, spaces: Spaces, origin: Any, what: str, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write them under a new id, and say what was written."""
    save_dataset(target, episodes, task, spaces, {"description": what, "origin": origin}, overwrite=overwrite)
    return {
        "dataset": target,
        "episodes": len(episodes),
        "steps": sum(len(episode) for episode in episodes),
        "successes": count_successes(episodes),
    }


def choose(
    episodes: Sequence[Episode],
    number: int | None = None,
    *,
    random_seed: int | None = None,
    successful: bool = False,
    cut_after_success: bool = False,
) -> list[Episode]:
    """Some of the episodes.

    Args:
        episodes: to choose from.
        number: how many; None for all.
        random_seed: choose at random; None takes the first ones.
        successful: only those in which a step succeeds.
        cut_after_success: end each at its last success.

    Raises:
        DatasetError: there are not so many, or success is unknown.
    """
    chosen = list(episodes)
    if (successful or cut_after_success) and any(episode.success is None for episode in chosen):
        raise DatasetError("success is unknown in some episodes; choose without it")
    if successful:
        chosen = [episode for episode in chosen if episode.success is not None and episode.success.any()]
    if number is not None:
        if not 0 < number <= len(chosen):
            raise DatasetError(f"{number} episodes were asked for, there are {len(chosen)}")
        if random_seed is not None:
            order = np.random.default_rng(random_seed).permutation(len(chosen))[:number]
            chosen = [chosen[index] for index in sorted(order)]
        chosen = chosen[:number]
    return [_cut(episode) for episode in chosen] if cut_after_success else chosen


def _cut(episode: Episode) -> Episode:
    """Up to and with the last success."""
    if episode.success is None or not episode.success.any():
        return episode
    steps = int(np.flatnonzero(episode.success)[-1]) + 1
    truncated = np.arange(steps) == steps - 1
    return replace(
        episode,
        observations=episode.observations[: steps + 1],
        actions=episode.actions[:steps],
        rewards=episode.rewards[:steps],
        terminated=episode.terminated[:steps],
        truncated=truncated & ~episode.terminated[:steps],
        success=episode.success[:steps],
    )


def split(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """A random ``share`` of the episodes, and the rest, each at least one.

    Raises:
        DatasetError: fewer than two episodes, or a share outside (0, 1).
    """
    if not 0 < share < 1 or len(episodes) < 2:
        raise DatasetError(f"cannot split {len(episodes)} episodes at {share}; it takes two, and a share in (0, 1)")
    order = np.random.default_rng(seed).permutation(len(episodes))
    first = min(max(1, round(share * len(episodes))), len(episodes) - 1)
    parts = (sorted(order[:first]), sorted(order[first:]))
    return [episodes[index] for index in parts[0]], [episodes[index] for index in parts[1]]


def export(
    episodes: Sequence[Episode], spaces: Spaces, file: Path, form: Literal["npz", "d4rl"], *, overwrite: bool = False
) -> None:
    """Write arrays for other programs, whole or not at all; actions in the environment's units.

    ``d4rl``: HDF5 of flat columns with ``next_observations``, ``terminals`` and ``timeouts``. ``npz``: one row per episode,
    which must be of one length.

    Raises:
        DatasetError: the file is there, or ``npz`` is to hold episodes of several lengths.
    """
    if file.exists() and not overwrite:
        raise DatasetError(f"there is a file {file}; choose another name, or pass --overwrite to replace it")
    lengths = sorted({len(episode) for episode in episodes})
    if form == "npz" and len(lengths) > 1:
        raise DatasetError(f"episodes have {lengths[0]} to {lengths[-1]} steps; npz needs one length, d4rl does not")
    actions = [scale_action(episode.actions, spaces.action_low, spaces.action_high) for episode in episodes]
    with replacing(file) as staging:
        if form == "npz":
            columns: dict[str, Any] = {
                "observations": np.stack([episode.observations for episode in episodes]),
                "actions": np.stack(actions),
                "rewards": np.stack([episode.rewards for episode in episodes]),
            }
            if all(episode.success is not None for episode in episodes):
                columns["success"] = np.stack([episode.success for episode in episodes if episode.success is not None])
            if all(episode.seed is not None for episode in episodes):
                columns["reset_seed"] = np.array([episode.seed for episode in episodes])
            with staging.open("wb") as stream:
                np.savez_compressed(stream, **columns)
        else:
            with h5py.File(staging, "w") as target:
                for key, parts in {
                    "observations": [episode.observations[:-1] for episode in episodes],
                    "actions": actions,
                    "rewards": [episode.rewards for episode in episodes],
                    "next_observations": [episode.observations[1:] for episode in episodes],
                    "terminals": [episode.terminated for episode in episodes],
                    "timeouts": [episode.truncated for episode in episodes],
                }.items():
                    target.create_dataset(key, data=np.concatenate(parts), compression="gzip")
