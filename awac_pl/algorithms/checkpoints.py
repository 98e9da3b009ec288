"""Checkpoints of a fit, read without running anything that is in them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.bc import BC
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from awac_pl.episode import TRANSITION_KEYS
from awac_pl.errors import AwacError, first_line

#: What a checkpoint holds, by its entries' types; and what it needs beside that for training to go on.
CONTENT = {"state_dict": dict, "hyper_parameters": dict, "ReplayDataModule": dict, "pytorch-lightning_version": str}
TO_RESUME = {
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "random_state": list,
}

#: Learners by the name in their checkpoints; those of version 0.1 have none.
ALGORITHMS: dict[str, type[Learner]] = {learner.__name__: learner for learner in (AWAC, IQL, RLPD, BC)}


def read_checkpoint(checkpoint: Path, *, to_resume: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, after a check of its checksums; its tensors stay in the file until they are used.

    Args:
        checkpoint: of a fit.
        to_resume: training is to go on from it; the weights alone are not enough.

    Raises:
        AwacError: the file does not exist, is damaged, or is no checkpoint of a fit.
    """
    if not checkpoint.is_file():
        raise AwacError(
            f"{checkpoint}: is a folder, not a checkpoint" if checkpoint.is_dir() else f"no checkpoint {checkpoint}"
        )
    if not os.access(checkpoint, os.R_OK):
        raise AwacError(f"{checkpoint}: cannot be read (Permission denied)")
    if not zipfile.is_zipfile(checkpoint):
        raise AwacError(f"{checkpoint}: is no checkpoint, or is cut off")
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if (damaged := archive.testzip()) is not None:  # compares checksums; torch.load does not
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise AwacError(f"{checkpoint}: cannot be read as a checkpoint ({first_line(error)})") from error
    needed = CONTENT | TO_RESUME if to_resume else CONTENT
    absent = [
        key
        for key, kind in needed.items()
        if not isinstance(state, dict) or not isinstance(state.get(key), kind) or state[key] == []
    ]
    if to_resume and "loops" not in absent and "epoch_progress" not in (state["loops"].get("fit_loop") or {}):
        absent.append("loops")  # or the run would begin anew, with the weights that it had
    if len(absent) == len(needed):
        raise AwacError(f"{checkpoint}: is no checkpoint of a fit")
    if absent:
        use = "it cannot be resumed" if absent[0] in TO_RESUME else "it is no whole checkpoint of a fit"
        raise AwacError(f"{checkpoint}: has no {', '.join(absent)}; {use}")
    parts = state["ReplayDataModule"].get("replay")
    if not isinstance(parts, list) or not all(map(_is_buffer, parts)):
        raise AwacError(f"{checkpoint}: has no replay buffer; it is no whole checkpoint of a fit")
    return state


def _is_buffer(part: Any) -> bool:
    online = part.get("online") if isinstance(part, dict) else None
    return isinstance(online, dict) and (
        not online or all(isinstance(online.get(key), torch.Tensor) for key in TRANSITION_KEYS)
    )


def load_module(checkpoint: Path, state: dict[str, Any] | None = None) -> Learner:
    """The learner of a checkpoint, on the CPU.

    Args:
        checkpoint: of a fit.
        state: its content, if ``read_checkpoint`` has read it already.

    Raises:
        AwacError: see ``read_checkpoint``; or the checkpoint does not fit this version's learner.
    """
    state = read_checkpoint(checkpoint) if state is None else state
    check_module(checkpoint, state)
    with _refusing(checkpoint):
        module = _make(checkpoint, state)
        module.load_state_dict(state["state_dict"])
    return module


def data_of(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section ``data`` of the configuration of a checkpoint's run; None in checkpoints of earlier versions."""
    data = state.get("datamodule_hyper_parameters")
    if not isinstance(data, dict) or not isinstance(data.get("task"), str):
        return None
    linked = ("discount", "normalize_observations", "seed")  # to other sections
    return {key: value for key, value in data.items() if key[0] != "_" and key not in linked}


def check_module(checkpoint: Path, state: dict[str, Any]) -> None:
    """Compare the weights of a checkpoint with its arguments, before memory is taken for as much as these ask for.

    Raises:
        AwacError: they do not fit together, or not to this version's learner.
    """
    with _refusing(checkpoint), torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in _make(checkpoint, state).state_dict().items()}
        stored = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
        for name in sorted(wanted.keys() | stored.keys()):
            if (there := stored.get(name, "nothing")) != (shape := wanted.get(name, "nothing")):
                raise ValueError(f"{name} is {there}, by its arguments {shape}")


def _make(checkpoint: Path, state: dict[str, Any]) -> Learner:
    name = state.get("algorithm", "AWAC")
    if name not in ALGORITHMS:
        raise AwacError(f"{checkpoint}: is of the algorithm '{name}'; this version has {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name](**{key: value for key, value in state["hyper_parameters"].items() if key != "_instantiator"})


@contextmanager
def _refusing(checkpoint: Path) -> Iterator[None]:
    """What a learner of this version says to a checkpoint that does not fit, in one line."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise AwacError(f"{checkpoint}: holds no module of this version ({first_line(error)})") from error
