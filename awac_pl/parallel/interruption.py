"""Signals that end a run: where they may, and with what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

#: Ctrl-C, an end asked for by a system or a scheduler, a closed terminal, a scheduler's warning.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(SystemExit):
    """A signal ended the command; the exit status is 128 + its number, as shells have it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


class _State:
    """Of this process; a signal handler has no other place."""

    active = False
    received: int | None = None
    deferred = False
    strictly = False  # not even in ``allowed``


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
    """Handle ``SIGNALS`` again, after somebody else has put his handlers in place of ours."""
    if _State.active:
        for signum in SIGNALS:
            signal.signal(signum, _handle)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handle ``SIGNALS`` until the end of the block: the first one raises ``Interrupted``, the second ends at once.

    Inside ``deferred`` the first one waits for ``check`` or ``allowed``. Outside the main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _handle) for signum in SIGNALS}
    _State.active, _State.received, _State.deferred = True, None, False
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _State.active, _State.received, _State.deferred = False, None, False


@contextlib.contextmanager
def deferred(*, strictly: bool = False) -> Iterator[None]:
    """Let nothing end the block in the middle but ``check`` and, unless ``strictly``, ``allowed``."""
    before = _State.deferred, _State.strictly
    _State.deferred, _State.strictly = True, strictly
    try:
        yield
    finally:
        _State.deferred, _State.strictly = before


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Inside ``deferred``: this block may end in the middle, for it changes nothing before it is done."""
    before, _State.deferred = _State.deferred, _State.strictly
    try:
        if not _State.deferred:
            check()
        yield
    finally:
        _State.deferred = before


def _handle(signum: int, frame: FrameType | None) -> None:
    if _State.received is not None:
        os._exit(128 + signum)
    _State.received = signum
    if not _State.deferred:
        raise Interrupted(signum)
    name = signal.Signals(signum).name
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{name}: saving and ending\n".encode())
