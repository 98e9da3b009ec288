"""IQL: its arguments, its networks, its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms import losses
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.critics import ValueNetwork, make_critics
from awac_pl.policies.actor import Actor
from awac_pl.settings import Count, OpenShare, Positive, PositiveShare, check_arguments


class IQL(Learner):
    """Implicit Q-Learning (Kostrikov et al., arXiv 2110.06169): no critic is ever asked about an action outside the data.

    A value network learns an upper expectile of Q over the data's actions, the critics bootstrap from it, and the policy is
    a weighted clone. All three losses of an update use the networks before it; the authors' code takes the new value network
    for the other two.

    Args:
        critic_hidden_sizes: width of each hidden layer of the critics and of the value network.
        num_critics: E; the minimum of their targets is used.
        critic_layer_norm: layer normalisation in the critics.
        clamp_target: clamp the critics' target to ``return_range``.
        polyak: tau, fraction of the new weights that the target critics take after each update.
        expectile: of Q over the data's actions, in (0, 1).
        temperature: lambda > 0 of the weights ``exp((Q - V) / lambda)``; 1 / beta in the paper.
        max_weight: largest weight; null for no bound.
        shared: the arguments of ``Learner``.
    """

    actor: Actor

    def __init__(
        self,
        *,
        critic_hidden_sizes: Sequence[Count] = (256, 256),
        num_critics: Count = 2,
        critic_layer_norm: bool = False,
        clamp_target: bool = False,
        polyak: PositiveShare = 0.005,
        expectile: OpenShare = 0.8,
        temperature: Positive = 1 / 3,
        max_weight: Positive | None = 100.0,
        **shared: Any,
    ) -> None:
        check_arguments(IQL.__init__, locals(), "model")
        super().__init__(**shared)
        self.polyak, self.expectile, self.temperature, self.max_weight = polyak, expectile, temperature, max_weight
        self.target_range = self.return_range if clamp_target else None
        arguments = (*self.sizes, critic_hidden_sizes, num_critics, critic_layer_norm)
        self.critics, self.target_critics = make_critics(self.actor.engine, *arguments)
        self.value = ValueNetwork(self.sizes[0], critic_hidden_sizes)
        self.value.engine = self.actor.engine
        self.follow(self.target_critics, self.critics, "polyak")

    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Learner``: value loss + critic loss + actor loss (eq. 5, 6 and 7). They share no parameter."""
        observation, action = batch["observation"], batch["action"]
        state = self.for_critics(observation)
        with torch.no_grad():
            q_target = self.target_critics(state, action).amin(dim=0)
            next_value = self.value.value(self.for_critics(batch["next_observation"]))
        target = losses.td_target(
            batch["reward"], batch["discount"], batch["terminated"], next_value[None], self.target_range
        )
        advantage = q_target - self.value.value(state)
        weights = losses.advantage_weights(advantage, self.temperature, form="exp", max_weight=self.max_weight)
        q = self.critics(state, action)
        value_loss = losses.expectile_loss(advantage, self.expectile)
        critic_loss = losses.critic_loss(q, target)
        actor_loss = losses.actor_loss(self.actor.log_prob(self.actor(observation), action), weights)
        loss = value_loss + critic_loss + actor_loss
        if not watch:
            return loss, {}
        metrics = losses.metrics(
            batch, self.discount, critic_loss, actor_loss, q, target, advantage, weights, self.actor.log_std
        )
        return loss, metrics | {"train/loss": loss.detach(), "train/value_loss": value_loss.detach()}
