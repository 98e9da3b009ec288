"""Tasks: environment, time limit, success. Workers import this file, so it must not import torch."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from awac_pl.envs.graphics import import_mujoco
from awac_pl.errors import AwacError, first_line, nearest

if TYPE_CHECKING:
    import gymnasium

RewardKind = Literal["auto", "binary", "environment"]


def _pen_success(observations: np.ndarray) -> np.ndarray:
    """Pen within 0.075 m of the target and aligned with it (cosine above 0.95)."""
    position_error, pen_axis, target_axis = observations[..., 39:42], observations[..., 33:36], observations[..., 36:39]
    return (np.linalg.norm(position_error, axis=-1) < 0.075) & ((pen_axis * target_axis).sum(-1) > 0.95)


def _door_success(observations: np.ndarray) -> np.ndarray:
    """Door hinge opened by at least 1.35 rad."""
    return observations[..., 28] >= 1.35


def _relocate_success(observations: np.ndarray) -> np.ndarray:
    """Ball within 0.1 m of the target."""
    return np.linalg.norm(observations[..., 36:39], axis=-1) < 0.1


def _hammer_success(observations: np.ndarray) -> np.ndarray:
    """Nail within 0.01 m of its depth in the board, 0.091 m along the slide joint."""
    return np.abs(0.091 - observations[..., 26]) < 0.01


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker needs to build an environment and to judge an episode.

    Args:
        name: a name of ``TASKS``, or the environment id.
        env_id: Gymnasium id; ``module:Id-v0`` imports ``module`` first, so your own environment works.
        horizon: time limit in steps; None keeps the environment's own.
        success: ``[..., O]`` observations to ``[...]`` bool; None if only the environment's ``info`` knows.
        reward: ``binary`` is ``success - 1``; ``environment`` is the environment's; ``auto`` is binary if success is known.
        terminate_on_success: end the episode, as terminated, at the first success.
        clip_actions: store actions clipped to [-1, 1], or as they were sampled or recorded. The environment always gets
            clipped ones.
    """

    name: str
    env_id: str
    horizon: int | None = None
    success: Callable[[np.ndarray], np.ndarray] | None = None
    reward: RewardKind = "auto"
    terminate_on_success: bool = False
    clip_actions: bool = True


TASKS = {
    task.name: task
    for task in (
        Task(name="pen", env_id="AdroitHandPenSparse-v1", horizon=200, success=_pen_success),
        Task(name="door", env_id="AdroitHandDoorSparse-v1", horizon=200, success=_door_success),
        Task(name="relocate", env_id="AdroitHandRelocateSparse-v1", horizon=200, success=_relocate_success),
        Task(name="hammer", env_id="AdroitHandHammerSparse-v1", horizon=200, success=_hammer_success),
    )
}


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """Sizes, action bounds and time limit of a task's environment, and whether its ``info`` reports success.

    ``env_spec`` is Gymnasium's JSON that makes the environment; empty if its class has no name to store.
    """

    observation_dim: int
    action_dim: int
    action_low: np.ndarray
    action_high: np.ndarray
    horizon: int
    reports_success: bool
    env_spec: str


def find_task(
    name: str,
    *,
    horizon: int | None = None,
    reward: RewardKind = "auto",
    terminate_on_success: bool = False,
    clip_actions: bool = True,
) -> Task:
    """The task of that name, or a task of any registered Gymnasium environment id.

    Raises:
        AwacError: neither a task nor an environment has this name.
    """
    task = TASKS.get(name)
    if task is None:
        import gymnasium

        register_environments()
        if ":" not in name and name not in gymnasium.registry:
            known = [*TASKS, *gymnasium.registry] if "-v" in name else TASKS
            raise AwacError(f"unknown task '{name}': neither a task nor a Gymnasium environment id.{nearest(name, known)}")
        task = Task(name=name, env_id=name)
    return replace(
        task,
        horizon=task.horizon if horizon is None else horizon,
        reward=reward,
        terminate_on_success=terminate_on_success,
        clip_actions=clip_actions,
    )


def register_environments() -> None:
    """Register the Adroit environments with Gymnasium. Hides a notice about dense rewards, which are not used here."""
    import gymnasium

    import_mujoco()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gymnasium.register_envs(gymnasium_robotics)


