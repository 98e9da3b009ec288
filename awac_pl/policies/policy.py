"""The protocol of a policy: all that rollouts know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Policy(Protocol):
    """Chooses actions. Worker processes get copies, so it can be pickled."""

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action ``[A]`` for one observation ``[O]``; all randomness comes from ``rng``."""


@dataclass(frozen=True)
class UniformPolicy:
    """Random actions, without regard to the observation.

    Args:
        action_dim: A.
    """

    action_dim: int

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action ``[A]`` float32, uniform in [-1, 1]."""
        return rng.uniform(-1, 1, self.action_dim).astype(np.float32)
