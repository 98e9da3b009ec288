"""A run's experience becomes a dataset: episodes of its policy, or those in its replay buffer, to start the next run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from awac_pl.algorithms.checkpoints import load_module, read_checkpoint
from awac_pl.datasets.catalog import check_free
from awac_pl.datasets.minari_io import save_dataset
from awac_pl.datasets.relabelling import relabel_episode
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.seeds import RECORDING_SEEDS
from awac_pl.envs.tasks import Task, inspect_spaces, scale_action
from awac_pl.episode import Episode, score_episodes
from awac_pl.errors import DatasetError


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
    """Roll out a checkpoint's policy and store whole episodes.

    Returns:
        The measures of these episodes.

    Raises:
        AwacError: the checkpoint is not one.
        DatasetError: it is of a task of other dimensions.
    """
    check_free(target, overwrite)
    module = load_module(checkpoint)
    spaces = inspect_spaces(task)
    if (size := module.hparams["observation_dim"]) != spaces.observation_dim:
        raise DatasetError(
            f"{checkpoint}: its policy takes observations of {size}, {task.env_id} has {spaces.observation_dim}"
        )
    first = RECORDING_SEEDS + seed * num_episodes
    workers = RolloutWorkers(task, num_workers, spaces)
    try:
        with tqdm(total=num_episodes, desc=f"recording {target}", unit="episode", disable=not progress, leave=False) as bar:
            episodes = workers.rollout(
                module.policy(deterministic), range(first, first + num_episodes), whole_episodes=True, on_episode=bar.update
            )
    finally:
        workers.close()
    scores = score_episodes(episodes)
    origin = {"checkpoint": str(checkpoint), "deterministic": deterministic}
    save_dataset(
        target,
        episodes,
        task,
        spaces,
        {"description": f"{num_episodes} episodes of {checkpoint.name}", "origin": origin},
        overwrite=overwrite,
    )
    return scores


def record_replay(checkpoint: Path, target: str, task: Task, *, overwrite: bool = False) -> dict[str, float]:
    """Store the online episodes of a checkpoint's replay buffer, of all ranks.

    Where the buffer had begun to overwrite them, the oldest episode starts in its middle.

    Returns:
        The measures of these episodes.

    Raises:
        AwacError: the checkpoint is not one.
        DatasetError: it holds no online transitions, or rewards of several steps and the task cannot tell success from
            observations.
    """
    check_free(target, overwrite)
    state = read_checkpoint(checkpoint)
    discount = state["hyper_parameters"]["discount"]
    binary = state["hyper_parameters"]["return_range"] is not None  # an environment's own reward tells no success
    spaces = inspect_spaces(task)
    episodes: list[Episode] = []
    for rank in state["ReplayDataModule"]["replay"]:
        if not rank["online"]:
            continue
        start = rank["online_written"] % len(rank["online"]["reward"])  # of the oldest row, once the ring is full
        rows = {key: np.roll(column.numpy(), -start, axis=0) for key, column in rank["online"].items()}
        single = np.isclose(rows["discount"], discount)
        if task.success is None and not single.all():
            raise DatasetError(
                f"{checkpoint}: rewards of several steps, and {task.env_id} tells no success from observations"
            )
        ends = np.flatnonzero((rows["terminated"] | rows["truncated"]) & single)
        for first, last in zip([0, *(ends[:-1] + 1)], ends, strict=True):
            part = slice(first, last + 1)
            episode, _ = relabel_episode(
                np.concatenate([rows["observation"][part], rows["next_observation"][last : last + 1]]),
                scale_action(rows["action"][part], spaces.action_low, spaces.action_high),
                f"{checkpoint}: row {first}",
                task,
                spaces,
                success=rows["reward"][part] >= 0 if binary else None,
                rewards=rows["reward"][part],
                terminated=rows["terminated"][part],
            )
            episodes.append(episode)
    if not episodes:
        raise DatasetError(f"{checkpoint}: holds no online transitions; it is from before the first online step")
    scores = score_episodes(episodes)
    origin = {"checkpoint": str(checkpoint), "replay": True}
    save_dataset(
        target,
        episodes,
        task,
        spaces,
        {"description": f"the online episodes of {checkpoint.name}", "origin": origin},
        overwrite=overwrite,
    )
    return scores
