"""A whole process: from the command to the first update, memory of the buffer, memory over a run."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.replay.buffer import Replay
from awac_pl.replay.data_module import ReplayDataModule
from benchmarks.updating import make_module, transitions

ROOT = Path(__file__).parents[1]


class FirstUpdate(Callback):
    """Says when the first update is about to begin, and ends the run."""

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Print the time, and go."""
        print("first update at", time.time(), flush=True)
        trainer.should_stop = True
        raise KeyboardInterrupt


def start_up() -> float:
    """Seconds from ``awac fit`` to the first update of the pen task, datasets in place."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "first.yaml").write_text(
            "trainer:\n  callbacks:\n    - class_path: benchmarks.process.FirstUpdate\n"
            "data:\n  datasets: [awac/pen/expert-v0]\n"
        )
        begun = time.time()
        output = subprocess.run(
            [sys.executable, "-m", "awac_pl", "fit", f"--config={ROOT / 'conf/base.yaml'}",
             f"--config={ROOT / 'conf/preset/quick.yaml'}", "--config=first.yaml"],
            cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        found = re.search(r"first update at ([\d.]+)", output.stdout)  # beside what the progress bar writes
        if found is None:
            raise RuntimeError(output.stdout + output.stderr)
        return float(found[1]) - begun


def _resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def buffer_memory(size: int = 1_000_000) -> dict[str, float]:
    """Resident bytes of a full buffer against those of its columns."""
    before = _resident()
    replay = Replay(size)
    part = transitions((10_000,), torch.device("cpu"))
    for _ in range(size // len(part)):
        replay.buffer.extend(part)
    bytes_of_a_row = sum(value.element_size() * value[0].numel() for value in part.values())
    resident, needed = _resident() - before, bytes_of_a_row * size
    return {"transitions": size, "resident_mib": resident / 2**20, "needed_mib": needed / 2**20, "ratio": resident / needed}


class Memory(Callback):
    """Resident bytes at the end of each epoch."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note them."""
        self.bytes.append(_resident())


def memory_over_a_run(epochs: int = 200) -> dict[str, float]:
    """Resident memory of the trainer after the warm-up (a fifth of the epochs) and at the end; the buffer's ring is full."""
    data = ReplayDataModule(
        task="pen", datasets=["awac/pen/expert-v0"], batch_size=256, updates_per_epoch=10, chunk_size=10, offline_epochs=1,
        workers=1, capacity=7000,
    )  # fmt: skip
    memory = Memory()
    lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[EnvironmentInteraction(200), memory], limit_val_batches=0,
    ).fit(make_module((256, 256), torch.device("cpu")), datamodule=data)  # fmt: skip
    warm = memory.bytes[epochs // 5]
    return {
        "epochs": epochs,
        "warm_mib": warm / 2**20,
        "last_mib": memory.bytes[-1] / 2**20,
        "growth_mib": (memory.bytes[-1] - warm) / 2**20,
    }
