"""How the updates of a chunk are run: eagerly, compiled, or as one CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from tensordict.nn import CudaGraphModule

from awac_pl.errors import first_line

CompileMode = Literal["auto", "off", "default", "reduce-overhead", "graph"]
log = logging.getLogger(__name__)


def choose_mode(asked: CompileMode, device: torch.device, precision: str, world_size: int) -> CompileMode:
    """What can be had of what was asked for, with one line where it is something else.

    ``auto`` is ``graph`` where a graph can be captured, else ``off``: on a CPU the eager update spends two thirds of its
    time in the matrix products, and compiling takes 40 s.

    Args:
        asked: ``model.compile``.
        device: where the updates run.
        precision: ``trainer.precision``.
        world_size: number of processes that train together.
    """
    obstacle = None
    if device.type != "cuda":
        obstacle = f"a CUDA device, not {device.type}"
    elif world_size > 1:
        obstacle = "one process: gradients are exchanged between the updates"
    elif precision not in ("32", "32-true"):
        obstacle = f"trainer.precision 32-true, not {precision}"
    if asked == "auto":
        return "off" if obstacle else "graph"
    if asked == "graph" and obstacle:
        log.warning("model.compile: graph needs %s; the updates run eagerly", obstacle)
        return "off"
    return asked


def capture(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A function of one TensorDict of constant shape as a CUDA graph, after two eager calls."""
    return CudaGraphModule(function, warmup=2, in_keys=[], out_keys=[], device=device)


def compiled(function: Callable[..., Any], mode: CompileMode) -> Callable[..., Any]:
    """``torch.compile``, at the first call; if that fails, the function itself, with one line."""
    run: Callable[..., Any] = torch.compile(function, mode=mode)
    proven = False

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal run, proven
        if proven:
            return run(*args, **kwargs)
        try:
            result = run(*args, **kwargs)
        except Exception as error:
            log.warning("model.compile: %s failed, the updates run eagerly: %s", mode, first_line(error))
            run = function
            result = run(*args, **kwargs)
        proven = True
        return result

    return call
