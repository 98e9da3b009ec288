"""RLPD: its arguments, its networks, its loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from awac_pl.algorithms import losses
from awac_pl.algorithms.base import Learner, LogStd
from awac_pl.algorithms.critics import make_critics
from awac_pl.errors import SettingError
from awac_pl.parallel.ranks import world_size
from awac_pl.policies.actor import SquashedActor
from awac_pl.settings import Count, Positive, PositiveShare, check_arguments


class RLPD(Learner):
    """Reinforcement Learning with Prior Data (Ball et al., arXiv 2302.02948): soft actor-critic on old and new data.

    Half of each batch comes from the data (``data.offline_ratio``), critics are normalised by layer, and the target is the
    minimum over a random subset of a large ensemble. Nothing is pretrained.

    Args:
        critic_hidden_sizes: width of each hidden layer of the critics.
        num_critics: E, size of the ensemble; the actor climbs its mean.
        num_target_critics: how many target critics, drawn anew in each update, make up the target by their minimum.
        critic_layer_norm: layer normalisation in the critics.
        clamp_target: clamp the critics' target to ``return_range``.
        polyak: tau, fraction of the new weights that the target critics take after each update.
        actor_every: the actor and the entropy's weight learn in every so many updates, the critics in each. One update of
            the actor per environment step is the authors' choice. A divisor of ``data.chunk_size``.
        initial_entropy_weight: alpha at the start; it is learned.
        target_entropy: of the policy; null for -A / 2.
        entropy_in_target: add the policy's entropy to the critics' target.
        log_std_range: bounds of the log standard deviation before the tanh.
        shared: the arguments of ``Learner``; the policy has a deviation of its own in each state, so ``initial_std`` does
            nothing.
    """

    actor: SquashedActor

    def __init__(
        self,
        *,
        critic_hidden_sizes: Sequence[Count] = (256, 256, 256),
        num_critics: Count = 10,
        num_target_critics: Count = 2,
        critic_layer_norm: bool = True,
        clamp_target: bool = False,
        polyak: PositiveShare = 0.005,
        actor_every: Count = 1,
        initial_entropy_weight: Positive = 1.0,
        target_entropy: float | None = None,
        entropy_in_target: bool = False,
        log_std_range: tuple[LogStd, LogStd] = (-20.0, 2.0),
        **shared: Any,
    ) -> None:
        check_arguments(RLPD.__init__, locals(), "model")
        if num_target_critics > num_critics:
            raise SettingError(f"model.num_target_critics is {num_target_critics}; model.num_critics is {num_critics} only")
        super().__init__(log_std_range=log_std_range, **shared)
        self.polyak, self.actor_every = polyak, actor_every
        self.num_target_critics, self.entropy_in_target = num_target_critics, entropy_in_target
        self.target_entropy = -self.sizes[1] / 2 if target_entropy is None else target_entropy
        self.target_range = self.return_range if clamp_target else None
        arguments = (*self.sizes, critic_hidden_sizes, num_critics, critic_layer_norm)
        self.critics, self.target_critics = make_critics(self.actor.engine, *arguments)
        self.log_entropy_weight = nn.Parameter(torch.tensor(math.log(initial_entropy_weight)))
        self.delayed = [*self.actor.parameters(), self.log_entropy_weight]
        self.follow(self.target_critics, self.critics, "polyak")

    def make_actor(
        self, hidden_sizes: Sequence[int], log_std_range: tuple[float, float], initial_std: float
    ) -> SquashedActor:
        """See ``Learner``."""
        return SquashedActor(*self.sizes, hidden_sizes, log_std_range)

    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Learner``: critic loss, and in the actor's turn the losses of the actor and of the entropy's weight."""
        observation, next_observation = batch["observation"], batch["next_observation"]
        with torch.no_grad():
            entropy_weight = self.log_entropy_weight.exp()
            next_action, next_log_prob = self.actor.sample(next_observation)
            drawn = torch.rand(len(self.critics.weights[0]), device=observation.device).topk(self.num_target_critics).indices
            next_q = self.target_critics(self.for_critics(next_observation), next_action, members=drawn)
            if self.entropy_in_target:
                next_q = next_q - entropy_weight * next_log_prob
        target = losses.td_target(batch["reward"], batch["discount"], batch["terminated"], next_q, self.target_range)
        state = self.for_critics(observation)
        q = self.critics(state, batch["action"])
        critic_loss = losses.critic_loss(q, target)
        metrics = {"train/critic_loss": critic_loss, "train/q_mean": q.mean(), "train/target_mean": target.mean()}
        if self.actor_turn:
            action, log_prob = self.actor.sample(observation)
            q_policy = self.critics(state, action, frozen=True).mean(dim=0)
            actor_loss = losses.soft_actor_loss(q_policy, log_prob, entropy_weight)
            entropy_loss = losses.entropy_loss(log_prob, self.log_entropy_weight, self.target_entropy)
            loss = critic_loss + actor_loss + entropy_loss
            metrics |= {
                "train/actor_loss": actor_loss, "train/entropy": -log_prob.mean(), "train/entropy_weight": entropy_weight,
            }  # fmt: skip
        else:
            loss = critic_loss
            if world_size() > 1:  # each rank has to have a gradient of every parameter in every update
                loss = loss + sum(0 * parameter.sum() for parameter in self.delayed)
        return loss, {name: value.detach() for name, value in {"train/loss": loss, **metrics}.items()} if watch else {}
