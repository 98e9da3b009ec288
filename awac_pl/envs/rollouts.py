"""Whole episodes by seed, in this process or in workers.

An episode depends only on its seed, the task and the policy: not on the number of workers, nor on who ran it and when.
"""

from __future__ import annotations

import math
import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, judge, make_environment, scale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.parallel.executor import Executor, WorkerError
from awac_pl.policies.policy import Policy

if TYPE_CHECKING:
    import gymnasium

#: How often a seed is run if its worker dies.
MAX_ATTEMPTS = 3


class RolloutError(RuntimeError):
    """An episode failed: the environment raised, a number is not finite, or a worker died repeatedly."""


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
        RolloutError: an observation or an action is not finite. (MuJoCo would only warn.)
    """
    rng = np.random.default_rng([seed, 1])  # the environment draws from [seed]
    binary = uses_binary_reward(task, spaces)
    observation, _ = environment.reset(seed=seed)
    observations: list[np.ndarray] = [observation]
    steps: list[tuple] = []
    ended = False
    while True:
        if on_state is not None:
            on_state(len(steps), ended)
        if ended:
            break
        action = policy.act(observation, rng)
        if not (np.isfinite(action).all() and np.isfinite(observation).all()):
            name = "action" if np.isfinite(observation).all() else "observation"
            raise RolloutError(f"{task.env_id}: seed {seed}: step {len(steps)}: the {name} is not finite")
        clipped = np.clip(action, -1, 1)
        scaled = scale_action(clipped, spaces.action_low, spaces.action_high)
        observation, environment_reward, failed, timed_out, info = environment.step(scaled)
        success = info.get("success")
        if success is None and task.success is not None:
            success = task.success(observation)
        reward, terminated = judge(task, binary, success, environment_reward, failed)
        ended = bool(terminated or failed or timed_out)
        observations.append(observation)
        stored, truncated = clipped if task.clip_actions else action, ended and not terminated
        steps.append((stored, float(reward), bool(terminated), truncated, success, float(environment_reward)))
    return _pack(seed, observations, steps)


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
    """

    def __init__(self, task: Task, num_workers: int, spaces: Spaces | None = None) -> None:
        self.task = task
        self.spaces = spaces or inspect_spaces(task)
        super().__init__(partial(_Runner, self.spaces), num_workers, attempts=MAX_ATTEMPTS)

    def rollout(
        self,
        policy: Policy,
        seeds: Sequence[int],
        *,
        whole_episodes: bool = False,
        on_episode: Callable[[], object] | None = None,
    ) -> list[Episode]:
        """Run one episode per seed; returns them in the order of the seeds.

        Args:
            policy: copied to the workers.
            seeds: one per episode.
            whole_episodes: continue after a success even if the task ends there, as evaluations do.
            on_episode: called after each finished episode (for a progress bar).

        Raises:
            RolloutError: an episode cannot be run.
        """
        task = replace(self.task, terminate_on_success=False) if whole_episodes else self.task
        payload = pickle.dumps(policy)
        try:
            return self.map([(payload, task, seed) for seed in seeds], on_episode, name=lambda job: f"seed {job[2]}")
        except WorkerError as error:
            raise RolloutError(f"{self.task.env_id}: {error}") from error


class _Runner:
    """Runs a worker's episodes in one environment."""

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        self.environment: gymnasium.Env | None = None

    def __call__(self, job: tuple[bytes, Task, int]) -> Episode:
        payload, task, seed = job
        try:
            self.environment = self.environment or make_environment(task)
            return run_episode(self.environment, task, self.spaces, pickle.loads(payload), seed)
        except RolloutError:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RolloutError(f"{task.env_id}: seed {seed}: {error!r} at {where.filename}:{where.lineno}") from error

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()


@dataclass(frozen=True)
class Block:
    """Episodes for one epoch, and the seconds that they took."""

    episodes: list[Episode]
    seconds: float

    @property
    def env_steps(self) -> int:
        """Environment steps in all."""
        return sum(len(episode) for episode in self.episodes)


def collect_block(workers: RolloutWorkers, policy: Policy, first_seed: int, env_steps: int) -> Block:
    """Run whole episodes, seed after seed, until they have at least ``env_steps`` steps.

    Each round runs as many as would be enough if all reached the time limit. So the number of workers does not matter.
    """
    start = time.perf_counter()
    episodes: list[Episode] = []
    while (missing := env_steps - sum(map(len, episodes))) > 0:
        first, count = first_seed + len(episodes), math.ceil(missing / workers.spaces.horizon)
        episodes += workers.rollout(policy, range(first, first + count))
    return Block(episodes, time.perf_counter() - start)
