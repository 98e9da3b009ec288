"""The jobs of an ``Executor`` in actors of Ray, on this machine or on all machines of a cluster."""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from awac_pl.parallel.cluster import connected
from awac_pl.parallel.executor import FIRST_TIMEOUT, Factory, WorkerError, longest_time, one_thread, picklable

log = logging.getLogger(__name__)

#: Bytes from which a part of a job travels once for all jobs: a policy, in rollouts.
LARGE = 4096


class RayWorkers:
    """Actors with a CPU each: started at first use, replaced when they or their node die, ended by ``close``.

    Args:
        factory: see ``Executor``, like the others.
        num_workers: actors, at least 1. Those for which the cluster has no CPU wait for one; the others do their jobs.
        attempts: likewise.
        timeout: likewise.
    """

    def __init__(self, factory: Factory, num_workers: int, attempts: int, timeout: float | None) -> None:
        self.factory, self.num_workers, self.attempts, self.timeout = factory, num_workers, attempts, timeout
        self.closed = False
        self._connection = contextlib.ExitStack()
        self._ray: Any = None
        self._starting: dict[Any, Any] = {}  # the answer that an actor will give once it lives, and the actor
        self._idle: list[tuple[Any, bool]] = []  # an actor, and whether it has done a job
        self._longest = 0.0

    def map(self, jobs: Sequence[Any], done: Callable[[], object], name: Callable[[Any], str]) -> list[Any]:
        """See ``Executor.map``."""
        self._connect(min(self.num_workers, len(jobs)))
        ray, results, error = self._ray, [None] * len(jobs), None
        waiting = deque((index, 1) for index in range(len(jobs)))
        running: dict[Any, tuple[Any, bool, int, int, float]] = {}
        large: dict[int, Any] = {}
        asked = time.monotonic()
        while running or (waiting and error is None):
            while self._idle and waiting and error is None:
                index, attempt = waiting.popleft()
                actor, proven = self._idle.pop()
                running[self._send(actor, jobs[index], large)] = actor, proven, index, attempt, time.monotonic()
            answered, _ = ray.wait([*running, *self._starting], timeout=0.2)
            self._welcome(answered)
            if self.closed:
                raise WorkerError("the workers were closed during their work")
            if running or self._idle:
                asked = time.monotonic()
            elif time.monotonic() - asked > FIRST_TIMEOUT:
                raise WorkerError(f"the cluster has had no free CPU for {FIRST_TIMEOUT:.0f} s")
            limits = {ref: longest_time(self.timeout, self._longest, proven) for ref, (_, proven, *_) in running.items()}
            late = [
                ref for ref, (*_, since) in running.items() if time.monotonic() - since > limits[ref] and ref not in answered
            ]
            for ref in [*(ref for ref in answered if ref in running), *late]:
                actor, proven, index, attempt, since = running.pop(ref)
                try:
                    if ref in late:
                        raise TimeoutError
                    failed, outcome = pickle.loads(ray.get(ref))
                    self._idle.append((actor, True))
                    if proven:
                        self._longest = max(self._longest, time.monotonic() - since)
                except (ray.exceptions.RayError, TimeoutError):  # the actor or its node is gone, or with it the result
                    ray.kill(actor)
                    self._start()
                    if attempt < self.attempts:
                        waiting.appendleft((index, attempt + 1))
                        continue
                    what = f"took longer than {limits[ref]:.0f} s" if ref in late else "died"
                    failed, outcome = True, WorkerError(f"{name(jobs[index])}: the worker {what} {attempt} times in a row")
                if failed:
                    error = error or outcome
                else:
                    results[index] = outcome
                    done()
        if error is not None:
            raise error
        return results

    def close(self) -> None:
        """End the actors."""
        self.closed = True
        if self._ray is not None and self._ray.is_initialized():
            for actor in [*(actor for actor, _ in self._idle), *self._starting.values()]:
                self._ray.kill(actor)
        self._idle, self._starting = [], {}
        self._connection.close()

    def _connect(self, count: int) -> None:
        if self._ray is None:
            self._ray = self._connection.enter_context(connected("", "data.executor=ray"))
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            if self.num_workers > cpus:
                log.warning("%d workers, and the cluster has %d CPUs: so many work at a time", self.num_workers, cpus)
        while len(self._idle) + len(self._starting) < count:
            self._start()

    def _start(self) -> None:
        actor = self._ray.remote(_Worker).options(num_cpus=1).remote(pickle.dumps(self.factory))
        self._starting[actor.ready.remote()] = actor

    def _welcome(self, answered: Sequence[Any]) -> None:
        for ref in answered:
            if (actor := self._starting.pop(ref, None)) is not None:
                try:
                    self._ray.get(ref)
                    self._idle.append((actor, False))
                except self._ray.exceptions.RayError:  # its node died before it lived
                    self._start()

    def _send(self, actor: Any, job: Any, large: dict[int, Any]) -> Any:
        """Give an actor a job. Its large parts are put into the object store once, and fetched once by each node."""
        parts = job if isinstance(job, tuple) else (job,)
        for part in parts:
            if isinstance(part, bytes) and len(part) >= LARGE and id(part) not in large:
                large[id(part)] = self._ray.put(part)
        return actor.do.remote(isinstance(job, tuple), *(large.get(id(part), part) for part in parts))


class _Worker:
    """An actor. It answers with bytes, as a process answers through a pipe: arrays that can be written to."""

    def __init__(self, factory: bytes) -> None:
        self._factory = factory
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Answers when the actor lives."""

    def do(self, is_tuple: bool, *parts: Any) -> bytes:
        """Do a job; whether it failed, and its result or error."""
        try:
            with one_thread():
                self._work = self._work or pickle.loads(self._factory)()
                assert self._work is not None
                outcome = False, self._work(parts if is_tuple else parts[0])
        except Exception as error:
            outcome = True, picklable(error)
        return pickle.dumps(outcome, protocol=5)
