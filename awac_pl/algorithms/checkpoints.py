"""Checkpoints of a fit, read without running anything that is in them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.bc import BC
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from awac_pl.errors import AwacError, first_line

#: Learners by the name in their checkpoints; those of version 0.1 have none.
ALGORITHMS: dict[str, type[Learner]] = {learner.__name__: learner for learner in (AWAC, IQL, RLPD, BC)}


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint, after a check of its checksums; its tensors stay in the file until they are used.

    Raises:
        AwacError: the file does not exist, is damaged, or is no checkpoint of a fit.
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


def load_module(checkpoint: Path, state: dict[str, Any] | None = None) -> Learner:
    """The learner of a checkpoint, on the CPU.

    Args:
        checkpoint: of a fit.
        state: its content, if ``read_checkpoint`` has read it already.

    Raises:
        AwacError: see ``read_checkpoint``; or the checkpoint does not fit this version's learner.
    """
    state = read_checkpoint(checkpoint) if state is None else state
    name = state.get("algorithm", "AWAC")
    if name not in ALGORITHMS:
        raise AwacError(f"{checkpoint}: is of the algorithm '{name}'; this version has {', '.join(ALGORITHMS)}")
    arguments = {key: value for key, value in state["hyper_parameters"].items() if key != "_instantiator"}
    try:
        module = ALGORITHMS[name](**arguments)
        module.load_state_dict(state["state_dict"])
        module.on_load_checkpoint(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise AwacError(f"{checkpoint}: holds no module of this version ({first_line(error)})") from error
    return module
