"""The one schema of a transition and of an episode; everything that stores or moves data speaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Columns of a transition (s, a, r, s'). ``terminated`` stops the bootstrap, ``truncated`` (a time limit) does not.
TRANSITION_KEYS = ("observation", "action", "reward", "discount", "next_observation", "terminated", "truncated")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One whole episode of T steps, in numpy, as a simulator or a file gives it.

    Args:
        observations: ``[T + 1, O]`` float32.
        actions: ``[T, A]`` float32; -1 and 1 are the environment's own bounds, and what lies beyond them is clipped unless
            ``Task.clip_actions`` is off.
        rewards: ``[T]`` float32.
        terminated: ``[T]`` bool, an end that the dynamics know (no bootstrap behind it).
        truncated: ``[T]`` bool, an end by time limit or by the recording.
        success: ``[T]`` bool, whether the state *after* step t is a success; None where nobody can tell.
        seed: the seed it was reset with; None for recorded data.
        environment_rewards: ``[T]`` float32, what the environment paid, whatever ``rewards`` are; None for recorded data.
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

    A transition spans k steps: ``n_step`` of them, fewer where the episode ends before. Its reward is their discounted sum,
    its next observation the one k steps on, its ``discount`` gamma^k, what a bootstrap behind them counts.

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
