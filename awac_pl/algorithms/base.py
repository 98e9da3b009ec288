"""What every offline-to-online learner shares. It knows no environment; episodes reach it as batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import lightning
import torch
from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms.compiling import ChunkGraph, Circumstances, CompileMode, choose_mode, compiled
from awac_pl.episode import Episode, score_episodes
from awac_pl.errors import AwacError, TrainingDivergedError
from awac_pl.parallel.ranks import gather_objects, gather_random_states, rank, restore_random_state
from awac_pl.policies.actor import Normalizer, moments
from awac_pl.policies.policy import Policy


class Learner(lightning.LightningModule, ABC):
    """K updates per training step, counted, checked and measured; evaluations; checkpoints that resume to the bit.

    A learner adds its networks, ``configure_optimizers`` with one optimizer, ``loss``, ``move_targets`` and ``policy``.

    Args:
        observation_dim: O.
        normalize_observations: the networks get observations of mean 0 and deviation 1 in the demonstrations.
        compile: see ``AWAC``.
        matmul_precision: see ``AWAC``.

    The counters ``updates`` (gradient updates) and ``env_steps`` (online environment steps) are persistent buffers.
    ``epoch_metrics`` holds what ``log_epoch`` got in this epoch.
    """

    updates: Tensor
    env_steps: Tensor

    def __init__(
        self,
        observation_dim: int,
        *,
        normalize_observations: bool = False,
        compile: CompileMode = "auto",
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.normalizer = Normalizer(observation_dim) if normalize_observations else None
        self._compile, self._matmul_precision = compile, matmul_precision
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self.epoch_metrics: dict[str, float] = {}
        self._metrics: list[TensorDict] = []
        self._episodes: list[Episode] = []

    @abstractmethod
    def loss(self, batch: TensorDict, *, watch: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch ``[B]``, normalised, and its metrics if ``watch``; moves no weight."""

    @abstractmethod
    def move_targets(self) -> None:
        """What follows the weights after each update."""

    @abstractmethod
    def policy(self, deterministic: bool = False) -> Policy:
        """A snapshot of the policy for workers, free of torch."""

    def is_plain(self) -> bool:
        """Whether ``fast_update`` may stand in for autograd."""
        return False

    def fast_update(self, optimizer: torch.optim.Optimizer, mode: CompileMode) -> Callable[[TensorDict], TensorDict]:
        """The updates of a chunk without autograd; ``mode`` is ``by_hand`` or one of ``torch.compile``."""
        raise NotImplementedError

    def before_first_update(self, batch: TensorDict) -> None:
        """Look at the first batch of a run."""

    def setup(self, stage: str) -> None:
        """Choose how the updates of a fit are run.

        Raises:
            AwacError: ``trainer.precision`` is a float16 one, whose loss scaling does not fit K updates in one step.
        """
        if stage != "fit":
            return
        precision = str(self.trainer.precision)
        if "16" in precision and "bf16" not in precision:
            raise AwacError(f"trainer.precision {precision} scales the loss; use 32-true or bf16-mixed")
        torch.set_float32_matmul_precision(self._matmul_precision)
        if self.normalizer is not None:
            demonstrations = self.trainer.datamodule.demonstrations()  # type: ignore[attr-defined]
            self.normalizer.measure(gather_objects(moments(demonstrations)))
        device, ranks = self.trainer.strategy.root_device, self.trainer.world_size
        circumstances = Circumstances(device, precision, ranks, self.is_plain())
        self.compile_mode = choose_mode(self._compile, circumstances)
        self._fast: Callable[[TensorDict], TensorDict] | None = None
        self._loss = self.loss
        self._run: Callable[[TensorDict], TensorDict] = self._updates
        if self.compile_mode == "graph":
            self._run = ChunkGraph(self._updates)
        elif self.compile_mode != "off" and not circumstances.against_by_hand():
            self._run = self._updates_by_hand
        elif self.compile_mode != "off":
            self._loss = compiled(self.loss, self.compile_mode)

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
        self._metrics.append(metrics)
        if self.trainer.is_last_batch:
            self._log_epoch()

    def normalized(self, rows: TensorDict) -> TensorDict:
        """Transitions as the networks get them."""
        if self.normalizer is None:
            return rows
        columns = {key: self.normalizer(rows[key]) for key in ("observation", "next_observation")}
        return rows.copy().update(columns)

    def _updates(self, chunk: TensorDict) -> TensorDict:
        """The updates of a chunk, but for the optimizer's last step; the metrics of the last one."""
        optimizer = self.optimizers().optimizer  # type: ignore[union-attr]
        last = len(chunk) - 1
        for index, batch in enumerate(chunk.unbind(0)):
            loss, metrics = self._loss(batch, watch=index == last)
            optimizer.zero_grad()
            self.manual_backward(loss)
            if index < last:
                optimizer.step()
                self.move_targets()
        return TensorDict(metrics)

    def _updates_by_hand(self, chunk: TensorDict) -> TensorDict:
        """The same without autograd."""
        if self._fast is None:  # not before the weights are where they stay
            self._fast = self.fast_update(self.optimizers().optimizer, self.compile_mode)  # type: ignore[union-attr]
        return self._fast(chunk)

    def validation_step(self, seeds: list[int], batch_idx: int) -> None:
        """Roll out one episode per evaluation seed with the mean action."""
        self._episodes += self.trainer.datamodule.evaluate(self.policy(deterministic=True), seeds)  # type: ignore[attr-defined]

    def on_validation_epoch_start(self) -> None:
        """Forget the episodes of the last evaluation."""
        self._episodes = []

    def on_validation_epoch_end(self) -> None:
        """Log the measures of this evaluation, over the episodes of all ranks."""
        scores = score_episodes([episode for episodes in gather_objects(self._episodes) for episode in episodes])
        fitting = self.trainer.state.fn == "fit"  # then RunWriter logs, against env_steps
        self.log_dict({f"eval/{name}": value for name, value in scores.items()}, logger=not fitting)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def log_epoch(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Log the epoch's values of training metrics, the mean over all ranks."""
        self.epoch_metrics |= {name: float(value) for name, value in metrics.items()}
        self.log_dict(dict(metrics), on_step=False, on_epoch=True, logger=False, batch_size=1, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Forget the metrics of this epoch; the callbacks have read them."""
        self.epoch_metrics = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out: the learner's class, the random state, the metrics of an epoch under way."""
        checkpoint["algorithm"] = type(self).__name__
        checkpoint["random_state"] = gather_random_states(self.device)
        checkpoint["epoch_metrics"] = self.epoch_metrics
        checkpoint["chunk_metrics"] = gather_objects([dict(chunk.items()) for chunk in self._metrics])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for ``on_train_start``."""
        self._random_states = checkpoint["random_state"]
        self.epoch_metrics = checkpoint.get("epoch_metrics", {})
        chunks = checkpoint.get("chunk_metrics", [[]])
        own = chunks[rank()] if rank() < len(chunks) else []
        self._metrics = [TensorDict(chunk).to(self.device) for chunk in own]

    def on_train_start(self) -> None:
        """Restore the random state as late as possible, behind everything that might draw while it sets up."""
        states = self.__dict__.pop("_random_states", None)
        if states is None:
            if rank():  # rank 0 goes on with the run's own seed
                torch.manual_seed(torch.initial_seed() + rank())
            return
        restore_random_state(states, self.device)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {float(loss)} at update {int(self.updates)}; the last checkpoint is from before it. "
                "Lower model.learning_rate, or look for outliers in the data"
            )

    def _log_epoch(self) -> None:
        means = TensorDict.stack(self._metrics).mean(dim=0)
        self._metrics = []
        self.log_epoch(dict(means.items()))
