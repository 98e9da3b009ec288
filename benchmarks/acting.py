"""Environment steps for several numbers of workers, and an online epoch against its two parts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from awac_pl.data import ReplayDataModule
from awac_pl.interaction import EnvironmentInteraction, collect_block
from awac_pl.rollouts import RolloutWorkers
from awac_pl.tasks import find_task
from benchmarks.measure import compare, in_turn
from benchmarks.updating import EpochClock, make_module


def environment_steps(counts: Sequence[int], rounds: int, env_steps: int = 8000) -> dict[str, dict[str, Any]]:
    """Steps per second of the pen task with the stochastic policy; the base is one process without workers."""
    policy = make_module((256, 256), torch.device("cpu")).policy()
    pools = {count: RolloutWorkers(find_task("pen"), count) for count in (0, *counts)}

    def measure(count: int) -> Callable[[], float]:
        return lambda: collect_block(pools[count], policy, 0, env_steps).seconds

    try:
        variants = {("this process" if count == 0 else f"{count} worker(s)"): measure(count) for count in pools}
        return compare(in_turn(variants, rounds), "this process", env_steps)
    finally:
        for pool in pools.values():
            pool.close()


def overlap(workers: int, batch: int, updates: int, env_steps: int, epochs: int) -> dict[str, Any]:
    """Seconds of an online epoch, overlapped, beside those of its updates alone and of its steps alone; medians.

    The epoch's time counts from taking in its block, so a block that is not ready yet is waited for inside.
    """
    data = ReplayDataModule(
        task="pen", datasets=["awac/pen/expert-v0"], batch_size=batch, updates_per_epoch=updates, offline_epochs=0,
        workers=workers,
    )  # fmt: skip
    module = make_module((256, 256), torch.device("cpu"))

    def fit(*callbacks: Callback, offline: bool) -> list[float]:
        data.offline_epochs = epochs if offline else 0
        clock = EpochClock()
        lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[clock, *callbacks], limit_val_batches=0,
        ).fit(module, datamodule=data)  # fmt: skip
        return clock.seconds[1:-1]  # without the warm-up and the epoch that collects no more

    alone = statistics.median(fit(offline=True))
    together = statistics.median(fit(EnvironmentInteraction(env_steps), offline=False))
    pool = RolloutWorkers(data.task, workers, data.spaces)
    try:
        blocks = [collect_block(pool, module.policy(), 1000 * index, env_steps) for index in range(epochs)]
    finally:
        pool.close()
    acting = statistics.median(block.seconds for block in blocks[1:])
    return {
        "workers": workers,
        "updates_alone_s": alone,
        "steps_alone_s": acting,
        "epoch_s": together,
        "epoch_over_the_larger": together / max(alone, acting),
        "epoch_over_the_sum": together / (alone + acting),
    }
