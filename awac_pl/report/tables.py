"""Tables of runs: what they reached at each stage, over seeds, how fast they were, and how their making differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from awac_pl.report.statistics import FEWEST_SEEDS, bootstrap_interval, interquartile_mean, mean_over_seeds, wilson_interval
from awac_pl.runs.grouping import SeedGroup, differences
from awac_pl.runs.reading import Run
from awac_pl.runs.summary import REPORTED_STEPS, all_returns, score_run, stages

NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text, to be written in any form.

    Args:
        title: above it.
        columns: their names.
        rows: a cell for each column.
        note: below it, whole sentences.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """The table as GitHub reads it, under a heading."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(map(_plain_cell, cells))} |"

        lines = [f"### {self.title}", "", line(self.columns), "|" + "---|" * len(self.columns), *map(line, self.rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])

    def html(self) -> Markup:
        """The table as an element that scrolls by itself where the page is narrower."""
        head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in self.columns)
        body = Markup("").join(
            Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(
                first, Markup("").join(Markup("<td>{}</td>").format(cell) for cell in rest)
            )
            for first, *rest in self.rows
        )
        note = Markup('<p class="note">{}</p>').format(self.note) if self.note else ""
        return Markup(
            '<h3>{0}</h3>\n<div class="scroll" role="region" aria-label="{0}" tabindex="0">\n'
            "<table>\n<thead><tr>{1}</tr></thead>\n<tbody>\n{2}</tbody>\n</table></div>\n{3}"
        ).format(self.title, head, body, note)


def result_tables(runs: Sequence[Run], groups: Sequence[SeedGroup]) -> list[Table]:
    """What the runs have reached, and how fast."""
    seeds = [_seed_table(groups)] if any(len(group.counted) > 1 for group in groups) else []
    return [
        _stage_table(groups), _success_table(runs), *seeds, _last_table(runs), _return_table(runs), _speed_table(runs),
    ]  # fmt: skip


def origin_tables(runs: Sequence[Run], groups: Sequence[SeedGroup]) -> list[Table]:
    """What the runs were made with."""
    differing = [_difference_table(groups)] if len(runs) > 1 else []
    return [_run_table(runs), _dataset_table(runs), *differing, _version_table(runs)]


def _stage_names(runs: Sequence[Run]) -> list[str]:
    """Those that some run has reached, in order."""
    order = [
        "after cloning",
        "after pretraining",
        *(f"at {steps // 1000}k steps" for steps in REPORTED_STEPS),
        "after fine-tuning",
    ]
    reached = {name for run in runs for name in stages(run)}
    return [name for name in order if name in reached]


def _stage_table(groups: Sequence[SeedGroup]) -> Table:
    names = _stage_names([run for group in groups for run in group.counted])
    rows = []
    for group in groups:
        cells = []
        for name in names:
            found = [stages(run)[name] for run in group.counted if name in stages(run)]
            successes, episodes = sum(rate * number for rate, number in found), sum(number for _, number in found)
            cells.append(_with_interval(successes / episodes, episodes, digits=3) if found else NOTHING)
        rows.append([group.task, group.label.removeprefix("preset "), str(len(group.counted)), *cells])
    notes = [
        "Success at any step of the episode, acting with the mean action; the seeds' episodes pooled, with Wilson's 95 % "
        "interval",
        *(note for group in groups for note in group.notes),
    ]
    return Table(
        title="Success at each stage", columns=["task", "preset", "seeds", *names], rows=rows, note=". ".join(notes) + "."
    )


def _success_table(runs: Sequence[Run]) -> Table:
    names = _stage_names(runs)
    rows = []
    for run in runs:
        reached, scores = stages(run), score_run(run.rows)
        cells = [_with_interval(*reached[name]) if name in reached else NOTHING for name in names]
        measures = [_number(scores[name]) for name in ("last", "dip", "worst")]
        measures += [_steps(scores[name]) if _evaluated(run) else NOTHING for name in ("steps_to_0.5", "steps_to_0.9")]
        mark = "" if run.finished else f" ({run.status})"
        rows.append([f"{run.name}{mark}", *cells, *measures, _number(scores["regret"])])
    return Table(
        title="Success of each run",
        columns=["run", *names, "last", "dip", "worst", "steps to 0.5", "steps to 0.9", "regret"],
        rows=rows,
        note="With Wilson's 95 % interval of the evaluation's episodes. last: mean of the last three evaluations; dip: the "
        "lowest within 50,000 steps; worst: the lowest single one from 100,000 steps on; steps to: environment steps at the "
        "first evaluation that high; regret: mean of 1 - success over the training episodes, which act with noise.",
    )


