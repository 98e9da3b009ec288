"""How good a policy is: the measures of one evaluation, of one run and over seeds. Numpy; scipy for intervals over seeds.

``success`` counts an episode in which any step succeeds (as CORL, Cal-QL and WSRL report it), ``success_final`` one that
succeeds at its last step, ``success_share`` is the share of steps at the goal (as RLPD and IQL report it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from awac_pl.episode import Episode

#: Online steps within which the dip after the switch is looked for.
DIP_WINDOW = 50_000
#: Online steps from which on a run is asked to be steady.
STEADY_FROM = 100_000
#: Seeds below which no interval over seeds is given: resampling two numbers says nothing of the third.
FEWEST_SEEDS = 3


def score_episodes(episodes: Sequence[Episode]) -> dict[str, float]:
    """Average the measures of some episodes.

    Returns:
        ``success_rate``, ``success_final``, ``success_share`` (NaN where success is unknown), ``episode_return`` with
        its standard deviation ``episode_return_std``, ``environment_return`` (what the
        environment itself paid; NaN for recorded episodes), ``episode_length`` and ``episodes``, their number.

    Raises:
        ValueError: no episodes.
    """
    if not episodes:
        raise ValueError("no episodes to score")
    returns = np.array([episode.rewards.sum() for episode in episodes], dtype=np.float64)
    successes = [episode.success for episode in episodes if episode.success is not None]
    known = len(successes) == len(episodes)
    paid = [episode.environment_rewards.sum() for episode in episodes if episode.environment_rewards is not None]
    return {
        "success_rate": float(np.mean([success.any() for success in successes])) if known else math.nan,
        "success_final": float(np.mean([success[-1] for success in successes])) if known else math.nan,
        "success_share": float(np.mean([success.mean() for success in successes])) if known else math.nan,
        "episode_return": float(returns.mean()),
        "episode_return_std": float(returns.std()),
        "environment_return": float(np.mean(paid)) if len(paid) == len(episodes) else math.nan,
        "episode_length": float(np.mean([len(episode) for episode in episodes])),
        "episodes": float(len(episodes)),
    }


def wilson_interval(successes: float, episodes: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson 1927); ``z`` is the normal quantile, 95 % by default.

    Raises:
        ValueError: no episodes.
    """
    if episodes <= 0:
        raise ValueError("no episodes to score")
    rate = successes / episodes
    centre = rate + z * z / (2 * episodes)
    spread = z * math.sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes * episodes))
    scale = 1 + z * z / episodes
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


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


def mean_over_seeds(*tasks: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean over the seeds of a task; over several tasks the mean of their means, whatever their numbers of seeds."""
    return np.mean([np.mean(values, axis=axis) for values in tasks], axis=0)


def interquartile_mean(*tasks: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean without the lowest and the highest quarter of the seeds of all tasks (Agarwal et al. 2021).

    Whole seeds are left out: of three none, so that it is their mean; of four to seven the lowest and the highest one.
    """
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)


def bootstrap_interval(
    tasks: Sequence[np.ndarray], statistic: Callable[..., np.ndarray] = mean_over_seeds
) -> tuple[np.ndarray, np.ndarray] | None:
    """95 % percentile interval over seeds, each task's seeds resampled by themselves (stratified bootstrap).

    Args:
        tasks: for each task ``[S]`` or ``[S, ...]``, one value (or array of them) a seed.
        statistic: called as ``statistic(*tasks, axis=...)``.

    Returns:
        Its ends, each shaped like the statistic; None where a task has fewer than ``FEWEST_SEEDS`` seeds.
    """
    if min(len(values) for values in tasks) < FEWEST_SEEDS:
        return None
    from scipy.stats import bootstrap

    found = bootstrap(
        tasks, statistic, n_resamples=4000, axis=0, vectorized=True, method="percentile",
        random_state=np.random.default_rng(0),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high
