"""A run's folder: who may write there, and its table of metrics."""

from __future__ import annotations

import csv
import fcntl
import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from awac_pl.errors import AwacError
from awac_pl.files import replacing

#: Settings that say which repetition a run is and where it lies.
REPETITION = (
    "seed_everything", "data.clone_seed", "run_dir", "ckpt_path", "trainer.default_root_dir", "checkpoint.dirpath",
)  # fmt: skip


class RunFolder:
    """A folder that belongs to one run at a time.

    Args:
        path: the folder; made when it is taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def used(self) -> bool:
        """Whether a run has already written here."""
        return (self.path / "manifest.json").exists()

    @property
    def busy(self) -> bool:
        """Whether a run is writing here right now."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def take(self) -> None:
        """Lock the folder until this process ends or ``release`` is called.

        Raises:
            AwacError: another run is writing there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AwacError(
                f"run folder {self.path} is in use by another run; wait for it, or pass another --run_dir"
            ) from None
        self._lock = lock

    def release(self) -> None:
        """Let others take the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def choose_run_folder(path: Path | None, default: Path, *, resume: bool) -> RunFolder:
    """The folder of a run: the one asked for, or the first free one of ``default``, ``default-2`` and so on.

    Args:
        path: asked for; None for a free one.
        default: where to look for a free one.
        resume: go on in a used folder, the latest one where none is asked for.

    Raises:
        AwacError: the one asked for is in use, or holds a run that is not to be resumed.
    """
    if path is not None:
        folder = RunFolder(path)
        if folder.busy:
            folder.take()  # raises
        if folder.used and not resume:
            raise AwacError(f"run folder {path} holds a run; go on with --ckpt_path last, or pass another --run_dir")
        return folder
    number, latest = 1, None
    while (folder := RunFolder(default.with_name(f"{default.name}-{number}" if number > 1 else default.name))).used or (
        folder.busy and not resume
    ):
        latest, number = folder, number + 1
    return latest if resume and latest is not None else folder


def run_of(checkpoint: str | Path | None) -> Path | None:
    """The run folder that a checkpoint lies in; None for ``last`` and for a checkpoint elsewhere."""
    if checkpoint is None or checkpoint == "last":
        return None
    folder = Path(checkpoint).resolve().parent.parent
    return folder if (folder / "config.yaml").exists() and (folder / "manifest.json").exists() else None


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV, atomically; a measure that a row does not have stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as staging, staging.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read what ``write_metrics`` wrote."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def write_text(path: Path, text: str) -> None:
    """Write a file, atomically."""
    with replacing(path) as staging:
        staging.write_text(text)


def append_logged(path: Path, time: int, step: int, values: Mapping[str, float]) -> None:
    """Add what a callback has logged on its own account, in ``logged.jsonl``; ``time`` in ms."""
    with path.open("a") as file:
        file.write(json.dumps([time, step, dict(values)]) + "\n")


def read_logged(path: Path) -> list[tuple[int, int, dict[str, float]]]:
    """Read what ``append_logged`` wrote; a last line that was cut off is not there."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [tuple(json.loads(line)) for line in lines]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"data.task": ...}``; a mapping whose keys are data (``{mine/pen-v0: 2.0}``) is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value and all(str(key).isidentifier() for key in value)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def x_axis(row: Mapping[str, float], offline_updates: int) -> int:
    """Where a row of metrics stands: at its ``env_steps``; in pretraining at minus the updates that are left of it."""
    return int(row["env_steps"] or min(0.0, row["updates"] - offline_updates))


def shown_command(command: Sequence[Any]) -> str:
    """A recorded ``sys.argv`` as one types it: the program without its folder, ``python -m awac_pl`` as ``awac``."""
    words = [str(word) for word in command]
    if not words:
        return ""
    program = Path(words[0]).name
    return shlex.join(["awac" if program == "__main__.py" else program, *words[1:]])


def git_commit() -> str:
    """Commit of this source tree, with ``+changes`` where it differs from it; ``unknown`` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        tracked = git("ls-files", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "") if tracked else "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
