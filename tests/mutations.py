"""Damaged copies of a file, and what a command makes of one. ``test_mutations.py`` uses it.

Each command runs in a process of its own (a fork, so that it starts at once): it may crash, hang or eat the memory.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from awac_pl.commands.main import main

#: Longest that a command may take on a damaged file, in seconds.
PATIENCE = 60
#: Address space that a command may add to what the tests use, in bytes.
MEMORY = 4 << 30


def mutate(data: bytes, seed: int) -> bytes:
    """A damaged copy: bits flipped, cut, filled, or pieces moved. The same one for the same seed."""
    rng = random.Random(seed)
    damaged = bytearray(data)
    at, length = rng.randrange(len(damaged)), rng.choice([1, 2, 4, 8, 64, 1024])
    match rng.randrange(7):
        case 0 | 1:  # half of the damage lies where the structure is
            for _ in range(rng.choice([1, 1, 3, 20])):
                damaged[rng.randrange(min(len(damaged), rng.choice([256, 4096, len(damaged)])))] ^= 1 << rng.randrange(8)
        case 2:
            del damaged[at:]
        case 3:
            damaged[at : at + length] = bytes([rng.choice([0, 0x7F, 0x80, 0xFF])]) * length
        case 4:
            damaged[at:at] = rng.randbytes(length)
        case 5:
            del damaged[at : at + length]
        case 6:
            source = rng.randrange(len(damaged))
            damaged[at : at + length] = damaged[source : source + length]
    return bytes(damaged)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: ``status`` is its exit status, minus the signal that killed it, or None if it hung."""

    status: int | None
    output: str

    @property
    def fault(self) -> str | None:
        """What a person should not have seen; None where it went well, or was refused in one line."""
        if self.status is None:
            return "hangs"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        if "Traceback" in self.output or self.status not in (0, 2):
            return "shows a traceback"
        if self.status == 2 and self.output.count("awac: error: ") != 1:
            return "is refused without one line"
        return None


def outcome(arguments: list[str], log: Path, patience: float = PATIENCE) -> Outcome:
    """Run ``awac`` with these arguments in a fork, for ``patience`` seconds at most; its output goes to ``log``."""
    child = os.fork()
    if child == 0:  # never returns into the test
        status = 70
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            status = main(arguments)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline = time.monotonic() + patience
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return Outcome(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(None, log.read_text(errors="replace"))
        time.sleep(0.005)
