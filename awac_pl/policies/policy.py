"""What acts: all that rollouts know of a policy."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Policy(Protocol):
    """Chooses actions. It is copied to worker processes, so it can be pickled."""

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action ``[A]`` for one observation ``[O]``; all randomness comes from ``rng``."""
