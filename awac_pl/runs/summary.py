"""What a run amounts to: pretrained, dip, worst, last, and the returns of all its evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from awac_pl.runs.reading import Run

#: Online steps within which the dip after the switch is looked for.
DIP_WINDOW = 50_000
#: Online steps from which on a run is asked to be steady.
STEADY_FROM = 100_000


def score_run(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Summarise a run from its evaluations, in the order they were made.

    Args:
        rows: each with ``env_steps``, ``eval/success_rate`` and, online, ``rollout/regret``; rows without an evaluation
            are passed over.

    Returns:
        ``pretrained`` (the last evaluation before the first online step), ``dip`` (the lowest within ``DIP_WINDOW``
        online steps), ``worst`` (the lowest single one from ``STEADY_FROM`` online steps on), ``steps_to_0.5`` and
        ``steps_to_0.9`` (infinity if never), ``last`` (mean of the last three online evaluations, never the maximum),
        ``regret`` (mean of ``1 - success`` over the online training episodes); NaN
        where there is nothing to measure.
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
    """The first evaluation at or behind so many online steps; None where there is none within a tenth of them."""
    late = (row for row in rows if "eval/success_rate" in row and row["env_steps"] >= env_steps)
    found = next(late, None)
    return found if found is not None and found["env_steps"] <= 1.1 * env_steps else None


def all_returns(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Every evaluation episode of a run as one sample.

    Returns:
        ``episode_return``, its standard deviation ``episode_return_std`` over the episodes, ``episode_length`` (steps per
        episode) and ``episodes``, their number; NaN where nothing was evaluated.
    """
    names = ("eval/episodes", "eval/episode_return", "eval/episode_return_std", "eval/episode_length")
    kept = [[row[name] for name in names] for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]
    if not kept:
        return {"episode_return": math.nan, "episode_return_std": math.nan, "episode_length": math.nan, "episodes": 0.0}
    episodes, returns, deviations, lengths = np.array(kept).T
    mean = np.average(returns, weights=episodes)
    # The variance within the evaluations and the one between them.
    variance = np.average(deviations**2 + (returns - mean) ** 2, weights=episodes)
    return {
        "episode_return": float(mean),
        "episode_return_std": float(np.sqrt(variance)),
        "episode_length": float(np.average(lengths, weights=episodes)),
        "episodes": float(episodes.sum()),
    }


#: Online environment steps at which success is reported, as far as a run gets.
REPORTED_STEPS = (50_000, 100_000, 200_000, 300_000, 500_000)


def stages(run: Run) -> dict[str, tuple[float, float]]:
    """Success rate and episodes of the evaluation that closes each stage, as far as there is one.

    Returns:
        ``after cloning``, ``after pretraining``, ``at 50k steps`` and so on, ``after fine-tuning``: the last online
        evaluation, of a finished run only. A rate is NaN where success is unknown.
    """
    found = {"after cloning": run.cloned} if run.cloned else {}
    evaluations = run.evaluations
    before = [row for row in evaluations if row["env_steps"] == 0]
    closing: dict[str, Mapping[str, float] | None] = {"after pretraining": before[-1] if before else None}
    closing |= {f"at {steps // 1000}k steps": evaluation_at(evaluations, steps) for steps in REPORTED_STEPS}
    closing["after fine-tuning"] = (
        evaluations[-1] if run.finished and evaluations and evaluations[-1]["env_steps"] > 0 else None
    )
    for name, row in closing.items():
        if row is not None:
            found[name] = (row.get("eval/success_rate", math.nan), row["eval/episodes"])
    return found
