"""Whole episodes by seed, in this process or in workers.

An episode depends only on its seed, the task and the policy: not on the number of workers, nor on who ran it and when.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from awac_pl.envs.faults import (
    NO_STEP,
    RolloutError,
    check_number,
    check_observation,
    check_outcome,
    close_environment,
    described,
    own_errors,
    step_fault,
)  # fmt: skip
from awac_pl.envs.tasks import (
    Spaces,
    Task,
    inspect_spaces,
    judge,
    judge_success,
    make_environment,
    scale_action,
    uses_binary_reward,
)  # fmt: skip
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, first_line
from awac_pl.parallel.executor import Executor, Kind, WorkerError
from awac_pl.policies.policy import Policy

if TYPE_CHECKING:
    import gymnasium

log = logging.getLogger(__name__)

#: How often a seed is run if its worker dies.
MAX_ATTEMPTS = 3


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

    def told(error: BaseException) -> RolloutError:
        where, step = f"{task.env_id}: seed {seed}", f"step {len(steps)}"
        fault = str(error) if isinstance(error, RolloutError) else step_fault(error)
        if isinstance(error, RolloutError) or fault == NO_STEP:  # without a place in the environment's file
            return RolloutError(f"{where}: {step}: {fault}")
        return RolloutError(f"{where}: {fault}, {step}")

    with own_errors(told):
        return _run(environment, task, spaces, policy, seed, on_state, steps)


def _run(
    environment: gymnasium.Env, task: Task, spaces: Spaces, policy: Policy, seed: int,
    on_state: Callable[[int, bool], object] | None, steps: list[tuple],
) -> Episode:  # fmt: skip
    """See ``run_episode``; ``steps`` fills as the episode goes on."""
    rng = np.random.default_rng([seed, 1])  # the environment draws from [seed]
    binary = uses_binary_reward(task, spaces)
    observation, _ = environment.reset(seed=seed)
    check_observation(observation, spaces.observation_dim)
    observations = [np.array(observation)]  # copies: an environment may change its own arrays in the next step
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
        observation, environment_reward, failed, timed_out, info = check_outcome(environment.step(scaled.copy()))
        check_observation(observation, spaces.observation_dim)
        success = judge_success(task, spaces, observation, info)
        check_number(environment_reward, "reward")
        check_number(success or 0, "success")
        reward, terminated = judge(task, binary, success, environment_reward, failed)
        ended = bool(terminated or failed or timed_out)
        observations.append(np.array(observation))
        stored, truncated = clipped if task.clip_actions else action, ended and not terminated
        succeeded = None if success is None else bool(success)
        steps.append((stored, float(reward), bool(terminated), truncated, succeeded, float(environment_reward)))
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
        timeout: longest time of an episode in seconds; see ``Executor``.
        kind: of the processes; see ``Executor``.
    """

    def __init__(
        self, task: Task, num_workers: int, spaces: Spaces | None = None, timeout: float | None = None, kind: Kind = "local"
    ) -> None:
        if num_workers < 0:
            raise AwacError(f"data.workers is {num_workers}; it must be at least 0")
        self.task = task
        self.spaces = spaces or inspect_spaces(task)
        super().__init__(partial(_Runner, self.spaces), num_workers, attempts=MAX_ATTEMPTS, timeout=timeout, kind=kind)

    def renewed(self) -> RolloutWorkers:
        """Others like these, which are closed."""
        self.close()
        return RolloutWorkers(self.task, self.num_workers, self.spaces, self.timeout, self.kind)

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

    def evaluate(self, policy: Policy, seeds: Sequence[int]) -> tuple[list[Episode], list[RolloutError]]:
        """Whole episodes, one per seed, and the errors of those that fail; each of these is logged."""
        failed: list[RolloutError] = []
        episodes = self.rollout(policy, seeds, whole_episodes=True, failed=failed)
        for error in failed:
            log.warning("an evaluation episode failed and is left out, of the success rate, too: %s", first_line(error))
        return episodes, failed


class _Runner:
    """Runs a worker's episodes in one environment."""

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        self.environment: gymnasium.Env | None = None

    def __call__(self, job: tuple[bytes, Task, int, bool]) -> Episode | RolloutError:
        payload, task, seed, tolerant = job

        def told(error: BaseException) -> RolloutError:
            reason = str(error) if isinstance(error, AwacError) else described(error)  # the former by make_environment
            return RolloutError(f"{task.env_id}: seed {seed}: {reason}")

        with own_errors(told):
            self.environment = self.environment or make_environment(task)
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
            close_environment(self.environment)


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
        if len(failed) > max_failed:  # at least 0
            raise RolloutError(
                f"too many episodes failed (interaction.max_failed_episodes), this one, too: {failed[max_failed]}"
            )
    return Block(episodes, time.perf_counter() - start, failed)
