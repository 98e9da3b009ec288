"""The updates of a chunk on a CPU, with the gradients written out.

The equations are those of ``losses.py``; this file adds their gradients. Autograd records every operation, and on small
batches this costs as much as the matrix products. Without it, two forward passes with the same weights also become one
product: the actor at s and s', a critic at (s, a) and (s, a_pi). The tests compare every option with autograd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch.callbacks import Callback
from tensordict import TensorDict
from torch import Tensor, nn

from awac_pl.algorithms import losses
from awac_pl.algorithms.compiling import CompileMode, compiled
from awac_pl.algorithms.critics import CriticEnsemble
from awac_pl.policies.actor import Actor
from awac_pl.policies.products import Layers

if TYPE_CHECKING:
    from awac_pl.algorithms.awac import AWAC


def is_plain(learner: AWAC, original: type[AWAC]) -> bool:
    """Whether the learner computes what ``FastUpdate`` computes.

    Its loss, networks and optimizer are the original's, no weight is frozen, and neither it nor a callback has a hook around
    the backward pass.
    """
    hooks = ("on_before_backward", "on_after_backward")
    own = ("loss", "weigh", "sum_up", "configure_optimizers", "manual_backward", *hooks)
    if any(getattr(type(learner), name) is not getattr(original, name) or name in vars(learner) for name in own):
        return False
    callbacks = [type(callback) for callback in learner.trainer.callbacks]  # type: ignore[attr-defined]
    if any(getattr(callback, name) is not getattr(Callback, name) for callback in callbacks for name in hooks):
        return False
    actor, critics = learner.actor, learner.critics
    frozen = not all(parameter.requires_grad for network in (actor, critics) for parameter in network.parameters())
    return not frozen and type(actor) is Actor and type(critics) is type(learner.target_critics) is CriticEnsemble


class FastUpdate:
    """The updates of a chunk ``[K, B]``, but for the optimizer's last step: the same numbers as autograd's, to rounding.

    Args:
        learner: whose networks learn; its options may change between chunks.
        optimizer: its optimizer; after each chunk its state is as if it had made every step.
        mode: ``by_hand``, or ``default`` for compiled gradients.
    """

    def __init__(self, learner: AWAC, optimizer: torch.optim.Adam, mode: CompileMode) -> None:
        self._gradients = self.gradients if mode == "by_hand" else compiled(self.gradients)
        self.learner, self.max_output = learner, learner.critics.max_output
        actor, critics = learner.actor, learner.critics
        by_onednn = mode == "by_hand" and actor.std_logit.dtype == torch.float32  # it takes no doubles and is not compiled
        engine = actor.engine if by_onednn else "native"
        for parameter in (*actor.parameters(), *critics.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        linear = cast(list[nn.Linear], list(actor.layers))
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
            for ensemble in (critics, learner.target_critics)
        )  # fmt: skip
        self._of_logit = cast(Tensor, actor.std_logit.grad)
        self._adam = _Adam(optimizer)
        # glibc returns large blocks to the system and faults them in again at each update, until a large block is freed:
        # this raises its thresholds. With other allocators this line does nothing.
        torch.empty(30 * 2**20, dtype=torch.uint8)

    @torch.no_grad()
    def __call__(self, chunk: TensorDict) -> TensorDict:
        """The metrics of the last update."""
        columns = {name: column.unbind(0) for name, column in chunk.items()}
        last = len(chunk) - 1
        self._adam.begin_chunk()
        for index in range(last + 1):
            batch = {name: column[index] for name, column in columns.items()}
            metrics = self._gradients(batch, self._noise(batch["action"]), index == last)
            self.learner.clip(self._adam.optimizer)
            if index < last:
                self._adam.step()
                self.learner.move_targets()
        self._adam.end_chunk()
        return TensorDict(metrics)

    def gradients(self, batch: Mapping[str, Tensor], noise: Sequence[Tensor], watch: bool) -> dict[str, Tensor]:
        """Gradients of critic loss + actor loss of one batch, into ``grad`` of the parameters.

        Args:
            batch: columns ``[B]``.
            noise: standard normal, ``[B, A]`` for the next actions and for each sampled action of the baseline.
            watch: return metrics.
        """
        learner, size = self.learner, len(batch["action"])
        low, high = learner.actor.log_std_range
        share = torch.sigmoid(learner.actor.std_logit)
        std = (low + (high - low) * share).exp()
        states = torch.cat([batch["observation"], batch["next_observation"]])
        mean, next_mean = self._actor.forward(states).tanh_().split(size)
        target = self._target(batch, torch.addcmul(next_mean, noise[0], std))

        actions = mean  # of the baseline, [N * B, A]
        if sampled := noise[1:]:
            actions = torch.cat([torch.addcmul(mean, one, std) for one in sampled])
        values, of_actions = self._of_critics(batch, learner.clipped(actions) if sampled else actions, target)
        q, q_policy = values[:, :size], values[:, size:].view(len(values), -1, size)  # [E, B], [E, N, B]
        _, weights = learner.weigh(q, target, q_policy)

        # d/d mean and d/d log std of -mean_B(w log pi(a|s)), where log pi is -z^2 / 2 - log std, summed over actions
        standardised = (batch["action"] - mean) / std
        pull = weights / -size
        weighted = standardised * pull[:, None]
        of_mean = weighted / std
        of_log_std = (weighted * standardised).sum(dim=0) - pull.sum()
        if learner.goes_uphill:
            scale = losses.scale_of(q_policy.mean(dim=(0, 1)))
            of_actions = of_actions * (-learner.value_gradient / (q_policy.numel() * scale))
            if sampled and learner.options.clip_next_action:  # clipped actions do not move
                of_actions = of_actions * (actions.abs() <= 1)
            of_mean = of_mean + of_actions.view(-1, *mean.shape).sum(dim=0)
        self._actor.backward(torch.ops.aten.tanh_backward(of_mean, mean), size)
        self._of_logit.copy_(torch.ops.aten.sigmoid_backward(of_log_std * (high - low), share))
        return learner.sum_up(batch, q, target, mean, q_policy, watch=True)[1] if watch else {}

    def _noise(self, like: Tensor) -> list[Tensor]:
        """In the order in which ``AWAC.loss`` draws it."""
        options = self.learner.options
        sampled = options.baseline_samples if options.baseline == "sampled_actions" else 0
        return [torch.randn_like(like) for _ in range(1 + sampled)]

    def _target(self, batch: Mapping[str, Tensor], next_action: Tensor) -> Tensor:
        """``[B]``, for next actions that are not clipped yet."""
        state = self.learner.for_critics(batch["next_observation"])
        rows = torch.cat([state, self.learner.clipped(next_action)], dim=1)
        next_q = torch.cat([critic.forward(rows, keep=False) for critic in self._targets], dim=1).t()
        if self.max_output is not None:
            next_q = next_q.clamp(max=self.max_output)
        target_range = self.learner.target_range
        return losses.td_target(batch["reward"], batch["discount"], batch["terminated"], next_q, target_range)

    def _of_critics(self, batch: Mapping[str, Tensor], actions: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the critics' loss, and values of the batch's actions and of other ``actions`` ``[N * B, A]``.

        Returns:
            Values ``[E, (1 + N) * B]``. The gradient ``[N * B, A]`` of the sum of the other actions' values with respect
            to these actions, if ``value_gradient`` needs it; else zeros.
        """
        observation, size = self.learner.for_critics(batch["observation"]), len(target)
        repeated = observation.repeat(1 + len(actions) // size, 1)
        rows = torch.cat([repeated, torch.cat([batch["action"], actions])], dim=1)
        uphill = self.learner.goes_uphill
        input_from = observation.shape[1] if uphill else None
        values, of_actions = [], torch.zeros_like(actions)
        for critic in self._critics:  # one after the other: a critic's activations stay in the processor's cache
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
    """Steps of a fused ``torch.optim.Adam`` by ``torch._fused_adam_``, which it calls itself.

    This leaves out its bookkeeping, which takes as long as the numbers.
    """

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self.optimizer = optimizer
        self._gradients = [[parameter.grad for parameter in group["params"]] for group in optimizer.param_groups]
        self._moments: list[tuple[list[Tensor], list[Tensor]]] = []  # of each group
        self._step = torch.zeros(())

    def begin_chunk(self) -> None:
        """Take over the optimizer's state, if it has one yet."""
        for group, gradients in zip(self.optimizer.param_groups, self._gradients, strict=True):
            for parameter, gradient in zip(group["params"], gradients, strict=True):
                parameter.grad = gradient  # a callback may have set it to None
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
        """Bring the optimizer up to date, for the chunk's last step, which is its own."""
        if self._moments:
            for state in self.optimizer.state.values():
                state["step"].copy_(self._step)
