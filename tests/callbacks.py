"""Callbacks that tests name in a configuration."""

from __future__ import annotations

import os

from lightning.pytorch.callbacks import Callback


class DieOnRankOne(Callback):
    """A machine that goes away in the middle of a run."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 2:
            print("rank 1 dies", flush=True)
            os._exit(9)
