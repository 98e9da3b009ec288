"""What came out of a sweep: a table of its settings, a page, and the command that trains the best one again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from awac_pl.errors import AwacError, WriteError
from awac_pl.report.page import write_report
from awac_pl.report.statistics import bootstrap_interval
from awac_pl.report.tables import Table
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import Run, gather, read_run
from awac_pl.sweeps.plan import Plan


def final(run: Run, metric: str) -> float:
    """The mean of the last three online evaluations; of a finished run without any, the last one. NaN without one."""
    known = [row for row in run.evaluations if math.isfinite(row.get(metric, math.nan))]
    values = [row[metric] for row in known if row["env_steps"] > 0][-3:]
    if run.finished and not run.env_steps:  # as BC's
        values = [row[metric] for row in known[-1:]]
    return float(np.mean(values)) if values else math.nan


def best(run: Run, metric: str) -> float:
    """The best evaluation; NaN without one."""
    return max((row[metric] for row in run.evaluations if math.isfinite(row.get(metric, math.nan))), default=math.nan)


def ranked(plan: Plan) -> list[tuple[dict[str, str], list[Run]]]:
    """The settings with their runs that have an evaluation, the best settings first; finished ones before others."""
    runs: list[tuple[tuple[tuple[str, str], ...], Run]] = []
    for name, entry in plan.runs.items():
        try:
            runs.append((tuple(entry["settings"].items()), read_run(Path(plan.folder) / name)))
        except AwacError:  # it failed before it had anything to tell
            continue
    settings = {
        key: evaluated
        for key, of_setting in gather(runs).items()
        if (evaluated := [run for run in of_setting if math.isfinite(final(run, plan.metric))])
    }

    def value(item: tuple[tuple[tuple[str, str], ...], Sequence[Run]]) -> tuple[bool, float]:
        return all(run.finished for run in item[1]), float(np.mean([final(run, plan.metric) for run in item[1]]))

    return [(dict(key), of_setting) for key, of_setting in sorted(settings.items(), key=value, reverse=True)]


def table(plan: Plan, settings: Sequence[tuple[dict[str, str], list[Run]]]) -> Table:
    """Best, mean and interval over seeds of each setting."""
    rows = []
    for values, runs in settings:
        finals = np.array([final(run, plan.metric) for run in runs])
        ends = bootstrap_interval([finals])
        early = sum(plan.runs[run.folder.name]["outcome"] == "stopped early" for run in runs)
        rows.append({
            "setting": ", ".join(f"{key}={value}" for key, value in values.items()) or "as given",
            "seeds": str(len(runs)),
            "best": f"{max(best(run, plan.metric) for run in runs):.3g}",
            "mean": f"{finals.mean():.3g}",
            "95 % interval": "-" if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}",
            "stopped early at": f"{max(row['env_steps'] for run in runs for row in run.rows):,.0f} steps" if early else "-",
        })  # fmt: skip
    note = f"{plan.metric}. best: the best evaluation of a run; mean: over the seeds, of the last three evaluations."
    return Table.of(f"Sweep {Path(plan.folder).name}", rows, note)


def saved_updates(plan: Plan) -> tuple[int, int]:
    """Updates that the runs made, and those that stopping early has saved."""
    made = saved = 0.0
    for name, entry in plan.runs.items():
        try:
            updates = read_run(Path(plan.folder) / name).rows[-1]["updates"]
        except (AwacError, IndexError):
            continue
        made += updates
        saved += max(0.0, plan.totals["updates"] - updates) if entry["outcome"] == "stopped early" else 0.0
    return int(made), int(saved)


def finish(plan: Plan) -> None:
    """Print the table and the command of the best setting, and write the page."""
    settings = ranked(plan)
    if settings:
        print(table(plan, settings).markdown())
    made, saved = saved_updates(plan)
    if saved:
        print(f"bad trials were stopped early: {made:,} updates made, {saved:,} saved ({saved / (made + saved):.0%})")
    page = Path(plan.folder) / "report.html"
    try:
        write_report([Path(plan.folder)], page)
    except WriteError:
        raise
    except AwacError:  # no run has anything to tell
        return
    print(f"page: {page}")
    if not settings:
        print(f"nothing is ranked: no run has an evaluation with {plan.metric}; --metric names another measure")
        return
    values, _ = settings[0]
    if plan.search:  # on seeds that it was not chosen on
        again = replace(plan, seeds=[(plan.seeds[0] + place) % 1000 for place in (1, 2, 3)]).command(values)
    else:
        again = plan.command(values, plan.seeds[0] if len(plan.seeds) == 1 else None)
    print(f"again: {shown_command(again)}")
