"""The callback that ends a fit on a signal, with a checkpoint from which it goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, cast

import lightning
from lightning.pytorch.callbacks import Callback

from awac_pl.errors import AwacError
from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted
from awac_pl.parallel.ranks import world_size
from awac_pl.runs.folder import last_checkpoint

log = logging.getLogger(__name__)


class Stopping(Callback):
    """Writes ``last.ckpt`` and ends: after the chunk under way, or at once while episodes are run.

    Of several processes all end after the same chunk, whichever got the signal; none ends while episodes are run.
    """

    def __init__(self) -> None:
        self._training = contextlib.ExitStack()
        self._started = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on nothing ends in the middle of an update."""
        interruption.take_over()  # from Lightning, which saves nothing
        self._training.enter_context(interruption.deferred(strictly=world_size() > 1))
        self._started = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End within an epoch. After its last chunk the evaluation, or the next epoch's start, does."""
        if trainer.is_last_batch:
            return
        asked = trainer.strategy.reduce_boolean_decision(interruption.received(), all=False)
        if asked:
            raise Interrupted(interruption.signal_number())

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End between two epochs."""
        if world_size() == 1:
            interruption.check()

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
