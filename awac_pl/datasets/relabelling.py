"""Recorded columns become an episode in a task's terms: sizes checked, actions clipped, its own success and reward."""

from __future__ import annotations

import numpy as np

from awac_pl.envs.tasks import Spaces, Task, judge, unscale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError


def relabel_episode(
    observations: np.ndarray,
    actions: np.ndarray,
    where: str,
    task: Task,
    spaces: Spaces,
    success: np.ndarray | None = None,
    rewards: np.ndarray | None = None,
    terminated: np.ndarray | None = None,
    seed: int | None = None,
) -> tuple[Episode, int]:
    """An episode in the task's terms, made of what a file holds, and how many of its action values were clipped.

    Args:
        observations: ``[T + 1, O]`` float32.
        actions: ``[T, A]`` float32, in the environment's units.
        where: file and episode, for errors.
        task: whose success and reward to use.
        spaces: of the task's environment.
        success: ``[T]`` bool as stored, for a task that cannot tell it from observations.
        rewards: ``[T]`` as stored, for a task with the environment's reward.
        terminated: ``[T]`` bool as stored, likewise.
        seed: of its reset.

    Raises:
        DatasetError: sizes do not fit, or what the task's reward needs is missing.
    """
    steps = len(actions)
    if observations.shape != (steps + 1, spaces.observation_dim):
        expected = f"[{steps + 1}, {spaces.observation_dim}] (T + 1 rows for {steps} actions)"
        raise DatasetError(f"{where}: observations are {list(observations.shape)}, {task.env_id} needs {expected}")
    if actions.shape != (steps, spaces.action_dim) or steps == 0:
        expected = f"[T, {spaces.action_dim}] with T of at least 1"
        raise DatasetError(f"{where}: actions are {list(actions.shape)}, {task.env_id} needs {expected}")
    actions = unscale_action(actions, spaces.action_low, spaces.action_high)
    clipped = int((np.abs(actions) > 1 + 1e-6).sum()) if task.clip_actions else 0
    if task.clip_actions:
        actions = np.clip(actions, -1, 1)
    if task.success is not None:
        success = task.success(observations[1:])
    binary = uses_binary_reward(task, spaces)
    if binary and success is None:
        raise DatasetError(f"{where}: no success to make a binary reward from; use reward: environment")
    rewards, terminated = judge(task, binary, success, rewards, terminated)
    if rewards is None or terminated is None:
        raise DatasetError(f"{where}: no rewards, and {task.env_id} has no success to make them from")
    if task.terminate_on_success and success is not None and success.any():
        steps = int(success.argmax()) + 1
        observations, actions = observations[: steps + 1], actions[:steps]
        rewards, terminated, success = rewards[:steps], terminated[:steps], success[:steps]
    truncated = np.zeros(steps, dtype=bool)
    truncated[-1] = not terminated[-1]
    episode = Episode(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        success=success,
        seed=seed,
    )
    return episode, clipped
