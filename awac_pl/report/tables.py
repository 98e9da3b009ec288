"""Tables of results: success at each stage, scores, statistics over seeds, returns, speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from awac_pl.report.improvement import improvement_rows
from awac_pl.report.statistics import FEWEST_SEEDS, bootstrap_interval, interquartile_mean, mean_over_seeds, wilson_interval
from awac_pl.runs.grouping import SeedGroup
from awac_pl.runs.reading import Run, gather, number_of
from awac_pl.runs.summary import STAGES, all_returns, score_run, stages

NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; ``table.html.j2`` is its HTML.

    Args:
        title: the heading.
        columns: their names.
        rows: one cell per column.
        note: sentences below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table in GitHub's Markdown, under a heading."""
        return "\n".join([f"### {self.title}", "", self.bare_markdown(), *(["", self.note] if self.note else []), ""])

    def bare_markdown(self) -> str:
        """The same without heading and note."""

        def line(cells: Sequence[str]) -> str:
            escaped = (escape(" ".join(cell.split()), quote=False).replace("|", "\\|") for cell in cells)
            return f"| {' | '.join(escaped)} |"

        return "\n".join([line(self.columns), "|" + "---|" * len(self.columns), *map(line, self.rows)])

    @classmethod
    def of(cls, title: str, rows: Iterable[Mapping[str, str]], note: str = "") -> Table:
        """A table of at least one row; the keys of a row are the columns."""
        records = list(rows)
        return cls(title=title, columns=list(records[0]), rows=[list(row.values()) for row in records], note=note)


def result_tables(runs: Sequence[Run], groups: Sequence[SeedGroup]) -> list[Table]:
    """What the runs reached, and how fast."""
    several = [group for group in groups if len(group.runs) > 1]
    reached = _reached(runs)
    return [
        _stage_table(groups),
        Table.of(
            "Success of each run",
            (_success_row(run, reached) for run in runs),
            "With Wilson's 95 % interval of the evaluation's episodes. last: mean of the last three evaluations; dip: "
            "lowest evaluation within 50,000 steps; worst: lowest evaluation from 100,000 steps on; steps to: environment "
            "steps at the first evaluation that high; regret: mean of 1 - success over the training episodes, with "
            "exploration noise.",
        ),
        *([_seed_table(several)] if several else []),
        *([_improvement_table(rows)] if (rows := improvement_rows(groups)) else []),
        Table.of(
            "The last evaluation",
            map(_last_row, runs),
            "success: at any step; share of steps: at the goal; return: sum of the rewards that the run learns from; "
            "environment's return: sum of the environment's own rewards.",
        ),
        Table.of(
            "Returns of all evaluations",
            map(_return_row, runs),
            "Over every evaluation episode of the run, the early ones included.",
        ),
        Table.of(
            "Speed",
            map(_speed_row, runs),
            "updates/s: over the whole run; environment steps/s: over its online part; both include evaluations and "
            "checkpoints; while collecting: median over the epochs.",
        ),
    ]


def _reached(runs: Iterable[Run]) -> list[str]:
    """The stages that at least one run has reached."""
    reached = {name for run in runs for name in stages(run)}
    return [name for name in STAGES if name in reached]


def _rates(group: SeedGroup) -> dict[str, list[tuple[float, float]]]:
    """Success rate and episodes of each run at each stage that it reached. A clone that runs share counts once."""
    clones = {run.clone: run.cloned for run in group.runs if run.cloned}
    later = [(name, rate) for run in group.runs for name, rate in stages(run).items() if name != STAGES[0]]
    return gather([*((STAGES[0], rate) for rate in clones.values()), *later])


def _stage_table(groups: Sequence[SeedGroup]) -> Table:
    reached = _reached(run for group in groups for run in group.runs)
    rows = []
    for group in groups:
        row = {"task": group.task, "preset": group.label.removeprefix("preset "), "seeds": str(len(group.runs))}
        found = _rates(group)
        for name in reached:
            rates = found.get(name, [])
            successes, episodes = sum(rate * number for rate, number in rates), sum(number for _, number in rates)
            noun = "clone" if name == STAGES[0] else "seed"
            part = "" if len(rates) == len(group.runs) else f", {number_of(len(rates), noun)}"
            row[name] = _with_interval(successes / episodes, episodes, digits=3) + part if rates else NOTHING
        rows.append(row)
    notes = [
        "Success at any step of the episode, acting with the mean action; the episodes of the seeds that reached the stage "
        "pooled, with Wilson's 95 % interval",
        *(note for group in groups for note in group.notes),
    ]
    return Table.of("Success at each stage", rows, ". ".join(notes) + ".")


def _success_row(run: Run, reached: Sequence[str]) -> dict[str, str]:
    rates, scores = stages(run), _scores(run)
    return {
        "run": run.name if run.finished else f"{run.name} ({run.status})",
        **{name: _with_interval(*rates[name]) if name in rates else NOTHING for name in reached},
        **{name: _number(scores[name]) for name in ("last", "dip", "worst")},
        **{name: _steps(scores[name]) for name in ("steps to 0.5", "steps to 0.9")},
        "regret": _number(scores["regret"]),
    }


def _scores(run: Run) -> dict[str, float]:
    """The scores in the tables; NaN where unknown."""
    scores = score_run(run.rows)
    if not any(math.isfinite(row.get("eval/success_rate", math.nan)) for row in run.evaluations):
        scores |= {"steps_to_0.5": math.nan, "steps_to_0.9": math.nan}
    names = ("last", "dip", "worst", "regret", "steps_to_0.5", "steps_to_0.9")
    return {name.replace("_", " "): scores[name] for name in names}


