"""The metrics of a run: ``metrics.csv``, one row per epoch, and ``logged.jsonl``, other values that callbacks log."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from awac_pl.files import append_text, replacing


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV, atomically; the cell of a measure that a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as new, new.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def append_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Append the last of these rows, or write all of them anew if it has a new column: as ``write_metrics`` would."""
    names: list[str] = []
    if len(rows) > 1 and path.exists():
        with path.open(newline="") as file:
            names = next(csv.reader(file), [])
    if not set(rows[-1]) <= set(names):
        write_metrics(path, rows)
        return
    line = io.StringIO(newline="")
    csv.DictWriter(line, names).writerow(rows[-1])
    append_text(path, line.getvalue(), flush=True)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read what ``write_metrics`` and ``append_metrics`` wrote, without a last line that was cut off."""
    with path.open(newline="") as file:
        lines = (line for line in file if line.endswith("\n"))
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def append_logged(path: Path, time: int, step: int, values: Mapping[str, float]) -> None:
    """Append values that a callback logged to ``logged.jsonl``; ``time`` in ms since 1970."""
    append_text(path, json.dumps([time, step, dict(values)]) + "\n")


def read_logged(path: Path) -> list[tuple[int, int, dict[str, float]]]:
    """Read what ``append_logged`` wrote, without a last line that was cut off."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [tuple(json.loads(line)) for line in lines]


def x_axis(row: Mapping[str, float], offline_updates: int) -> int:
    """Environment steps of a row; in pretraining minus the number of pretraining updates that remain."""
    return int(row["env_steps"] or min(0.0, row["updates"] - offline_updates))
