"""Compare the settings of runs: which runs differ in their seed only, and in what other runs differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from awac_pl.runs.manifest import LENGTH, WORKING
from awac_pl.runs.reading import Run, clip, gather, number_of, weighted, within

#: Parts of a configuration that decide what a run learns.
LEARNING = ("model", "data", "interaction", "trainer")
#: Beginnings of settings in those parts in which the runs of a group may differ; the last one decides when it is evaluated.
APART = (*WORKING, *LENGTH, "data.chunk_size", "trainer.check_val_every_n_epoch")


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Runs that differ only in seed, length and speed.

    Args:
        task: the task of all runs.
        label: the algorithm where one is not AWAC, the preset, and the settings that distinguish the group from others with
            the same task, algorithm and preset.
        runs: at least one.
    """

    task: str
    label: str
    runs: tuple[Run, ...]

    @property
    def preset(self) -> str:
        """The preset of all runs."""
        return self.runs[0].preset

    @property
    def method(self) -> str:
        """Preset of all runs, and their algorithm if it is not AWAC."""
        algorithm = self.runs[0].algorithm
        return f"preset {self.preset}" if algorithm == "awac" else f"{algorithm.upper()}, preset {self.preset}"

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs whose scores are compared: those that finished or came as far as one that did; all where none has."""
        shortest = min((run.made_updates for run in self.runs if run.finished), default=0)
        return tuple(run for run in self.runs if run.finished or run.made_updates >= shortest)

    @property
    def title(self) -> str:
        """Task, label, demonstrations and seeds."""
        datasets = self.runs[0].manifest["datasets"]
        named = not datasets or str(datasets[0].get("id")) in self.label
        data = "" if named else f", {datasets[0].get('episodes')} episodes of {datasets[0].get('id')}{weighted(datasets[0])}"
        return f"{self.task}, {self.label}{data}, {number_of(len(self.runs), 'seed')}"

    @property
    def notes(self) -> list[str]:
        """Warnings for readers of the group's means."""
        left_out = [run.name for run in self.runs if run not in self.counted]
        seeds = [run.seed for run in self.runs]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        notes = [f"unfinished, in the means only as far as they came: {', '.join(left_out)}"] if left_out else []
        if not any(run.finished for run in self.runs):
            notes.append("none of its runs has finished; the means are over unfinished runs")
        shortest, longest = (choose(run.env_steps for run in self.counted) for choose in (min, max))
        if longest > 1.1 * shortest:
            notes.append(
                f"its runs end after {shortest:,.0f} to {longest:,.0f} environment steps, and are not alike at their end"
            )
        if twice:
            notes.append(f"seed {', '.join(twice)} counts more than once; intervals are too narrow")
        return [f"{self.task}, {self.label}: {note}" for note in notes]


def group_runs(runs: Sequence[Run]) -> list[SeedGroup]:
    """Group runs that differ only in seed, length and speed; the groups are sorted by task and label."""

    def identity(run: Run) -> str:
        learning = {name: value for name, value in run.settings.items() if _decides(name)}
        return json.dumps([run.task, run.algorithm, run.preset, learning], sort_keys=True, default=str)

    alike = gather((identity(run), run) for run in runs).values()
    siblings = gather(((first.task, first.algorithm, first.preset), first) for first, *_ in alike)
    several = any(run.algorithm != "awac" for run in runs)
    groups = []
    for members in alike:
        first = members[0]
        same = siblings[first.task, first.algorithm, first.preset]
        name = [first.algorithm.upper()] if several else []
        label = ", ".join([*name, f"preset {first.preset}", *_distinction(first, same)])
        by_seed = sorted(members, key=lambda run: (len(run.seed), run.seed))
        groups.append(SeedGroup(task=first.task, label=label, runs=tuple(by_seed)))
    return sorted(groups, key=lambda group: (group.task, group.label))


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which runs differ, each with one value per run (None where a run lacks the setting)."""
    settings = [run.settings for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _distinction(run: Run, siblings: Sequence[Run]) -> list[str]:
    """The first two settings that distinguish a run from others with its task and preset, in short."""
    if not run.config and any(other.config for other in siblings):
        return ["configuration not kept"]
    comparable = [other for other in siblings if other.config or not run.config]
    place = comparable.index(run)
    own = {name: values[place] for name, values in differences(comparable).items() if _decides(name)}
    parts = [
        str(value).split(",")[0] if name == "data.datasets" else f"{name.split('.')[-1]} {value}"
        for name, value in own.items()
    ]
    return [clip(part, 64) for part in parts[:2]] + (["…"] if len(parts) > 2 else [])


def _decides(name: str) -> bool:
    return within(name, LEARNING) and not name.startswith(APART)
