"""The metrics of a run: ``metrics.csv``, one row per epoch, and ``logged.jsonl``, other values that callbacks log."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from awac_pl.files import replacing


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV, atomically; the cell of a measure that a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as staging, staging.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read what ``write_metrics`` wrote."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def append_logged(path: Path, time: int, step: int, values: Mapping[str, float]) -> None:
    """Append values that a callback logged to ``logged.jsonl``; ``time`` in ms since 1970."""
    with path.open("a") as file:
        file.write(json.dumps([time, step, dict(values)]) + "\n")


def read_logged(path: Path) -> list[tuple[int, int, dict[str, float]]]:
    """Read what ``append_logged`` wrote, without a last line that was cut off."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [tuple(json.loads(line)) for line in lines]


def x_axis(row: Mapping[str, float], offline_updates: int) -> int:
    """Environment steps of a row; in pretraining minus the number of pretraining updates that remain."""
    return int(row["env_steps"] or min(0.0, row["updates"] - offline_updates))
