"""What a sweep runs: settings times seeds, each with its name, its command and its folder. Nothing here needs Ray."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from awac_pl.errors import AwacError, nearest, without_credentials
from awac_pl.files import write_text
from awac_pl.settings import RunSeed, fits, wrong
from awac_pl.settings_files import read_table

#: Kinds of ``--search``, with the number of their values; None for any number of at least two.
KINDS: dict[str, int | None] = {"uniform": 2, "loguniform": 2, "int": 2, "choice": None}
#: Arguments of ``awac fit`` that the sweep gives to each run itself, and what to say instead.
OWN_ARGUMENTS = {
    "--seed_everything": "--seeds 0,1,2", "--run_dir": "--storage FOLDER", "--ckpt_path": "--resume SWEEP",
    "--group": "nothing: the sweep is the group",
}  # fmt: skip
FILE = "sweep.json"
#: What a sweep may rank its settings by; the first one is the default.
METRICS = ("eval/success_rate", "eval/episode_return")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Args:
        name: of the run and its folder.
        settings: text as it stands behind ``--KEY=`` of ``awac fit``.
        seed: of the run.
    """

    name: str
    settings: dict[str, str]
    seed: int

    @property
    def arguments(self) -> list[str]:
        """Settings and seed as arguments of ``awac fit``."""
        return [*(f"--{key}={value}" for key, value in self.settings.items()), f"--seed_everything={self.seed}"]


@dataclass
class Plan:
    """A sweep. ``sweep.json`` in its folder holds it.

    Args:
        name: of the sweep: task, algorithm and preset.
        folder: of the sweep, with a folder for each run; absolute.
        arguments: of ``awac fit``, as they were typed.
        seeds: of each setting.
        grid: values of each setting.
        search: the range of each setting: its kind, then numbers or words.
        trials: of the search.
        metric: to make large.
        cpus: of each run.
        gpus: likewise; less than 1 lets runs share one.
        storage: URI of an object store that keeps the run folders; None where the sweep's folder does.
        place: working folder and environment variables of the runs.
        totals: updates and environment steps at the end of a run, by the base configuration.
        key: unique, to recognise the folder on another machine.
        runs: outcomes of the runs that have begun, by name.
    """

    name: str
    folder: str
    arguments: list[str]
    seeds: list[int]
    grid: dict[str, list[str]] = field(default_factory=dict)
    search: dict[str, list[str]] = field(default_factory=dict)
    trials: int = 0
    metric: str = METRICS[0]
    cpus: float = 1
    gpus: float = 0
    storage: str | None = None
    place: dict[str, Any] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    key: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def grid_runs(self) -> list[SweepRun]:
        """Every combination of the grid with every seed, one seed after the other: what is cheap to stop comes last."""
        combinations = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        names = [_label(settings) for settings in combinations]
        names = [
            f"{name}-{names[:place].count(name) + 1}" if name in names[:place] else name for place, name in enumerate(names)
        ]
        return [
            SweepRun("-".join([self.name, *([name] if name else []), f"seed{seed}"]), settings, seed)
            for seed in self.seeds
            for name, settings in zip(names, combinations, strict=True)
        ]

    def trial(self, number: int, values: Mapping[str, Any]) -> SweepRun:
        """The run of a trial of the search.

        Args:
            number: of the trial, from 1.
            values: that the search chose.
        """
        settings = {}
        for key, value in values.items():
            settings[key] = str(value)
            if isinstance(value, float):
                low, high = map(float, self.search[key][1:])
                if low <= float(short := f"{value:.4g}") <= high:  # rounding can lead out of the range
                    settings[key] = short
        return SweepRun(f"{self.name}-trial{number:03d}-seed{self.seeds[0]}", settings, self.seeds[0])

    @property
    def count(self) -> int:
        """Number of the runs."""
        return self.trials if self.search else len(self.seeds) * math.prod(map(len, self.grid.values()))

    def candidates(self) -> Iterator[tuple[str, str]]:
        """Each setting with each of its values, or with the ends of its range: to be checked before anything starts."""
        for key, values in self.grid.items():
            yield from ((key, value) for value in values)
        for key, (_, *values) in self.search.items():
            yield from ((key, value) for value in values)

    def command(self, settings: Mapping[str, str], seed: int | None = None) -> list[str]:
        """The command of a run, or of the sweep that trains a setting with all seeds, as a user types it."""
        flags = [f"--{key}={value}" for key, value in settings.items()]
        if seed is None:
            ranked = [] if self.metric == METRICS[0] else ["--metric", self.metric]
            return ["awac", "sweep", *self.arguments, *flags, "--seeds", ",".join(map(str, self.seeds)), *ranked]
        return ["awac", "fit", *self.arguments, *flags, f"--seed_everything={seed}"]

    def save(self) -> None:
        """Write ``sweep.json``, without credentials."""
        write_text(Path(self.folder) / FILE, without_credentials(json.dumps(asdict(self), indent=1)) + "\n")


