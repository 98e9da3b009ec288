"""The policy that workers run: numpy weights, no torch, the same numbers on every machine that runs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NumpyPolicy:
    """A snapshot of the actor: a ReLU network with a tanh on its mean and a standard deviation per action.

    Args:
        weights: one ``[in, out]`` float32 matrix per layer.
        biases: one ``[out]`` float32 vector per layer.
        std: ``[A]`` float32, of the Gaussian around the mean.
        deterministic: act with the mean.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    std: np.ndarray
    deterministic: bool = False

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action ``[A]`` float32 in [-1, 1] for one observation ``[O]``; a sample is clipped to the range.

        The generator advances only where the policy is stochastic.
        """
        hidden = np.asarray(observation, dtype=np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0)
        mean = np.tanh(hidden @ self.weights[-1] + self.biases[-1])
        if self.deterministic:
            return mean
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        return np.clip(mean + self.std * noise, -1, 1)