def _seed_table(groups: Sequence[SeedGroup]) -> Table:
    several = [group for group in groups if len(group.counted) > 1]
    rows = []
    for group in several:
        for name, values in _by_seed(group).items():
            rows.append([f"{group.task}, {group.label}", name, *_over_seeds(name, [values])])
    for preset in sorted({group.preset for group in several}):
        alike = [group for group in several if group.preset == preset]
        tasks = {group.task for group in alike}
        if len(tasks) < 2 or len(tasks) < len(alike):  # one task, or several ways of one
            continue
        measures = [_by_seed(group) for group in alike]
        for name in (name for name in measures[0] if all(name in each for each in measures[1:])):
            if not name.startswith("steps to"):  # steps of one task are not those of another
                together = _over_seeds(name, [each[name] for each in measures])
                rows.append([f"{len(tasks)} tasks, preset {preset}", name, *together])
    return Table(
        title="Over seeds",
        columns=[
            "runs",
            "measure",
            "seeds",
            "mean",
            "95 % interval",
            "interquartile mean",
            "95 % interval",
            "lowest to highest",
        ],
        rows=rows,
        note="Intervals: bootstrap over the seeds, each task's resampled by themselves; none with fewer "
        f"than {FEWEST_SEEDS} seeds of a task. The interquartile mean leaves out whole seeds, a quarter at each end (of "
        "three none). Over several tasks the mean is that of the tasks' means.",
    )


def _by_seed(group: SeedGroup) -> dict[str, np.ndarray]:
    """The measures of the counted runs of a group, one value for each seed that has it."""
    values: dict[str, list[float]] = {}
    for run in group.counted:
        scores = score_run(run.rows)
        found = {name: rate for name, (rate, _) in stages(run).items()}
        found |= {name: scores[name] for name in ("last", "dip", "worst", "regret")}
        if _evaluated(run):
            found |= {name.replace("_", " "): scores[name] for name in ("steps_to_0.5", "steps_to_0.9")}
        for name, value in found.items():
            values.setdefault(name, []).extend([] if math.isnan(value) else [value])
    return {name: np.array(each) for name, each in values.items() if each}


def _over_seeds(name: str, tasks: list[np.ndarray]) -> list[str]:
    """Seeds, mean, interval, interquartile mean, interval, range."""
    pooled = np.concatenate(tasks)

    def show(value: Any) -> str:
        return _steps(float(value)) if name.startswith("steps to") else _number(float(value), 3)

    def interval(statistic: Callable[..., np.ndarray]) -> str:
        ends = bootstrap_interval(tasks, statistic)
        return NOTHING if ends is None else f"{show(ends[0])} to {show(ends[1])}"

    spread = f"{show(pooled.min())} to {show(pooled.max())}"
    if never := np.isinf(pooled).sum():
        return [str(len(pooled)), f"reached by {len(pooled) - never} of {len(pooled)}", NOTHING, NOTHING, NOTHING, spread]
    return [
        str(len(pooled)), show(mean_over_seeds(*tasks)), interval(mean_over_seeds),
        show(interquartile_mean(*tasks)), interval(interquartile_mean), spread,
    ]  # fmt: skip


def _last_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        last = run.evaluations[-1] if run.evaluations else {}
        successes = [
            _number(last.get(f"eval/{name}", math.nan)) for name in ("success_rate", "success_final", "success_share")
        ]
        returns = [_number(last.get(f"eval/{name}", math.nan), 1) for name in ("episode_return", "environment_return")]
        rows.append([run.name, f"{last.get('eval/episodes', 0):.0f}", *successes, *returns])
    return Table(
        title="The last evaluation",
        columns=["run", "episodes", "success", "at the last step", "share of steps", "return", "environment's return"],
        rows=rows,
        note="success: at any step; share of steps: at the goal; return: of the reward that is learned from; environment's "
        "return: what the environment itself paid.",
    )


def _return_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        found = all_returns(run.rows)
        numbers = [_number(found["episode_return"], 1), _number(found["episode_return_std"], 1)]
        rows.append([run.name, *numbers, f"{found['episodes']:.0f}", _number(found["episode_length"], 1)])
    return Table(
        title="Returns of all evaluations",
        columns=["run", "average return", "standard deviation", "episodes", "steps per episode"],
        rows=rows,
        note="Over every evaluation episode of the run, the early ones included.",
    )


