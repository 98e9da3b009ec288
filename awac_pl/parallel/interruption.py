"""Signals that end a run: where they may, how long that may take, and with what is left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

#: Ctrl-C, an end asked for by a system or a scheduler, a closed terminal, a scheduler's warning.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
#: What a training process that got one of them sends to the others on its machine.
RELAYED = signal.SIGUSR2
#: Seconds in which a process must begin to end. It cannot where it waits for another process that has stopped.
PATIENCE = 8.0


class Interrupted(SystemExit):
    """A signal ended the command; the exit status is 128 + its number, as shells have it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        _State.answered = True

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


class _State:
    """Of this process; a signal handler has no other place."""

    active = False
    received: int | None = None
    deferred = False
    alone = True  # nobody else has to agree to the end
    answered = False  # whether the end has begun
    patience = PATIENCE
    others: Callable[[], Iterable[int]] = staticmethod(lambda: ())


def received() -> bool:
    """Whether a signal has asked this process to end."""
    return _State.received is not None


def check() -> None:
    """End here if a signal has asked for it.

    Raises:
        Interrupted: it has.
    """
    if _State.received is not None:
        raise Interrupted(_State.received)


def signal_number() -> int:
    """Of the signal that was received; SIGTERM where another process was told."""
    return _State.received or signal.SIGTERM


def take_over() -> None:
    """Handle the signals again, after somebody else has put his handlers in place of ours."""
    if _State.active:
        for signum in (*SIGNALS, RELAYED):
            signal.signal(signum, _handle)


def relay_to(others: Callable[[], Iterable[int]]) -> None:
    """Pass signals on to the processes with these ids: they may wait for this one where no signal reaches them."""
    _State.others = staticmethod(others)


def undecided(chunk_seconds: float = 0.0) -> None:
    """The end has not begun: first the other processes have to agree, which takes a chunk of updates."""
    _State.answered = False
    _State.patience = max(_State.patience, 3 * chunk_seconds)


@contextlib.contextmanager
def handled(*, last: bool = False) -> Iterator[None]:
    """Handle ``SIGNALS`` until the end of the block: the first one raises ``Interrupted``, the second ends at once.

    Inside ``deferred`` the first one waits for ``check`` or ``allowed``. Outside the main thread this does nothing.

    Args:
        last: the process has nothing to do after the block; signals are ignored then, until ``ended``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _handle) for signum in (*SIGNALS, RELAYED)}
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    fd_before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(ours,), daemon=True, name="awac-signals")
    _reset(active=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_IGN if last else handler)
        _reset(active=False)
        os.close(theirs)
        watch.join()
        os.close(ours)


def ended(status: int) -> None:
    """All is done, and Python only has to end, which takes a second: from now on a signal ends it at once, with this status.

    A rank that such a signal killed would look like one that had failed, and the others would be killed for it.
    """
    for signum in (*SIGNALS, RELAYED):
        signal.signal(signum, lambda *_: os._exit(status))


@contextlib.contextmanager
def deferred(*, alone: bool = True) -> Iterator[None]:
    """Let nothing end the block in the middle but ``check`` and ``allowed``.

    Args:
        alone: false where other processes have to agree to the end.
    """
    before = _State.deferred, _State.alone
    _State.deferred, _State.alone = True, alone
    try:
        yield
    finally:
        _State.deferred, _State.alone = before


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Inside ``deferred``: this block may end in the middle, for it changes nothing before it is done."""
    before, _State.deferred = _State.deferred, False
    try:
        check()
        yield
    finally:
        _State.deferred = before


def _reset(*, active: bool) -> None:
    _State.active, _State.received, _State.deferred, _State.answered = active, None, False, False
    _State.alone, _State.patience, _State.others = True, PATIENCE, staticmethod(lambda: ())


def _handle(signum: int, frame: FrameType | None) -> None:
    first = _State.received is None
    if first or signum != RELAYED:
        _State.received = signal.SIGTERM if signum == RELAYED else signum
    if not first:
        return  # ``_watch`` ends the process at the second one
    if not _State.deferred:
        raise Interrupted(_State.received or signum)
    _State.answered = _State.alone
    if signum != RELAYED:
        _write(f"\n{signal.Signals(signum).name}: saving and ending\n")


def _watch(pipe: int) -> None:
    """See every signal at once, even where the main thread waits and runs no handler."""
    first: float | None = None
    asked: list[int] = []
    while True:
        if not select.select([pipe], [], [], None if first is None else 0.2)[0]:
            if not _State.answered and first is not None and time.monotonic() - first > _State.patience:
                name = signal.Signals(signum := asked[-1] if asked else signal.SIGTERM).name
                _end_now(
                    signum, f"awac: {name}: nothing answers for {_State.patience:.0f} s; ended without a new checkpoint\n"
                )
            continue
        arrived = os.read(pipe, 64)
        if not arrived:
            return
        for signum in arrived:
            if signum not in (*SIGNALS, RELAYED):
                continue  # somebody else's, such as SIGCHLD
            first = first or time.monotonic()
            if signum in SIGNALS:
                asked.append(signum)
                if len(asked) == 2:
                    _end_now(signum)
                for other in _State.others():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(other, RELAYED)


def _end_now(signum: int, message: str = "") -> None:
    """End without cleaning up, and all processes below this one with it: a stopped one would stay."""
    _write(message)
    with contextlib.suppress(Exception):
        import psutil

        for child in psutil.Process().children(recursive=True):
            child.kill()
    os._exit(128 + signum)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