def _seed_table(groups: Sequence[SeedGroup]) -> Table:
    """Statistics over the seeds of each group, and over tasks where a method has several; ``groups`` have two seeds."""
    rows = []
    for group in groups:
        for name, values in _by_seed(group).items():
            rows.append([f"{group.task}, {group.label}", name, *_over_seeds(name, [values])])
    for method, alike in sorted(gather((group.method, group) for group in groups).items()):
        if not 1 < len({group.task for group in alike}) == len(alike):  # one task, or a task with several settings
            continue
        measures = [_by_seed(group) for group in alike]
        for name in measures[0]:
            if all(name in each for each in measures) and not name.startswith("steps to"):  # tasks differ in length
                together = _over_seeds(name, [each[name] for each in measures])
                rows.append([f"{len(alike)} tasks, {method}", name, *together])
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
        note="Intervals: bootstrap over the seeds, separately for each task; none where a task has fewer than "
        f"{FEWEST_SEEDS} seeds. The interquartile mean leaves out whole seeds, a quarter at each end (none of three). The "
        "mean over several tasks is the mean of the tasks' means.",
    )


def _improvement_table(rows: list[list[str]]) -> Table:
    return Table(
        title="One method against another",
        columns=["tasks", "X", "Y", "seeds", "environment steps", "X is better", "95 % interval"],
        rows=rows,
        note="How likely a run of X is above a run of Y on the same task, by the mean of the last three evaluations up to "
        "where the shortest of these runs ends (environment steps); ties count half; over several tasks the mean. Interval: "
        "bootstrap over the seeds (Agarwal et al. 2021).",
    )


def _by_seed(group: SeedGroup) -> dict[str, np.ndarray]:
    """A value per seed: success at each stage that the seed's run reached, and the scores of the runs that are counted.

    Of clones that seeds share, one value.
    """
    rates = [(name, rate) for name, each in _rates(group).items() for rate, _ in each]
    values = gather([*rates, *(score for run in group.counted for score in _scores(run).items())])
    in_order = sorted(values, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))
    known = {name: np.array([value for value in values[name] if not math.isnan(value)]) for name in in_order}
    return {name: each for name, each in known.items() if len(each)}


def _over_seeds(name: str, tasks: list[np.ndarray]) -> list[str]:
    """Seeds, mean, interval, interquartile mean, interval, range."""
    pooled = np.concatenate(tasks)

    def show(value: Any) -> str:
        return _steps(float(value)) if name.startswith("steps to") else _number(float(value), 3)

    def estimate(statistic: Callable[..., np.ndarray]) -> list[str]:
        ends = bootstrap_interval(tasks, statistic)
        return [show(statistic(*tasks)), NOTHING if ends is None else f"{show(ends[0])} to {show(ends[1])}"]

    if never := np.isinf(pooled).sum():
        estimates = [f"reached by {len(pooled) - never} of {len(pooled)}", NOTHING, NOTHING, NOTHING]
    else:
        estimates = estimate(mean_over_seeds) + estimate(interquartile_mean)
    return [str(len(pooled)), *estimates, f"{show(pooled.min())} to {show(pooled.max())}"]


def _last_row(run: Run) -> dict[str, str]:
    last = run.evaluations[-1] if run.evaluations else {"eval/episodes": 0.0}

    def show(measure: str, digits: int = 2) -> str:
        return _number(last.get(f"eval/{measure}", math.nan), digits)

    return {
        "run": run.name,
        "episodes": show("episodes", 0),
        "success": show("success_rate"),
        "at the last step": show("success_final"),
        "share of steps": show("success_share"),
        "return": show("episode_return", 1),
        "environment's return": show("environment_return", 1),
    }


def _return_row(run: Run) -> dict[str, str]:
    returns = all_returns(run.rows)
    return {
        "run": run.name,
        "average return": _number(returns["episode_return"], 1),
        "standard deviation": _number(returns["episode_return_std"], 1),
        "episodes": _number(returns["episodes"], 0),
        "steps per episode": _number(returns["episode_length"], 1),
    }


def _speed_row(run: Run) -> dict[str, str]:
    timed = [row for row in run.rows if "seconds" in row]
    end = timed[-1] if timed else dict.fromkeys(("seconds", "updates", "env_steps"), math.nan)
    pretraining = max((row["seconds"] for row in timed if row["env_steps"] == 0), default=0.0)
    speeds = [row["rollout/env_steps_per_s"] for row in timed if "rollout/env_steps_per_s" in row]
    return {
        "run": run.name,
        "wall time": _duration(end["seconds"]),
        "updates": _steps(end["updates"]),
        "updates/s": _rate(end["updates"], end["seconds"]),
        "environment steps": _steps(end["env_steps"]),
        "environment steps/s": _rate(end["env_steps"], end["seconds"] - pretraining),
        "while collecting": f"{np.median(speeds):,.0f}" if speeds else NOTHING,
    }


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def _with_interval(rate: float, episodes: float, digits: int = 2) -> str:
    if not math.isfinite(rate):
        return "unknown"
    low, high = wilson_interval(rate * episodes, episodes)
    return f"{rate:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _steps(value: float) -> str:
    return NOTHING if math.isnan(value) else "never" if math.isinf(value) else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return NOTHING
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"


def _rate(count: float, seconds: float) -> str:
    return f"{count / seconds:,.1f}" if seconds > 0 and count else NOTHING
