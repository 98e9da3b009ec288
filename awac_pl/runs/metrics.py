"""The metrics of a run: ``metrics.csv``, one row per epoch, and ``logged.jsonl``, other values that callbacks log."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

from awac_pl.files import append_text, replacing


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV, atomically; the cell of a measure that a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def append_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Append the last of these rows, or write all of them anew if it has a new column: as ``write_metrics`` would."""
    names: list[str] = []
    if len(rows) > 1 and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            names = next(csv.reader(file), [])
    if not set(rows[-1]) <= set(names):
        write_metrics(path, rows)
        return
    line = io.StringIO(newline="")
    csv.DictWriter(line, names).writerow(rows[-1])
    append_text(path, line.getvalue(), flush=True)


class NewLines:
    """Reads a file that grows again and again: each time the lines that are new, without a last one that was cut off.

    Args:
        path: of the file.
        header: whether its first line comes before the new ones each time.
    """

    def __init__(self, path: Path, *, header: bool = False) -> None:
        self.path, self.header = path, header
        self._file, self._end = (0, b""), 0

    def read(self) -> list[str]:
        """The lines since the last call; all of them if the file was written anew."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            first = file.readline()
            if (same := (os.fstat(file.fileno()).st_ino, first)) != self._file:
                self._file, self._end = same, len(first) if self.header else 0
            file.seek(self._end)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._end += len(data)
        return [*([first.decode()] if self.header else []), *data.decode().split("\n")[:-1]]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read what ``write_metrics`` and ``append_metrics`` wrote."""
    return parse_metrics(NewLines(path, header=True))


def parse_metrics(lines: NewLines) -> list[dict[str, float]]:
    """The new rows of ``metrics.csv``."""
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines.read())]


def append_logged(path: Path, time: int, step: int, values: Mapping[str, float]) -> None:
    """Append values that a callback logged to ``logged.jsonl``; ``time`` in ms since 1970."""
    append_text(path, json.dumps([time, step, dict(values)]) + "\n")


def parse_logged(lines: NewLines) -> list[tuple[int, int, dict[str, float]]]:
    """The new entries of ``logged.jsonl``: time, step and values."""
    return [tuple(json.loads(line)) for line in lines.read()]


def x_axis(row: Mapping[str, float], offline_updates: int) -> int:
    """Environment steps of a row; in pretraining minus the number of pretraining updates that remain."""
    return int(row["env_steps"] or min(0.0, row["updates"] - offline_updates))
