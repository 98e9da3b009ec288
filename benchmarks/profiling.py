"""Where the time of one online epoch goes, by kind of work."""

from __future__ import annotations

import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.replay.data_module import ReplayDataModule
from benchmarks.updating import make_module

#: Operators by what they do; the first match counts. What no operator accounts for is Python: autograd, Lightning, us.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "Adam": ("aten::_fused_adam",),
    "targets": ("aten::_foreach_lerp",),
    "sampling": ("aten::index", "aten::rand", "aten::_index"),
    "ReLU, tanh and their gradients": ("aten::relu", "aten::threshold", "aten::tanh", "aten::clamp"),
    "copies and fills": ("aten::copy_", "aten::fill_", "aten::zero_", "aten::cat", "aten::empty", "aten::clone"),
    "noise": ("aten::normal_", "aten::randn"),
}


class OneEpoch(Callback):
    """Profiles the second online epoch; the first one warms up."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start."""
        if trainer.current_epoch == 1:
            self.profiler.__enter__()
            self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop."""
        if trainer.current_epoch == 1:
            self.seconds = time.perf_counter() - self.start
            self.profiler.__exit__(None, None, None)


def online_epoch(batch: int = 256, updates: int = 100, env_steps: int = 200, **options: Any) -> dict[str, float]:
    """Share of the trainer's time in each kind of operator; the profiler's own cost is part of ``Python and the rest``."""
    data = ReplayDataModule(
        task="pen", datasets=["awac/pen/expert-v0"], batch_size=batch, updates_per_epoch=updates, offline_epochs=0, workers=1
    )
    watched = OneEpoch()
    lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[EnvironmentInteraction(env_steps), watched], limit_val_batches=0,
    ).fit(make_module((256, 256), torch.device("cpu"), **options), datamodule=data)  # fmt: skip
    shares = dict.fromkeys(KINDS, 0.0)
    other = 0.0
    for event in watched.profiler.key_averages():
        seconds = event.self_cpu_time_total / 1e6
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), None)
        if kind is not None:
            shares[kind] += seconds / watched.seconds
        elif event.key.startswith("aten::"):
            other += seconds / watched.seconds
    shares["other elementwise operators and sums"] = other
    shares["Python and the rest"] = 1 - sum(shares.values())
    return shares
