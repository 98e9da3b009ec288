"""New datasets from old ones: relabelled, subsampled, joined, split; and exported to other formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from awac_pl.datasets.catalog import recorded_layout
from awac_pl.datasets.minari_io import count_successes, load_dataset, save_dataset
from awac_pl.datasets.relabelling import cut_episode
from awac_pl.datasets.safe_hdf5 import writing
from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, scale_action
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError
from awac_pl.files import replacing


def load_all(
    sources: Sequence[str], task: Task, *, any_environment: bool = False
) -> tuple[list[Episode], Spaces, list[dict[str, Any]]]:
    """Load datasets, relabelled for the task; see ``read_episodes`` for errors.

    Returns:
        All episodes, the spaces of the task's environment, and an entry per dataset for the origin.
    """
    recorded_layout(*sources)  # refuses datasets that differ
    spaces = inspect_spaces(task)
    datasets = [load_dataset(source, task, spaces, any_environment=any_environment) for source in sources]
    return [episode for dataset in datasets for episode in dataset.episodes], spaces, [dataset.entry for dataset in datasets]


def store(
    target: str, episodes: Sequence[Episode], task: Task, spaces: Spaces, origin: Any, what: str, *, overwrite: bool = False
) -> dict[str, Any]:
    """Save episodes with a description and their origin; returns the new dataset's id and counts."""
    entries = [origin] if isinstance(origin, dict) else origin
    layouts = [entry["observation_layout"] for entry in entries if isinstance(entry, dict) and "observation_layout" in entry]
    named = {"observation_layout": layouts[0]} if layouts else {}
    save_dataset(target, episodes, task, spaces, {"description": what, "origin": origin, **named}, overwrite=overwrite)
    return {
        "dataset": target,
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
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
    """Choose some of the episodes.

    Args:
        episodes: to choose from.
        number: how many; None for all.
        random_seed: choose at random; None chooses the first ones.
        successful: choose only from episodes with a successful step.
        cut_after_success: end each episode at its last success.

    Raises:
        DatasetError: there are too few episodes, or the success of an episode is unknown.
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
    return [_cut_after_success(episode) for episode in chosen] if cut_after_success else chosen


def _cut_after_success(episode: Episode) -> Episode:
    """End an episode at its last success; without one it stays whole."""
    steps = [] if episode.success is None else np.flatnonzero(episode.success).tolist()
    return cut_episode(episode, steps[-1] + 1) if steps else episode


def split(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """Split episodes at random into a ``share`` and the rest; each part has at least one episode.

    Raises:
        DatasetError: there are fewer than two episodes, or the share lies outside (0, 1).
    """
    if not 0 < share < 1 or len(episodes) < 2:
        raise DatasetError(f"cannot split {len(episodes)} episodes at {share}; it takes two, and a share in (0, 1)")
    order = np.random.default_rng(seed).permutation(len(episodes))
    size = min(max(1, round(share * len(episodes))), len(episodes) - 1)
    first, rest = ([episodes[index] for index in sorted(part)] for part in (order[:size], order[size:]))
    return first, rest


def export(
    episodes: Sequence[Episode], spaces: Spaces, file: Path, form: Literal["npz", "d4rl"], *, overwrite: bool = False
) -> None:
    """Write arrays for other programs, completely or not at all; actions are in the environment's units.

    ``d4rl``: HDF5 of flat columns with ``next_observations``, ``terminals`` and ``timeouts``. ``npz``: one row per episode;
    all episodes must have the same length.

    Raises:
        DatasetError: the file exists, or the episodes' lengths differ and the format is ``npz``.
    """
    if file.exists() and not overwrite:
        raise DatasetError(f"there is a file {file}; choose another name, or pass --overwrite to replace it")
    lengths = sorted({len(episode) for episode in episodes})
    if form == "npz" and len(lengths) > 1:
        raise DatasetError(f"episodes have {lengths[0]} to {lengths[-1]} steps; npz needs one length, d4rl does not")
    actions = [scale_action(episode.actions, spaces.action_low, spaces.action_high) for episode in episodes]
    with replacing(file) as new:
        if form == "npz":
            with new.open("wb") as stream:
                np.savez_compressed(stream, **_episode_rows(episodes, actions))
        else:
            with writing(new) as target:
                for key, parts in {
                    "observations": [episode.observations[:-1] for episode in episodes],
                    "actions": actions,
                    "rewards": [episode.rewards for episode in episodes],
                    "next_observations": [episode.observations[1:] for episode in episodes],
                    "terminals": [episode.terminated for episode in episodes],
                    "timeouts": [episode.truncated for episode in episodes],
                }.items():
                    target.create_dataset(key, data=np.concatenate(parts), compression="gzip")


def _episode_rows(episodes: Sequence[Episode], actions: Sequence[np.ndarray]) -> dict[str, Any]:
    """Columns with one row per episode; success and seeds only if all episodes have them."""
    columns: dict[str, Sequence[Any]] = {
        "observations": [episode.observations for episode in episodes],
        "actions": actions,
        "rewards": [episode.rewards for episode in episodes],
        "success": [episode.success for episode in episodes],
        "reset_seed": [episode.seed for episode in episodes],
    }
    return {key: np.stack(rows) for key, rows in columns.items() if all(row is not None for row in rows)}
