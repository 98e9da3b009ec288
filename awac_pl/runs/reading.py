"""Runs as their folders tell them: what was measured, what made it, and what is wrong with it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from awac_pl.errors import AwacError, first_line
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.manifest import REPETITION, flatten
from awac_pl.runs.metrics import read_metrics, x_axis

#: Formats of a manifest that can be read; one without the field is of format 1.
FORMATS = (1,)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds.

    Args:
        folder: where it lies.
        name: the folder's name; its path where two of them have the same name.
        rows: ``metrics.csv``, one row per epoch, pretraining first.
        manifest: ``manifest.json``.
        config: ``config.yaml``; empty where there is none.
        status: ``finished``, ``interrupted``, ``failed``, ``still running``, or ``ended without a word`` (killed).
        notes: what a reader has to know of it, one sentence each.
    """

    folder: Path
    name: str
    rows: tuple[dict[str, float], ...]
    manifest: dict[str, Any]
    config: dict[str, Any]
    status: str
    notes: tuple[str, ...]

    @property
    def task(self) -> str:
        """The task, as it was named."""
        return str(self.manifest["tags"].get("task", "unknown"))

    @property
    def preset(self) -> str:
        """The preset's name."""
        return str(self.manifest["tags"].get("preset", "unknown"))

    @property
    def seed(self) -> str:
        """The run's seed."""
        return str(self.manifest["tags"].get("seed", "unknown"))

    @property
    def finished(self) -> bool:
        """Whether it went to its end."""
        return self.status == "finished"

    @property
    def evaluations(self) -> list[dict[str, float]]:
        """The rows with an evaluation."""
        return [row for row in self.rows if "eval/episodes" in row]

    @property
    def pretraining_updates(self) -> int:
        """Updates before the first environment step; as many as there were, where the manifest does not say it."""
        there = max((row["updates"] for row in self.rows if row["env_steps"] == 0), default=0)
        return int(self.manifest.get("offline_updates", there))

    def axis(self, row: dict[str, float]) -> float:
        """Environment steps of a row; in pretraining minus the updates that are left of it."""
        return x_axis(row, self.pretraining_updates)

    @property
    def cloned(self) -> tuple[float, float] | None:
        """Success rate and evaluation episodes of the cloned policy, acting with its mean; None where unknown."""
        cloning = self.manifest.get("cloning") or {}
        rate, episodes = cloning.get("success_deterministic"), cloning.get("evaluation_episodes")
        known = isinstance(rate, int | float) and isinstance(episodes, int | float) and 0 <= rate <= 1 and episodes > 0
        return (float(rate), float(episodes)) if known else None  # type: ignore[arg-type]

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as ``{"data.task": ...}`` without ``REPETITION``; the datasets with their episodes."""
        flat = {name: value for name, value in flatten(self.config).items() if not within(name, REPETITION)}
        named = [f"{facts.get('id')} ({facts.get('episodes')} episodes)" for facts in self.manifest.get("datasets") or []]
        return {**flat, **({"data.datasets": ", ".join(named)} if named else {})}


def number_of(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clip(text: str, length: int) -> str:
    """A text no longer than this, that can be drawn and written."""
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def within(name: str, groups: Sequence[str]) -> bool:
    """Whether a setting is one of these, or lies in one of these groups of settings."""
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        AwacError: it is none, it is damaged, or another version wrote it.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise AwacError(f"no folder {folder}")
    if not path.is_file():
        raise AwacError(
            f"{folder} is no run folder: {'it has no manifest.json' if any(folder.iterdir()) else 'it is empty'}"
        )
    manifest = _load(path, json.loads)
    for name, kind in {"tags": dict, "versions": dict, "datasets": list, "command": list, "cloning": dict}.items():
        if not isinstance(manifest.get(name) or kind(), kind):
            raise AwacError(f"{path}: '{name}' is no {'table' if kind is dict else 'list'}; it is no run's manifest")
    if not isinstance(manifest.get("tags"), dict) or not all(
        isinstance(facts, dict) for facts in manifest.get("datasets") or []
    ):
        raise AwacError(f"{path}: no tags, or no facts of datasets; it is no run's manifest")
    if manifest.get("format", 1) not in FORMATS:
        maker = (manifest.get("versions") or {}).get("awac_pl", "another version")
        raise AwacError(f"{path} has format {manifest['format']}, not {FORMATS[-1]}; report it with awac_pl {maker}")
    config = _load(folder / "config.yaml", yaml.safe_load) if (folder / "config.yaml").is_file() else {}
    rows = _read_rows(folder / "metrics.csv")
    status = str(manifest.get("status", "unknown"))
    if status == "running":
        status = "still running" if RunFolder(folder).busy else "ended without a word"
    return Run(
        folder=folder, name=folder.resolve().name, rows=tuple(rows), manifest=manifest, config=config, status=status,
        notes=tuple(_notes(status, manifest, config, rows)),
    )  # fmt: skip


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read run folders, and those that lie in folders which are none themselves.

    Returns:
        The runs, each once, and what was left out: a line for each folder inside another one that cannot be read.

    Raises:
        AwacError: a folder that was named cannot be read, or holds no run.
    """
    runs: dict[Path, Run] = {}
    left_out: list[str] = []
    for folder in folders:
        inside = [folder] if (folder / "manifest.json").exists() else _runs_inside(folder)
        if not inside:
            read_run(folder)  # raises, and says why
        for path in inside:
            try:
                runs.setdefault(path.resolve(), read_run(path))
            except AwacError as error:
                if path == folder:
                    raise
                left_out.append(str(error))
    if not runs:
        raise AwacError(left_out[0])
    names = [run.name for run in runs.values()]
    found = [dataclasses.replace(run, name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs.values()]
    return found, left_out


def _runs_inside(folder: Path) -> list[Path]:
    if (folder / "manifest.json").exists():
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()) if folder.is_dir() else []
    return [run for path in inside for run in _runs_inside(path)]


def _load(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AwacError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise AwacError(f"{path} is no table of settings; it belongs to no run")
    return content


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        rows = read_metrics(path)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise AwacError(f"{path} is no table of numbers: {first_line(error)}") from error
    for number, row in enumerate(rows, start=2):
        for name in ("epoch", "updates", "env_steps"):
            if not math.isfinite(row.get(name, math.nan)):
                raise AwacError(f"{path}: line {number} has no '{name}'; it is no run's table of metrics")
    return rows


def _notes(status: str, manifest: dict, config: dict, rows: list[dict[str, float]]) -> Iterable[str]:
    if status == "still running":
        yield "unfinished: it is still running"
    elif status == "ended without a word":
        yield "unfinished: it ended without a word (killed, or the machine went away)"
    elif status != "finished":
        yield f"unfinished: {status}" + (f", {manifest['error']}" if "error" in manifest else "")
    if not config:
        yield "its configuration was not kept"
    evaluations = [row for row in rows if "eval/episodes" in row]
    if not rows:
        yield "no epoch has ended, there is nothing to show"
    elif len(evaluations) < 2:
        yield "one evaluation only: points, no curve" if evaluations else "nothing has been evaluated"
    for name in dict.fromkeys(name for row in rows for name in row):
        there = [row[name] for row in rows if name in row]
        bad = sum(not math.isfinite(value) for value in there)
        if bad == len(there):
            yield f"{name} is unknown throughout"
        elif bad:
            yield f"{name} is no finite number in {bad} of {number_of(len(there), 'row')}: a gap"
