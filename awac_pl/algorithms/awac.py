"""AWAC: its arguments, its networks, its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms import losses
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.compiling import CompileMode
from awac_pl.algorithms.critics import CriticEnsemble, initialize_as_rlkit, wake_critics
from awac_pl.algorithms.fast_update import FastUpdate, is_plain
from awac_pl.errors import AwacError
from awac_pl.parallel.ranks import gather, own_part
from awac_pl.policies.actor import Actor
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.products import choose_engine


class AWAC(Learner):
    """Advantage Weighted Actor Critic (Nair et al., arXiv 2006.09359), K updates per training step.

    Args:
        observation_dim: O; linked from the data.
        action_dim: A; linked from the data.
        return_range: smallest and largest discounted return the task's reward allows, None if unknown; linked from the
            data. Used by ``clamp_target``.
        normalize_observations: the networks, and those of a cloned policy that is made, get observations of mean 0 and
            deviation 1 in the first dataset, the demonstrations.
        actor_hidden_sizes: width of each hidden layer of the actor.
        critic_hidden_sizes: width of each hidden layer of the critics.
        num_critics: E, size of the ensemble; its minimum is used.
        critic_layer_norm: layer normalisation in the critics.
        critic_max_output: upper clamp of the critics' output; null for none. (The authors' code: 0.)
        clamp_target: clamp the critics' target to ``return_range``.
        log_std_range: bounds of the policy's log standard deviation.
        initial_std: the policy's standard deviation at the start.
        initialization: of the weights: ``pytorch``'s ``nn.Linear``, with targets that start as copies; or as the authors'
            code draws them (``critics.initialize_as_rlkit``), with targets of their own.
        discount: gamma, in [0, 1).
        polyak: tau, fraction of the new weights that the targets take after each update.
        temperature: lambda > 0; small follows the best actions, large clones the data.
        weight_form: ``softmax`` (mean weight 1, the authors' code) or ``exp`` (the paper's equation).
        advantage_clip: largest advantage that still adds weight; null for no bound.
        max_weight: largest weight of the ``exp`` form; null for no bound.
        advantage: ``critic`` is the paper's ``Q(s, a) - V(s)``. ``td`` is ``y - V(s)`` with the critics' target: the same
            once the critics have learned, but it sees what an action led to, where young critics hardly tell one action
            from another.
        baseline: V(s) is the value of the ``mean_action``, or the mean value of ``baseline_samples`` sampled actions.
        baseline_samples: actions per state for ``baseline: sampled_actions``.
        value_gradient: weight of a term that moves the policy uphill on the critics, beside the likelihood, at the actions
            of ``baseline``; 0 is AWAC.
        clip_next_action: clip actions that are sampled, at s' and for the ``baseline``, to [-1, 1].
        actor_average: rate per update at which a second actor follows the first, as the targets follow the critics. That
            average acts, is evaluated and is exported; losses, targets and next actions use the actor itself. Its curve is
            steadier. 0 for none (AWAC).
        learning_rate: Adam's, for actor and critics.
        actor_weight_decay: Adam's L2 penalty on the actor; the critics have none.
        compile: how updates are run; speed only. ``off`` is PyTorch's autograd; ``by_hand`` has the gradients written out
            (``fast_update.py``; not where callbacks watch gradients); ``default`` and ``reduce-overhead`` are modes of
            ``torch.compile``, which takes a minute the first time; ``graph`` captures the K updates of a chunk in a CUDA
            graph. ``auto`` is ``graph`` on one CUDA device, ``by_hand`` in one process on a CPU, and ``off`` elsewhere.
        matmul_engine: which library multiplies float32 matrices on a CPU: ``native`` is PyTorch's choice; ``auto`` is
            ``onednn`` on AMD processors with AVX-512 (``products.py``). Speed and rounding only.
        matmul_precision: of float32 products, as ``torch.set_float32_matmul_precision`` has it; ``high`` is TF32.
    """

    def __init__(
        self,
        *,
        observation_dim: int,
        action_dim: int,
        return_range: tuple[float, float] | None = None,
        normalize_observations: bool = False,
        actor_hidden_sizes: Sequence[int] = (256, 256),
        critic_hidden_sizes: Sequence[int] = (256, 256),
        num_critics: int = 2,
        critic_layer_norm: bool = False,
        critic_max_output: float | None = None,
        clamp_target: bool = True,
        log_std_range: tuple[float, float] = (-6.0, 0.0),
        initial_std: float = 0.05,
        initialization: Literal["pytorch", "rlkit"] = "pytorch",
        discount: float = 0.99,
        polyak: float = 0.005,
        temperature: float = 0.5,
        weight_form: losses.WeightForm = "softmax",
        advantage_clip: float | None = 0.5,
        max_weight: float | None = None,
        advantage: Literal["critic", "td"] = "critic",
        baseline: Literal["mean_action", "sampled_actions"] = "mean_action",
        baseline_samples: int = 1,
        value_gradient: float = 0.0,
        clip_next_action: bool = True,
        actor_average: float = 0.0,
        learning_rate: float = 3e-4,
        actor_weight_decay: float = 1e-4,
        compile: CompileMode = "auto",
        matmul_engine: Literal["auto", "native", "onednn"] = "auto",
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
    ) -> None:
        super().__init__(
            observation_dim,
            normalize_observations=normalize_observations, compile=compile, matmul_precision=matmul_precision,
        )  # fmt: skip
        self.save_hyperparameters()
        self.options = losses.Options(
            discount=discount, polyak=polyak, temperature=temperature, weight_form=weight_form,
            advantage_clip=advantage_clip, max_weight=max_weight, advantage=advantage, baseline=baseline,
            baseline_samples=baseline_samples, value_gradient=value_gradient, clip_next_action=clip_next_action,
            actor_average=actor_average,
        )  # fmt: skip
        self.learning_rate, self.actor_weight_decay = learning_rate, actor_weight_decay
        actor_arguments = (observation_dim, action_dim, actor_hidden_sizes, log_std_range, initial_std)
        self.actor = Actor(*actor_arguments)
        sizes = (observation_dim, action_dim)
        critic_arguments = (*sizes, critic_hidden_sizes, num_critics, critic_layer_norm, critic_max_output)
        self.critics = CriticEnsemble(*critic_arguments)
        self.target_critics = CriticEnsemble(*critic_arguments).requires_grad_(False)
        if initialization == "rlkit":
            initialize_as_rlkit(self.actor, self.critics, self.target_critics)
        else:
            self.target_critics.load_state_dict(self.critics.state_dict())
        for network in (self.actor, self.critics, self.target_critics):
            network.engine = choose_engine(matmul_engine)
        self._followers = [(list(self.target_critics.parameters()), list(self.critics.parameters()), "polyak")]
        if not 0 <= actor_average <= 1:
            raise AwacError(f"model.actor_average is {actor_average}; it is a rate in [0, 1]")
        self.average_actor: Actor | None = None
        if actor_average:
            with torch.random.fork_rng(devices=[]):  # with and without it, a run starts and draws alike
                self.average_actor = Actor(*actor_arguments).requires_grad_(False)
            self.average_actor.load_state_dict(self.actor.state_dict())
            self._followers.append((list(self.average_actor.parameters()), list(self.actor.parameters()), "actor_average"))
        self.target_range = return_range if clamp_target else None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam over two groups: actor and critics share no parameter, so one step serves both."""
        return torch.optim.Adam(
            [
                {"params": list(self.actor.parameters()), "weight_decay": self.actor_weight_decay},
                {"params": list(self.critics.parameters()), "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
            fused=True,
            capturable=self.device.type == "cuda",  # its step counters live on the device, too
        )

    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Critic loss + actor loss of one batch ``[B]``, normalised, and the metrics if watched; moves no weight.

        The advantage is detached and no parameter is shared, so the sum has the gradients of the two losses.
        """
        options, observation, action = self.options, batch["observation"], batch["action"]
        with torch.no_grad():
            next_observation = batch["next_observation"]
            next_action = self.actor.sample(self.actor(next_observation))
            if options.clip_next_action:
                next_action = next_action.clamp(-1, 1)
            next_q = self.target_critics(next_observation, next_action)
        target = losses.td_target(batch["reward"], batch["discount"], batch["terminated"], next_q, self.target_range)
        q = self.critics(observation, action)
        critic_loss = losses.critic_loss(q, target)

        mean = self.actor(observation)
        uphill = options.value_gradient > 0
        with torch.set_grad_enabled(uphill):  # to the mean action alone
            q_policy = self._q_policy(observation, mean)
        with torch.no_grad():
            value = q_policy.amin(dim=1).mean(dim=0)
            advantage = (target if options.advantage == "td" else q.amin(dim=0)) - value
        weights = losses.advantage_weights(
            gather(advantage),  # the batch is that of all ranks together
            options.temperature,
            form=options.weight_form,
            clip=options.advantage_clip,
            max_weight=options.max_weight,
        )
        weights = own_part(weights)
        actor_loss = losses.actor_loss(self.actor.log_prob(mean, action), weights)
        if uphill:
            q_uphill = q_policy.mean(dim=(0, 1))
            scale = losses.scale_of(gather(q_uphill.detach()))
            actor_loss = actor_loss + options.value_gradient * losses.value_gradient_loss(q_uphill, scale)
        metrics = {}
        if watch:
            metrics = losses.metrics(
                batch, options.discount, critic_loss, actor_loss, q, target, advantage, weights, self.actor.log_std,
                self.critics.max_output,
            )  # fmt: skip
        return critic_loss + actor_loss, metrics

    def is_plain(self) -> bool:
        """Whether nobody has changed what ``FastUpdate`` does in its own way."""
        return is_plain(self, AWAC)

    def fast_update(self, optimizer: torch.optim.Optimizer, mode: CompileMode) -> FastUpdate:
        """See ``Learner``."""
        return FastUpdate(
            self.actor,
            self.critics,
            self.target_critics,
            cast(torch.optim.Adam, optimizer),
            lambda: self.options,
            self.target_range,
            self.move_targets,
            self.actor.engine,
            None if mode == "by_hand" else mode,
        )

    def before_first_update(self, batch: TensorDict) -> None:
        """Wake critics that would never learn."""
        if self.critics.max_output is not None:
            wake_critics(self.critics, self.target_critics, batch)

    def move_targets(self) -> None:
        """The target critics follow the critics, the average of the actor follows the actor."""
        for slow, online, rate in self._followers:
            losses.polyak_update(slow, online, getattr(self.options, rate))

    @property
    def acting_actor(self) -> Actor:
        """The actor that acts: the average, where there is one."""
        return self.actor if self.average_actor is None else self.average_actor

    def mean_action(self, observation: Tensor) -> Tensor:
        """Of the policy that acts, ``[B, A]`` for observations ``[B, O]`` as they are."""
        return self.acting_actor(observation if self.normalizer is None else self.normalizer(observation))

    def policy(self, deterministic: bool = False) -> NumpyPolicy:
        """A snapshot of the policy for workers, free of torch."""
        return self.acting_actor.to_numpy(deterministic, self.normalizer)

    def _q_policy(self, observation: Tensor, mean: Tensor) -> Tensor:
        """``[K, E, B]``: values of the mean action (K = 1) or of ``baseline_samples`` sampled ones, by frozen critics."""
        options, actions = self.options, [mean]
        if options.baseline == "sampled_actions":
            actions = [self.actor.sample(mean) for _ in range(options.baseline_samples)]
            if options.clip_next_action:
                actions = [action.clamp(-1, 1) for action in actions]
        return torch.stack([self.critics(observation, action, frozen=True) for action in actions])
