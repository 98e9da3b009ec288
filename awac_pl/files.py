"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from awac_pl.errors import WriteError, first_line

#: Start of the names of all temporary folders.
PREFIX = ".awac-"
#: Temporary folders in use, with the process that made them.
_in_use: dict[Path, int] = {}
#: Names in a temporary folder: its lock, and the folder for what was moved aside.
LOCK, ASIDE = "lock", "aside"


def _is_special(path: Path) -> bool:
    """Whether this is a folder, or a pipe or a device, which would be waited for."""
    return path.exists() and not path.is_file()


def read_text(path: Path) -> str:
    """The text of a file in a folder that can be a stranger's.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file.
    """
    if _is_special(path):
        raise ValueError("it is no file")
    return path.read_text()


def lock(path: Path, mode: str = "a", *, shared: bool = False) -> IO[str]:
    """Open a file and lock it until it is closed or the process ends; ``shared`` lets others that are shared have it, too.

    Raises:
        BlockingIOError: it is locked already.
        WriteError: it is no file.
    """
    if _is_special(path):
        raise WriteError(f"{path} is no file; remove it")
    file = path.open(mode)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


@contextmanager
def staging(beside: Path) -> Iterator[Path]:
    """Yield a new temporary folder in the folder ``beside``, and remove it at the end.

    A lock marks it as used, because a process number can mean another process on another machine or in a container. What
    a killed process left is removed by the next one that stages in the same folder.
    """
    missing = [folder for folder in (beside, *beside.parents) if not folder.exists()]
    beside.mkdir(parents=True, exist_ok=True)
    remove_leftovers(beside)
    with contextlib.ExitStack() as stack:
        for folder in reversed(missing):
            stack.callback(_remove_if_empty, folder)
        yield _new_folder(beside, stack)


def _new_folder(beside: Path, stack: contextlib.ExitStack) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
        _in_use[folder] = os.getpid()
        stack.callback(_discard, folder)
        try:
            if os.fstat(stack.enter_context(lock(folder / LOCK)).fileno()).st_nlink:
                return folder
        except (BlockingIOError, FileNotFoundError):
            pass  # before it was locked, another process took it for a leftover
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            return folder  # a file system without locks, where nothing that is left is removed


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of killed processes from a folder."""
    for leftover in folder.glob(f"{PREFIX}*"):
        if not leftover.is_symlink():
            with contextlib.suppress(OSError), lock(leftover / LOCK):  # one that is in use, or another user's, stays
                _discard(leftover)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _discard(folder: Path) -> None:
    """Remove a temporary folder. What was moved aside comes back, unless its replacement is in place."""
    aside = folder / ASIDE
    for path in [] if aside.is_symlink() else aside.glob("*"):
        if not os.path.lexists(folder.parent / path.name):
            path.rename(folder.parent / path.name)
    shutil.rmtree(folder, ignore_errors=True)
    _in_use.pop(folder, None)


@atexit.register
def _remove_own() -> None:
    """Remove what a thread was still using that does not keep the process alive."""
    for folder in [folder for folder, process in _in_use.items() if process == os.getpid()]:
        _discard(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. The file or folder that is written there replaces ``path`` at the end.

    Raises:
        WriteError: it cannot be written; ``path`` is as it was.
    """
    try:
        with staging(path.parent) as folder:
            new = folder / path.name
            yield new
            for part in (new, *new.rglob("*")):
                if part.is_file():
                    _flush(part)
            if new.is_dir() and path.is_dir():
                (folder / ASIDE).mkdir()
                path.rename(folder / ASIDE / path.name)
            os.replace(new, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name; where the file system has no links, copy it.

    Raises:
        OSError: it cannot be written, or ``other`` exists.
    """
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        with path.open("rb") as source, other.open("xb") as target:
            shutil.copyfileobj(source, target)


def _flush(path: Path) -> None:
    """Or a crash of the machine could leave an empty file under the new name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def cannot_write(path: Path, error: OSError) -> WriteError:
    """The error for a user whose file or folder stays as it was."""
    reason = error.strerror or first_line(error)
    if isinstance(error, shutil.Error):  # a list of (from, to, message)
        reason = str(error.args[0][0][2]).split(": '")[0]
    return WriteError(f"{path}: cannot be written ({reason}); nothing was changed")


def write_text(path: Path, text: str, *, full_disk: bool = False) -> None:
    """Write a file, atomically; with ``full_disk`` into the blocks that it has, if there are no others.

    Raises:
        WriteError: it cannot be written; ``path`` is as it was.
    """
    try:
        with replacing(path) as new:
            new.write_text(text, encoding="utf-8")
    except WriteError:
        blocks = path.stat().st_blocks if full_disk and path.exists() else 0
        if len(data := text.encode()) > 512 * blocks:
            raise
        try:
            with path.open("r+b", buffering=0) as file:
                file.write(data)
                file.truncate()
        except OSError as error:
            raise cannot_write(path, error) from error


def append_text(path: Path, text: str, *, flush: bool = False) -> None:
    """Append lines to a file, all of them or nothing; a last line that was cut off is removed first.

    Args:
        path: of the file.
        text: the lines.
        flush: wait until they are on the disk.

    Raises:
        WriteError: it cannot be written; ``path`` is as it was.
    """
    data = text.encode()
    try:
        with path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                end = os.pread(file.fileno(), end, 0).rfind(b"\n") + 1
                file.truncate(end)
            try:
                while data:
                    data = data[file.write(data) :]
                if flush:
                    os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise cannot_write(path, error) from error


def reserve(path: Path, size: int) -> None:
    """Give a file this size in bytes, and set the space on the disk aside: no later write into it can fail.

    Raises:
        OSError: there is no room.
    """
    with path.open("ab") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:  # not on every system, nor for every disk
            if getattr(error, "errno", None) not in (None, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            if shutil.disk_usage(path.parent).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            file.truncate(size)


def check_room(path: Path, size: int) -> None:
    """Refuse to begin heavy work whose result of ``size`` bytes could not be written to ``path``.

    Raises:
        WriteError: the disk is full, the size is above a limit, or the folder cannot be written.
    """
    try:
        with staging(path.parent) as folder:
            reserve(folder / "room", size)
    except OSError as error:
        raise WriteError(f"{path}: needs {size / 1e6:.1f} MB there ({error.strerror}); nothing was done") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
