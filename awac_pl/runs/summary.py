"""Summaries of a run: its scores, the returns of all its evaluations, its success at each stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from awac_pl.runs.reading import Run

#: The dip after pretraining is the lowest success within this number of online steps.
DIP_WINDOW = 50_000
#: The worst evaluation is the lowest one from this number of online steps on.
STEADY_FROM = 100_000
#: Online environment steps at which success is reported.
REPORTED_STEPS = (50_000, 100_000, 200_000, 300_000, 500_000)
STAGES = (
    "after cloning", "after pretraining", *(f"at {steps // 1000}k steps" for steps in REPORTED_STEPS), "after fine-tuning",
)  # fmt: skip


def score_run(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Summarise a run from its evaluations.

    Args:
        rows: in order of time, each with ``env_steps``; ``eval/success_rate`` where there was an evaluation, and
            ``rollout/regret`` online.

    Returns:
        ``pretrained`` (the last evaluation before the first online step), ``dip`` (the lowest within ``DIP_WINDOW``
        online steps), ``worst`` (the lowest from ``STEADY_FROM`` online steps on), ``steps_to_0.5`` and ``steps_to_0.9``
        (infinity if never reached), ``last`` (mean of the last three online evaluations), ``regret`` (mean of
        ``1 - success`` over the online training episodes). A score without data is NaN.
    """
    evaluations = [
        (row["env_steps"], row["eval/success_rate"]) for row in rows if math.isfinite(row.get("eval/success_rate", math.nan))
    ]
    offline = [rate for steps, rate in evaluations if steps == 0]
    online = [(steps, rate) for steps, rate in evaluations if steps > 0]
    regrets = [row["rollout/regret"] for row in rows if math.isfinite(row.get("rollout/regret", math.nan))]

    def steps_to(level: float) -> float:
        return next((steps for steps, rate in evaluations if rate >= level), math.inf)

    return {
        "pretrained": offline[-1] if offline else math.nan,
        "dip": min((rate for steps, rate in online if steps <= DIP_WINDOW), default=math.nan),
        "worst": min((rate for steps, rate in online if steps >= STEADY_FROM), default=math.nan),
        "steps_to_0.5": steps_to(0.5),
        "steps_to_0.9": steps_to(0.9),
        "last": float(np.mean([rate for _, rate in online[-3:]])) if online else math.nan,
        "regret": regrets[-1] if regrets else math.nan,
    }


def evaluation_at(rows: Sequence[Mapping[str, float]], env_steps: int) -> Mapping[str, float] | None:
    """The first evaluation between this number of online steps and 10 % more; None where there is none."""
    in_time = (row for row in rows if "eval/success_rate" in row and env_steps <= row["env_steps"] <= 1.1 * env_steps)
    return next(in_time, None)


def all_returns(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean return over every evaluation episode of a run.

    Returns:
        ``episode_return``, its standard deviation ``episode_return_std`` over the episodes, ``episode_length`` (steps per
        episode) and ``episodes`` (their number). All but the last are NaN where nothing was evaluated.
    """
    names = ("eval/episodes", "eval/episode_return", "eval/episode_return_std", "eval/episode_length")
    kept = [[row[name] for name in names] for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]
    if not kept:
        return {"episode_return": math.nan, "episode_return_std": math.nan, "episode_length": math.nan, "episodes": 0.0}
    episodes, returns, deviations, lengths = np.array(kept).T
    mean = np.average(returns, weights=episodes)
    # Variance within the evaluations plus variance between them.
    variance = np.average(deviations**2 + (returns - mean) ** 2, weights=episodes)
    return {
        "episode_return": float(mean),
        "episode_return_std": float(np.sqrt(variance)),
        "episode_length": float(np.average(lengths, weights=episodes)),
        "episodes": float(episodes.sum()),
    }


def stages(run: Run) -> dict[str, tuple[float, float]]:
    """Success rate and number of episodes of the evaluation that ends each stage.

    Returns:
        The stages that the run has reached, of ``STAGES``; ``after fine-tuning`` only for a finished run. A rate is NaN
        where success is unknown.
    """
    evaluations = run.evaluations
    offline = [row for row in evaluations if row["env_steps"] == 0 == run.axis(row)]  # at its end, not within it
    online = [row for row in evaluations if row["env_steps"] > 0]
    ends = [
        offline[-1] if offline else None,
        *(evaluation_at(evaluations, steps) for steps in REPORTED_STEPS),
        online[-1] if online and run.finished else None,
    ]
    reached = {} if run.cloned is None else {STAGES[0]: run.cloned}
    for name, row in zip(STAGES[1:], ends, strict=True):
        if row is not None:
            reached[name] = (row.get("eval/success_rate", math.nan), row["eval/episodes"])
    return reached
