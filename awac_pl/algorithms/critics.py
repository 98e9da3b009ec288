"""The ensemble of critics and its initial weights. A trailing dimension of 1 never leaves this file."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from awac_pl.parallel.ranks import gather_objects
from awac_pl.policies.actor import Actor, check_training_memory
from awac_pl.policies.products import DenseFunction, Engine, choose_engine, usable

log = logging.getLogger(__name__)


class CriticEnsemble(nn.Module):
    """E independent critics, evaluated together as batched products.

    Args:
        observation_dim: O.
        action_dim: A.
        hidden_sizes: width of each hidden ReLU layer.
        num_critics: E.
        layer_norm: normalise the inputs of every hidden ReLU (RLPD, arXiv 2302.02948).
        max_output: upper clamp of the output (the authors' code: 0), without gradient above it; None for no clamp.

    ``engine`` is the library that multiplies; see ``products.py``.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int] = (256, 256),
        num_critics: int = 2,
        layer_norm: bool = False,
        max_output: float | None = None,
    ) -> None:
        super().__init__()
        sizes = [observation_dim + action_dim, *hidden_sizes, 1]
        check_training_memory("model.critic_hidden_sizes", hidden_sizes, sizes, num_critics)
        self.engine: Engine = choose_engine()
        self.layer_norm = layer_norm
        self.max_output = max_output
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # the same initial range as nn.Linear
            self.weights.append(nn.Parameter(torch.empty(num_critics, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(num_critics, 1, fan_out).uniform_(-bound, bound)))

    def forward(self, observation: Tensor, action: Tensor, *, frozen: bool = False, members: Tensor | None = None) -> Tensor:
        """Values ``[E, B]`` of observations ``[B, O]`` and actions ``[B, A]``.

        Args:
            observation: see above.
            action: see above.
            frozen: let no gradient pass to the weights.
            members: indices of the critics that are asked; None for all.
        """
        q = self.unclamped(observation, action, frozen=frozen, members=members)
        return q if self.max_output is None else q.clamp(max=self.max_output)

    def unclamped(
        self, observation: Tensor, action: Tensor, *, frozen: bool = False, members: Tensor | None = None
    ) -> Tensor:
        """The values of ``forward`` without the clamp ``max_output``."""
        number = len(self.weights[0]) if members is None else len(members)
        hidden = torch.cat([observation, action], dim=-1).expand(number, -1, -1)
        last = len(self.weights) - 1
        fast = self.engine == "onednn" and usable(observation, self.weights[0])
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight, bias = (weight.detach(), bias.detach()) if frozen else (weight, bias)
            weight, bias = (weight, bias) if members is None else (weight[members], bias[members])
            if fast:  # oneDNN has no batched product
                critics = zip(hidden, weight, bias[:, 0], strict=True)
                hidden = torch.stack([DenseFunction.apply(*critic, False, self.engine) for critic in critics])
            else:
                hidden = torch.baddbmm(bias, hidden, weight)
            if index < last:
                if self.layer_norm:
                    hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
                hidden = hidden.relu_()
        return hidden.squeeze(-1)


def make_critics(engine: Engine, *arguments: Any) -> tuple[CriticEnsemble, CriticEnsemble]:
    """Critics, and target critics that start as their copy and get no gradient.

    Args:
        engine: the library that multiplies.
        arguments: of ``CriticEnsemble``.
    """
    critics, targets = CriticEnsemble(*arguments), CriticEnsemble(*arguments).requires_grad_(False)
    targets.load_state_dict(critics.state_dict())
    critics.engine = targets.engine = engine
    return critics, targets


class ValueNetwork(CriticEnsemble):
    """V(s): one critic that sees no action.

    Args:
        observation_dim: O.
        hidden_sizes: width of each hidden ReLU layer.
    """

    def __init__(self, observation_dim: int, hidden_sizes: Sequence[int] = (256, 256)) -> None:
        super().__init__(observation_dim, 0, hidden_sizes, num_critics=1)

    def value(self, observation: Tensor) -> Tensor:
        """``[B]`` of observations ``[B, O]``."""
        return self(observation, observation[:, :0])[0]


@torch.no_grad()
def initialize_as_rlkit(actor: Actor, *ensembles: CriticEnsemble) -> None:
    """Draw all weights again as the authors' code does (rlkit, ``torch/networks/mlp.py``).

    Weights are uniform in +-1/sqrt(fan-out), those of the actor's last layer in +-0.001, of the critics' last layer in
    +-0.003; biases are 0.
    """
    linear = cast(list[nn.Linear], list(actor.layers))
    networks = [([layer.weight for layer in linear], [layer.bias for layer in linear], 0, 1e-3)]
    networks += [(list(ensemble.weights), list(ensemble.biases), 2, 3e-3) for ensemble in ensembles]
    for weights, biases, out, last in networks:
        for weight in weights[:-1]:
            weight.uniform_(-1, 1).mul_(weight.shape[out] ** -0.5)
        weights[-1].uniform_(-last, last)
        for bias in biases:
            bias.zero_()


@torch.no_grad()
def wake_critics(critics: CriticEnsemble, target_critics: CriticEnsemble, observation: Tensor, action: Tensor) -> None:
    """Lower each critic whose values all start above ``max_output``, with a warning: without gradient it never learns.

    The last bias of the critic and of its target is lowered until the mean value lies at the bound. The authors' code has
    no such step; a run with such critics only clones the data.

    Args:
        critics: with a ``max_output``.
        target_critics: of these critics.
        observation: ``[B, O]`` of a run's first batch, as the critics get them.
        action: ``[B, A]``.
    """
    bound = cast(float, critics.max_output)
    q = critics.unclamped(observation, action)
    lowest = torch.tensor(gather_objects(q.amin(dim=1).tolist())).amin(dim=0)  # of all ranks
    mean = torch.tensor(gather_objects(q.mean(dim=1).tolist())).mean(dim=0)
    for index, low in enumerate(lowest.tolist()):
        if low > bound:
            down = mean[index].item() - bound
            for ensemble in (critics, target_critics):
                ensemble.biases[-1][index] -= down
            log.warning(
                "critic %d starts with all its values above model.critic_max_output %g and would never learn; "
                "its last bias is lowered by %.3g", index, bound, down,
            )  # fmt: skip
