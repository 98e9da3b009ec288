"""Which of several training processes this is, and what they tell each other. One process alone is rank 0 of 1."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from awac_pl.errors import AwacError


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _together() else 1


def gather(value: Tensor) -> Tensor:
    """``[W * B]`` from every rank's ``[B]``, in the order of the ranks; no gradient passes."""
    if not _together():
        return value
    parts = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def own_part(value: Tensor) -> Tensor:
    """The ``[B]`` of this rank in what ``gather`` returned."""
    return value.chunk(world_size())[rank()]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def own_state(states: list[Any], name: str) -> Any:
    """This rank's entry of what was gathered into a checkpoint.

    Raises:
        AwacError: it was saved by another number of processes.
    """
    if len(states) != world_size():
        raise AwacError(
            f"the checkpoint's {name} is that of {len(states)} processes, these are {world_size()}; "
            f"resume with as many, or with one"
        )
    return states[rank()]


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
