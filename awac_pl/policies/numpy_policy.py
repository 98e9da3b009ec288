"""The policy that workers run: numpy weights, no torch, the same numbers on every machine that runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from awac_pl.errors import AwacError, first_line


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
        """Action ``[A]`` float32 for one observation ``[O]``: the mean in [-1, 1], or a sample, which may lie outside.

        The generator advances only where the policy is stochastic.
        """
        hidden = np.asarray(observation, dtype=np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0)
        mean = np.tanh(hidden @ self.weights[-1] + self.biases[-1])
        if self.deterministic:
            return mean
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        return mean + self.std * noise

    def normalizing(self, mean: np.ndarray, scale: np.ndarray) -> NumpyPolicy:
        """This policy for observations as they are, where its own inputs are ``(observation - mean) / scale``.

        Both become part of the first layer, so that nothing outside needs to know of them.
        """
        weight = self.weights[0].astype(np.float64) / np.asarray(scale, np.float64)[:, None]
        bias = self.biases[0] - np.asarray(mean, np.float64) @ weight
        first = (weight.astype(np.float32),), (bias.astype(np.float32),)
        return replace(self, weights=first[0] + self.weights[1:], biases=first[1] + self.biases[1:])

    def to_bytes(self) -> bytes:
        """The policy as a safetensors file: ``weight_0``, ``bias_0``, …, ``std``."""
        from safetensors.numpy import save

        layers = zip(self.weights, self.biases, strict=True)
        arrays = {
            f"{name}_{i}": array
            for i, pair in enumerate(layers)
            for name, array in zip(("weight", "bias"), pair, strict=True)
        }
        metadata = {"policy": json.dumps({"layers": len(self.weights), "deterministic": self.deterministic})}
        return save({**arrays, "std": self.std}, metadata)

    @classmethod
    def load(cls, path: Path) -> NumpyPolicy:
        """Read what ``to_bytes`` wrote; nothing in the file can run code.

        Raises:
            AwacError: the file is not there, or holds no policy.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "numpy") as file:
                facts = json.loads((file.metadata() or {})["policy"])
                weights, biases = (
                    tuple(file.get_tensor(f"{name}_{layer}") for layer in range(facts["layers"]))
                    for name in ("weight", "bias")
                )
                policy = cls(weights, biases, file.get_tensor("std"), deterministic=bool(facts["deterministic"]))
        except Exception as error:
            raise AwacError(f"{path}: cannot be read as a policy ({first_line(error)}); export it anew") from error
        widths = [policy.weights[0].shape[0], *(len(bias) for bias in biases)]
        fits = [weight.shape for weight in weights] == list(pairwise(widths))
        if not fits or policy.std.shape != (widths[-1],):
            raise AwacError(f"{path}: its layers do not fit each other; export it anew")
        return policy
