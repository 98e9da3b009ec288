"""Which of two methods is better, by the runs of both: a table of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from awac_pl.report.statistics import FEWEST_SEEDS, bootstrap_interval, probability_of_improvement
from awac_pl.runs.grouping import SeedGroup
from awac_pl.runs.reading import gather
from awac_pl.runs.summary import score_run

#: Whole episodes let runs of equal length end at slightly different steps.
ROUNDING = 1.01


def improvement_rows(groups: Sequence[SeedGroup]) -> list[list[str]]:
    """Rows of tasks, X, Y, seeds of both, environment steps, probability of improvement, its interval.

    Compared is the mean of a run's last three online evaluations, up to where the shortest run of both groups ends. Each
    pair of groups on the same task is a row, and so is each pair of methods on all tasks that both have, if these are
    several.
    """
    known = [group for group in groups if len(_last(group, math.inf)) > 1]
    rows = []
    for task, alike in gather((group.task, group) for group in known).items():
        rows += [_row(task, x.label, y.label, [(x, y)]) for x, y in combinations(alike, 2)]
    methods = {
        method: {group.task: group for group in alike}
        for method, alike in gather((group.method, group) for group in known).items()
        if len({group.task for group in alike}) == len(alike)  # else a task has several settings of it
    }
    for x, y in combinations(methods, 2):
        tasks = [task for task in methods[x] if task in methods[y]]
        if len(tasks) > 1:
            rows.append(_row(", ".join(tasks), x, y, [(methods[x][task], methods[y][task]) for task in tasks]))
    return [row for row in rows if row]


def _last(group: SeedGroup, end: float) -> np.ndarray:
    """The mean of the last three online evaluations up to ``end`` environment steps, of each counted run that has any."""
    values = [score_run([row for row in run.rows if row["env_steps"] <= end])["last"] for run in group.counted]
    return np.array([value for value in values if math.isfinite(value)])


def _row(tasks: str, x: str, y: str, pairs: Sequence[tuple[SeedGroup, SeedGroup]]) -> list[str]:
    """One row; empty where a group has fewer than two evaluated runs so early."""
    ends = [min(run.env_steps for group in pair for run in group.counted if run.env_steps) for pair in pairs]
    scores = [[_last(group, ROUNDING * end) for group in pair] for pair, end in zip(pairs, ends, strict=True)]
    samples = [of_x for of_x, _ in scores] + [of_y for _, of_y in scores]
    if min(map(len, samples)) < 2:
        return []
    interval = bootstrap_interval(samples, probability_of_improvement)
    shown = f"fewer than {FEWEST_SEEDS} seeds" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    seeds = " and ".join(str(sum(map(len, side))) for side in zip(*scores, strict=True))
    steps = ", ".join(f"{end:,.0f}" for end in ends)
    return [tasks, x, y, seeds, steps, f"{probability_of_improvement(*samples):.2f}", shown]
