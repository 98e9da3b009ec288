"""Environment steps for several numbers of workers, and an online epoch against its two parts."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.envs.rollouts import RolloutWorkers, collect_block
from awac_pl.envs.tasks import find_task
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.replay.data_module import ReplayDataModule
from benchmarks.measure import compare, in_turn, timed
from benchmarks.updating import EpochClock, make_module

_HERE: list[RolloutWorkers] = []  # of an unconnected process


def _steps_of_its_own(policy: NumpyPolicy, env_steps: int) -> None:
    """A process that nobody talks to while it acts."""
    if not _HERE:
        _HERE.append(RolloutWorkers(find_task("pen"), 0))
    collect_block(_HERE[0], policy, 0, env_steps)


def environment_steps(counts: Sequence[int], rounds: int, env_steps: int = 8000) -> dict[str, dict[str, Any]]:
    """Steps per second of the pen task with the stochastic policy, against one process without workers.

    For each number of workers the same number of unconnected processes runs, too: what this machine can do, as its cores
    may be fewer or shared.
    """
    policy = make_module((256, 256), torch.device("cpu")).policy()
    pools = {count: RolloutWorkers(find_task("pen"), count) for count in (0, *counts)}
    context = multiprocessing.get_context("spawn")
    apart = {count: ProcessPoolExecutor(count, context) for count in counts if count > 1}

    def pool(count: int) -> Callable[[], float]:
        return lambda: collect_block(pools[count], policy, 0, env_steps).seconds

    def unconnected(count: int) -> Callable[[], float]:
        def run() -> None:
            jobs = [apart[count].submit(_steps_of_its_own, policy, env_steps // count) for _ in range(count)]
            for job in jobs:
                job.result()

        return timed(run)

    variants = {"this process": pool(0)}
    for count in counts:
        variants[f"{count} worker(s)"] = pool(count)
        if count in apart:
            variants[f"{count} unconnected processes"] = unconnected(count)
    try:
        seconds = in_turn(variants, rounds)
    finally:
        for each in pools.values():
            each.close()
        for executor in apart.values():
            executor.shutdown()
    table = compare(seconds, "this process", env_steps)
    for count in apart:
        base = f"{count} unconnected processes"
        against = compare({name: seconds[name] for name in (base, f"{count} worker(s)")}, base, env_steps)
        table[f"{count} worker(s)"]["ratio_to_unconnected"] = against[f"{count} worker(s)"]["ratio"]
        table[f"{count} worker(s)"]["ratio_to_unconnected_range"] = against[f"{count} worker(s)"]["ratio_range"]
    return table


def overlap(workers: int, batch: int, updates: int, env_steps: int, rounds: int, epochs: int = 4) -> dict[str, Any]:
    """Seconds of an online epoch, overlapped, beside those of its updates alone and of its steps alone, in turn; medians.

    The epoch's time counts from taking in its block, so a block that is not ready yet is waited for inside.
    """
    data = ReplayDataModule(
        task="pen", datasets=["awac/pen/expert-v0"], batch_size=batch, updates_per_epoch=updates, offline_epochs=0,
        workers=workers,
    )  # fmt: skip
    module = make_module((256, 256), torch.device("cpu"))
    pool = RolloutWorkers(data.task, workers, data.spaces)

    def fit(*callbacks: Callback, offline: bool) -> float:
        data.offline_epochs = epochs if offline else 0
        clock = EpochClock()
        lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[clock, *callbacks], limit_val_batches=0,
        ).fit(module, datamodule=data)  # fmt: skip
        return statistics.median(clock.seconds[1:-1])  # without the warm-up and the epoch that collects no more

    try:
        seconds = in_turn(
            {
                "updates": lambda: fit(offline=True),
                "steps": lambda: collect_block(pool, module.policy(), 0, env_steps).seconds,
                "epoch": lambda: fit(EnvironmentInteraction(env_steps), offline=False),
            },
            rounds,
        )
    finally:
        pool.close()
    each = list(zip(seconds["updates"], seconds["steps"], seconds["epoch"], strict=True))
    ratios = sorted(epoch / max(alone, steps) for alone, steps, epoch in each)
    return {
        "workers": workers,
        "threads": torch.get_num_threads(),
        **{f"{name}_s": statistics.median(values) for name, values in seconds.items()},
        "epoch_over_the_larger": statistics.median(ratios),
        "epoch_over_the_larger_range": [ratios[0], ratios[-1]],
        "epoch_over_the_sum": statistics.median(epoch / (alone + steps) for alone, steps, epoch in each),
    }
