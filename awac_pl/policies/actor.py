"""The policy as a network, and the normalisation of its observations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from awac_pl.errors import SettingError
from awac_pl.policies.numpy_policy import NumpyPolicy, SquashedPolicy
from awac_pl.policies.products import DenseFunction, Engine, choose_engine, usable
from awac_pl.settings import check_memory

#: Number of observations, the sum of each component, and of its square.
Moments = tuple[int, list[float], list[float]]


def moments(observations: Tensor) -> Moments:
    """The moments of observations ``[N, O]``."""
    rows = observations.double()
    return len(rows), rows.sum(dim=0).tolist(), rows.square().sum(dim=0).tolist()


class Normalizer(nn.Module):
    """``(s - mean) / scale`` per component of the observation, with the moments of recorded observations.

    In Adroit positions vary by centimetres and joints by a radian. Without normalisation a network hardly sees where the
    door is: clones of 25 human demonstrations never open it; with normalisation they sometimes do.

    Args:
        observation_dim: O.
    """

    mean: Tensor
    scale: Tensor

    #: A component that hardly varies in the data is magnified at most 100 times.
    SMALLEST_SCALE = 0.01

    def __init__(self, observation_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(observation_dim))
        self.register_buffer("scale", torch.ones(observation_dim))

    def measure(self, parts: Iterable[Moments]) -> None:
        """Set mean and scale from the ``moments`` of one or several sets of observations."""
        counts, sums, squares = (torch.tensor(part, dtype=torch.float64) for part in zip(*parts, strict=True))
        mean = sums.sum(dim=0) / counts.sum()
        variance = (squares.sum(dim=0) / counts.sum() - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        self.scale.copy_(variance.sqrt().clamp(min=self.SMALLEST_SCALE))

    def forward(self, observation: Tensor) -> Tensor:
        """``[..., O]``."""
        return (observation - self.mean) / self.scale


def check_training_memory(key: str, hidden_sizes: Sequence[int], sizes: Sequence[int], networks: int = 1) -> None:
    """Refuse networks whose weights, gradients and Adam's two moments do not fit into memory.

    Raises:
        SettingError: they do not.
    """
    weights = networks * sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    check_memory(f"{key} {list(hidden_sizes)}", 4 * 4 * weights)


class Actor(nn.Module):
    """Gaussian policy: ``mean = tanh(mlp(s))``, one log standard deviation per action, the same in all states.

    A sigmoid keeps the log standard deviation in ``log_std_range``. The density is a Normal around the mean, without a
    correction for the tanh, as in the authors' code.

    Args:
        observation_dim: O.
        action_dim: A.
        hidden_sizes: width of each hidden ReLU layer.
        log_std_range: lower and upper bound of the log standard deviation.
        initial_std: standard deviation before training, inside this range.

    ``engine`` is the library that multiplies; see ``products.py``.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int] = (256, 256),
        log_std_range: tuple[float, float] = (-6.0, 0.0),
        initial_std: float = 0.05,
    ) -> None:
        super().__init__()
        sizes = [observation_dim, *hidden_sizes, action_dim]
        low, high = log_std_range
        if not low < high:
            raise SettingError(f"model.log_std_range is {list(log_std_range)}; the lower bound must come first")
        check_training_memory("model.actor_hidden_sizes", hidden_sizes, sizes)
        self.layers = _linear_layers(sizes)
        self.engine: Engine = choose_engine()
        self.log_std_range = log_std_range
        share = (math.log(initial_std) - low) / (high - low)
        if not 0 < share < 1:
            raise SettingError(
                f"model.initial_std is {initial_std}; it must lie in (exp({low}), exp({high})), given by model.log_std_range"
            )
        self.std_logit = nn.Parameter(torch.full((action_dim,), math.log(share / (1 - share))))

    def forward(self, observation: Tensor) -> Tensor:
        """Mean action ``[B, A]`` in (-1, 1)."""
        return torch.tanh(_through(self.layers, observation, self.engine))

    @property
    def log_std(self) -> Tensor:
        """``[A]``."""
        low, high = self.log_std_range
        return low + (high - low) * torch.sigmoid(self.std_logit)

    def log_prob(self, mean: Tensor, action: Tensor) -> Tensor:
        """Log density ``[B]`` of actions ``[B, A]`` around means ``[B, A]``."""
        log_std = self.log_std
        standardised = (action - mean) * torch.exp(-log_std)
        constant = log_std.sum() + 0.5 * math.log(2 * math.pi) * log_std.numel()
        return -0.5 * standardised.square().sum(dim=-1) - constant

    def sample(self, mean: Tensor) -> Tensor:
        """Actions ``[B, A]`` around means ``[B, A]``, not clipped; gradients pass to the means, not to the deviation."""
        return mean + torch.randn_like(mean) * self.log_std.detach().exp()

    def to_numpy(self, deterministic: bool = False, normalizer: Normalizer | None = None) -> NumpyPolicy:
        """A snapshot for workers, which later training does not change.

        With the normalizer of this network's inputs, the snapshot takes raw observations.
        """
        std = self.log_std.detach().exp().cpu().numpy().copy()
        return NumpyPolicy(*_arrays(self.layers), std, deterministic, **_scaling(normalizer))


