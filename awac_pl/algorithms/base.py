"""What every offline-to-online learner shares. It knows no environment; episodes reach it as batches."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Literal, cast

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor, nn

from awac_pl.algorithms.compiling import ChunkGraph, CompileMode, choose_mode, compile_function, falling_back, find_obstacles
from awac_pl.algorithms.losses import polyak_update
from awac_pl.algorithms.resumable import ResumableModule
from awac_pl.algorithms.trainer_flags import Clipping
from awac_pl.errors import AwacError, TrainingDivergedError
from awac_pl.parallel.ranks import gather_objects
from awac_pl.policies.actor import Actor, Normalizer, SquashedActor, moments
from awac_pl.policies.numpy_policy import NumpyPolicy, SquashedPolicy
from awac_pl.policies.products import choose_engine
from awac_pl.settings import Count, Discount, Positive, PositiveShare, Range, Share, check_arguments

LogStd = Annotated[float, Range(-20, 10)]

log = logging.getLogger(__name__)


class Learner(ResumableModule, ABC):
    """An actor that learns by K updates per training step and is evaluated. Checkpoints resume to the bit.

    A learner adds its other networks and ``loss``, and calls ``follow`` for target networks. It passes the arguments below
    on (``def __init__(self, *, its_own, **shared): super().__init__(**shared)``); the command line offers all of them.

    Args:
        observation_dim: O; linked from the data.
        action_dim: A; linked from the data.
        return_range: smallest and largest discounted return the task's reward allows, None if unknown; linked from the
            data. ``clamp_target`` uses it.
        normalize_observations: the networks, and those of a policy cloned for the run, get observations of mean 0 and
            deviation 1 in the first dataset, the demonstrations.
        normalize_critics: how far the critics' observations are normalised, if ``normalize_observations``. Their mean is 0,
            their deviation that of the data to the power of 1 minus this. 1: as the actor's; 0: they keep their own.
        actor_hidden_sizes: width of each hidden layer of the actor.
        log_std_range: bounds of the policy's log standard deviation.
        initial_std: the policy's standard deviation at the start.
        discount: gamma, in [0, 1).
        actor_average: rate per update at which a second actor follows the first. The second one acts, is evaluated and is
            exported; the losses use the first. Its curve is steadier. 0 for none.
        learning_rate: Adam's, for all networks.
        actor_weight_decay: Adam's L2 penalty on the actor; other networks have none.
        compile: how updates are run; speed only. ``off`` is PyTorch's autograd. ``by_hand`` has AWAC's gradients written
            out (``fast_update.py``; not where callbacks watch gradients). ``graph`` captures the K updates of a chunk in a
            CUDA graph. ``default`` is ``torch.compile``, which takes up to a minute the first time, and the graph where one
            is possible; the compiler draws other random numbers. ``auto`` is ``default`` on one CUDA device, ``by_hand`` in
            one process on a CPU, and ``off`` elsewhere.
        matmul_engine: which library multiplies float32 matrices on a CPU: ``native`` is PyTorch's choice; ``auto`` is
            ``onednn`` on AMD processors with AVX-512 (``products.py``). Speed and rounding only.
        matmul_precision: of float32 products, as in ``torch.set_float32_matmul_precision``; ``high`` is TF32.

    The counters ``updates`` (gradient updates) and ``env_steps`` (online environment steps) are persistent buffers.
    ``training_success`` is the share of the online episodes so far that succeeded, 1 where none is known;
    ``EnvironmentInteraction`` keeps it.
    """

    updates: Tensor
    env_steps: Tensor
    actor: Actor | SquashedActor
    training_success = 1.0

    #: The actor learns in every so many updates (delayed updates, TD3, arXiv 1802.09477); a divisor of the chunk size.
    actor_every = 1
    #: Whether it does in the update under way. If not, ``loss`` leaves the actor's part out.
    actor_turn = True

    def __init__(
        self,
        *,
        observation_dim: Count,
        action_dim: Count,
        return_range: tuple[float, float] | None = None,
        normalize_observations: bool = False,
        normalize_critics: Share = 1.0,
        actor_hidden_sizes: Sequence[Count] = (256, 256),
        log_std_range: tuple[LogStd, LogStd] = (-6.0, 0.0),
        initial_std: Positive = 0.05,
        discount: Discount = 0.99,
        actor_average: Share = 0.0,
        learning_rate: PositiveShare = 3e-4,
        actor_weight_decay: Share = 1e-4,
        compile: CompileMode = "auto",
        matmul_engine: Literal["auto", "native", "onednn"] = "auto",
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
    ) -> None:
        check_arguments(Learner.__init__, locals(), "model")
        super().__init__()
        self.save_hyperparameters()  # those of the subclass, too
        self.automatic_optimization = False
        self.sizes = (observation_dim, action_dim)
        self.return_range, self.discount, self.actor_average = return_range, discount, actor_average
        self.learning_rate, self.actor_weight_decay = learning_rate, actor_weight_decay
        self._compile, self._matmul_precision = compile, matmul_precision
        self.normalizer = Normalizer(observation_dim) if normalize_observations else None
        self.normalize_critics = normalize_critics
        self.actor = self.make_actor(actor_hidden_sizes, log_std_range, initial_std)
        self.actor.engine = choose_engine(matmul_engine)
        self._followers: list[tuple[list[Tensor], list[Tensor], Callable[[Learner], float]]] = []
        self.delayed: list[nn.Parameter] = []  # parameters that learn in the actor's turn alone
        self.average_actor: Actor | SquashedActor | None = None
        if actor_average:
            self.average_actor = copy.deepcopy(self.actor).requires_grad_(False)
            self.follow(self.average_actor, self.actor, "actor_average")
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self.clip = Clipping()

    def make_actor(
        self, hidden_sizes: Sequence[int], log_std_range: tuple[float, float], initial_std: float
    ) -> Actor | SquashedActor:
        """The actor."""
        return Actor(*self.sizes, hidden_sizes, log_std_range, initial_std)

    @abstractmethod
    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch ``[B]`` with normalised observations, and its metrics if ``watch``; changes no weight."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam over two groups: the actor, and all other networks except those that follow another one."""
        actor = list(self.actor.parameters())
        apart = {*actor, *(parameter for slow, _, _ in self._followers for parameter in slow)}
        return torch.optim.Adam(
            [
                {"params": actor, "weight_decay": self.actor_weight_decay},
                {"params": [parameter for parameter in self.parameters() if parameter not in apart], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
            fused=True,
            capturable=self.device.type == "cuda",  # its step counters live on the device, too
        )

    def follow(self, slow: nn.Module, online: nn.Module, rate: str) -> None:
        """After each update, move the weights of ``slow`` towards those of ``online``, by the attribute named ``rate``."""
        self._followers.append((list(slow.parameters()), list(online.parameters()), attrgetter(rate)))

    def move_targets(self) -> None:
        """Move the networks that follow another one."""
        for slow, online, rate in self._followers:
            polyak_update(slow, online, rate(self))

    @property
    def acting_actor(self) -> Actor | SquashedActor:
        """The average actor if there is one, else the actor."""
        return self.actor if self.average_actor is None else self.average_actor

    def mean_action(self, observation: Tensor) -> Tensor:
        """The acting policy's mean action ``[B, A]`` for observations ``[B, O]``, not normalised."""
        return self.acting_actor(observation if self.normalizer is None else self.normalizer(observation))

    def policy(self, deterministic: bool = False) -> NumpyPolicy | SquashedPolicy:
        """A snapshot of the acting policy for workers, free of torch."""
        return self.acting_actor.to_numpy(deterministic, self.normalizer)

    def mean_policy(self) -> NumpyPolicy:
        """A snapshot that acts with the mean action."""
        return cast(NumpyPolicy, self.policy(deterministic=True))

    def is_plain(self) -> bool:
        """Whether ``fast_update`` may replace autograd: nobody changed the loss, networks, optimizer or gradients."""
        return False

    def fast_update(self, optimizer: torch.optim.Optimizer, mode: CompileMode) -> Callable[[TensorDict], TensorDict]:
        """A function that runs a chunk's updates without autograd; ``mode`` is ``by_hand`` or ``default``."""
        raise NotImplementedError

    def before_first_update(self, batch: TensorDict) -> None:
        """Check the networks on a run's first batch."""

    def configure_callbacks(self) -> list[Callback]:
        """No callbacks. But this is Lightning's first hook, before any data: see ``Clipping.take``."""
        if self.trainer.state.fn == "fit":
            self.clip.take(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Choose how a fit runs its updates, and measure the demonstrations if observations are normalised."""
        self.clip.give_back(self.trainer)
        if stage != "fit":
            return
        torch.set_float32_matmul_precision(self._matmul_precision)
        chunk = getattr(self.trainer.datamodule, "chunk_size", self.actor_every)  # type: ignore[attr-defined]
        if chunk % self.actor_every:
            raise AwacError(f"model.actor_every {self.actor_every} is no divisor of data.chunk_size {chunk}")
        if self.normalizer is not None:
            demonstrations = self.trainer.datamodule.demonstrations()  # type: ignore[attr-defined]
            self.normalizer.measure(gather_objects(moments(demonstrations)))
        elif self.normalize_critics != 1:
            log.warning(
                "model.normalize_critics %g does nothing without model.normalize_observations", self.normalize_critics
            )
        device, ranks = self.trainer.strategy.root_device, self.trainer.world_size
        obstacles = find_obstacles(device, str(self.trainer.precision), ranks, self.is_plain())
        self.compile_mode = choose_mode(self._compile, obstacles)
        self._loss, self._gradients = self.loss, self._find_gradients
        self._networks = self._see_networks()
        self._run: Callable[[TensorDict], TensorDict] = self._updates
        if self.compile_mode in ("by_hand", "default") and not obstacles["by_hand"]:
            self._run = self._updates_by_hand
        elif self.compile_mode == "default":
            self._loss = compile_function(self.loss)
            self._gradients = falling_back(self._find_gradients, self._leave_compiler)
        if self.compile_mode == "graph" or (self.compile_mode == "default" and not obstacles["graph"]):
            self._run = ChunkGraph(self._run, self.parameters(), lambda: getattr(self, "options", None))

    def on_train_epoch_start(self) -> None:
        """From an epoch before which a callback has changed the networks (pruned, frozen), run the updates eagerly."""
        if self.compile_mode != "off" and self._networks != self._see_networks():
            log.warning("model.compile: a callback has changed the networks; from now on the updates run eagerly")
            self.compile_mode, self._run, self._loss = "off", self._updates, self.loss

    def _see_networks(self) -> tuple[int, list[tuple[int, bool]]]:
        """What a fast update takes for given: how many hooks the networks have, and which tensors learn."""
        hooks = sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in self.modules())
        return hooks, [(id(parameter), parameter.requires_grad) for parameter in self.parameters()]

    def training_step(self, chunk: TensorDict, batch_idx: int) -> None:
        """K updates from a chunk ``[K, B]``.

        Lightning counts one step for all K: its wrapped optimizer steps once, for the last of them.
        """
        if not chunk.batch_dims:  # Lightning's precision plugins rebuild a TensorDict without its batch size
            chunk.auto_batch_size_(2)
        chunk = self.normalized(chunk)
        if not self.updates:
            self.before_first_update(chunk[0])
        metrics = self._run(chunk)
        self.optimizers().step()  # type: ignore[union-attr]
        self.move_targets()
        self.updates += len(chunk)
        self._check_finite(metrics["train/loss"])
        self.chunk_metrics.append(metrics)
        if self.trainer.is_last_batch:
            self.log_chunks()

    def normalized(self, rows: TensorDict) -> TensorDict:
        """Transitions with normalised observations, if the run has a normaliser."""
        if self.normalizer is None:
            return rows
        columns = {key: self.normalizer(rows[key]) for key in ("observation", "next_observation")}
        return rows.copy().update(columns)

    def for_critics(self, observation: Tensor) -> Tensor:
        """Observations as the critics get them, of those that the actor gets."""
        if self.normalizer is None or self.normalize_critics == 1:
            return observation
        return observation * self.normalizer.scale ** (1 - self.normalize_critics)

    def _updates(self, chunk: TensorDict) -> TensorDict:
        """All updates of a chunk except the optimizer's last step; returns the last update's metrics."""
        optimizer, last = self.optimizers().optimizer, len(chunk) - 1  # type: ignore[union-attr]
        for index, batch in enumerate(chunk.unbind(0)):
            self.actor_turn = (index + 1) % self.actor_every == 0
            compiled = index < last or not last  # once for all updates, without the metrics
            metrics = self._gradients(batch, watch=index == last, compiled=compiled)
            for parameter in [] if self.actor_turn else self.delayed:
                parameter.grad = None  # the optimizer passes it over
            self.clip(optimizer)
            if index < last:
                optimizer.step()
                self.move_targets()
        return TensorDict(metrics)

    def _find_gradients(self, batch: TensorDict, *, watch: bool, compiled: bool) -> dict[str, Tensor]:
        """Of one batch, and its metrics. No weight moves, so it may be repeated."""
        loss, metrics = (self._loss if compiled else self.loss)(batch, watch=watch)
        self.optimizers().optimizer.zero_grad()  # type: ignore[union-attr]
        self.manual_backward(loss)
        return metrics

    def _leave_compiler(self) -> bool:
        """Whether there was a compiled loss to leave."""
        was, self._loss = self._loss, self.loss
        return was != self.loss

    def _updates_by_hand(self, chunk: TensorDict) -> TensorDict:
        """The same without autograd. Built at the first chunk: before, Lightning may still move the weights in memory."""
        self._run = self.fast_update(self.optimizers().optimizer, self.compile_mode)  # type: ignore[union-attr]
        return self._run(chunk)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {float(loss)} at update {int(self.updates)}; the last checkpoint is from before it. "
                "Lower model.learning_rate, or look for outliers in the data"
            )
