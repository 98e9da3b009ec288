"""How a fit ends before ``trainer.max_epochs``: on a signal at once, on a limit after a whole epoch. Both save first."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from pathlib import Path
from typing import Any, cast

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from awac_pl.errors import AwacError
from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted
from awac_pl.parallel.ranks import ending_together, world_size
from awac_pl.runs.folder import last_checkpoint

log = logging.getLogger(__name__)


class Stopping(Callback):
    """Writes ``last.ckpt`` and ends: after the chunk under way, or at once while episodes are run.

    Of several processes all end at the same place, whichever got the signal.
    """

    def __init__(self) -> None:
        self._training = contextlib.ExitStack()
        self._started = False
        self._chunk_started = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Keep Lightning's handlers away: they save nothing, and wait for other ranks that may never answer."""
        trainer._signal_connector.register_signal_handlers = interruption.take_over  # type: ignore[method-assign]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on nothing ends in the middle of an update."""
        self._training.enter_context(interruption.deferred(alone=world_size() == 1))
        self._started = True

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the time: until the ranks agree takes at most a chunk."""
        self._chunk_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End within an epoch. After its last chunk the evaluation, or the next epoch's start, does."""
        if world_size() > 1 and not interruption.received():
            interruption.undecided(time.monotonic() - self._chunk_started)
        if trainer.is_last_batch:
            return
        asked = trainer.strategy.reduce_boolean_decision(interruption.received(), all=False)
        if asked:
            raise Interrupted(interruption.signal_number())

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End between two epochs."""
        with ending_together():
            pass

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """What follows may end at any time."""
        self._training.close()
        self._started = False

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save, where the exception is ours."""
        if isinstance(exception, Interrupted) and self._started and _as_if_saved_by_lightning(trainer):
            try:
                trainer.save_checkpoint(last_checkpoint(Path(trainer.default_root_dir)))
            except AwacError as error:
                log.error("%s", error)
        self._training.close()
        self._started = False


class Limits(Callback):
    """Ends a fit after a whole epoch where Lightning would cut one, and says why it ends.

    ``trainer.max_time`` counts from each start of the run. Where it is over, or a callback asks to stop, the epoch goes on
    to its end. Comes after the callbacks that may ask.

    Args:
        timer: Lightning's, of ``trainer.max_time``; None for no limit.
    """

    def __init__(self, timer: Timer | None = None) -> None:
        self.timer = timer
        self._asked = self._trained = False
        self._patience: dict[EarlyStopping, int] = {}

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Keep what the checkpoint of a resumed run would put in place of this start's settings."""
        self._patience = {callback: callback.patience for callback in _early_stopping(trainer)}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._trained = True
        for callback, patience in self._patience.items():
            callback.patience = patience
        if self.timer is not None:
            self.timer.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put off the end to the epoch's last chunk, before its evaluation."""
        self._asked |= trainer.should_stop
        trainer.should_stop = False
        if trainer.is_last_batch:
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(self._asked or self._is_over(), all=False)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save an epoch that has no checkpoint yet, and say why the run ends here."""
        every = trainer.check_val_every_n_epoch
        if every and trainer.current_epoch % every and trainer.checkpoint_callbacks:
            _save_after_epoch(trainer)
        reasons = [message for one in _early_stopping(trainer) if (message := one.stopping_reason_message)]
        if self._is_over():
            reasons = ["trainer.max_time is over"]
        elif not trainer.should_stop:
            return
        log.info("ended after epoch %d of %s: %s", trainer.current_epoch, _number_of_epochs(trainer),
                 " ".join(reasons) or "a callback has asked for it")  # fmt: skip

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say it where there was nothing to do."""
        if not self._trained:
            log.warning("nothing to train: the run has had %d of %s epochs; to go on, raise --trainer.max_epochs "
                        "(or max_steps)", trainer.current_epoch, _number_of_epochs(trainer))  # fmt: skip

    def _is_over(self) -> bool:
        remaining = None if self.timer is None else self.timer.time_remaining()
        return remaining is not None and remaining <= 0


def whole_epochs(trainer: Any, data: Any) -> int | None:
    """``trainer.max_epochs``, or ``trainer.max_steps`` rounded up to epochs where that is less.

    Args:
        trainer: the section of the configuration.
        data: likewise.
    """
    steps, epochs = trainer.max_steps, trainer.max_epochs
    if steps in (None, -1):
        return epochs
    chunks = chunks_per_epoch(trainer, data)
    rounded = math.ceil(steps / chunks)
    if steps % chunks:
        log.warning("trainer.max_steps %d ends within an epoch, which has %d steps (chunks of updates): the run ends after "
                    "epoch %d", steps, chunks, rounded)  # fmt: skip
    return rounded if epochs in (None, -1) else min(epochs, rounded)


def chunks_per_epoch(trainer: Any, data: Any) -> int:
    """Training steps of an epoch: all its chunks of updates, or as many as ``trainer.limit_train_batches`` leaves.

    Args:
        trainer: the section of the configuration.
        data: likewise.
    """
    chunks, limit = data.updates_per_epoch // data.chunk_size, trainer.limit_train_batches
    if limit is None:
        return chunks
    return max(1, min(limit, chunks) if isinstance(limit, int) else int(limit * chunks))


def updates_per_epoch(trainer: lightning.Trainer, data: Any) -> int:
    """Updates of an epoch of the fit that has begun."""
    return int(trainer.num_training_batches) * data.chunk_size


def planned_epochs(trainer: lightning.Trainer) -> int | None:
    """Epochs at which a fit ends; None for one without an end."""
    return None if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs


def _number_of_epochs(trainer: lightning.Trainer) -> str:
    return "any number of" if (epochs := planned_epochs(trainer)) is None else str(epochs)


def _early_stopping(trainer: lightning.Trainer) -> list[EarlyStopping]:
    return [callback for callback in trainer.early_stopping_callbacks if isinstance(callback, EarlyStopping)]


def _save_after_epoch(trainer: lightning.Trainer) -> None:
    """Write ``last.ckpt`` with the loops' counters of an epoch's end, where Lightning's own checkpoints are written."""
    counters = [trainer.fit_loop.epoch_progress.total, trainer.fit_loop.epoch_progress.current]
    for progress in counters:
        progress.completed -= 1
    try:
        trainer.save_checkpoint(last_checkpoint(Path(trainer.default_root_dir)))
    finally:
        for progress in counters:
            progress.completed += 1


def _as_if_saved_by_lightning(trainer: lightning.Trainer) -> bool:
    """Bring the loops' counters into a state that Lightning knows how to resume; False where there is nothing to save.

    It knows three: after a chunk that is not the epoch's last, in the middle of an evaluation, and after an epoch.
    """
    loop = trainer.fit_loop
    if trainer.validating:  # the evaluation begins again
        evaluation = loop.epoch_loop.val_loop.batch_progress
        for progress in (evaluation.total, evaluation.current):
            progress.reset()
            progress.ready = cast(Any, progress).started = 1
        return True
    epochs = loop.epoch_progress
    if cast(Any, epochs.total).started < epochs.total.ready:  # between two epochs: as it was after the first of them
        for progress in (epochs.total, epochs.current):
            progress.ready -= 1
            progress.completed -= 1
        return epochs.total.ready > 0
    return True
