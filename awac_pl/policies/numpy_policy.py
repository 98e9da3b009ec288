"""The policy that workers run: numpy weights, no torch, the same numbers on every machine that runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from awac_pl.errors import AwacError, first_line


@dataclass(frozen=True)
class _Network:
    """Dense layers with a ReLU between them.

    Args:
        weights: one ``[in, out]`` float32 matrix per layer.
        biases: one ``[out]`` float32 vector per layer.
        mean: ``[O]`` float32, subtracted from the observation; None for none. Taking it into the first layer would lose
            the digits of an observation that is large against its scale.
        scale: ``[O]`` float32, by which what remains is divided; None for none.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    mean: np.ndarray | None = field(default=None, kw_only=True)
    scale: np.ndarray | None = field(default=None, kw_only=True)

    def outputs(self, observation: np.ndarray) -> np.ndarray:
        """``[out]`` float32 of the last layer for one observation ``[O]``."""
        hidden = np.asarray(observation, dtype=np.float32)
        if self.mean is not None and self.scale is not None:
            hidden = (hidden - self.mean) / self.scale
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden @ self.weights[-1] + self.biases[-1]


@dataclass(frozen=True)
class SquashedPolicy(_Network):
    """A snapshot of ``SquashedActor``, which samples; its layers give mean and log standard deviation before the tanh.

    Args:
        log_std_range: bounds of the log standard deviation.
    """

    log_std_range: tuple[float, float]

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A sampled action ``[A]`` float32 in [-1, 1] for one observation ``[O]``."""
        mean, log_std = np.split(self.outputs(observation), 2)
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        return np.tanh(mean + np.exp(np.clip(log_std, *self.log_std_range, dtype=np.float32)) * noise)


@dataclass(frozen=True)
class NumpyPolicy(_Network):
    """A snapshot of the actor: a ReLU network with a tanh on its mean and a standard deviation per action.

    Args:
        std: ``[A]`` float32, of the Gaussian around the mean.
        deterministic: act with the mean.
    """

    std: np.ndarray
    deterministic: bool = False

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action ``[A]`` float32 for one observation ``[O]``: the mean in [-1, 1], or a sample, which may lie outside.

        Only a stochastic policy draws from the generator.
        """
        mean = np.tanh(self.outputs(observation))
        if self.deterministic:
            return mean
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        return mean + self.std * noise

    def to_bytes(self) -> bytes:
        """The policy as a safetensors file: ``weight_0``, ``bias_0``, …, ``std``; with normalisation ``mean``, ``scale``."""
        from safetensors.numpy import save

        layers = {"weight": self.weights, "bias": self.biases}
        arrays = {f"{name}_{index}": array for name, part in layers.items() for index, array in enumerate(part)}
        metadata = {"policy": json.dumps({"layers": len(self.weights), "deterministic": self.deterministic})}
        normalisation = {"mean": self.mean, "scale": self.scale}
        arrays |= {name: array for name, array in normalisation.items() if array is not None}
        return save({**arrays, "std": self.std}, metadata)

    @classmethod
    def load(cls, path: Path) -> NumpyPolicy:
        """Read a file of ``to_bytes``; nothing in it can run code.

        Raises:
            AwacError: the file does not exist, or holds no policy.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "numpy") as file:
                metadata = json.loads((file.metadata() or {})["policy"])
                weights, biases = (
                    tuple(file.get_tensor(f"{name}_{layer}") for layer in range(metadata["layers"]))
                    for name in ("weight", "bias")
                )
                names = file.keys()
                normalisation = {name: file.get_tensor(name) for name in ("mean", "scale") if name in names}
                std, deterministic = file.get_tensor("std"), bool(metadata["deterministic"])
                policy = cls(weights, biases, std, deterministic=deterministic, **normalisation)
        except Exception as error:
            raise AwacError(f"{path}: cannot be read as a policy ({first_line(error)}); export it anew") from error
        widths = [policy.weights[0].shape[0], *(len(bias) for bias in biases)]
        fits = [weight.shape for weight in weights] == list(pairwise(widths))
        normal = {None if part is None else part.shape for part in (policy.mean, policy.scale)}
        if not fits or policy.std.shape != (widths[-1],) or normal not in ({None}, {(widths[0],)}):
            raise AwacError(f"{path}: its layers do not fit each other; export it anew")
        return policy
