"""A run's experience becomes a dataset for the next run: episodes of its policy, or of its replay buffer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from awac_pl.algorithms.checkpoints import load_module, read_checkpoint
from awac_pl.datasets.catalog import check_free, local_root
from awac_pl.datasets.cloned import roll_out
from awac_pl.datasets.editing import store
from awac_pl.datasets.minari_io import dataset_bytes
from awac_pl.datasets.relabelling import RawEpisode, relabel_episode
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.seeds import RECORDING_SEEDS
from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, scale_action, uses_binary_reward
from awac_pl.episode import Episode, score_episodes
from awac_pl.errors import DatasetError
from awac_pl.files import check_room
from awac_pl.runs.manifest import layout_of_run


def record_policy(
    checkpoint: Path,
    target: str,
    task: Task,
    *,
    num_episodes: int = 100,
    deterministic: bool = False,
    num_workers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """Store whole episodes of a checkpoint's policy.

    Returns:
        The measures of these episodes.

    Raises:
        AwacError: the file is no checkpoint.
        DatasetError: the target exists, or the policy takes observations of another size.
    """
    check_free(target, overwrite)
    module, spaces = load_module(checkpoint), inspect_spaces(task)
    if (size := module.hparams["observation_dim"]) != spaces.observation_dim:
        raise DatasetError(
            f"{checkpoint}: its policy takes observations of {size}, {task.env_id} has {spaces.observation_dim}"
        )
    check_room(local_root() / target, dataset_bytes(num_episodes, spaces))
    first = RECORDING_SEEDS + seed * num_episodes
    with closing(RolloutWorkers(task, num_workers, spaces)) as workers:
        policy, seeds = module.policy(deterministic), range(first, first + num_episodes)
        episodes = roll_out(workers, policy, seeds, f"recording {target}", progress)
    origin = _origin(checkpoint, deterministic=deterministic)
    what = f"{num_episodes} episodes of {checkpoint.name}"
    store(target, episodes, task, spaces, origin, what, overwrite=overwrite)
    return score_episodes(episodes)


def record_replay(checkpoint: Path, target: str, task: Task, *, overwrite: bool = False) -> dict[str, float]:
    """Store the online episodes of a checkpoint's replay buffer, of all ranks.

    If the buffer has begun to overwrite them, the oldest episode lacks its first steps.

    Returns:
        The measures of these episodes.

    Raises:
        AwacError: the file is no checkpoint.
        DatasetError: the target exists, or there are no online transitions, or their rewards span several steps and cannot
            be computed from success in the observations.
    """
    check_free(target, overwrite)
    spaces = inspect_spaces(task)
    episodes = list(_online_episodes(checkpoint, task, spaces))
    if not episodes:
        raise DatasetError(f"{checkpoint}: holds no online transitions; it is from before the first online step")
    origin, what = _origin(checkpoint, replay=True), f"the online episodes of {checkpoint.name}"
    store(target, episodes, task, spaces, origin, what, overwrite=overwrite)
    return score_episodes(episodes)


def _origin(checkpoint: Path, **how: bool) -> dict[str, Any]:
    """What the metadata say of a checkpoint's episodes; with the names of its run's observations, where they have some."""
    layout = layout_of_run(checkpoint)
    return {"checkpoint": str(checkpoint), **how, **({"observation_layout": layout} if layout else {})}


def _online_episodes(checkpoint: Path, task: Task, spaces: Spaces) -> Iterator[Episode]:
    """The online rows of each rank, in the order in which they were written, cut into episodes."""
    state = read_checkpoint(checkpoint)
    binary = state["hyper_parameters"]["return_range"] is not None  # else the reward says nothing about success
    stored = not uses_binary_reward(task, spaces)  # the rewards of the buffer are those of the dataset
    if stored and binary:
        raise DatasetError(f"{checkpoint}: its run learned from success - 1 and has not kept the environment's rewards; "
                           "leave out --reward environment")  # fmt: skip
    for rank in state["ReplayDataModule"]["replay"]:
        if not rank["online"]:
            continue
        oldest = rank["online_written"] % len(rank["online"]["reward"])
        rows = {key: np.roll(column.numpy(), -oldest, axis=0) for key, column in rank["online"].items()}
        single_step = np.isclose(rows["discount"], state["hyper_parameters"]["discount"])
        if (stored or task.success is None) and not single_step.all():
            why = "the environment's are not kept" if stored else f"{task.env_id} tells no success from observations"
            raise DatasetError(f"{checkpoint}: rewards of several steps (data.n_step), and {why}")
        ends = np.flatnonzero((rows["terminated"] | rows["truncated"]) & single_step)
        for first, last in zip([0, *(ends + 1)], ends, strict=False):
            part = slice(first, last + 1)
            raw = RawEpisode(
                observations=np.concatenate([rows["observation"][part], rows["next_observation"][last : last + 1]]),
                actions=scale_action(rows["action"][part], spaces.action_low, spaces.action_high),
                rewards=rows["reward"][part],
                terminations=rows["terminated"][part],
                success=rows["reward"][part] >= 0 if binary else None,
            )
            yield relabel_episode(raw, f"{checkpoint}: row {first}", task, spaces)[0]
