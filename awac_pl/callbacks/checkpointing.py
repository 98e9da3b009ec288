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
from awac_pl.files import link_or_copy, replacing
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
                    link_or_copy(target, previous)

    def load_checkpoint(self, path: str | os.PathLike, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read ``path`` on the CPU, to resume or to evaluate; nothing in it is run.

        Raises:
            AwacError: see ``read_checkpoint``.
        """
        state = read_checkpoint(Path(path))
        callbacks, folder = state.get("callbacks", {}), Path(path).resolve().parent
        before = [each for name, each in callbacks.items() if name.startswith(LastCheckpoint.__name__)]
        if before and isinstance(before[0], dict) and before[0].get("dirpath") != str(folder):
            _move(callbacks, Path(before[0].get("dirpath", "")), folder)
        return state


def _move(callbacks: dict[str, Any], before: Path, folder: Path) -> None:
    """Let the states of ``ModelCheckpoint`` name the folder where their files lie now.

    Otherwise Lightning forgets the best score of a run folder that was moved or copied, and the next checkpoint replaces
    ``best.ckpt``, even if it is worse.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {moved(path): score for path, score in value.items()}
        inside = isinstance(value, str) and Path(value).is_relative_to(before)
        return str(folder / Path(value).relative_to(before)) if inside else value

    for state in callbacks.values():
        if isinstance(state, dict) and state.get("dirpath") == str(before):
            paths = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path", "best_k_models")
            state |= {name: moved(state[name]) for name in paths if name in state}


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
