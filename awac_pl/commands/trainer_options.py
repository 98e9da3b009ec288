"""What ``awac fit`` refuses of the Trainer's options and callbacks, before any dataset is read or made."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from tensordict import TensorDict

from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.trainer_flags import check_trainer
from awac_pl.errors import AwacError, nearest

log = logging.getLogger(__name__)
#: Callbacks that write to a logger.
NEED_LOGGER = (
    lightning_callbacks.LearningRateMonitor, lightning_callbacks.DeviceStatsMonitor, lightning_callbacks.ThroughputMonitor,
)  # fmt: skip

#: What evaluations and blocks of training episodes log.
MEASURES = {
    "eval": ("success_rate", "success_final", "success_share", "episode_return", "episode_return_std", "environment_return",
             "episode_length", "episodes"),
    "rollout": ("success_rate", "episode_return", "episode_length", "regret", "env_steps_per_s"),
}  # fmt: skip


def check_options(options: Any) -> None:
    """Refuse what a run cannot do without.

    Args:
        options: the section ``trainer`` of a configuration.

    Raises:
        AwacError: no checkpoints, no updates, or nothing between evaluations.
    """
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if options[name] == 0:
            raise AwacError(f"trainer.{name} is 0; nothing would be trained")
    for name in ("check_val_every_n_epoch", "val_check_interval"):
        if isinstance(value := options[name], int | float) and value <= 0:
            raise AwacError(f"trainer.{name} is {value}; it must be above 0")
    if options.limit_val_batches == 0:
        log.warning("trainer.limit_val_batches is 0: no evaluation, and no best.ckpt")
    for name, off in (("enable_checkpointing", False), ("barebones", True)):
        if options[name] is off:
            raise AwacError(
                f"trainer.{name}={str(off).lower()} switches off checkpoints, from which a run is resumed; leave it out "
                "(checkpoint.save_top_k=0 keeps last.ckpt alone)"
            )


def check_callbacks(trainer: lightning.Trainer, learner: Learner) -> None:
    """Refuse callbacks that would fail later: after the data is read, or at the first evaluation.

    Raises:
        AwacError: see ``check_trainer``; a callback lacks a logger, or monitors what nobody logs.
    """
    check_trainer(trainer)
    present: list[lightning_callbacks.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in present:
        name = type(callback).__name__
        if isinstance(callback, lightning_callbacks.GradientAccumulationScheduler):
            raise AwacError(f"{name}: every batch is an update of its own; raise data.batch_size")
        if isinstance(callback, NEED_LOGGER) and not trainer.loggers:
            raise AwacError(
                f"{name} has no logger to write to: leave out mlflow_uri=none, or name a logger, for example "
                "--trainer.logger=CSVLogger --trainer.logger.save_dir=csv"
            )
    if all(type(callback).__module__.startswith(("awac_pl.", "lightning.")) for callback in present):
        known = logged_metrics(learner)  # others may log what they like
        for callback in present:
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor not in known:
                kind = "checkpoint" if isinstance(callback, lightning_callbacks.ModelCheckpoint) else type(callback).__name__
                raise AwacError(f"{kind}.monitor is '{monitor}', which nothing logs.{nearest(monitor, known)}")


def logged_metrics(learner: Learner) -> set[str]:
    """Names of the metrics that a callback may monitor."""
    (observation_dim, action_dim), size = learner.sizes, 2
    batch = TensorDict(
        {
            "observation": torch.zeros(size, observation_dim), "next_observation": torch.zeros(size, observation_dim),
            "action": torch.zeros(size, action_dim), "reward": torch.zeros(size), "discount": torch.zeros(size),
            "terminated": torch.zeros(size, dtype=torch.bool), "truncated": torch.zeros(size, dtype=torch.bool),
        },
        [size],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        names = set(learner.loss(batch)[1])
    return names | {f"{prefix}/{name}" for prefix, measures in MEASURES.items() for name in measures}