def make_environment(task: Task, **kwargs: Any) -> gymnasium.Env:
    """Build the task's environment.

    Raises:
        AwacError: it cannot be made, its observations are not a flat Box, or its actions are not a bounded flat Box.
    """
    import gymnasium
    from gymnasium.spaces import Box

    register_environments()
    if task.horizon is not None:
        kwargs["max_episode_steps"] = task.horizon
    try:
        environment = gymnasium.make(task.env_id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        raise AwacError(f"{task.env_id}: cannot be made: {first_line(error)}") from error
    observation_space, action_space = environment.observation_space, environment.action_space
    problem = None
    if not isinstance(action_space, Box):
        problem = f"its action space is {type(action_space).__name__}; AWAC needs continuous actions (a Box)"
    elif len(action_space.shape) != 1 or not np.isfinite([action_space.low, action_space.high]).all():
        problem = f"its action space {action_space} must be flat with finite bounds; wrap it"
    elif not isinstance(observation_space, Box) or len(observation_space.shape) != 1:
        problem = f"its observation space {observation_space} must be a flat Box; add a FlattenObservation wrapper"
    if problem:
        environment.close()
        raise AwacError(f"{task.env_id}: {problem}")
    return environment


def inspect_spaces(task: Task) -> Spaces:
    """Build the environment, take one step, and report what a learner must know.

    Raises:
        AwacError: the environment does not fit (see ``make_environment``), has no time limit, or reports no success although
            the reward is binary or success ends the episode.
    """
    environment = make_environment(task)
    horizon = environment.spec.max_episode_steps if environment.spec else None
    if horizon is None:
        raise AwacError(f"{task.env_id}: has no time limit; set data.horizon")
    low, high = environment.action_space.low, environment.action_space.high  # type: ignore[attr-defined]
    environment.reset(seed=0)
    info = environment.step((low + high) / 2)[4]
    try:
        env_spec = environment.spec.to_json()  # type: ignore[union-attr]
    except ValueError:
        env_spec = ""
    spaces = Spaces(
        observation_dim=environment.observation_space.shape[0],  # type: ignore[index]
        action_dim=len(low),
        action_low=low.astype(np.float32),
        action_high=high.astype(np.float32),
        horizon=horizon,
        reports_success="success" in info,
        env_spec=env_spec,
    )
    environment.close()
    if not _knows_success(task, spaces) and (task.reward == "binary" or task.terminate_on_success):
        raise AwacError(f"{task.env_id}: reports no success; use reward: environment and terminate_on_success: false")
    return spaces


def uses_binary_reward(task: Task, spaces: Spaces) -> bool:
    """Whether this task is rewarded with ``success - 1``."""
    return task.reward == "binary" or (task.reward == "auto" and _knows_success(task, spaces))


def _knows_success(task: Task, spaces: Spaces) -> bool:
    return spaces.reports_success or task.success is not None


def judge(task: Task, binary: bool, success: Any, reward: Any, terminated: Any) -> tuple[Any, Any]:
    """The task's reward and termination of one step, or of ``[T]`` recorded steps.

    A binary reward is ``success - 1``, and only success may terminate: otherwise ending in failure (0) would be worth more
    than continuing (-1 a step).

    Args:
        task: says whether success ends the episode.
        binary: from ``uses_binary_reward``.
        success: scalar or ``[T]`` bool; None if unknown.
        reward: the environment's, of the same shape.
        terminated: the environment's, of the same shape.

    Returns:
        Reward and termination, of the same shape.
    """
    if binary and success is not None:
        reward, terminated = np.asarray(success, np.float32) - 1, np.zeros(np.shape(success), dtype=bool)
    if task.terminate_on_success and success is not None and terminated is not None:
        terminated = terminated | success
    return reward, terminated


def scale_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Map actions ``[..., A]`` from [-1, 1] to the environment's bounds (exact where those are -1 and 1)."""
    return action if _is_unit(low, high) else low + (action + 1) * 0.5 * (high - low)


def unscale_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Inverse of ``scale_action``."""
    return action if _is_unit(low, high) else (action - low) / (high - low) * 2 - 1


def _is_unit(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((low == -1).all() and (high == 1).all())
