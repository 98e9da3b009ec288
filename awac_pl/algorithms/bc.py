"""Behaviour cloning as a learner: the floor of every comparison."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms.base import Learner
from awac_pl.policies.actor import Actor


class BC(Learner):
    """Behaviour cloning: maximum likelihood of the data's actions, without rewards and critics.

    Online episodes become data as well, unless ``data.offline_ratio`` is 1.

    Args:
        shared: the arguments of ``Learner``.
    """

    actor: Actor

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)

    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Learner``: ``-mean_B log pi(a|s)``."""
        log_prob = self.actor.log_prob(self.actor(batch["observation"]), batch["action"])
        loss = -log_prob.mean()
        metrics = {"train/loss": loss.detach(), "train/policy_std": self.actor.log_std.detach().exp().mean()}
        return loss, (metrics | {"train/actor_loss": loss.detach()} if watch else {})
