"""How good a policy is: the measures of one evaluation and of one run. Numpy only.

``success`` counts an episode in which any step succeeds (as CORL, Cal-QL and WSRL report it), ``success_final`` one that
succeeds at its last step, ``success_share`` is the share of steps at the goal (as RLPD and IQL report it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from awac_pl.schema import Episode

#: Online steps within which the dip after the switch is looked for.
DIP_WINDOW = 50_000


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
        online steps), ``steps_to_0.5`` and ``steps_to_0.9`` (infinity if never), ``last`` (mean of the last three online
        evaluations, never the maximum), ``regret`` (mean of ``1 - success`` over the online training episodes); NaN
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
        "steps_to_0.5": steps_to(0.5),
        "steps_to_0.9": steps_to(0.9),
        "last": float(np.mean([rate for _, rate in online[-3:]])) if online else math.nan,
        "regret": regrets[-1] if regrets else math.nan,
    }
