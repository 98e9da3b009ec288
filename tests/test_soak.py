"""A hundred runs that are killed or stopped at random, resumed and stopped again: each ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from awac_pl.parallel.interruption import Interrupted
from tests.test_interruption import toy_run

FIRST, CASES = int(os.environ.get("AWAC_SOAK_FIRST", "0")), int(os.environ.get("AWAC_SOAK_CASES", "100"))
#: A process that does not end in so many seconds hangs.
PATIENCE = 120


@dataclass(frozen=True)
class Fault:
    """What happens to a process: signals after some seconds, or its death at a moment of writing."""

    signals: tuple[tuple[float, int], ...] = ()
    write: tuple[str, int] | None = None  # a function of ``os`` or ``torch``, and which call of it


def random_fault(rng: random.Random, seconds: float) -> Fault:
    """One in the time that an undisturbed run takes."""
    at = rng.uniform(0, seconds)
    match rng.choice(["kill", "kill", "signal", "signal", "twice", "write"]):
        case "kill":
            return Fault(((at, signal.SIGKILL),))
        case "signal":
            return Fault(((at, rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])),))
        case "twice":
            return Fault(
                ((at, signal.SIGTERM), (rng.choice([0.0, 0.01, 0.1, 0.5]), rng.choice([signal.SIGTERM, signal.SIGKILL])))
            )
        case _:
            return Fault(write=(rng.choice(["replace", "fsync", "link", "save"]), rng.randrange(1, 12)))


def die_in(name: str, number: int) -> None:
    """Kill this process at that call of ``os.replace``, ``os.fsync`` or ``os.link``, or in the middle of ``torch.save``."""
    module = torch if name == "save" else os
    original, calls = getattr(module, name), iter(range(1, 1_000_000))

    def dying(*args, **kwargs):
        if next(calls) == number:
            if name == "save" and hasattr(args[1], "write"):
                args[1].write(b"PK\3\4 half of a checkpoint")
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, dying)


def in_a_process(work: Callable[[], object], fault: Fault = Fault()) -> int:
    """Run ``work`` in a fork that meets a fault; its exit status, minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if fault.write is not None:
                die_in(*fault.write)
            work()
            status = 0
        except Interrupted as error:
            status = int(error.code or 0)
        except KeyboardInterrupt:  # before the run handles its signals; the command does so from its start
            status = 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    status, began = None, time.monotonic()
    due = list(fault.signals)
    next_at = began + due[0][0] if due else None
    while status is None:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(code)
        elif next_at is not None and time.monotonic() >= next_at:
            os.kill(child, due.pop(0)[1])
            next_at = time.monotonic() + due[0][0] if due else None
        elif time.monotonic() - began > PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"it hangs after {fault}")
        else:
            time.sleep(0.002)
    return status


@pytest.mark.faults
def test_disturbed_runs_end_as_undisturbed_ones(
    tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("awac_pl.callbacks.run_writer.write_report", lambda *args, **kwargs: None)

    def run(folder: Path, workers: int, every: int) -> None:
        torch.manual_seed(len(list(folder.parent.iterdir())))  # a process begins anywhere
        resume = (folder / "checkpoints/last.ckpt").exists()
        weights, buffer, rows = toy_run(folder, reach_dataset, workers, every, resume=resume)
        torch.save({"weights": weights, "buffer": buffer.to_dict(), "rows": rows}, folder / "result.pt")

    straight, seconds = {}, {}
    for workers, every in ((0, 1), (0, 2), (1, 1), (1, 2)):
        folder, began = tmp_path / f"straight-{workers}-{every}", time.monotonic()
        assert in_a_process(lambda: run(folder, workers, every)) == 0  # noqa: B023
        seconds[workers, every] = time.monotonic() - began
        straight[workers, every] = torch.load(folder / "result.pt", weights_only=False)

    ends: dict[int, int] = {}
    for case in range(FIRST, FIRST + CASES):
        rng = random.Random(case)
        kind = (rng.choice([0, 0, 0, 1]), rng.choice([1, 2]))
        folder, faults = tmp_path / f"case-{case}", []
        for _ in range(rng.choice([1, 1, 2, 3])):
            if (folder / "result.pt").exists():
                break
            faults.append(random_fault(rng, seconds[kind]))
            status = in_a_process(lambda: run(folder, *kind), faults[-1])  # noqa: B023
            assert status != 1, (case, faults, capfd.readouterr().err)
            ends[status] = ends.get(status, 0) + 1
        if not (folder / "result.pt").exists():
            assert in_a_process(lambda: run(folder, *kind)) == 0, (case, faults, capfd.readouterr().err)  # noqa: B023
        result, expected = torch.load(folder / "result.pt", weights_only=False), straight[kind]
        assert result["rows"] == expected["rows"], (case, kind, faults)
        for part in ("weights", "buffer"):
            torch.testing.assert_close(result[part], expected[part], rtol=0, atol=0, msg=f"{part}: {case, kind, faults}")
    with capfd.disabled():
        print(f"\n{CASES} disturbed runs; exit statuses of their processes: {dict(sorted(ends.items()))}")
