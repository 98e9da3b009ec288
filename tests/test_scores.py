"""Measures of an evaluation and of a run, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from awac_pl.episode import score_episodes
from awac_pl.report import statistics
from awac_pl.runs import summary
from tests.toy import make_episode


def test_scores_by_hand() -> None:
    first = make_episode(4, success=np.array([0, 1, 1, 0], bool), rewards=np.array([-1, 0, 0, -1], np.float32))
    second = make_episode(4, success=np.zeros(4, bool), rewards=np.full(4, -1, np.float32))
    result = score_episodes([first, second])
    assert result["success_rate"] == 0.5  # any step
    assert result["success_final"] == 0.0
    assert result["success_share"] == 0.25
    assert (result["episode_return"], result["episode_return_std"]) == (-3.0, 1.0)
    assert math.isnan(result["environment_return"])
    assert (result["episode_length"], result["episodes"]) == (4.0, 2.0)


def test_unknown_success_is_unavailable_not_zero() -> None:
    result = score_episodes([make_episode(success=None)])
    assert math.isnan(result["success_rate"])
    assert result["episode_return"] == -9.0


def test_wilson_by_hand() -> None:
    # 8 of 10 at z = 2: centre (0.8 + 0.2) / 1.4, half width 2 sqrt(0.016 + 0.01) / 1.4
    low, high = statistics.wilson_interval(8, 10, z=2.0)
    assert low == pytest.approx((1.0 - 2 * math.sqrt(0.026)) / 1.4)
    assert high == pytest.approx((1.0 + 2 * math.sqrt(0.026)) / 1.4)


@pytest.mark.parametrize("successes", [0, 10])
def test_wilson_at_the_ends(successes: int) -> None:
    low, high = statistics.wilson_interval(successes, 10)
    assert 0 <= low < high <= 1
    assert (low == 0) == (successes == 0)


def test_run_by_hand() -> None:
    evaluations = [(0, 0.3), (0, 0.4), (1000, 0.1), (60_000, 0.05), (70_000, 0.5), (80_000, 0.9), (90_000, 0.7)]
    rows = [{"env_steps": steps, "eval/success_rate": rate, "rollout/regret": 0.6} for steps, rate in evaluations]
    result = summary.score_run([*rows, {"env_steps": 91_000.0}])
    assert result == {
        "pretrained": 0.4,
        "dip": 0.1,  # 0.05 lies behind the first 50,000 steps
        "worst": pytest.approx(math.nan, nan_ok=True),
        "steps_to_0.5": 70_000,
        "steps_to_0.9": 80_000,
        "last": pytest.approx(0.7),
        "regret": 0.6,
    }


def test_the_worst_evaluation_counts_from_100_000_steps_on() -> None:
    evaluations = [(0, 0.1), (99_000, 0.2), (100_000, 0.8), (150_000, 0.7), (300_000, 0.9)]
    assert (
        summary.score_run([{"env_steps": steps, "eval/success_rate": rate} for steps, rate in evaluations])["worst"] == 0.7
    )


def test_a_run_without_evaluations() -> None:
    result = summary.score_run([{"env_steps": 0.0}])
    assert math.isnan(result["pretrained"])
    assert result["steps_to_0.5"] == math.inf


def test_the_environments_return_is_of_its_own_rewards() -> None:
    first, second = (make_episode(2, environment_rewards=np.full(2, value, np.float32)) for value in (-3.0, -1.0))
    assert score_episodes([first, second])["environment_return"] == -4.0
    assert math.isnan(score_episodes([first, make_episode(2)])["environment_return"])


def scores_of(*evaluations: tuple[float, float]) -> dict[str, float]:
    """Scores of a run by the environment steps and the success of its evaluations."""
    return summary.score_run([{"env_steps": steps, "eval/success_rate": rate} for steps, rate in evaluations])


def test_dip_worst_and_first_count_the_evaluations_at_their_limits() -> None:
    assert scores_of((0, 0.9), (40_000, 0.5), (50_000, 0.2), (60_000, 0.1))["dip"] == 0.2
    assert scores_of((90_000, 0.1), (100_000, 0.2), (110_000, 0.5))["worst"] == 0.2
    found = scores_of((0, 0.6), (1000, 0.5), (2000, 0.95))
    assert (found["steps_to_0.5"], found["steps_to_0.9"]) == (0, 2000)


def test_the_regret_of_a_run_is_its_last_one() -> None:
    rows = [
        {"env_steps": steps, "rollout/regret": regret} for steps, regret in ((1000.0, 0.9), (2000.0, 0.7), (3000.0, 0.6))
    ]
    assert summary.score_run(rows)["regret"] == 0.6
