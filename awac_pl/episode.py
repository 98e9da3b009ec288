"""An episode, its transitions and its measures, as all folders exchange them.

``success`` counts an episode in which any step succeeds (as CORL, Cal-QL and WSRL report it),
``success_final`` one that succeeds at its last step, ``success_share`` is the share of steps at the goal (as RLPD and IQL
report it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Columns of a transition (s, a, r, s'). ``terminated`` stops the bootstrap, ``truncated`` (a time limit) does not.
TRANSITION_KEYS = ("observation", "action", "reward", "discount", "next_observation", "terminated", "truncated")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One whole episode of T steps, in numpy, from a simulator or a file.

    Args:
        observations: ``[T + 1, O]`` float32.
        actions: ``[T, A]`` float32; -1 and 1 are the environment's own bounds. Values beyond them are clipped unless
            ``Task.clip_actions`` is off.
        rewards: ``[T]`` float32.
        terminated: ``[T]`` bool, an end by the dynamics (no bootstrap after it).
        truncated: ``[T]`` bool, an end by time limit or by the recording.
        success: ``[T]`` bool, whether the state *after* step t is a success; None where it is unknown.
        seed: seed of its reset; None for recorded data.
        environment_rewards: ``[T]`` float32, the environment's own rewards; None for recorded data.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray | None
    seed: int | None = None
    environment_rewards: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)


def to_transitions(episodes: Sequence[Episode], n_step: int = 1, discount: float = 1.0) -> dict[str, np.ndarray]:
    """Flatten episodes into transition columns, in order.

    A transition spans k = ``n_step`` steps, or fewer at the end of an episode. Its reward is their discounted sum, its next
    observation comes k steps later, and its ``discount``, the weight of the bootstrap, is gamma^k.

    Returns:
        ``TRANSITION_KEYS`` with ``[N, O]`` observations, ``[N, A]`` actions and ``[N]`` for the rest.
    """
    parts = [_spans(episode, n_step, discount) for episode in episodes]
    return {key: np.concatenate([part[key] for part in parts]) for key in TRANSITION_KEYS}


def _spans(episode: Episode, n_step: int, discount: float) -> dict[str, np.ndarray]:
    length = len(episode)
    end = np.minimum(np.arange(length) + n_step, length)
    reward = np.zeros(length)
    for step in range(min(n_step, length)):
        reward[: length - step] += discount**step * episode.rewards[step:]
    return {
        "observation": episode.observations[:-1],
        "action": episode.actions,
        "reward": reward.astype(np.float32),
        "discount": (discount ** (end - np.arange(length))).astype(np.float32),
        "next_observation": episode.observations[end],
        "terminated": episode.terminated[end - 1],
        "truncated": episode.truncated[end - 1],
    }


def score_episodes(episodes: Sequence[Episode]) -> dict[str, float]:
    """Average the measures of episodes.

    Returns:
        ``success_rate``, ``success_final``, ``success_share`` (NaN where success is unknown), ``episode_return`` with
        its standard deviation ``episode_return_std``, ``environment_return`` (by the environment's own rewards; NaN for
        recorded episodes), ``episode_length``, and ``episodes``, their number.

    Raises:
        ValueError: no episodes.
    """
    if not episodes:
        raise ValueError("no episodes to score")
    returns = np.array([episode.rewards.sum() for episode in episodes], dtype=np.float64)
    successes = [episode.success for episode in episodes if episode.success is not None]
    known = len(successes) == len(episodes)
    own = [episode.environment_rewards.sum() for episode in episodes if episode.environment_rewards is not None]
    return {
        "success_rate": float(np.mean([success.any() for success in successes])) if known else math.nan,
        "success_final": float(np.mean([success[-1] for success in successes])) if known else math.nan,
        "success_share": float(np.mean([success.mean() for success in successes])) if known else math.nan,
        "episode_return": float(returns.mean()),
        "episode_return_std": float(returns.std()),
        "environment_return": float(np.mean(own)) if len(own) == len(episodes) else math.nan,
        "episode_length": float(np.mean([len(episode) for episode in episodes])),
        "episodes": float(len(episodes)),
    }
