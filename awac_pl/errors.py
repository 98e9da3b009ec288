"""Errors for the person who made the mistake: one line with what, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable


class AwacError(Exception):
    """A mistake in the input or the set-up. The command line prints it alone, without a traceback, and exits with 2."""


class DatasetError(AwacError):
    """A dataset that is missing, damaged or does not fit the task."""


class WriteError(AwacError):
    """A file that cannot be written: the disk is full, a limit is reached, or the folder is not ours."""


class SettingError(AwacError, ValueError):
    """A setting whose value cannot be. In Python it is a ValueError."""


class TrainingDivergedError(AwacError):
    """A loss that is no longer a finite number."""


#: User and password of an address. A password may have a slash (SQLAlchemy) or an @ (urllib3) in it; ``host:5000/`` is none.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/@:\[]*:(?!\d{1,5}/)[^\s@]*@)?(?:[^\s/]*@)?")


def without_credentials(text: str) -> str:
    """A text whose addresses have lost their user and password: ``http://host`` for ``http://robot:secret@host``."""
    return _CREDENTIALS.sub("", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without credentials; its type where it has none."""
    return without_credentials((str(error).splitlines() or [type(error).__name__])[0])


def is_refused_by(error: BaseException, package: str) -> bool:
    """Whether a package raised an error, itself or in a library below it: not in our code, or a user's, which it called."""
    import sysconfig
    import traceback

    libraries = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")})
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = frame.f_globals.get("__name__", "").partition(".")[0]
        if name == package:
            return True
        if name == __package__ or not frame.f_code.co_filename.startswith((*libraries, "<")):
            return False
    return False


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as `` Did you mean 'pen'?``, or the list of known words where it is short, or nothing."""
    import difflib  # for a mistake alone

    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" There is: {', '.join(options)}." if 0 < len(options) <= 12 else ""
