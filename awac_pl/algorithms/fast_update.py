"""The updates of a chunk on a CPU, with the gradients written out.

The equations are those of ``losses.py``; this file adds their gradients. Autograd records every operation, and on small
batches that costs as much as the products that it records. Written out, forward passes that share weights also become one
product: the actor at s and s', a critic at (s, a) and (s, a_pi). The tests compare every option with autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from tensordict import TensorDict
from torch import Tensor, nn

from awac_pl.algorithms import losses
from awac_pl.algorithms.compiling import CompileMode, compiled
from awac_pl.algorithms.critics import CriticEnsemble
from awac_pl.policies.actor import Actor
from awac_pl.policies.products import Engine, Layers


def is_plain(module: lightning.LightningModule, learner: type) -> bool:
    """Whether nobody has changed what ``FastUpdate`` does in its own way.

    That is the learner's loss, networks and optimizer, weights that are not frozen, and hooks around the backward pass, be
    they the module's or a callback's.
    """
    own = ("loss", "configure_optimizers", "manual_backward", "on_before_backward", "on_after_backward")
    if any(getattr(type(module), name) is not getattr(learner, name) or name in vars(module) for name in own):
        return False
    hooks = ("on_before_backward", "on_after_backward")
    callbacks = [type(callback) for callback in module.trainer.callbacks]  # type: ignore[attr-defined]
    if any(getattr(callback, name) is not getattr(Callback, name) for callback in callbacks for name in hooks):
        return False
    actor, critics, targets = (cast(nn.Module, getattr(module, name)) for name in ("actor", "critics", "target_critics"))
    learning = all(parameter.requires_grad for network in (actor, critics) for parameter in network.parameters())
    return learning and type(actor) is Actor and type(critics) is type(targets) is CriticEnsemble


class FastUpdate:
    """The updates of a chunk ``[K, B]``, but for the optimizer's last step: the same numbers as autograd's, to rounding.

    Args:
        actor: learns.
        critics: learn.
        target_critics: follow.
        optimizer: ``AWAC.configure_optimizers``'s; after each chunk its state is as if it had made every step.
        options: asked for at each chunk, so that they may change during a fit.
        target_range: see ``losses.td_target``.
        follow: called after each step, moves what follows the weights.
        engine: which library multiplies.
        compile_with: a mode of ``torch.compile`` for the gradients; None for none.
    """

    def __init__(
        self,
        actor: Actor,
        critics: CriticEnsemble,
        target_critics: CriticEnsemble,
        optimizer: torch.optim.Adam,
        options: Callable[[], losses.Options],
        target_range: tuple[float, float] | None,
        follow: Callable[[], None],
        engine: Engine,
        compile_with: CompileMode | None = None,
    ) -> None:
        self._gradients = self.gradients if compile_with is None else compiled(self.gradients, compile_with)
        engine = engine if actor.std_logit.dtype == torch.float32 else "native"  # oneDNN has no doubles
        self.actor, self.target_range = actor, target_range
        self._ask_options, self.options = options, options()
        self.max_output = critics.max_output
        for parameter in (*actor.parameters(), *critics.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        linear = [layer for layer in actor.layers if isinstance(layer, nn.Linear)]
        self._actor = Layers(
            [layer.weight for layer in linear], [layer.bias for layer in linear],
            out_first=True, layer_norm=False, engine=engine,
        )  # fmt: skip
        self._critics, self._targets = (
            [
                Layers(
                    ensemble.weights, ensemble.biases, critic=index,
                    out_first=False, layer_norm=ensemble.layer_norm, engine=engine,
                )
                for index in range(len(ensemble.weights[0]))
            ]
            for ensemble in (critics, target_critics)
        )  # fmt: skip
        self._of_logit = cast(Tensor, actor.std_logit.grad)
        self._follow = follow
        self._adam = _Adam(optimizer)
        # glibc gives large pieces back to the system and faults them in again, update after update, until it has seen a
        # large one freed, which moves its thresholds. Elsewhere this line does nothing.
        torch.empty(30 * 2**20, dtype=torch.uint8)

    @torch.no_grad()
    def __call__(self, chunk: TensorDict) -> TensorDict:
        """The metrics of the last update."""
        columns = {name: column.unbind(0) for name, column in chunk.items()}
        last = len(chunk) - 1
        self.options = self._ask_options()
        self._adam.begin_chunk()
        for index in range(last + 1):
            batch = {name: column[index] for name, column in columns.items()}
            metrics = self._gradients(batch, self._noise(batch["action"]), index == last)
            if index < last:
                self._adam.step()
                self._follow()
        self._adam.end_chunk()
        return TensorDict(metrics)

    def gradients(self, batch: Mapping[str, Tensor], noise: Sequence[Tensor], watch: bool) -> dict[str, Tensor]:
        """Gradients of critic loss + actor loss of one batch, into ``grad`` of the parameters.

        Args:
            batch: columns ``[B]``.
            noise: standard normal, ``[B, A]``: for the next actions, and for each sampled action of the baseline.
            watch: compute metrics.

        Returns:
            Metrics, if they are watched.
        """
        options, size = self.options, len(batch["action"])
        observation, action = batch["observation"], batch["action"]
        low, high = self.actor.log_std_range
        share = torch.sigmoid(self.actor.std_logit)
        log_std = low + (high - low) * share
        std = log_std.exp()
        states = torch.cat([observation, batch["next_observation"]])
        mean, next_mean = self._actor.forward(states).tanh_().split(size)
        target = self._target(batch, torch.addcmul(next_mean, noise[0], std))

        actions = mean  # of the baseline, [N * B, A]
        if sampled := noise[1:]:
            actions = torch.cat([torch.addcmul(mean, one, std) for one in sampled])
        clip = options.clip_next_action
        values, of_actions = self._of_critics(batch, actions.clamp(-1, 1) if sampled and clip else actions, target)
        q, q_policy = values[:, :size], values[:, size:].view(len(values), -1, size)  # [E, B], [E, N, B]
        advantage = (target if options.advantage == "td" else q.amin(dim=0)) - q_policy.amin(dim=0).mean(dim=0)
        weights = losses.advantage_weights(
            advantage, options.temperature, form=options.weight_form, clip=options.advantage_clip,
            max_weight=options.max_weight,
        )  # fmt: skip

        # d/d mean and d/d log std of -mean_B(w log pi(a|s)), where log pi is -z^2 / 2 - log std, summed over actions
        standardised = (action - mean) / std
        pull = weights / -size
        weighted = standardised * pull[:, None]
        of_mean = weighted / std
        of_log_std = (weighted * standardised).sum(dim=0) - pull.sum()
        uphill = options.value_gradient > 0
        if uphill:
            q_uphill = q_policy.mean(dim=(0, 1))
            of_actions = of_actions * (-options.value_gradient / (q_policy.numel() * losses.scale_of(q_uphill)))
            if sampled:  # clipped actions do not move, the others move the mean
                of_actions = of_actions * (actions.abs() <= 1) if clip else of_actions
                of_actions = of_actions.view(-1, *mean.shape).sum(dim=0)
            of_mean = of_mean + of_actions
        self._actor.backward(torch.ops.aten.tanh_backward(of_mean, mean), size)
        self._of_logit.copy_(torch.ops.aten.sigmoid_backward(of_log_std * (high - low), share))

        if not watch:
            return {}
        actor_loss = losses.actor_loss(self.actor.log_prob(mean, action), weights)
        if uphill:
            uphill_loss = losses.value_gradient_loss(q_uphill, losses.scale_of(q_uphill))
            actor_loss = actor_loss + options.value_gradient * uphill_loss
        critic_loss = losses.critic_loss(q, target)
        return losses.metrics(
            batch, options.discount, critic_loss, actor_loss, q, target, advantage, weights, log_std, self.max_output
        )

    def _noise(self, like: Tensor) -> list[Tensor]:
        """In the order in which ``AWAC.loss`` draws it."""
        sampled = self.options.baseline_samples if self.options.baseline == "sampled_actions" else 0
        return [torch.randn_like(like) for _ in range(1 + sampled)]

    def _target(self, batch: Mapping[str, Tensor], next_action: Tensor) -> Tensor:
        if self.options.clip_next_action:
            next_action = next_action.clamp(-1, 1)
        rows = torch.cat([batch["next_observation"], next_action], dim=1)
        next_q = torch.cat([critic.forward(rows, keep=False) for critic in self._targets], dim=1).t()
        if self.max_output is not None:
            next_q = next_q.clamp(max=self.max_output)
        return losses.td_target(batch["reward"], batch["discount"], batch["terminated"], next_q, self.target_range)

    def _of_critics(self, batch: Mapping[str, Tensor], actions: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the critics' loss, and the values of the batch's actions and of others ``[N * B, A]``.

        Returns:
            ``[E, (1 + N) * B]``, and the gradient of the sum of the others' values with respect to these actions, where
            ``value_gradient`` needs it.
        """
        observation, size = batch["observation"], len(target)
        repeated = observation.repeat(1 + len(actions) // size, 1)
        rows = torch.cat([repeated, torch.cat([batch["action"], actions])], dim=1)
        uphill = self.options.value_gradient > 0
        input_from = observation.shape[1] if uphill else None
        values, of_actions = [], torch.zeros_like(actions)
        for critic in self._critics:  # one after the other, while what a layer left is in the processor's cache
            raw = critic.forward(rows)[:, 0]
            value = raw if self.max_output is None else raw.clamp(max=self.max_output)
            of_value = (value[:size] - target) * (2 / size)
            if uphill:
                of_value = torch.cat([of_value, torch.ones_like(value[size:])])
            if self.max_output is not None:  # no gradient passes where the output is clamped
                of_value = of_value * (raw[: len(of_value)] <= self.max_output)
            of_action = critic.backward(of_value[:, None], size, input_from)
            values.append(value)
            if of_action is not None:
                of_actions = of_actions + of_action
        return torch.stack(values), of_actions


class _Adam:
    """Steps of a fused ``torch.optim.Adam``, without its bookkeeping, which takes as long as the numbers.

    ``torch._fused_adam_`` is what ``torch.optim.Adam`` calls itself.
    """

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self.optimizer = optimizer
        self._gradients = [[parameter.grad for parameter in group["params"]] for group in optimizer.param_groups]
        self._moments: list[tuple[list[Tensor], list[Tensor]]] = []  # of each group
        self._step = torch.zeros(())

    def begin_chunk(self) -> None:
        """Take over the optimizer's state, where it has any yet."""
        if not (states := self.optimizer.state):
            return
        if not self._moments:
            for group in self.optimizer.param_groups:
                of_group = [states[parameter] for parameter in group["params"]]
                self._moments.append(([state["exp_avg"] for state in of_group], [state["exp_avg_sq"] for state in of_group]))
        self._step.copy_(next(iter(states.values()))["step"])

    def step(self) -> None:
        """One step."""
        if not self._moments:  # the very first step makes the state
            self.optimizer.step()
            self.begin_chunk()
            return
        self._step += 1
        for group, gradients, (first, second) in zip(
            self.optimizer.param_groups, self._gradients, self._moments, strict=True
        ):
            torch._fused_adam_(
                group["params"], gradients, first, second, [], [self._step] * len(gradients), lr=group["lr"],
                beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"],
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def end_chunk(self) -> None:
        """Bring the optimizer up to date; the last step is its own."""
        if self._moments:
            for state in self.optimizer.state.values():
                state["step"].copy_(self._step)
        for group, gradients in zip(self.optimizer.param_groups, self._gradients, strict=True):
            for parameter, gradient in zip(group["params"], gradients, strict=True):
                parameter.grad = gradient  # whoever watches a run may have let go of it
