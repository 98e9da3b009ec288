"""Checkpoints on disk: written whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from awac_pl.algorithms.checkpoints import read_checkpoint
from awac_pl.envs.tasks import Spaces, Task, knows_success
from awac_pl.errors import first_line
from awac_pl.files import replacing
from awac_pl.runs.folder import PREVIOUS

log = logging.getLogger(__name__)


def monitor_what_is_known(checkpoint: ModelCheckpoint, task: Task, spaces: Spaces) -> None:
    """Choose ``best.ckpt`` by the return where success is unknown. Its rate is NaN, so the first checkpoint would stay."""
    monitor = checkpoint.monitor or ""
    if monitor.startswith("eval/success") and not knows_success(task, spaces):
        checkpoint.monitor = "eval/episode_return"
        rank_zero_only(log.warning)(
            "%s reports no success: best.ckpt is the one of the highest eval/episode_return, not %s; if info reports it "
            "under another name than success or is_success, name it with data.success_key", task.env_id, monitor,
        )  # fmt: skip


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to the disk, and only then replaces the target.

    The ``last.ckpt`` that is replaced stays as ``last.previous.ckpt``. So a full disk or a crash at any moment leaves a
    checkpoint to resume from. Lightning's own class stages in ``$TMPDIR``, which may be on another disk, and copies.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write ``path``.

        Raises:
            WriteError: the file cannot be written; ``path`` is as it was.
        """
        target = Path(path)
        with replacing(target) as new:
            try:
                with new.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # torch hides the reason behind an error of its own
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(first_line(error)) from error
            if target.name == "last.ckpt" and target.exists():
                with replacing(target.with_name(PREVIOUS)) as previous:
                    os.link(target, previous)

    def load_checkpoint(self, path: str | os.PathLike, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read ``path`` on the CPU; nothing in it is run.

        Raises:
            AwacError: see ``read_checkpoint``.
        """
        return read_checkpoint(Path(path))
