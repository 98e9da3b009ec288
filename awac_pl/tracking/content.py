"""What MLflow shows of a run folder: points, parameters and a description. Pure functions of its files."""

from __future__ import annotations

import math
import sys
from datetime import datetime
from pathlib import Path

from awac_pl.runs.manifest import Manifest, flatten, read_config, shown_command
from awac_pl.runs.metrics import NewLines, parse_logged, parse_metrics, x_axis

#: (metric, step) to (time in ms, value).
Points = dict[tuple[str, int], tuple[int, float]]


class PointReader:
    """Reads the values of ``metrics.csv`` and ``logged.jsonl`` again and again, each time those that are new.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._rows = NewLines(folder / "metrics.csv", header=True)
        self._logged = NewLines(folder / "logged.jsonl")

    def read(self, manifest: Manifest) -> Points:
        """The points since the last call. If a resumed run repeats a step, its last value and time count."""
        start = milliseconds(manifest["seconds_count_from"])
        logged = [
            (start + round(1000 * row["seconds"]), x_axis(row, manifest["offline_updates"]), row)
            for row in parse_metrics(self._rows)
        ]
        logged += parse_logged(self._logged)
        return {(name, step): (time, _as_kept(value)) for time, step, row in logged for name, value in row.items()}


def points_of(folder: Path, manifest: Manifest) -> Points:
    """Every value of ``metrics.csv`` and ``logged.jsonl``."""
    return PointReader(folder).read(manifest)


def parameters_of(folder: Path) -> dict[str, str]:
    """The configuration as ``section.key``, without null values."""
    return {name: str(value) for name, value in flatten(read_config(folder)).items() if value is not None}


def describe(manifest: Manifest, folder: Path, *, live: bool) -> str:
    """A Markdown description of a run and its results.

    Args:
        manifest: of the run.
        folder: of the run.
        live: whether the run's own process asks; if not, a run with status ``running`` was killed.
    """
    tags = manifest["tags"]
    identity = ", ".join(f"{name} {tags[name]}" for name in ("task", "preset", "seed") if name in tags)
    datasets = ", ".join(f"{dataset['id']} ({dataset['episodes']} episodes)" for dataset in manifest["datasets"])
    status = manifest["status"] if live or manifest["status"] != "running" else "killed"
    minutes = f" after {manifest['seconds'] / 60:.1f} min" if "seconds" in manifest else ""
    error = f": {manifest['error']}" if "error" in manifest else ""
    parts = [
        f"{tags.get('algorithm', 'awac').upper()}, {identity}, on {manifest['device']}, from {datasets}.",
        f"**{status.capitalize()}**{minutes}{error}",
        f"    {shown_command(manifest['command'])}",
        f"Run folder `{folder}`, commit {tags.get('commit', 'unknown')}.",
    ]
    cloned = manifest["cloning"].get("success_deterministic")
    scores = ({} if cloned is None else {"cloned": cloned}) | manifest.get("scores", {})
    if scores:
        rows = [f"| {name} | {value:,.0f} |" if value > 1 else f"| {name} | {value:.3f} |" for name, value in scores.items()]
        parts.append("\n".join(["| success rate | |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def milliseconds(moment: str) -> int:
    """Milliseconds from 1970 to an ISO 8601 moment."""
    return round(1000 * datetime.fromisoformat(moment).timestamp())


def _as_kept(value: float) -> float:
    """The value as MLflow stores it: NaN as it is, infinity as the largest number."""
    return value if math.isnan(value) else max(-sys.float_info.max, min(sys.float_info.max, value))