class SquashedActor(nn.Module):
    """Gaussian policy behind a tanh, with a deviation for each state: ``a = tanh(u)``, ``u ~ N(mean(s), std(s))``.

    It is the policy of soft actor-critic (Haarnoja et al., arXiv 1812.05905, appendix C).

    Args:
        observation_dim: O.
        action_dim: A.
        hidden_sizes: width of each hidden ReLU layer.
        log_std_range: the log standard deviation of ``u`` is clipped to this range.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int] = (256, 256),
        log_std_range: tuple[float, float] = (-20.0, 2.0),
    ) -> None:
        super().__init__()
        sizes = [observation_dim, *hidden_sizes, 2 * action_dim]
        check_training_memory("model.actor_hidden_sizes", hidden_sizes, sizes)
        self.layers = _linear_layers(sizes)
        self.engine: Engine = choose_engine()
        self.log_std_range = log_std_range

    def forward(self, observation: Tensor) -> Tensor:
        """The action ``[B, A]`` in (-1, 1) at the mean of ``u``."""
        return torch.tanh(self.distribution(observation)[0])

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of ``u``, ``[B, A]`` each."""
        mean, log_std = _through(self.layers, observation, self.engine).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[B, A]`` and their log densities ``[B]``; gradients pass to the mean and to the deviation."""
        mean, log_std = self.distribution(observation)
        noise = torch.randn_like(mean)
        u = mean + noise * log_std.exp()
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) without loss of digits where tanh(u) is near 1
        slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
        return torch.tanh(u), (normal - slope).sum(dim=-1)

    def to_numpy(self, deterministic: bool = False, normalizer: Normalizer | None = None) -> NumpyPolicy | SquashedPolicy:
        """See ``Actor``. The deterministic policy is an ordinary ``NumpyPolicy``, whose deviation is 0."""
        weights, biases = _arrays(self.layers)
        if not deterministic:
            return SquashedPolicy(weights, biases, self.log_std_range, **_scaling(normalizer))
        size = len(biases[-1]) // 2
        weights, biases = (*weights[:-1], weights[-1][:, :size].copy()), (*biases[:-1], biases[-1][:size].copy())
        std = np.zeros(size, np.float32)
        return NumpyPolicy(weights, biases, std, deterministic=True, **_scaling(normalizer))


def _linear_layers(sizes: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))


def _through(layers: nn.ModuleList, observation: Tensor, engine: Engine) -> Tensor:
    """Outputs of the last layer, with a ReLU before it."""
    hidden, last, linear = observation, len(layers) - 1, cast(list[nn.Linear], list(layers))
    hooked = any(layer._forward_pre_hooks or layer._forward_hooks for layer in linear)  # pruning makes the weight in a hook
    fast = engine == "onednn" and not hooked and usable(observation, linear[0].weight)
    for index, layer in enumerate(linear):
        if fast:
            hidden = DenseFunction.apply(hidden, layer.weight.t(), layer.bias, index < last, engine)
        else:
            hidden = layer(hidden)
            hidden = hidden.relu_() if index < last else hidden
    return hidden


def _arrays(layers: nn.ModuleList) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Copies of weights ``[in, out]`` and biases ``[out]``."""
    linear = cast(list[nn.Linear], list(layers))
    weights = tuple(layer.weight.data.cpu().numpy().T.copy() for layer in linear)
    return weights, tuple(layer.bias.data.cpu().numpy().copy() for layer in linear)


def _scaling(normalizer: Normalizer | None) -> dict[str, Any]:
    """Mean and scale ``[O]`` for a policy; empty without a normalizer."""
    parts = {} if normalizer is None else {"mean": normalizer.mean, "scale": normalizer.scale}
    return {name: part.detach().cpu().numpy().copy() for name, part in parts.items()}
