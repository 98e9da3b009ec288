"""The rank of this training process, and what the ranks exchange. A single process is rank 0 of 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from awac_pl.errors import AwacError
from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _together() else 1


def gather(value: Tensor) -> Tensor:
    """``[W * B]``: every rank's ``[B]`` in the order of the ranks, without gradient."""
    if not _together():
        return value
    parts = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def own_part(value: Tensor) -> Tensor:
    """This rank's ``[B]`` of a result of ``gather``."""
    return value.chunk(world_size())[rank()]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """A block that a signal may end in the middle, for it changes nothing before it is done: on all ranks, or on none.

    Raises:
        Interrupted: a signal has ended the block on one rank at least. Every rank raises it.
    """
    ended: Interrupted | None = None
    try:
        with interruption.allowed():
            yield
    except Interrupted as error:
        ended = error
        if _together():
            interruption.undecided()
    if any(gather_objects(ended is not None)):
        raise Interrupted(interruption.signal_number())


def own_state(states: list[Any], name: str) -> Any:
    """This rank's entry of a state that a checkpoint has for each rank.

    Raises:
        AwacError: another number of processes saved it.
    """
    if len(states) != world_size():
        raise AwacError(
            f"the checkpoint's {name} is that of {len(states)} processes, these are {world_size()}; "
            "resume with as many, or with one"
        )
    return states[rank()]


def gather_random_states(device: torch.device) -> list[dict[str, Any]]:
    """The states of PyTorch's random generators, one per rank."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return gather_objects({"torch": torch.get_rng_state(), "cuda": cuda})


def restore_random_state(states: list[dict[str, Any]], device: torch.device) -> None:
    """Restore this rank's state of ``gather_random_states``; a single process takes that of rank 0.

    Raises:
        AwacError: another number of processes saved it.
    """
    state = states[0] if world_size() == 1 else own_state(states, "random state")
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
