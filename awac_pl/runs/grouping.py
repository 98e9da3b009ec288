"""Runs side by side: which differ in nothing but their seed, and in what the others differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from awac_pl.runs.reading import Run, clip, number_of, within

#: Parts of a configuration that decide what a run learns …
LEARNING = ("model", "data", "interaction", "trainer")
#: … but for the settings in them that only say how long and how fast it was.
SPEED = (
    "trainer.max_epochs", "trainer.accelerator", "trainer.log_every_n_steps", "trainer.enable_progress_bar",
    "data.workers", "data.progress", "data.device", "data.storage", "data.chunk_size", "model.compile",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Runs that differ in nothing but seed, length and speed.

    Args:
        task: of all of them.
        label: preset, and what distinguishes the group from others with the same task and preset.
        runs: at least one.
    """

    task: str
    label: str
    runs: tuple[Run, ...]

    @property
    def preset(self) -> str:
        """Of all of them."""
        return self.runs[0].preset

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that means are taken over: the finished ones, or all where none is."""
        return tuple(run for run in self.runs if run.finished) or self.runs

    @property
    def title(self) -> str:
        """Task, label, demonstrations and seeds."""
        datasets = self.runs[0].manifest.get("datasets") or []
        named = not datasets or str(datasets[0].get("id")) in self.label
        data = "" if named else f", {datasets[0].get('episodes')} episodes of {datasets[0].get('id')}"
        return f"{self.task}, {self.label}{data}, {number_of(len(self.runs), 'seed')}"

    @property
    def notes(self) -> list[str]:
        """What a reader of its means has to know."""
        left_out = [run.name for run in self.runs if run not in self.counted]
        seeds = [run.seed for run in self.counted]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        notes = [f"unfinished, therefore not in the means: {', '.join(left_out)}"] if left_out else []
        if not any(run.finished for run in self.runs):
            notes.append("no run of it has finished; the means are over what there is")
        if twice:
            notes.append(f"seed {', '.join(twice)} counts more than once; intervals are too narrow")
        return [f"{self.task}, {self.label}: {note}" for note in notes]


def group_runs(runs: Sequence[Run]) -> list[SeedGroup]:
    """Put runs together that differ in nothing but seed, length and speed, sorted by task and preset."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        kind = {name: value for name, value in run.settings.items() if _decides(name)}
        alike.setdefault(json.dumps([run.task, run.preset, kind], sort_keys=True, default=str), []).append(run)
    groups = []
    for members in alike.values():
        first = members[0]
        siblings = [other[0] for other in alike.values() if (other[0].task, other[0].preset) == (first.task, first.preset)]
        label = f"preset {first.preset}"
        if len(siblings) > 1:
            label += "".join(f", {part}" for part in _distinction(first, siblings))
        groups.append(
            SeedGroup(task=first.task, label=label, runs=tuple(sorted(members, key=lambda run: (len(run.seed), run.seed))))
        )
    return sorted(groups, key=lambda group: (group.task, group.label))


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which some runs differ, each with the runs' values (None where a run does not have it)."""
    settings = [run.settings for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _distinction(run: Run, siblings: Sequence[Run]) -> list[str]:
    """What tells a run from others of its task and preset: up to two settings, in short."""
    if not run.config and any(other.config for other in siblings):
        return ["configuration not kept"]
    place = siblings.index(run)
    told = {name: values[place] for name, values in differences(siblings).items() if _decides(name)}
    parts = [
        str(value).split(",")[0] if name == "data.datasets" else f"{name.split('.')[-1]} {value}"
        for name, value in told.items()
    ]
    return [clip(part, 48) for part in parts[:2]] + (["…"] if len(parts) > 2 else [])


def _decides(name: str) -> bool:
    return within(name, LEARNING) and not within(name, SPEED)
