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


def improvement_rows(groups: Sequence[SeedGroup]) -> list[list[str]]:
    """Rows of tasks, X, Y, seeds of both, probability of improvement, its interval.

    Compared is ``last``, the mean of a run's last three online evaluations. Each pair of groups on the same task is a row,
    and so is each pair of methods on all tasks that both have, if these are several.
    """
    scores = {id(group): _last(group) for group in groups}
    known = [group for group in groups if len(scores[id(group)]) > 1]
    rows = []
    for task, alike in gather((group.task, group) for group in known).items():
        rows += [_row(task, x.label, y.label, [(scores[id(x)], scores[id(y)])]) for x, y in combinations(alike, 2)]
    methods = {
        method: {group.task: group for group in alike}
        for method, alike in gather((group.method, group) for group in known).items()
        if len({group.task for group in alike}) == len(alike)  # else a task has several settings of it
    }
    for x, y in combinations(methods, 2):
        tasks = [task for task in methods[x] if task in methods[y]]
        if len(tasks) > 1:
            pairs = [(scores[id(methods[x][task])], scores[id(methods[y][task])]) for task in tasks]
            rows.append(_row(", ".join(tasks), x, y, pairs))
    return rows


def _last(group: SeedGroup) -> np.ndarray:
    values = [score_run(run.rows)["last"] for run in group.counted]
    return np.array([value for value in values if math.isfinite(value)])


def _row(tasks: str, x: str, y: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    samples = [values for values, _ in pairs] + [values for _, values in pairs]
    ends = bootstrap_interval(samples, probability_of_improvement)
    interval = f"fewer than {FEWEST_SEEDS} seeds" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"
    seeds = " and ".join(str(sum(map(len, side))) for side in zip(*pairs, strict=True))
    return [tasks, x, y, seeds, f"{probability_of_improvement(*samples):.2f}", interval]
