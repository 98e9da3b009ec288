"""Goal environments, as in gymnasium-robotics: reward and success as functions of an achieved and a desired goal.

Recordings that lack them get them from here; an episode that is run has them from the environment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from awac_pl.envs.faults import described
from awac_pl.envs.tasks import Spaces, Task, make_environment
from awac_pl.errors import AwacError

_Reward = Callable[[np.ndarray, np.ndarray, dict], float]


def goal_rewards(task: Task, spaces: Spaces, observations: np.ndarray) -> np.ndarray | None:
    """The environment's reward ``[T]`` of each state, by the goals in its observation; None if it is no goal environment.

    Args:
        task: whose environment has ``compute_reward(achieved_goal, desired_goal, info)``.
        spaces: of that environment.
        observations: ``[T, O]``, after each step.

    Raises:
        AwacError: ``compute_reward`` fails.
    """
    goals = _goals(spaces, observations)
    reward = None if goals is None else _reward_function(task)[0]
    return None if goals is None or reward is None else _rewards(task, reward, *goals)


def goal_success(task: Task, spaces: Spaces, observations: np.ndarray) -> np.ndarray | None:
    """Whether each state ``[T, O]`` has the reward of an achieved goal; None if only a dense reward, or none, is known.

    Raises:
        AwacError: ``compute_reward`` fails.
    """
    goals = _goals(spaces, observations)
    reward, sparse = (None, False) if goals is None else _reward_function(task)
    if goals is None or reward is None or not sparse:
        return None
    achieved, desired = goals
    return _rewards(task, reward, achieved, desired) >= _rewards(task, reward, desired, desired)


def _goals(spaces: Spaces, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Achieved and desired goal ``[T, G]``."""
    ends = np.cumsum([part["size"] for part in spaces.observation_layout], dtype=int)
    parts = {
        part["key"]: observations[:, end - part["size"] : end]
        for part, end in zip(spaces.observation_layout, ends, strict=True)
    }
    return (parts["achieved_goal"], parts["desired_goal"]) if {"achieved_goal", "desired_goal"} <= set(parts) else None


@functools.lru_cache(maxsize=4)
def _reward_function(task: Task) -> tuple[_Reward | None, bool]:
    """``compute_reward`` of the task's environment, and whether it tells success: ``reward_type`` is sparse."""
    environment = make_environment(task).unwrapped  # not closed: its reward may need the simulator
    return getattr(environment, "compute_reward", None), getattr(environment, "reward_type", None) == "sparse"


def _rewards(task: Task, reward: _Reward, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    try:
        return np.array([reward(*goals, {}) for goals in zip(achieved, desired, strict=True)], dtype=np.float32).reshape(-1)
    except Exception as error:
        raise AwacError(f"{task.env_id}: compute_reward fails: {described(error)}") from error
