"""The protocol of a policy: all that rollouts know of it."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Policy(Protocol):
    """Chooses actions. Worker processes get copies, so it can be pickled."""

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action ``[A]`` for one observation ``[O]``; all randomness comes from ``rng``."""
