"""Callbacks that tests name in a configuration."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class DieOnRankOne(Callback):
    """A machine that goes away in the middle of a run."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 3:
            print("rank 1 dies", flush=True)
            os._exit(9)


class Announce(Callback):
    """Writes into the file ``phase`` of the working folder what the run does now."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.datamodule.is_online(trainer.current_epoch):
            self._say(trainer, "online")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not trainer.datamodule.is_online(trainer.current_epoch):
            self._say(trainer, "pretraining")  # once there is something to save

    def on_validation_start(self, trainer, pl_module) -> None:
        self._say(trainer, "evaluation")

    def on_fit_end(self, trainer, pl_module) -> None:
        self._say(trainer, "report")

    def _say(self, trainer, phase: str) -> None:
        if trainer.is_global_zero:
            Path("phase").write_text(phase)
