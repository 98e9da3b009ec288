"""AWAC: its arguments, its critics, its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms import losses
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.compiling import CompileMode
from awac_pl.algorithms.critics import initialize_as_rlkit, make_critics, wake_critics
from awac_pl.algorithms.fast_update import FastUpdate, is_plain
from awac_pl.parallel.ranks import gather, own_part
from awac_pl.policies.actor import Actor
from awac_pl.settings import Count, CountOrZero, NotNegative, Positive, PositiveShare, Range, check_arguments


@dataclass(frozen=True, kw_only=True)
class Options:
    """What an update depends on beside networks and data; ``AWAC`` explains each.

    To change one during a fit, assign ``module.options = dataclasses.replace(module.options, temperature=0.3)``. The
    weights of the step uphill, in pretraining and online, are ``module.value_gradients``.
    """

    polyak: float
    temperature: float
    weight_form: losses.WeightForm
    advantage_clip: float | None
    max_weight: float | None
    advantage: Literal["critic", "td"]
    baseline: Literal["mean_action", "sampled_actions"]
    baseline_samples: int
    clip_next_action: bool


class AWAC(Learner):
    """Advantage Weighted Actor Critic (Nair et al., arXiv 2006.09359), K updates per training step.

    Args:
        critic_hidden_sizes: width of each hidden layer of the critics.
        num_critics: E, size of the ensemble; its minimum is used.
        critic_layer_norm: layer normalisation in the critics.
        critic_max_output: upper clamp of the critics' output; null for none. (The authors' code: 0.)
        clamp_target: clamp the critics' target to ``return_range``.
        initialization: of the weights. ``pytorch`` is that of ``nn.Linear``, and targets start as copies. ``rlkit`` draws
            them as the authors' code does (``critics.initialize_as_rlkit``), the targets on their own.
        polyak: tau, fraction of the new weights that the targets take after each update.
        temperature: lambda > 0; small follows the best actions, large clones the data.
        weight_form: ``softmax`` (mean weight 1, the authors' code) or ``exp`` (the paper's equation).
        advantage_clip: largest advantage that still adds weight; null for no bound.
        max_weight: largest weight of the ``exp`` form; null for no bound.
        advantage: ``critic`` is the paper's ``Q(s, a) - V(s)``. ``td`` is ``y - V(s)`` with the critics' target y. The two
            agree once the critics have learned. Young critics hardly tell one action from another; y sees what an action
            led to.
        baseline: V(s) is the value of the ``mean_action``, or the mean value of ``baseline_samples`` sampled actions.
        baseline_samples: actions per state for ``baseline: sampled_actions``.
        value_gradient: weight of a second actor loss, which moves the actions of ``baseline`` uphill on the critics; 0 is
            AWAC.
        offline_value_gradient: the same in the offline epochs; null for the same value.
        value_gradient_epochs: N. The weight goes from the offline to the online value over N s^2 online epochs, where s is
            the share of the training episodes so far that succeeded (``training_success``): slowly what works, at once what
            fails. 0 is at once.
        clip_next_action: clip sampled actions, at s' and for the ``baseline``, to [-1, 1].
        shared: the arguments of ``Learner``.

    Raises:
        SettingError: a value is out of its range; it is a ValueError.
    """

    actor: Actor
    value_gradient: Tensor

    def __init__(
        self,
        *,
        critic_hidden_sizes: Sequence[Count] = (256, 256),
        num_critics: Annotated[int, Range(1, 1000)] = 2,
        critic_layer_norm: bool = False,
        critic_max_output: float | None = None,
        clamp_target: bool = True,
        initialization: Literal["pytorch", "rlkit"] = "pytorch",
        polyak: PositiveShare = 0.005,
        temperature: Positive = 0.5,
        weight_form: losses.WeightForm = "softmax",
        advantage_clip: NotNegative | None = 0.5,
        max_weight: Positive | None = None,
        advantage: Literal["critic", "td"] = "critic",
        baseline: Literal["mean_action", "sampled_actions"] = "mean_action",
        baseline_samples: Annotated[int, Range(1, 1000)] = 1,
        value_gradient: NotNegative = 0.0,
        offline_value_gradient: NotNegative | None = None,
        value_gradient_epochs: CountOrZero = 0,
        clip_next_action: bool = True,
        **shared: Any,
    ) -> None:
        check_arguments(AWAC.__init__, locals(), "model")
        super().__init__(**shared)
        self.options = Options(
            polyak=polyak, temperature=temperature, weight_form=weight_form, advantage_clip=advantage_clip,
            max_weight=max_weight, advantage=advantage, baseline=baseline, baseline_samples=baseline_samples,
            clip_next_action=clip_next_action,
        )  # fmt: skip
        self.target_range = self.return_range if clamp_target else None
        if offline_value_gradient is None:
            offline_value_gradient = value_gradient
        self.value_gradients, self.value_gradient_epochs = (offline_value_gradient, value_gradient), value_gradient_epochs
        self.goes_uphill = max(self.value_gradients) > 0
        # what an epoch changes is a tensor: a CUDA graph reads it anew, and nothing is compiled anew
        self.register_buffer("value_gradient", torch.tensor(value_gradient, dtype=torch.float32), persistent=False)
        arguments = (*self.sizes, critic_hidden_sizes, num_critics, critic_layer_norm, critic_max_output)
        self.critics, self.target_critics = make_critics(self.actor.engine, *arguments)
        self.follow(self.target_critics, self.critics, "options.polyak")
        if initialization == "rlkit":
            initialize_as_rlkit(self.actor, self.critics, self.target_critics)
            if self.average_actor is not None:
                self.average_actor.load_state_dict(self.actor.state_dict())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set this epoch's ``value_gradient``: a fit that is resumed within an epoch has no ``on_train_epoch_start``."""
        first_online = getattr(self.trainer.datamodule, "offline_epochs", 0)  # type: ignore[attr-defined]
        value = self.value_gradient_of(self.trainer.current_epoch - first_online)
        self.value_gradient.fill_(value)
        if self.trainer.is_last_batch and len(set(self.value_gradients)) > 1:
            self.log_epoch({"train/value_gradient": value})

    def value_gradient_of(self, online_epoch: int) -> float:
        """Weight of the step uphill in the online epoch 0, 1, 2, ...; offline epochs are below 0."""
        offline, online = self.value_gradients
        epochs = self.value_gradient_epochs * self.training_success**2
        if online_epoch < 0:
            return offline
        return online if online_epoch >= epochs else offline + (online - offline) * online_epoch / epochs

    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Critic loss + actor loss of one batch ``[B]``, normalised, and the metrics if watched; changes no weight.

        The advantage is detached and no parameter is shared, so the sum has the gradients of the two losses.
        """
        observation, next_observation = batch["observation"], batch["next_observation"]
        with torch.no_grad():
            next_action = self.clipped(self.actor.sample(self.actor(next_observation)))
            next_q = self.target_critics(self.for_critics(next_observation), next_action)
        target = losses.td_target(batch["reward"], batch["discount"], batch["terminated"], next_q, self.target_range)
        state = self.for_critics(observation)
        q = self.critics(state, batch["action"])
        mean = self.actor(observation)
        with torch.set_grad_enabled(self.goes_uphill):  # to the actions alone
            actions = [mean]
            if self.options.baseline == "sampled_actions":
                actions = [self.clipped(self.actor.sample(mean)) for _ in range(self.options.baseline_samples)]
            q_policy = torch.stack([self.critics(state, action, frozen=True) for action in actions]).transpose(0, 1)
        return self.sum_up(batch, q, target, mean, q_policy, watch=watch)

    def weigh(self, q: Tensor, target: Tensor, q_policy: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and weights ``[B]`` of a batch, detached. A softmax covers the batches of all ranks.

        Args:
            q: ``[E, B]``, values of the batch's actions.
            target: ``[B]``, the critics' target.
            q_policy: ``[E, N, B]``, values of the baseline's N actions.
        """
        options = self.options
        with torch.no_grad():
            value = q_policy.amin(dim=0).mean(dim=0)
            advantage = (target if options.advantage == "td" else q.amin(dim=0)) - value
            weights = losses.advantage_weights(
                gather(advantage), options.temperature,
                form=options.weight_form, clip=options.advantage_clip, max_weight=options.max_weight,
            )  # fmt: skip
        return advantage, own_part(weights)

    def sum_up(
        self, batch: Mapping[str, Tensor], q: Tensor, target: Tensor, mean: Tensor, q_policy: Tensor, *, watch: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Critic loss + actor loss, and the metrics if watched, of what ``weigh`` takes and the policy's mean ``[B, A]``."""
        advantage, weights = self.weigh(q, target, q_policy)
        critic_loss = losses.critic_loss(q, target)
        actor_loss = losses.actor_loss(self.actor.log_prob(mean, batch["action"]), weights)
        if self.goes_uphill:
            q_uphill = q_policy.mean(dim=(0, 1))
            scale = losses.scale_of(gather(q_uphill.detach()))
            actor_loss = actor_loss + self.value_gradient * losses.value_gradient_loss(q_uphill, scale)
        metrics = {}
        if watch:
            metrics = losses.metrics(
                batch, self.discount, critic_loss, actor_loss, q, target, advantage, weights, self.actor.log_std,
                self.critics.max_output,
            )  # fmt: skip
        return critic_loss + actor_loss, metrics

    def is_plain(self) -> bool:
        """See ``Learner``."""
        return is_plain(self, AWAC)

    def fast_update(self, optimizer: torch.optim.Optimizer, mode: CompileMode) -> FastUpdate:
        """See ``Learner``."""
        return FastUpdate(self, cast(torch.optim.Adam, optimizer), mode)

    def before_first_update(self, batch: TensorDict) -> None:
        """Wake critics that would never learn."""
        if self.critics.max_output is not None:
            wake_critics(self.critics, self.target_critics, self.for_critics(batch["observation"]), batch["action"])

    def clipped(self, action: Tensor) -> Tensor:
        """Sampled actions, in [-1, 1] if ``clip_next_action``."""
        return action.clamp(-1, 1) if self.options.clip_next_action else action
