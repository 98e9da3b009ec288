"""Whole episodes by seed, in this process or in workers.

An episode depends on its seed, the task and the policy alone: never on which worker ran it, on how many there are, or
on the order in which they finish.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, cast

import numpy as np

from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, make_environment, scale_action, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.policies.numpy_policy import NumpyPolicy

if TYPE_CHECKING:
    import gymnasium

#: How often a seed is tried again when the worker that runs it dies.
MAX_ATTEMPTS = 3


class RolloutError(RuntimeError):
    """An episode that cannot be run: the environment raised, an action is not finite, or a worker died repeatedly."""


def run_episode(environment: gymnasium.Env, task: Task, spaces: Spaces, policy: NumpyPolicy, seed: int) -> Episode:
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
        observation, reward, terminated, truncated, info = environment.step(scaled)
        paid.append(float(reward))
        success = info.get("success")
        if success is None and task.success is not None:
            success = task.success(observation)
        if binary:
            # An end in failure would be worth more (0) than going on (-1 a step): only success may terminate.
            reward = float(success) - 1.0  # type: ignore[arg-type]
            terminated, truncated = False, terminated or truncated
        if task.terminate_on_success and success:
            terminated, truncated = True, False
        observations.append(observation)
        actions.append(clipped if task.clip_actions else action)
        steps.append((float(reward), bool(terminated), bool(truncated), success))
        ended = terminated or truncated
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


class RolloutWorkers:
    """Processes that run episodes; started on first use, replaced when they die, closed by ``close``.

    Args:
        task: what to run.
        num_workers: processes; 0 runs in this process, without overlap (for debuggers).
        spaces: of the task's environment, where already known.
    """

    def __init__(self, task: Task, num_workers: int, spaces: Spaces | None = None) -> None:
        self.task = task
        self.num_workers = num_workers
        self.spaces = spaces or inspect_spaces(task)
        self._lock = threading.Lock()
        self._workers: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._environment: gymnasium.Env | None = None
        self._closed = False

    def rollout(
        self,
        policy: NumpyPolicy,
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
        with self._lock:
            if self._closed:
                raise RolloutError("the rollout workers are closed")
            task = replace(self.task, terminate_on_success=False) if whole_episodes else self.task
            run = self._rollout_here if self.num_workers == 0 else self._rollout_in_workers
            return run(task, policy, seeds, on_episode or (lambda: None))

    def close(self) -> None:
        """End all workers; a rollout under way ends with ``RolloutError``. May be called twice."""
        self._closed = True
        for process in list(self._workers.values()):
            process.terminate()
        with self._lock:
            for connection, process in self._workers.items():
                connection.close()
                process.join()
            self._workers.clear()
            if self._environment is not None:
                self._environment.close()
                self._environment = None

    def _rollout_here(
        self, task: Task, policy: NumpyPolicy, seeds: Sequence[int], on_episode: Callable[[], object]
    ) -> list[Episode]:
        if self._environment is None:
            self._environment = make_environment(self.task)
        episodes = []
        for seed in seeds:
            with one_thread():
                episodes.append(run_episode(self._environment, task, self.spaces, policy, seed))
            on_episode()
        return episodes

    def _rollout_in_workers(
        self, task: Task, policy: NumpyPolicy, seeds: Sequence[int], on_episode: Callable[[], object]
    ) -> list[Episode]:
        while len(self._workers) < self.num_workers:
            self._start_worker()
        payload = pickle.dumps(policy)
        waiting = deque((index, 1) for index in range(len(seeds)))
        running: dict[Connection, tuple[int, int]] = {}
        episodes: list[Episode | None] = [None] * len(seeds)
        error: RolloutError | None = None
        while running or (waiting and error is None):
            for connection in [c for c in self._workers if c not in running]:
                if not waiting or error is not None:
                    break
                index, attempt = waiting.popleft()
                running[connection] = index, attempt
                with contextlib.suppress(OSError):  # a dead worker: found out below
                    connection.send((payload, task, seeds[index]))
            for ready in wait(list(running)):
                connection = cast(Connection, ready)
                index, attempt = running.pop(connection)
                try:
                    outcome = connection.recv()
                except (EOFError, OSError):
                    self._replace_worker(connection)
                    if attempt >= MAX_ATTEMPTS:
                        error = RolloutError(
                            f"{self.task.env_id}: seed {seeds[index]}: the worker died {attempt} times in a row"
                        )
                    else:
                        waiting.appendleft((index, attempt + 1))
                    continue
                if isinstance(outcome, Episode):
                    episodes[index] = outcome
                    on_episode()
                else:
                    error = RolloutError(outcome)
        if error is not None:
            raise error
        return episodes  # type: ignore[return-value]

    def _start_worker(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.spaces), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process

    def _replace_worker(self, connection: Connection) -> None:
        if self._closed:
            raise RolloutError("the rollout workers were closed during a rollout")
        process = self._workers.pop(connection)
        connection.close()
        process.join(timeout=5)
        self._start_worker()


def _serve(connection: Connection, spaces: Spaces) -> None:
    """A worker's life: seeds in, episodes out, until the pipe closes. Ctrl-C is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment = None
    with one_thread():
        while True:
            try:
                payload, task, seed = connection.recv()
            except (EOFError, OSError):
                return
            try:
                environment = environment or make_environment(task)
                outcome: Episode | str = run_episode(environment, task, spaces, pickle.loads(payload), seed)
            except RolloutError as error:
                outcome = str(error)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"{task.env_id}: seed {seed}: {error!r} at {where.filename}:{where.lineno}"
            try:
                connection.send(outcome)
            except OSError:
                return


def one_thread() -> contextlib.AbstractContextManager:
    """One BLAS thread: a policy is far too small for more, and more could change the last bit."""
    import threadpoolctl

    return threadpoolctl.threadpool_limits(limits=1)


@dataclass(frozen=True)
class Block:
    """Episodes of one epoch, and the seconds it took to collect them."""

    episodes: list[Episode]
    seconds: float

    @property
    def env_steps(self) -> int:
        """Environment steps in all."""
        return sum(len(episode) for episode in self.episodes)


def collect_block(workers: RolloutWorkers, policy: NumpyPolicy, first_seed: int, env_steps: int) -> Block:
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
