"""Whole episodes by seed, in this process or in workers.

An episode depends on its seed, the task and the policy alone: never on which worker ran it, on how many there are, or
on the order in which they finish.
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

#: How often a seed is tried again when the worker that runs it dies.
MAX_ATTEMPTS = 3


class RolloutError(RuntimeError):
    """An episode that cannot be run: the environment raised, an action is not finite, or a worker died repeatedly."""


def run_episode(environment: gymnasium.Env, task: Task, spaces: Spaces, policy: Policy, seed: int) -> Episode:
    """Run one episode to its end.

    Args:
        environment: from ``make_environment(task)``; it is reset, so what ran in it before does not matter.
        task: for success, reward and termination.
        spaces: for the action bounds.
        policy: observation ``[O]`` to action ``[A]``; the environment gets it clipped to [-1, 1].
        seed: for the reset and, independently of it, for the policy's noise.

    Raises:
        RolloutError: an observation or an action is not finite. (MuJoCo would warn and carry on.)
    """
    rng = np.random.default_rng([seed, 1])  # [seed] alone is what the environment draws from
    binary = uses_binary_reward(task, spaces)
    observation, _ = environment.reset(seed=seed)
    observations: list[np.ndarray] = [observation]
    actions: list[np.ndarray] = []
    steps: list[tuple[float, bool, bool, bool | None]] = []  # reward, terminated, truncated, success
    paid: list[float] = []
    ended = False
    while not ended:
        action = policy.act(observation, rng)
        if not (np.isfinite(action).all() and np.isfinite(observation).all()):
            what = "action" if np.isfinite(observation).all() else "observation"
            raise RolloutError(f"{task.env_id}: seed {seed}: step {len(actions)}: the {what} is not finite")
        clipped = np.clip(action, -1, 1)
        scaled = scale_action(clipped, spaces.action_low, spaces.action_high)
        observation, reward, fell, timed_out, info = environment.step(scaled)
        paid.append(float(reward))
        success = info.get("success")
        if success is None and task.success is not None:
            success = task.success(observation)
        judged, terminated = judge(task, binary, success, reward, fell)
        ended = bool(terminated or fell or timed_out)
        observations.append(observation)
        actions.append(clipped if task.clip_actions else action)
        steps.append((float(judged), bool(terminated), ended and not terminated, success))
    rewards, terminations, truncations, successes = zip(*steps, strict=True)
    return Episode(
        observations=np.asarray(observations, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        terminated=np.asarray(terminations, dtype=bool),
        truncated=np.asarray(truncations, dtype=bool),
        success=None if any(success is None for success in successes) else np.asarray(successes, dtype=bool),
        seed=seed,
        environment_rewards=np.asarray(paid, dtype=np.float32),
    )


class RolloutWorkers(Executor):
    """Processes that run episodes of a task.

    Args:
        task: what to run.
        num_workers: processes; 0 runs in this process, without overlap (for debuggers).
        spaces: of the task's environment, where already known.
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
        """Run one episode per seed and return them in the order of the seeds.

        Args:
            policy: copied to the workers.
            seeds: one per episode.
            whole_episodes: go on after a success even where the task ends there, as an evaluation does.
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
    """Runs the episodes of a worker, all in one environment."""

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
    """Episodes of one epoch, and the seconds it took to collect them."""

    episodes: list[Episode]
    seconds: float

    @property
    def env_steps(self) -> int:
        """Environment steps in all."""
        return sum(len(episode) for episode in self.episodes)


def collect_block(workers: RolloutWorkers, policy: Policy, first_seed: int, env_steps: int) -> Block:
    """Run whole episodes, seed after seed, until there are at least ``env_steps`` steps.

    Each round asks for as many episodes as would do if all ran to the time limit, so the block depends on the seeds and
    the policy alone, not on the number of workers.
    """
    start = time.perf_counter()
    block = Block([], 0.0)
    while (missing := env_steps - block.env_steps) > 0:
        seed = first_seed + len(block.episodes)
        count = math.ceil(missing / workers.spaces.horizon)
        block.episodes.extend(workers.rollout(policy, range(seed, seed + count)))
    return Block(block.episodes, time.perf_counter() - start)