def read_plan(folder: Path) -> Plan:
    """The plan of a sweep's folder, wherever the folder lies now.

    Raises:
        AwacError: there is none.
    """
    path = folder / FILE
    if not path.is_file():
        raise AwacError(f"there is no sweep to resume: {folder} has no {FILE}")
    try:
        return replace(Plan(**read_table(path)), folder=str(folder.absolute()))
    except TypeError as error:
        raise AwacError(f"{path} was written by another version of awac_pl, or is damaged: {error}") from error


def parse_seeds(text: str) -> list[int]:
    """``0,1,2`` or ``0-9``, or both.

    Raises:
        AwacError: a part is no seed, or a seed stands twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if ends is None or not all(fits(int(end), RunSeed) for end in ends.groups() if end):
            raise AwacError(f"--seeds {wrong('', part, RunSeed).strip()}, or a range of them such as 0-9")
        if (last := int(ends[2] or ends[1])) < int(ends[1]):
            raise AwacError(f"--seeds {part.strip()}: the range runs backwards; write {last}-{ends[1]}")
        seeds += range(int(ends[1]), last + 1)
    if len(set(seeds)) < len(seeds) or not seeds:
        raise AwacError(f"--seeds {text}: {'a seed stands twice' if seeds else 'no seed'}")
    return seeds


def parse_grid(parts: Sequence[str]) -> dict[str, list[str]]:
    """``model.temperature=1,3,10``: each setting with its values. A comma inside brackets separates nothing.

    Raises:
        AwacError: a part is none.
    """
    grid = {key: _values(text) for key, text in _pairs("--grid", parts, "model.temperature=1,3,10")}
    for key, values in grid.items():
        if "" in values or len(set(values)) < len(values):
            raise AwacError(f"--grid {key}={','.join(values)}: a value {'is empty' if '' in values else 'stands twice'}")
    return grid


def parse_search(parts: Sequence[str]) -> dict[str, list[str]]:
    """``model.temperature=loguniform:0.3:10``: each setting with kind and values.

    Raises:
        AwacError: a part is none, or its range is empty.
    """
    search = {key: text.split(":") for key, text in _pairs("--search", parts, "model.temperature=loguniform:0.3:10")}
    for key, (kind, *values) in search.items():
        where = f"--search {key}={':'.join([kind, *values])}"
        if kind not in KINDS:
            raise AwacError(f"{where}: unknown range '{kind}'.{nearest(kind, KINDS)}")
        if kind == "choice":
            if len(values) < 2:
                raise AwacError(f"{where}: a choice has at least two values, as in choice:5:10")
            continue
        try:
            low, high = (int(value) if kind == "int" else float(value) for value in values)
        except ValueError:
            raise AwacError(f"{where}: write {kind}:LOW:HIGH with two numbers") from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or kind != "loguniform")):
            raise AwacError(f"{where}: LOW must be below HIGH{', and above 0' if kind == 'loguniform' else ''}")
    return search


def _values(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return values


def _pairs(option: str, parts: Sequence[str], example: str) -> list[tuple[str, str]]:
    pairs = [part.lstrip("-").partition("=") for part in parts]
    for part, (key, equals, value) in zip(parts, pairs, strict=True):
        if not (key and equals and value):
            raise AwacError(f"{option} {part}: write KEY=VALUES, for example {example}")
        if f"--{key}" in OWN_ARGUMENTS:
            raise AwacError(f"{option} {part}: use {OWN_ARGUMENTS[f'--{key}']}")
        if key in ("algorithm", "task", "preset", "config"):
            raise AwacError(f"{option} {part}: {key} loads a file, before all settings; start a sweep for each {key}")
    keys = [key for key, _, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise AwacError(f"{option}: {twice[0]} stands twice")
    return [(key, value) for key, _, value in pairs]


def _label(settings: Mapping[str, str]) -> str:
    """Settings as a part of a folder's name."""
    text = "-".join(f"{key.split('.')[-1]}{value}" for key, value in settings.items())
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)[:80].strip("-")
