"""Means and intervals over episodes and seeds. scipy is slow to import: only statistics over seeds load it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

#: Fewest seeds for an interval over seeds: resampling two numbers says nothing about a third.
FEWEST_SEEDS = 3


def wilson_interval(successes: float, episodes: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson 1927): its lower and upper end. The default ``z`` gives 95 %.

    Raises:
        ValueError: there are no episodes.
    """
    if episodes <= 0:
        raise ValueError("no episodes to score")
    rate = successes / episodes
    centre = rate + z * z / (2 * episodes)
    spread = z * math.sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes * episodes))
    scale = 1 + z * z / episodes
    # It contains the rate, which rounding must not deny: of 10 successes in 10 the upper end is 1.
    return max(0.0, min(rate, (centre - spread) / scale)), min(1.0, max(rate, (centre + spread) / scale))


def mean_over_seeds(*tasks: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean over the seeds of a task; over several tasks the mean of their means. Tasks have equal weight."""
    return np.mean([np.mean(values, axis=axis) for values in tasks], axis=0)


def interquartile_mean(*tasks: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean without the lowest and the highest quarter of the seeds of all tasks (Agarwal et al. 2021).

    It leaves out whole seeds: none of three seeds, the lowest and the highest of four to seven.
    """
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)


def probability_of_improvement(*samples: np.ndarray, axis: int = 0) -> np.ndarray:
    """How likely a run of X is better than a run of Y on the same task; ties count half (Agarwal et al. 2021).

    The mean over tasks of Mann and Whitney's U / (number of pairs).

    Args:
        samples: the seeds of X on each task, then those of Y on each task.
        axis: of the seeds.
    """
    moved = [np.moveaxis(np.asarray(values, float), axis, -1) for values in samples]
    half = len(moved) // 2
    differences = [x[..., :, None] - y[..., None, :] for x, y in zip(moved[:half], moved[half:], strict=True)]
    return np.mean([(0.5 * (np.sign(each) + 1)).mean(axis=(-2, -1)) for each in differences], axis=0)


def bootstrap_interval(
    tasks: Sequence[np.ndarray], statistic: Callable[..., np.ndarray] = mean_over_seeds
) -> tuple[np.ndarray, np.ndarray] | None:
    """95 % percentile interval over seeds. Each task's seeds are resampled separately (stratified bootstrap).

    Args:
        tasks: for each task ``[S]`` or ``[S, ...]``, one value or array per seed.
        statistic: called as ``statistic(*tasks, axis=...)``.

    Returns:
        Lower and upper end, each shaped like the statistic; None where a task has fewer than ``FEWEST_SEEDS`` seeds.
    """
    if min(len(values) for values in tasks) < FEWEST_SEEDS:
        return None
    from scipy.stats import bootstrap

    interval = bootstrap(
        tasks, statistic, n_resamples=4000, axis=0, vectorized=True, method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return interval.low, interval.high
