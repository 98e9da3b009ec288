"""Whole episodes by seed, in this process or in workers.

An episode depends only on its seed, the task and the policy: not on the number of workers, nor on who ran it and when.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, judge, make_environment, scale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, first_line
from awac_pl.parallel.executor import Executor, WorkerError
from awac_pl.policies.policy import Policy

if TYPE_CHECKING:
    import gymnasium

log = logging.getLogger(__name__)

#: How often a seed is run if its worker dies.
MAX_ATTEMPTS = 3
#: Where an environment's author will not look for an error: this package, Gymnasium, NumPy, Python's own library.
_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = re.compile(r"[/\\](gymnasium|numpy)[/\\]|[/\\]lib[/\\]python[\d.]+[/\\](?!site-packages)")
_NO_STEP = "step() returned no (observation, reward, terminated, truncated, info)"


class RolloutError(AwacError, RuntimeError):
    """An episode failed: the environment raised or broke its contract, or a worker died or hung repeatedly."""


def run_episode(
    environment: gymnasium.Env,
    task: Task,
    spaces: Spaces,
    policy: Policy,
    seed: int,
    on_state: Callable[[int, bool], object] | None = None,
) -> Episode:
    """Run one episode to its end.

    Args:
        environment: from ``make_environment(task)``; it is reset, so earlier episodes do not matter.
        task: for success, reward and termination.
        spaces: for the action bounds.
        policy: observation ``[O]`` to action ``[A]``; the environment gets the action clipped to [-1, 1].
        seed: of the reset and, independently, of the policy's noise.
        on_state: called after the reset and after each step with the number of steps and whether the episode has ended.

    Raises:
        RolloutError: the environment raised, or returned what it must not; the message names seed, step, file and line.
    """
    steps: list[tuple] = []
    try:
        return _run(environment, task, spaces, policy, seed, on_state, steps)
    except RolloutError as error:
        raise RolloutError(f"{task.env_id}: seed {seed}: step {len(steps)}: {error}") from error.__cause__
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "unpack" in str(error) and f"{os.sep}gymnasium{os.sep}" in frames[-1].filename:  # one of its wrappers
            raise RolloutError(f"{task.env_id}: seed {seed}: step {len(steps)}: {_NO_STEP}") from error
        raise RolloutError(f"{task.env_id}: seed {seed}: {error!r} at {_place(frames)}, step {len(steps)}") from error


def _place(frames: traceback.StackSummary) -> str:
    """File and line of the environment where an error came from."""
    own = [frame for frame in frames if not (frame.filename.startswith(_PACKAGE) or _LIBRARIES.search(frame.filename))]
    where = (own or frames)[-1]
    return f"{where.filename}:{where.lineno}"


def _run(
    environment: gymnasium.Env, task: Task, spaces: Spaces, policy: Policy, seed: int,
    on_state: Callable[[int, bool], object] | None, steps: list[tuple],
) -> Episode:  # fmt: skip
    """See ``run_episode``; ``steps`` fills as the episode goes on."""
    rng = np.random.default_rng([seed, 1])  # the environment draws from [seed]
    binary = uses_binary_reward(task, spaces)
    observation, _ = environment.reset(seed=seed)
    _check_observation(observation, spaces)
    observations: list[np.ndarray] = [observation]
    ended = False
    while True:
        if on_state is not None:
            on_state(len(steps), ended)
        if ended:
            break
        action = policy.act(observation, rng)
        if not np.isfinite(action).all():
            raise RolloutError("the action is not finite")
        clipped = np.clip(action, -1, 1)
        scaled = scale_action(clipped, spaces.action_low, spaces.action_high)
        outcome = environment.step(scaled)
        if not isinstance(outcome, tuple) or len(outcome) != 5:
            raise RolloutError(_NO_STEP)
        observation, environment_reward, failed, timed_out, info = outcome
        _check_observation(observation, spaces)
        success = info.get("success")
        if success is None and task.success is not None:
            success = task.success(observation)
        if not np.isfinite(_number(environment_reward, "reward")) or not np.isfinite(_number(success or 0, "success")):
            raise RolloutError(f"the reward is {environment_reward} and success is {success}; both must be finite")
        reward, terminated = judge(task, binary, success, environment_reward, failed)
        ended = bool(terminated or failed or timed_out)
        observations.append(observation)
        stored, truncated = clipped if task.clip_actions else action, ended and not terminated
        steps.append((stored, float(reward), bool(terminated), truncated, success, float(environment_reward)))
    return _pack(seed, observations, steps)


def _check_observation(observation: Any, spaces: Spaces) -> None:
    """Refuse what is no finite ``[O]``; MuJoCo would only warn, and numbers that are not finite spread."""
    if np.shape(observation) != (spaces.observation_dim,) or np.asarray(observation).dtype.kind not in "biuf":
        found = f"{type(observation).__name__} {list(np.shape(observation))}"
        raise RolloutError(f"the observation is a {found}, not numbers [{spaces.observation_dim}]")
    if not np.isfinite(observation).all():
        raise RolloutError("the observation is not finite")


def _number(value: Any, name: str) -> float:
    if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf":
        return float(value)
    raise RolloutError(f"the {name} is {value!r}, not a number")


def _pack(seed: int, observations: list[np.ndarray], steps: list[tuple]) -> Episode:
    """An episode of observations and steps: action, reward, terminated, truncated, success, environment's reward."""
    actions, rewards, terminated, truncated, successes, environment_rewards = zip(*steps, strict=True)
    return Episode(
        observations=np.asarray(observations, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        terminated=np.asarray(terminated, dtype=bool),
        truncated=np.asarray(truncated, dtype=bool),
        success=None if any(success is None for success in successes) else np.asarray(successes, dtype=bool),
        seed=seed,
        environment_rewards=np.asarray(environment_rewards, dtype=np.float32),
    )


class RolloutWorkers(Executor):
    """Processes that run episodes of a task.

    Args:
        task: what to run.
        num_workers: processes; 0 runs in this process, without overlap (for debuggers).
        spaces: of the task's environment, if already known.
        timeout: longest time of an episode in seconds; see ``Executor``.
    """

    def __init__(self, task: Task, num_workers: int, spaces: Spaces | None = None, timeout: float | None = None) -> None:
        if num_workers < 0:
            raise AwacError(f"data.workers is {num_workers}; it must be at least 0")
        self.task = task
        self.spaces = spaces or inspect_spaces(task)
        super().__init__(partial(_Runner, self.spaces), num_workers, attempts=MAX_ATTEMPTS, timeout=timeout)

    def rollout(
        self,
        policy: Policy,
        seeds: Sequence[int],
        *,
        whole_episodes: bool = False,
        on_episode: Callable[[], object] | None = None,
        failed: list[RolloutError] | None = None,
    ) -> list[Episode]:
        """Run one episode per seed; returns them in the order of the seeds.

        Args:
            policy: copied to the workers.
            seeds: one per episode.
            whole_episodes: continue after a success even if the task ends there, as evaluations do.
            on_episode: called after each finished episode (for a progress bar).
            failed: gets the errors of episodes that fail, which the result then lacks; None raises the first one.

        Raises:
            RolloutError: an episode cannot be run.
        """
        task = replace(self.task, terminate_on_success=False) if whole_episodes else self.task
        payload = pickle.dumps(policy)
        jobs = [(payload, task, seed, failed is not None) for seed in seeds]
        try:
            outcomes = self.map(jobs, on_episode, name=lambda job: f"seed {job[2]}")
        except WorkerError as error:
            raise RolloutError(f"{self.task.env_id}: {error}") from error
        if failed is not None:
            failed += [outcome for outcome in outcomes if isinstance(outcome, RolloutError)]
        return [outcome for outcome in outcomes if isinstance(outcome, Episode)]

    def evaluate(self, policy: Policy, seeds: Sequence[int]) -> list[Episode]:
        """Whole episodes, one per seed, without those that fail; each of these is logged.

        Raises:
            RolloutError: all fail.
        """
        failed: list[RolloutError] = []
        episodes = self.rollout(policy, seeds, whole_episodes=True, failed=failed)
        if failed and not episodes:
            raise failed[0]
        for error in failed:
            log.warning("an evaluation episode failed and is left out: %s", first_line(error))
        return episodes


class _Runner:
    """Runs a worker's episodes in one environment."""

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        self.environment: gymnasium.Env | None = None

    def __call__(self, job: tuple[bytes, Task, int, bool]) -> Episode | RolloutError:
        payload, task, seed, tolerant = job
        try:
            self.environment = self.environment or make_environment(task)
        except Exception as error:
            place = _place(traceback.extract_tb(error.__traceback__))
            raise RolloutError(f"{task.env_id}: seed {seed}: {error!r} at {place}") from error
        try:
            return run_episode(self.environment, task, self.spaces, pickle.loads(payload), seed)
        except RolloutError as error:
            with contextlib.suppress(Exception):
                self.close()
            self.environment = None  # what a failure left behind is not for the next episode
            if tolerant:
                return RolloutError(str(error))
            raise

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()


@dataclass(frozen=True)
class Block:
    """Episodes for one epoch, the seconds that they took, and the errors of episodes that failed."""

    episodes: list[Episode]
    seconds: float
    failed: list[RolloutError] = field(default_factory=list)

    @property
    def env_steps(self) -> int:
        """Environment steps in all."""
        return sum(len(episode) for episode in self.episodes)


def collect_block(workers: RolloutWorkers, policy: Policy, first_seed: int, env_steps: int, max_failed: int = 0) -> Block:
    """Run whole episodes, seed after seed, until they have at least ``env_steps`` steps.

    Each round runs as many as would be enough if all reached the time limit. So the number of workers does not matter.
    An episode that fails is left out, and the next seed takes its place.

    Raises:
        RolloutError: more than ``max_failed`` episodes failed.
    """
    start = time.perf_counter()
    episodes: list[Episode] = []
    failed: list[RolloutError] = []
    while (missing := env_steps - sum(map(len, episodes))) > 0:
        first, count = first_seed + len(episodes) + len(failed), math.ceil(missing / workers.spaces.horizon)
        episodes += workers.rollout(policy, range(first, first + count), failed=failed)
        if len(failed) > max_failed:
            raise failed[max_failed]
    return Block(episodes, time.perf_counter() - start, failed)
