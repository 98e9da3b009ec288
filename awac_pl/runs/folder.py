"""A run's folder: choose it, and lock it for one writer."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import IO

from awac_pl.errors import AwacError, first_line
from awac_pl.files import lock, remove_leftovers
from awac_pl.settings_files import read_table

#: The checkpoint before ``last.ckpt``: for a damaged disk.
PREVIOUS = "last.previous.ckpt"


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint of a run folder from which its run goes on."""
    return folder / "checkpoints" / "last.ckpt"


class RunFolder:
    """A folder that belongs to one run at a time.

    Args:
        path: the folder; ``take`` creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._is_new = False

    @property
    def used(self) -> bool:
        """Whether a run has written here."""
        return (self.path / "manifest.json").exists()

    @property
    def busy(self) -> bool:
        """Whether a run is writing here now."""
        try:
            lock(self.path / ".lock", "r", shared=True).close()
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def obstacle(self) -> str:
        """What a new run would overwrite here, and what to do; empty if there is nothing to lose.

        A run that was killed before its first checkpoint is nothing to lose.
        """
        if not self.used:
            found = [name for name in ("config.yaml", "metrics.csv", "report.html") if (self.path / name).exists()]
            return f"holds a file {found[0]} that is not of a run; move it, or pass" if found else ""
        if any((self.path / "checkpoints").glob("*.ckpt")):
            return f"holds a run; go on with --resume {self.path}, or pass"
        with contextlib.suppress(AwacError):  # a damaged manifest
            if read_table(self.path / "manifest.json").get("status") == "finished":
                return "holds a finished run; pass"
        return ""

    def take(self) -> None:
        """Lock the folder until this process ends or ``release`` is called, and remove what a killed run left.

        Raises:
            AwacError: another run has locked it.
        """
        for _ in range(5):  # somebody who asks whether it is ``busy`` holds the lock for a moment
            if self.take_if_free():
                return
            time.sleep(0.02)
        raise AwacError(f"run folder {self.path} is in use by another run; wait for it, or pass another --run_dir")

    def take_if_free(self) -> bool:
        """Lock the folder as ``take`` does; False where another run has locked it.

        Raises:
            AwacError: it cannot be written, or is no folder.
        """
        self._is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            taken = lock(self.path / ".lock")
        except (BlockingIOError, FileNotFoundError):  # ``release`` of a refused run has just removed the folder
            return False
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise AwacError(f"run folder {self.path} cannot be used ({reason}); pass another --run_dir") from error
        try:
            if not os.path.samestat(os.fstat(taken.fileno()), (self.path / ".lock").stat()):
                raise FileNotFoundError  # removed and made again
        except FileNotFoundError:
            taken.close()
            return False
        self._lock = taken
        for folder in (self.path, *filter(Path.is_dir, self.path.iterdir())):
            remove_leftovers(folder)
        return True

    def release(self) -> None:
        """Unlock the folder. Remove it if ``take`` made it and nothing was written: the run was refused."""
        if self._lock is not None:
            if self._is_new and [path.name for path in self.path.iterdir()] == [".lock"]:
                (self.path / ".lock").unlink()
                self.path.rmdir()
            self._lock.close()
            self._lock = None


def take_run_folder(path: Path | None, default: Path, *, resume: bool) -> RunFolder:
    """Choose and lock the folder of a run: ``path``, or the first free one of ``default``, ``default-2``, ``default-3``, ...

    Runs that start at the same moment get different folders.

    Args:
        path: the user's choice, if any.
        default: the first candidate where the user chose none.
        resume: continue in a used folder: ``path``, or the last used candidate.

    Raises:
        AwacError: ``path`` is in use; or ``resume`` is false, and a new run would overwrite what it holds.
    """
    if path is not None:
        folder = RunFolder(path)
        folder.take()
        if not resume and (obstacle := folder.obstacle()):
            folder.release()
            raise AwacError(f"run folder {path} {obstacle} another --run_dir")
        return folder
    latest = None
    for number in itertools.count(1):
        folder = RunFolder(default.with_name(f"{default.name}-{number}") if number > 1 else default)
        if folder.used:
            latest = folder
        elif resume:
            folder = latest or folder
            folder.take()
            return folder
        elif folder.take_if_free():
            if not folder.used:
                return folder
            folder.release()  # a short run has begun and ended here meanwhile
    raise AssertionError("unreachable")


def run_of(checkpoint: str | Path | None) -> Path | None:
    """The run folder that contains a checkpoint; None for ``last`` and for a checkpoint elsewhere."""
    if checkpoint is None or checkpoint == "last":
        return None
    folder = Path(checkpoint).resolve().parent.parent
    return folder if (folder / "config.yaml").exists() and (folder / "manifest.json").exists() else None
