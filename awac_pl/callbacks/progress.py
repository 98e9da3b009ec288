"""The progress bar: phase, speed and success."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar


class AwacProgressBar(TQDMProgressBar):
    """Shows ``phase``, updates/s, environment steps/s, and the success of the last evaluation and the last block.

    Args:
        refresh_rate: training steps (chunks) between refreshes.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self._started = (0, 0.0)

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """Start the clock with the epoch's first chunk, so that waiting for a block does not count."""
        if trainer.fit_loop.epoch_loop.batch_idx == 0:
            self._started = (int(pl_module.updates), time.perf_counter())  # type: ignore[arg-type]

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Values to show behind the bar."""
        updates, since = self._started
        speed = (int(pl_module.updates) - updates) / max(time.perf_counter() - since, 1e-9)  # type: ignore[arg-type]
        online = trainer.datamodule.is_online(trainer.current_epoch)  # type: ignore[attr-defined]
        shown: dict[str, Any] = {"phase": "online" if online else "offline", "updates/s": f"{speed:.0f}"}
        metrics = trainer.callback_metrics
        if online and "rollout/env_steps_per_s" in metrics:
            shown["env steps/s"] = f"{float(metrics['rollout/env_steps_per_s']):.0f}"
        for name, key in (("training success", "rollout/success_rate"), ("eval success", "eval/success_rate")):
            if key in metrics:
                value = float(metrics[key])
                shown[name] = "unavailable" if math.isnan(value) else f"{value:.2f}"
        return shown
