"""Jobs in worker processes, with their results in the order of the jobs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from awac_pl.parallel.ray_executor import RayWorkers

#: Runs in a worker process; returns the function that does its jobs.
Factory = Callable[[], Callable[[Any], Any]]
#: Where the worker processes are.
Kind = Literal["local", "ray"]


#: Least limits of a job in seconds: of the first one of a process, and of others where ``timeout`` is None.
FIRST_TIMEOUT, LEAST_TIMEOUT = 600.0, 60.0
#: A job may take so many times as long as the longest one before it.
PATIENCE = 20
#: What often kills a worker before its first answer: it imports the script that started it.
_YOUNG = " in its first job; does your script start its work below if __name__ == '__main__':? 0 workers show the cause"


class WorkerError(RuntimeError):
    """A worker process died, or was closed during its work."""


class Executor:
    """Worker processes: started at first use, replaced when they die, ended by ``close``.

    A job's result must depend only on the job: any process may do it, at any time.

    Args:
        factory: called once in each process; it and the jobs are pickled.
        num_workers: processes, at least 0; 0 does the jobs in this process (for debuggers).
        attempts: how often a job is tried if its process dies or takes too long.
        timeout: longest time of a job in seconds, then its process is replaced; None for ``PATIENCE`` times the longest job
            so far, at least ``LEAST_TIMEOUT``. A job in this process has no limit.
        kind: ``local`` for processes of this machine, ``ray`` for those of a Ray cluster.
    """

    def __init__(
        self, factory: Factory, num_workers: int, attempts: int = 1, timeout: float | None = None, kind: Kind = "local"
    ) -> None:
        self.factory = factory
        self.timeout = timeout
        self._longest = 0.0
        self._proven: set[Connection] = set()  # processes that have done a job
        self.num_workers = num_workers
        self.attempts = attempts
        self._lock = threading.Lock()
        self._workers: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._here: Callable[[Any], Any] | None = None
        self._closed = False
        self.kind = kind
        self._remote: RayWorkers | None = None

    def map(
        self,
        jobs: Sequence[Any],
        on_result: Callable[[], object] | None = None,
        name: Callable[[Any], str] = str,
    ) -> list[Any]:
        """Do every job; returns the results in the order of the jobs. After an error no further job starts.

        Args:
            jobs: each is pickled on its own.
            on_result: called after each finished job (for a progress bar).
            name: the name of a job in errors.

        Raises:
            WorkerError: a process died or was closed.
            Exception: an error of a job or of the factory.
        """
        with self._lock:
            if self._closed:
                raise WorkerError("the workers are closed")
            done = on_result or (lambda: None)
            if self.num_workers == 0:
                return self._map_here(jobs, done)
            try:
                return (self._map_in_workers if self.kind == "local" else self._map_on_ray)(jobs, done, name)
            except BaseException:
                for connection in list(self._workers):  # what one still answers would be taken for the result of a later job
                    self._drop(connection)
                raise

    def close(self) -> None:
        """End the processes; unfinished jobs raise ``WorkerError``. May be called twice."""
        self._closed = True
        if self._remote is not None:
            self._remote.closed = True  # ends a ``map`` under way, which holds the lock
        processes = list(self._workers.values())
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + 2
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()  # a stopped process does not handle SIGTERM
        with self._lock:
            for connection, process in self._workers.items():
                connection.close()
                process.join()
            self._workers.clear()
            if self._remote is not None:
                self._remote.close()
            if (end := getattr(self._here, "close", None)) is not None:
                end()
            self._here = None

    def _map_here(self, jobs: Sequence[Any], done: Callable[[], object]) -> list[Any]:
        self._here = self._here or self.factory()
        results = []
        for job in jobs:
            with one_thread():
                results.append(self._here(job))
            done()
        return results

    def _map_in_workers(self, jobs: Sequence[Any], done: Callable[[], object], name: Callable[[Any], str]) -> list[Any]:
        while len(self._workers) < min(self.num_workers, len(jobs)):
            self._start()
        waiting = deque((index, 1) for index in range(len(jobs)))
        running: dict[Connection, tuple[int, int]] = {}
        started: dict[Connection, float] = {}
        results: list[Any] = [None] * len(jobs)
        error: Exception | None = None
        while running or waiting:
            for connection in [c for c in self._workers if c not in running][: len(waiting)]:
                running[connection], started[connection] = waiting.popleft(), time.monotonic()
                with contextlib.suppress(OSError):  # the worker is dead: recv will raise
                    connection.send(jobs[running[connection][0]])
            limits = {one: longest_time(self.timeout, self._longest, one in self._proven) for one in running}
            deadline = min(started[one] + limit for one, limit in limits.items())
            answered = wait(list(running), timeout=max(0.0, deadline - time.monotonic()))
            late = [one for one in running if one not in answered and time.monotonic() - started[one] > limits[one]]
            for ready in [*answered, *late]:
                connection = cast(Connection, ready)
                index, attempt = running.pop(connection)
                try:
                    if connection in late:
                        raise EOFError
                    failed, outcome = connection.recv()
                    if connection in self._proven:
                        self._longest = max(self._longest, time.monotonic() - started[connection])
                    self._proven.add(connection)
                except (EOFError, OSError):
                    hint = "" if connection in self._proven or connection in late else _YOUNG
                    self._replace(connection)
                    if attempt < self.attempts and error is None:
                        waiting.appendleft((index, attempt + 1))
                        continue
                    what = f"took longer than {limits[connection]:.0f} s" if connection in late else "died"
                    times = f" {attempt} times in a row" if attempt > 1 else ""
                    failed, outcome = True, WorkerError(f"{name(jobs[index])}: the worker {what}{times}{hint}")
                if failed:
                    error = error or outcome
                    waiting.clear()
                else:
                    results[index] = outcome
                    done()
        if error is not None:
            raise error
        return results

    def _map_on_ray(self, jobs: Sequence[Any], done: Callable[[], object], name: Callable[[Any], str]) -> list[Any]:
        from awac_pl.parallel.ray_executor import RayWorkers

        self._remote = self._remote or RayWorkers(self.factory, self.num_workers, self.attempts, self.timeout)
        return self._remote.map(jobs, done, name)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.factory), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process

    def _replace(self, connection: Connection) -> None:
        if self._closed:
            raise WorkerError("the workers were closed during their work")
        self._drop(connection)
        self._start()

    def _drop(self, connection: Connection) -> None:
        process = self._workers.pop(connection)
        self._proven.discard(connection)
        connection.close()
        process.kill()
        process.join(timeout=5)


def longest_time(timeout: float | None, longest: float, proven: bool) -> float:
    """Longest time of a job in seconds. A process that has done none yet may have to load libraries first.

    Args:
        timeout: see ``Executor``.
        longest: seconds of the longest job so far.
        proven: whether the process has done a job.
    """
    limit = max(LEAST_TIMEOUT, PATIENCE * longest) if timeout is None else timeout
    return limit if proven else max(limit, FIRST_TIMEOUT)


def _serve(connection: Connection, factory: Factory) -> None:
    """Worker loop: one result per job until the pipe closes. Ignores SIGINT, which the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work: Callable[[Any], Any] | None = None
    with contextlib.suppress(EOFError, OSError), one_thread():
        while True:
            job = connection.recv()
            try:
                work = work or factory()
                outcome = False, work(job)
            except Exception as error:
                outcome = True, picklable(error)
            connection.send(outcome)


def _end_with_parent() -> None:
    """End this process when its parent is gone, even if a job hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def picklable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(repr(error))
    return error


def one_thread() -> contextlib.AbstractContextManager:
    """Limit BLAS to one thread: policies are too small for more, and more could change the last bit of a result."""
    import threadpoolctl

    return threadpoolctl.threadpool_limits(limits=1)
