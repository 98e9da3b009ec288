"""Checkpoints of a fit, read without running anything that is in them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from awac_pl.algorithms.awac import AWAC
from awac_pl.errors import AwacError, first_line


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """All that a checkpoint holds, after a check of every byte; its tensors stay in the file until they are used.

    Raises:
        AwacError: the file is not there, is damaged, or is no checkpoint of a fit.
    """
    if not checkpoint.is_file():
        raise AwacError(f"no checkpoint {checkpoint}")
    if not zipfile.is_zipfile(checkpoint):
        raise AwacError(f"{checkpoint}: is no checkpoint, or is cut off")
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if (damaged := archive.testzip()) is not None:  # compares checksums; torch.load does not
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise AwacError(f"{checkpoint}: cannot be read as a checkpoint ({first_line(error)})") from error
    if not isinstance(state, dict) or not {"hyper_parameters", "ReplayDataModule"} <= set(state):
        raise AwacError(f"{checkpoint}: is no checkpoint of a fit")
    return state


#: Learners by the name that their checkpoints carry; those of version 0.1 carry none.
ALGORITHMS = {"AWAC": AWAC}


def load_module(checkpoint: Path) -> AWAC:
    """The learner of a checkpoint, on the CPU.

    Raises:
        AwacError: see ``read_checkpoint``; or its weights do not fit this version's module.
    """
    name = read_checkpoint(checkpoint).get("algorithm", "AWAC")
    if name not in ALGORITHMS:
        raise AwacError(f"{checkpoint}: is of the algorithm '{name}'; this version has {', '.join(ALGORITHMS)}")
    try:
        return ALGORITHMS[name].load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise AwacError(f"{checkpoint}: holds no module of this version ({first_line(error)})") from error
