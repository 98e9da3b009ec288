"""Read run folders: the metrics, the manifest, the configuration, and notes on what is wrong with a run."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from awac_pl.errors import AwacError, first_line
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.manifest import REPETITION, Manifest, flatten, read_config, read_manifest
from awac_pl.runs.metrics import read_metrics, x_axis
from awac_pl.settings_files import read_table, shipped

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of a run folder.

    Args:
        folder: its path.
        name: the folder's name; its path where two runs have the same name.
        task: the task's name; ``unknown`` like preset and seed where the manifest does not say.
        preset: the preset's name.
        seed: the run's seed.
        rows: ``metrics.csv``, one row per epoch, pretraining first.
        manifest: ``manifest.json``.
        config: ``config.yaml``; empty where there is none.
        status: ``finished``, ``interrupted``, ``failed``, ``still running``, or ``killed or crashed``.
    """

    folder: Path
    name: str
    task: str
    preset: str
    seed: str
    rows: tuple[dict[str, float], ...]
    manifest: Manifest
    config: dict[str, Any]
    status: str

    @property
    def algorithm(self) -> str:
        """``awac``, ``iql``, ...; runs of version 0.1 do not say it and are AWAC's."""
        return str(self.manifest["tags"].get("algorithm", "awac"))

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.status == "finished"

    @property
    def evaluations(self) -> list[dict[str, float]]:
        """The rows with an evaluation of at least one episode; the last one of each epoch."""
        return list({row["epoch"]: row for row in self.rows if row.get("eval/episodes", 0) > 0}.values())

    @property
    def pretraining_updates(self) -> int:
        """Updates before the first environment step: those planned, or those made if the manifest does not say."""
        made = max((row["updates"] for row in self.rows if row["env_steps"] == 0), default=0)
        return int(self.manifest.get("offline_updates", made))

    @property
    def made_updates(self) -> float:
        """Updates that the run has made."""
        return self.rows[-1]["updates"] if self.rows else 0

    @property
    def env_steps(self) -> float:
        """Environment steps that the run has made online."""
        return self.rows[-1]["env_steps"] if self.rows else 0

    def axis(self, row: dict[str, float]) -> float:
        """Environment steps of a row; in pretraining minus the number of pretraining updates that remain."""
        return x_axis(row, self.pretraining_updates)

    @property
    def cloned(self) -> tuple[float, float] | None:
        """Success rate and evaluation episodes of the cloned policy, acting with its mean; None where unknown."""
        rate, episodes = (self.manifest["cloning"].get(name) for name in ("success_deterministic", "evaluation_episodes"))
        known = isinstance(rate, int | float) and isinstance(episodes, int | float) and 0 <= rate <= 1 and episodes > 0
        return (float(rate), float(episodes)) if known else None  # type: ignore[arg-type]

    @property
    def clone(self) -> str:
        """What tells the run's cloned policy from others: the digests of the datasets behind the demonstrations."""
        digests = [str(each.get("sha256", "")) for each in self.manifest["datasets"][1:]]
        return " ".join(digests) if digests and all(digests) else str(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as ``{"data.task": ...}``, without ``REPETITION``; the datasets with episodes and weights.

        Options that came after the run have the values of ``conf/base.yaml`` and ``conf/algorithm/``, which leave everything
        as it was.
        """
        flat = (_defaults(self.algorithm) if self.config else {}) | flatten(self.config)
        flat = {name: value for name, value in flat.items() if not within(name, REPETITION)}
        datasets = [
            f"{each.get('id')} ({each.get('episodes')} episodes){weighted(each)}" for each in self.manifest["datasets"]
        ]
        return flat | ({"data.datasets": ", ".join(datasets)} if datasets else {})

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings for readers of the run's numbers."""
        return tuple(_notes(self))


@functools.cache
def _defaults(algorithm: str) -> dict[str, Any]:
    base = read_table(shipped() / "base.yaml")
    options = flatten({part: base[part] for part in ("data", "model", "interaction")})
    for path in (shipped() / "algorithm").glob("*.yaml"):
        if path.stem == algorithm:
            options |= flatten({"model": read_table(path)["model"]})
    return options


def weighted(dataset: Mapping[str, Any]) -> str:
    """`` weighted 20 times`` of a manifest's dataset; empty where its transitions count once."""
    weight = str(dataset.get("weight", 1)).removesuffix(".0")
    return "" if weight == "1" else f" weighted {weight} times"


def number_of(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clip(text: str, length: int) -> str:
    """The text on one line, at most this long, with valid characters only."""
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def within(name: str, groups: Sequence[str]) -> bool:
    """Whether a setting is one of these, or belongs to one of these groups of settings."""
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def gather(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The values of each key, keys and values in the order of the pairs."""
    gathered: dict[Key, list[Value]] = {}
    for key, value in pairs:
        gathered.setdefault(key, []).append(value)
    return gathered


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        AwacError: it is no run folder, it is damaged, or another version wrote it.
    """
    manifest = read_manifest(folder)
    if "tags" not in manifest:
        raise AwacError(f"{folder / 'manifest.json'}: it has no 'tags'; it is no run's manifest")
    status = str(manifest.get("status", "unknown"))
    if status == "running":
        status = "still running" if RunFolder(folder).busy else "killed or crashed"
    return Run(
        folder=folder,
        name=folder.resolve().name,
        **{name: str(manifest["tags"].get(name, "unknown")) for name in ("task", "preset", "seed")},
        rows=read_rows(folder / "metrics.csv"),
        manifest=manifest,
        config=read_config(folder),
        status=status,
    )


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read run folders. A folder that is none is searched for run folders.

    Returns:
        The runs, each once, and a line for each run folder that was found in another folder and cannot be read.

    Raises:
        AwacError: a named folder cannot be read, or holds no run.
    """
    runs: dict[Path, Run] = {}
    left_out: list[str] = []
    for folder in folders:
        for path in _runs_inside(folder) or [folder]:  # read_run says why a folder without a run cannot be read
            try:
                runs.setdefault(path.resolve(), read_run(path))
            except AwacError as error:
                if path == folder:
                    raise
                left_out.append(str(error))
    if not runs:
        raise AwacError(left_out[0])
    names = [run.name for run in runs.values()]
    unique = [run if names.count(run.name) == 1 else dataclasses.replace(run, name=str(run.folder)) for run in runs.values()]
    return unique, left_out


def _runs_inside(folder: Path) -> list[Path]:
    if RunFolder(folder).used:
        return [folder]
    inside = (
        sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != ".")
        if folder.is_dir()
        else []
    )
    return [run for path in inside for run in _runs_inside(path)]


def read_rows(path: Path) -> tuple[dict[str, float], ...]:
    """The rows of a run's ``metrics.csv``; none where there is no such file.

    Raises:
        AwacError: a cell is no number, or a row does not say its epoch and steps.
    """
    try:
        rows = read_metrics(path) if path.is_file() else []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise AwacError(f"{path} is no table of numbers: {first_line(error)}") from error
    for number, row in enumerate(rows, start=2):
        for name in ("epoch", "updates", "env_steps"):
            if not math.isfinite(row.get(name, math.nan)):
                raise AwacError(f"{path}: line {number} has no '{name}'; it is no run's table of metrics")
    return tuple(rows)


def _notes(run: Run) -> Iterator[str]:
    if not run.finished:
        yield f"unfinished: {run.status}" + (f", {run.manifest['error']}" if "error" in run.manifest else "")
    if not run.config:
        yield "its configuration was not kept"
    if not run.rows:
        yield "no epoch has ended, there is nothing to show"
    elif len(run.evaluations) < 2:
        yield "one evaluation only: points, no curve" if run.evaluations else "nothing has been evaluated"
    for name, values in gather(pair for row in run.rows for pair in row.items()).items():
        bad = sum(not math.isfinite(value) for value in values)
        if bad == len(values):
            yield f"{name} is unknown throughout"
        elif bad:
            yield f"{name} is no finite number in {bad} of {number_of(len(values), 'row')}: a gap"
