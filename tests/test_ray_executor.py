"""Jobs in actors of Ray, against a stand-in of Ray: order, deaths, parts that travel once, errors. No Ray is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from awac_pl.parallel import ray_executor
from awac_pl.parallel.executor import WorkerError, longest_time, picklable
from awac_pl.parallel.ray_executor import RayWorkers

PAYLOAD = b"x" * 5000


class RayError(Exception):
    pass


class StandIn:
    """Does every call when its answer is asked for. An actor that gets a job in ``deadly`` dies, once."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, deadly: list[int]) -> None:
        self.deadly, self.shared = deadly, 0

    def remote(self, cls: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: self._actor(cls(*given))))

    def _actor(self, actor: Any) -> Any:
        def do(*arguments: Any) -> Callable[[], Any]:
            def answer() -> Any:
                if arguments[-1] in self.deadly:
                    self.deadly.remove(arguments[-1])
                    raise RayError
                return actor.do(*(getattr(argument, "content", argument) for argument in arguments))

            return answer

        return SimpleNamespace(ready=SimpleNamespace(remote=lambda: lambda: None), do=SimpleNamespace(remote=do))

    def put(self, content: bytes) -> Any:
        self.shared += 1
        return SimpleNamespace(content=content)

    def wait(self, refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return refs[:1], refs[1:]

    def get(self, ref: Callable[[], Any]) -> Any:
        return ref()

    def kill(self, actor: Any) -> None:
        pass

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


def multiply(job: tuple[bytes, int]) -> int:
    payload, number = job
    if number == 99:
        raise ValueError("bad job")
    return len(payload) * number


def factory() -> Callable[[tuple[bytes, int]], int]:
    return multiply


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn([2])

    @contextlib.contextmanager
    def connected(*_: str) -> Iterator[StandIn]:
        yield stand_in

    monkeypatch.setattr(ray_executor, "connected", connected)
    return stand_in


def test_results_keep_their_order_though_an_actor_dies(ray: StandIn) -> None:
    workers, done = RayWorkers(factory, 2, 3, None), []
    jobs = [(PAYLOAD, number) for number in range(6)]
    assert workers.map(jobs, lambda: done.append(1), str) == [5000 * number for number in range(6)]
    assert (ray.shared, len(done), ray.deadly) == (1, 6, [])  # the policy travelled once
    with pytest.raises(ValueError, match="bad job"):
        workers.map([(PAYLOAD, 99), (PAYLOAD, 1)], lambda: None, str)
    assert workers.map([(PAYLOAD, 3)], lambda: None, str) == [15_000]


def test_a_job_that_kills_every_actor_is_an_error(ray: StandIn) -> None:
    ray.deadly = [4, 4, 4]
    with pytest.raises(ray_executor.WorkerError, match="seed 4: the worker died 3 times in a row"):
        RayWorkers(factory, 1, 3, None).map([(PAYLOAD, 4)], lambda: None, lambda job: f"seed {job[1]}")


def test_an_actor_that_dies_late_is_started_again(ray: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time without a free CPU counts from the last moment that there was one."""
    clock = [0.0]
    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    answer = ray.get

    def get(ref: Callable[[], Any]) -> Any:
        clock[0] += 300.0
        return answer(ref)

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        clock[0] += timeout
        starting = [ref for ref in refs if ref.__name__ == "<lambda>"]
        late = starting and ray.looks % 2 == 0  # a new actor lives at the second look
        ray.looks += 1
        return ([], refs) if late and len(starting) == len(refs) else (refs[:1], refs[1:])

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "looks", 1, raising=False)
    ray.deadly = [5]
    numbers = list(range(8))
    assert RayWorkers(factory, 1, 3, 10_000.0).map([(PAYLOAD, n) for n in numbers], lambda: None, str) == [
        5000 * n for n in numbers
    ]


@pytest.mark.parametrize(("proven", "limit"), [(False, 600.0), (True, 2.0)])
def test_the_first_job_of_a_process_may_take_longer(proven: bool, limit: float) -> None:
    assert longest_time(2.0, 0.1, proven) == limit
    assert longest_time(None, 40.0, proven) == 800.0
    assert longest_time(None, 0.1, True) == 60.0


class OddError(Exception):
    """Two arguments, of which its pickle has one."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what)


def test_an_error_that_cannot_travel_is_told_all_the_same() -> None:
    assert isinstance(picklable(OddError("too hot", "joint 3")), WorkerError)
    assert str(picklable(OddError("too hot", "joint 3"))) == "OddError('too hot')"
    assert picklable(error := ValueError("bad job")) is error


@pytest.mark.parametrize(
    ("living", "attempts", "message"),
    [
        (True, 2, r"seed 7: the worker took longer than 600 s 2 times in a row"),
        (False, 2, "the cluster has had no free CPU for 600 s"),
    ],
)
def test_what_never_answers_is_given_up(ray: StandIn, monkeypatch, living: bool, attempts: int, message: str) -> None:
    """The actors live and their job hangs, or none lives."""
    clock, killed = [0.0], []
    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        clock[0] += 601.0
        answered = [ref for ref in refs if living and ref.__name__ == "<lambda>"]
        return answered, [ref for ref in refs if ref not in answered]

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "kill", killed.append)
    with pytest.raises(WorkerError, match=message):
        RayWorkers(factory, 1, attempts, None).map([(PAYLOAD, 7)], lambda: None, lambda job: f"seed {job[1]}")
    assert len(killed) == (attempts if living else 0)


def test_workers_that_are_closed_meanwhile_end_their_work(ray: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "FIRST_TIMEOUT", 0.1)  # or it would wait for another actor
    workers = RayWorkers(factory, 1, 1, None)
    with pytest.raises(WorkerError, match="closed during their work"):
        workers.map([(PAYLOAD, 1), (PAYLOAD, 3)], workers.close, str)
