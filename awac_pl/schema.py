"""The one schema of a transition and of an episode; everything that stores or moves data speaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Columns of a transition (s, a, r, s'). ``terminated`` stops the bootstrap, ``truncated`` (a time limit) does not.
TRANSITION_KEYS = ("observation", "action", "reward", "next_observation", "terminated", "truncated")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One whole episode of T steps, in numpy, as a simulator or a file gives it.

    Args:
        observations: ``[T + 1, O]`` float32.
        actions: ``[T, A]`` float32 in [-1, 1], where the environment's own bounds are mapped to -1 and 1.
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


def to_transitions(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Flatten episodes into transition columns, in order.

    Returns:
        ``TRANSITION_KEYS`` with ``[N, O]`` observations, ``[N, A]`` actions and ``[N]`` for the rest.
    """
    return {
        "observation": np.concatenate([episode.observations[:-1] for episode in episodes]),
        "action": np.concatenate([episode.actions for episode in episodes]),
        "reward": np.concatenate([episode.rewards for episode in episodes]),
        "next_observation": np.concatenate([episode.observations[1:] for episode in episodes]),
        "terminated": np.concatenate([episode.terminated for episode in episodes]),
        "truncated": np.concatenate([episode.truncated for episode in episodes]),
    }
