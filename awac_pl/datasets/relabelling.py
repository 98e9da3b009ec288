"""Recorded columns become an episode in a task's terms: sizes checked, actions clipped, success and reward recomputed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from awac_pl.envs.faults import LARGEST_VALUE
from awac_pl.envs.goals import goal_rewards, goal_success
from awac_pl.envs.tasks import Spaces, Task, judge, unscale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class RawEpisode:
    """A recorded episode of T steps, as a file holds it.

    Args:
        observations: ``[T + 1, O]``; ``[T, O]`` in files without the last one.
        actions: ``[T, A]``, in the environment's units.
        rewards: ``[T]``; None if they are not recorded. The same holds for the columns below.
        terminations: ``[T]`` bool.
        truncations: ``[T]`` bool.
        success: ``[T]`` bool, of the state after each step.
        next_observations: ``[T, O]``; the last one can stand for an observation T + 1 that is missing.
        seed: of the reset.
        dones: ``[T]`` bool, ends of which nobody says whether they are terminations.
        end: how the end was found, where the file does not hold it: ``jump``, ``time limit``, ...
        facts: what the file says of all its episodes, as JSON values.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None = None
    terminations: np.ndarray | None = None
    truncations: np.ndarray | None = None
    success: np.ndarray | None = None
    next_observations: np.ndarray | None = None
    seed: int | None = None
    dones: np.ndarray | None = None
    end: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def check_numbers(raw: RawEpisode, where: str) -> None:
    """Refuse text and ragged columns.

    Raises:
        DatasetError: names the column.
    """
    for name in ("observations", "actions", "rewards", "success"):
        column = getattr(raw, name)
        if column is not None and column.dtype.kind not in "biuf":
            raise DatasetError(f"{where}: '{name}' is no array of numbers (ragged, or {column.dtype})")


def relabel_episode(raw: RawEpisode, where: str, task: Task, spaces: Spaces) -> tuple[Episode, int]:
    """Convert a recorded episode of finite float32 columns to the task's terms.

    Success comes from the observations if the task can compute it, else from the recording, else from the goals. Rewards
    that are not recorded come from the goals, too. ``judge`` decides reward and termination. The end of the recording counts
    as a time limit.

    Returns:
        The episode, and how many of its action values were clipped.

    Raises:
        DatasetError: sizes do not fit, values are too large to learn from, or the recording lacks what the task's reward
            needs; ``where`` names the episode.
    """
    observations, steps = raw.observations, len(raw.actions)
    if observations.shape != (steps + 1, spaces.observation_dim):
        expected = f"[{steps + 1}, {spaces.observation_dim}] (T + 1 rows for {steps} actions)"
        raise DatasetError(f"{where}: observations are {list(observations.shape)}, {task.env_id} needs {expected}")
    if raw.actions.shape != (steps, spaces.action_dim) or steps == 0:
        expected = f"[T, {spaces.action_dim}] with T of at least 1"
        raise DatasetError(f"{where}: actions are {list(raw.actions.shape)}, {task.env_id} needs {expected}")
    actions, clipped = unscale_action(raw.actions, spaces.action_low, spaces.action_high), 0
    if task.clip_actions:
        clipped = int((np.abs(actions) > 1 + 1e-6).sum())
        actions = np.clip(actions, -1, 1)
    success = raw.success if task.success is None else task.success(observations[1:])
    if success is None:
        success = goal_success(task, spaces, observations[1:])
    binary = uses_binary_reward(task, spaces)
    if binary and success is None:
        raise DatasetError(
            f"{where}: no success to make a binary reward from; use reward: environment, or import with --success_from"
        )
    rewards = raw.rewards if raw.rewards is not None or binary else goal_rewards(task, spaces, observations[1:])
    rewards, terminated = judge(task, binary, success, rewards, raw.terminations)
    if rewards is None or terminated is None:
        raise DatasetError(f"{where}: no rewards, and {task.env_id} has no success to make them from")
    _check_sizes({"observations": observations, "actions": actions, "rewards": rewards}, where)
    episode = Episode(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminated=terminated,
        truncated=np.zeros(steps, dtype=bool),
        success=success,
        seed=raw.seed,
    )
    if task.terminate_on_success and success is not None and success.any():
        steps = int(success.argmax()) + 1
    return cut_episode(episode, steps), clipped


def _check_sizes(columns: Mapping[str, np.ndarray], where: str) -> None:
    for name, column in columns.items():
        largest = np.abs(column)
        if largest.max(initial=0) > LARGEST_VALUE:
            place = np.unravel_index(int(largest.argmax()), column.shape)
            row, value = int(place[0]), f"{column[place]:.3g}"
            raise DatasetError(
                f"{where}: {name} of row {row} reach {value}; above {LARGEST_VALUE:g} a loss overflows. Correct the file, "
                "use other units, or leave the episode out"
            )


def cut_episode(episode: Episode, steps: int) -> Episode:
    """The first ``steps`` steps of a recorded episode; the last one is truncated, unless it is terminated."""
    terminated = episode.terminated[:steps]
    return replace(
        episode,
        observations=episode.observations[: steps + 1],
        actions=episode.actions[:steps],
        rewards=episode.rewards[:steps],
        terminated=terminated,
        truncated=(np.arange(steps) == steps - 1) & ~terminated,
        success=None if episode.success is None else episode.success[:steps],
    )
