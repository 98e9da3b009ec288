"""Checkpoints on disk: written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from awac_pl.algorithms.checkpoints import read_checkpoint
from awac_pl.errors import AwacError, first_line
from awac_pl.files import replacing
from awac_pl.runs.folder import PREVIOUS


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to the disk, and only then replaces the target.

    The ``last.ckpt`` that is replaced stays as ``last.previous.ckpt``. So a full disk or a crash at any moment leaves a
    checkpoint to resume from. Lightning's own class stages in ``$TMPDIR``, which may be on another disk, and copies.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write ``path``.

        Raises:
            AwacError: the file cannot be written; ``path`` is as it was.
        """
        target = Path(path)
        try:
            with replacing(target) as staging:
                with staging.open("wb") as file:
                    torch.save(checkpoint, file)
                if target.name == "last.ckpt" and target.exists():
                    with replacing(target.with_name(PREVIOUS)) as previous:
                        os.link(target, previous)
        except (OSError, RuntimeError) as error:  # torch hides the reason behind an error of its own
            reason = error if isinstance(error, OSError) else error.__context__ or error
            kept = f"; {target.name} is as it was" if target.exists() else ""
            raise AwacError(f"cannot write the checkpoint {target} ({first_line(reason)}){kept}") from error

    def load_checkpoint(self, path: str | os.PathLike, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read ``path`` on the CPU; nothing in it is run.

        Raises:
            AwacError: see ``read_checkpoint``.
        """
        return read_checkpoint(Path(path))


class LastCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt``, from which a stopped run resumes. A class of its own, so that a user may add ModelCheckpoints.

    Args:
        dirpath: folder of the checkpoints.
        every_n_epochs: as often as evaluations.
    """

    def __init__(self, dirpath: str, every_n_epochs: int) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
