"""Tasks: environment, time limit, success. Workers import this file, so it must not import torch."""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import warnings
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from awac_pl.envs import adroit
from awac_pl.envs.faults import close_environment, own_errors, step_fault, why_not_made
from awac_pl.envs.graphics import import_mujoco
from awac_pl.envs.observations import environment_layout, layout_of
from awac_pl.errors import AwacError, nearest

if TYPE_CHECKING:
    import gymnasium

RewardKind = Literal["auto", "binary", "environment"]
#: Keys of ``info`` that say whether the state after a step is a success: Gymnasium's, and that of Fetch and of SB3.
SUCCESS_KEYS = ("success", "is_success")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker needs to build an environment and to judge an episode.

    Args:
        name: a name of ``TASKS``, or the environment id.
        env_id: Gymnasium id; ``module:Id-v0`` imports ``module`` first, so your own environment works.
        horizon: time limit in steps; None keeps the environment's own.
        success: ``[..., O]`` observations to ``[...]`` bool; None if only the environment's ``info`` knows.
        success_key: key of ``info`` that says whether a step succeeded; None tries ``SUCCESS_KEYS``.
        reward: ``binary`` is ``success - 1``; ``environment`` is the environment's; ``auto`` is binary if success is known.
        terminate_on_success: end the episode, as terminated, at the first success.
        clip_actions: store actions clipped to [-1, 1], or as they were sampled or recorded. The environment always gets
            clipped ones.
    """

    name: str
    env_id: str
    horizon: int | None = None
    success: Callable[[np.ndarray], np.ndarray] | None = None
    success_key: str | None = None
    reward: RewardKind = "auto"
    terminate_on_success: bool = False
    clip_actions: bool = True

    @property
    def options(self) -> str:
        """Options of ``awac data`` that name this task."""
        horizon = None if self.name in TASKS and self.horizon == TASKS[self.name].horizon else self.horizon
        reward = None if self.reward == "auto" else self.reward
        chosen = {"task": self.name, "horizon": horizon, "success_key": self.success_key, "reward": reward}
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in chosen.items() if value is not None)


TASKS = {
    task.name: task
    for task in (
        Task(name="pen", env_id="AdroitHandPenSparse-v1", horizon=200, success=adroit.pen_success),
        Task(name="door", env_id="AdroitHandDoorSparse-v1", horizon=200, success=adroit.door_success),
        Task(name="relocate", env_id="AdroitHandRelocateSparse-v1", horizon=200, success=adroit.relocate_success),
        Task(name="hammer", env_id="AdroitHandHammerSparse-v1", horizon=200, success=adroit.hammer_success),
    )
}


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """Sizes, action bounds and time limit of a task's environment, and the key of ``info`` that reports success, or None.

    ``env_spec`` is Gymnasium's JSON that makes the environment; empty if its class has no name to store.
    ``observation_layout`` names the parts of observations that are a dict or a tuple, in the order of the O values.
    """

    observation_dim: int
    action_dim: int
    action_low: np.ndarray
    action_high: np.ndarray
    horizon: int
    success_key: str | None
    env_spec: str
    observation_layout: list[dict[str, Any]] = field(default_factory=list)


def find_task(
    name: str,
    *,
    horizon: int | None = None,
    success_key: str | None = None,
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
            own = " An environment of your own is named with its module: my_robot:Push-v0." if "-v" in name else ""
            hint = nearest(name, known) + own
            raise AwacError(f"unknown task '{name}': neither a task nor a Gymnasium environment id.{hint}")
        task = Task(name=name, env_id=name)
    return replace(
        task,
        horizon=task.horizon if horizon is None else horizon,
        success_key=success_key,
        reward=reward,
        terminate_on_success=terminate_on_success,
        clip_actions=clip_actions,
    )


def recorded_task(data: Mapping[str, Any]) -> Task:
    """The task of a run, by the ``data`` section of its configuration.

    Raises:
        AwacError: see ``find_task``.
    """
    return find_task(data["task"], **{key: data[key] for key in ("horizon", "success_key", "reward") if data.get(key)})


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
    """Build the task's environment. ``FlattenObservation`` makes a vector of other observations, such as dicts.

    Raises:
        AwacError: it cannot be made, its observations are no numbers, or its actions are not a bounded flat Box.
    """
    import gymnasium
    from gymnasium.spaces import Box

    register_environments()
    if task.horizon is not None:
        kwargs["max_episode_steps"] = task.horizon
    with own_errors(lambda error: AwacError(f"{task.env_id}: cannot be made: {why_not_made(task.env_id, error)}")):
        environment = gymnasium.make(task.env_id, disable_env_checker=True, **kwargs)
    observation_space, action_space = environment.observation_space, environment.action_space
    try:
        if not isinstance(action_space, Box):
            raise AwacError(f"its action space is {type(action_space).__name__}; AWAC needs continuous actions (a Box)")
        if len(action_space.shape) != 1 or not np.isfinite([action_space.low, action_space.high]).all():
            raise AwacError(f"its action space {action_space} must be flat with finite bounds; wrap it")
        flat = not layout_of(observation_space) and len(observation_space.shape or ()) == 1
    except AwacError as error:
        close_environment(environment)
        raise AwacError(f"{task.env_id}: {error}") from error
    return environment if flat else gymnasium.wrappers.FlattenObservation(environment)


def inspect_spaces(task: Task) -> Spaces:
    """Build the environment, take one step, and report what a learner must know.

    Raises:
        AwacError: the environment does not fit (see ``make_environment``), its first step fails, it has no time limit, or
            it reports no success although the reward is binary or success ends the episode.
    """
    environment = make_environment(task)
    try:
        spaces = _inspect(environment, task)
    finally:
        close_environment(environment)
    if not knows_success(task, spaces) and (task.reward == "binary" or task.terminate_on_success):
        raise AwacError(
            f"{task.env_id}: reports no success; use reward: environment and terminate_on_success: false, or name the key "
            "of info that reports it with success_key"
        )
    return spaces


def _inspect(environment: gymnasium.Env, task: Task) -> Spaces:
    horizon = environment.spec.max_episode_steps if environment.spec else None
    if horizon is None:
        raise AwacError(
            f"{task.env_id}: has no time limit; set one: --horizon 200 for awac data, --data.horizon=200 for awac fit"
        )
    low, high = environment.action_space.low, environment.action_space.high  # type: ignore[attr-defined]
    with own_errors(lambda error: AwacError(f"{task.env_id}: its first step fails: {step_fault(error)}")):
        environment.reset(seed=0)
        info = environment.step((low + high) / 2)[4]
    try:
        env_spec = environment.spec.to_json()  # type: ignore[union-attr]
    except ValueError:
        env_spec = ""
    key = task.success_key or next((key for key in SUCCESS_KEYS if key in info), None)
    if key is not None and key not in info:
        log.warning("%s: info has no '%s' after the first step; a step without it counts as no success.%s",
                    task.env_id, key, nearest(key, info))  # fmt: skip
    return Spaces(
        observation_dim=environment.observation_space.shape[0],  # type: ignore[index]
        action_dim=len(low),
        action_low=low.astype(np.float32),
        action_high=high.astype(np.float32),
        horizon=horizon,
        success_key=key,
        env_spec=env_spec,
        observation_layout=environment_layout(environment),
    )


def uses_binary_reward(task: Task, spaces: Spaces) -> bool:
    """Whether this task is rewarded with ``success - 1``."""
    return task.reward == "binary" or (task.reward == "auto" and knows_success(task, spaces))


def knows_success(task: Task, spaces: Spaces) -> bool:
    """Whether each step of an episode is a success, or not; it can be unknown."""
    return spaces.success_key is not None or task.success is not None


def recorded_success_key(infos: Container[str], asked: str | None) -> str | None:
    """The key of recorded infos that says whether a step succeeded: the asked one, or one of ``SUCCESS_KEYS``, or None."""
    return next((key for key in (asked, *SUCCESS_KEYS) if key is not None and key in infos), None)


def judge_success(task: Task, spaces: Spaces, observation: np.ndarray, info: Mapping[str, Any]) -> Any:
    """Success of one step, None if it is unknown. If ``info`` reports it, but not in this step, the step is no success."""
    success = None if spaces.success_key is None else info.get(spaces.success_key)
    if success is None and task.success is not None:
        return task.success(observation)
    return False if success is None and spaces.success_key is not None else success


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
        terminated = terminated | np.asarray(success, dtype=bool)
    return reward, terminated


def scale_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Map actions ``[..., A]`` from [-1, 1] to the environment's bounds (exact where those are -1 and 1)."""
    return action if _is_unit(low, high) else low + (action + 1) * 0.5 * (high - low)


def unscale_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Inverse of ``scale_action``; an action whose bounds are equal, such as that of a locked joint, becomes 0."""
    if _is_unit(low, high):
        return action
    moves = high > low
    return (action - low) / np.where(moves, high - low, 1) * 2 - moves


def _is_unit(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((low == -1).all() and (high == 1).all())