def _speed_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        timed = [row for row in run.rows if "seconds" in row]
        if not timed:
            rows.append([run.name, *[NOTHING] * 6])
            continue
        end, before = timed[-1], [row for row in timed if row["env_steps"] == 0]
        online = end["seconds"] - (before[-1]["seconds"] if before else 0.0)
        speeds = [row["rollout/env_steps_per_s"] for row in timed if "rollout/env_steps_per_s" in row]
        rows.append([
            run.name, _duration(end["seconds"]), _steps(end["updates"]), _rate(end["updates"], end["seconds"]),
            _steps(end["env_steps"]), _rate(end["env_steps"], online), f"{np.median(speeds):,.0f}" if speeds else NOTHING,
        ])  # fmt: skip
    return Table(
        title="Speed",
        columns=["run", "wall time", "updates", "updates/s", "environment steps", "environment steps/s", "while collecting"],
        rows=rows,
        note="Updates/s over the whole run and environment steps/s over its online part, both with everything that happened "
        "in it (evaluations, checkpoints); while collecting: the median of the epochs.",
    )


def _run_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        made = run.manifest
        told = [str(made.get(name, NOTHING)) for name in ("started", "device")]
        commit = str(made["tags"].get("commit", NOTHING))
        rows.append([run.name, run.task, run.preset, run.seed, run.status, *told, commit])
    return Table(title="Runs", columns=["run", "task", "preset", "seed", "status", "started", "device", "commit"], rows=rows)


def _dataset_table(runs: Sequence[Run]) -> Table:
    used: dict[tuple[str, ...], list[str]] = {}
    names = ("id", "episodes", "transitions", "clipped_action_values", "weight", "sha256")
    for run in runs:
        for facts in run.manifest.get("datasets") or []:
            used.setdefault(tuple(str(facts.get(name, NOTHING)) for name in names), []).append(run.name)
    rows = [[*facts, "all" if len(by) == len(runs) else ", ".join(by)] for facts, by in used.items()]
    columns = ["dataset", "episodes", "transitions", "clipped action values", "weight", "sha256", "runs"]
    if not any(row[4] != NOTHING for row in rows):
        columns, rows = columns[:4] + columns[5:], [row[:4] + row[5:] for row in rows]
    return Table(title="Datasets", columns=columns, rows=rows)


def _difference_table(groups: Sequence[SeedGroup]) -> Table:
    runs = [(index, run) for index, group in enumerate(groups) for run in group.runs]
    rows = []
    for name, values in differences([run for _, run in runs]).items():
        cells: list[dict[str, None]] = [{} for _ in groups]  # a set that keeps its order
        for (index, _), value in zip(runs, values, strict=True):
            cells[index][NOTHING if value is None else str(value)] = None
        rows.append([name, *("; ".join(cell) for cell in cells)])
    return Table(
        title="Differences in configuration",
        columns=["setting", *(f"{group.task}, {group.label}" for group in groups)],
        rows=rows,
        note="" if rows else "None but the seeds.",
    )


def _version_table(runs: Sequence[Run]) -> Table:
    names = dict.fromkeys(name for run in runs for name in run.manifest.get("versions") or {})
    rows = []
    for name in names:
        by: dict[str, list[str]] = {}
        for run in runs:
            by.setdefault(str((run.manifest.get("versions") or {}).get(name, NOTHING)), []).append(run.name)
        rows.append(
            [name, next(iter(by)) if len(by) == 1 else "; ".join(f"{each} ({', '.join(of)})" for each, of in by.items())]
        )
    return Table(title="Versions", columns=["package", "version"], rows=rows)


def _plain_cell(text: str) -> str:
    return str(escape(" ".join(text.split()))).replace("|", "\\|")


def _evaluated(run: Run) -> bool:
    return any(math.isfinite(row.get("eval/success_rate", math.nan)) for row in run.evaluations)


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def _with_interval(rate: float, episodes: float, digits: int = 2) -> str:
    if not math.isfinite(rate):
        return "unknown"
    low, high = wilson_interval(rate * episodes, episodes)
    return f"{rate:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _steps(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"


def _rate(count: float, seconds: float) -> str:
    return f"{count / seconds:,.1f}" if seconds > 0 and count else NOTHING
