"""What a run folder has to tell MLflow: its points, parameters and description. Pure functions of its files."""

from __future__ import annotations

import math
import sys
from datetime import datetime
from pathlib import Path

from awac_pl.runs.manifest import Manifest, flatten, read_config, shown_command
from awac_pl.runs.metrics import read_logged, read_metrics, x_axis

#: (metric, step) to (time in ms, value).
Points = dict[tuple[str, int], tuple[int, float]]


def points_of(folder: Path, manifest: Manifest) -> Points:
    """Every value of ``metrics.csv``, and what callbacks logged beside it.

    The same whenever it is asked, so a point that is sent twice is one. A step that was done again after a resumption has
    its last value, and that with the latest time.
    """
    points: Points = {}
    path, since = folder / "metrics.csv", milliseconds(manifest["seconds_count_from"])
    for row in read_metrics(path) if path.exists() else []:
        step, time = x_axis(row, manifest["offline_updates"]), since + round(1000 * row["seconds"])
        points |= {(name, step): (time, _as_kept(value)) for name, value in row.items()}
    for time, step, values in read_logged(folder / "logged.jsonl"):
        points |= {(name, step): (time, _as_kept(value)) for name, value in values.items()}
    return points


def parameters_of(folder: Path) -> dict[str, str]:
    """The configuration, as ``section.key``; without what is null."""
    return {name: str(value) for name, value in flatten(read_config(folder)).items() if value is not None}


def describe(manifest: Manifest, folder: Path, *, live: bool) -> str:
    """What a run is and what came of it, in Markdown.

    Args:
        manifest: of the run.
        folder: of the run.
        live: whether a run that has not said how it ended still runs; else it was killed.
    """
    tags = manifest["tags"]
    what = ", ".join(f"{name} {tags[name]}" for name in ("task", "preset", "seed") if name in tags)
    datasets = ", ".join(f"{facts['id']} ({facts['episodes']} episodes)" for facts in manifest["datasets"])
    status = manifest["status"] if live or manifest["status"] != "running" else "killed"
    minutes = f" after {manifest['seconds'] / 60:.1f} min" if "seconds" in manifest else ""
    error = f": {manifest['error']}" if "error" in manifest else ""
    parts = [
        f"AWAC, {what}, on {manifest['device']}, from {datasets}.",
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
    """Since 1970, of an ISO 8601 moment."""
    return round(1000 * datetime.fromisoformat(moment).timestamp())


def _as_kept(value: float) -> float:
    """MLflow keeps NaN, and infinity as the largest number."""
    return value if math.isnan(value) else max(-sys.float_info.max, min(sys.float_info.max, value))
