"""What the training loop costs beside the update itself: the bare update against Lightning's loop, in turn, in one process.

    python benchmarks/loop.py [--batch-size 256] [--updates 400] [--rounds 7] [--threads 1]

Prints updates/s (median over the rounds) and the loop's share of the time, from the ratio of each round.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from awac_pl import losses
from awac_pl.data import ReplayDataModule
from awac_pl.module import AWAC


class Clock(Callback):
    """Seconds from the first chunk to the end of the epoch."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def bare(module: AWAC, data: ReplayDataModule, updates: int) -> float:
    """Seconds of so many updates on batches that are already there."""
    optimizer = module.configure_optimizers()
    batches = data.replay.sample(updates, data.batch_size).unbind(0)
    start = time.perf_counter()
    for batch in batches:
        loss, _ = module.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.polyak_update(module.target_critics.parameters(), module.critics.parameters(), 0.005)
    return time.perf_counter() - start


def loop(module: AWAC, data: ReplayDataModule, chunk_size: int) -> float:
    """Seconds of one epoch in the Trainer, sampling included."""
    clock = Clock()
    data.chunk_size = chunk_size
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return clock.seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    data = ReplayDataModule(
        task="pen",
        datasets=["awac/pen/expert-v0"],
        batch_size=options.batch_size,
        updates_per_epoch=options.updates,
        workers=0,
    )
    module = AWAC(observation_dim=data.observation_dim, action_dim=data.action_dim, return_range=data.return_range)
    data.setup("fit")
    variants = {
        "bare update": lambda: bare(module, data, options.updates),
        "loop, K = 1": lambda: loop(module, data, 1),
        "loop, K = 50": lambda: loop(module, data, 50),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(options.rounds + 1):
        for name, measure in variants.items():
            taken = measure()
            if round_number:  # the first round warms up
                seconds[name].append(taken)
    print(f"batch {options.batch_size}, {options.threads} thread(s), {options.rounds} rounds of {options.updates} updates")
    for name, values in seconds.items():
        shares = [1 - base / value for base, value in zip(seconds["bare update"], values, strict=True)]
        speed = options.updates / statistics.median(values)
        print(f"{name:<14} {speed:7.1f} updates/s   share of the loop {100 * statistics.median(shares):5.1f} % "
              f"({100 * min(shares):.1f} to {100 * max(shares):.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
