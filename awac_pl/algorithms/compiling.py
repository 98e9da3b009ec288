"""How the updates of a chunk are run: by autograd, written out, compiled, or as one CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import TensorDict

from awac_pl.errors import first_line

CompileMode = Literal["auto", "off", "by_hand", "default", "reduce-overhead", "graph"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Circumstances:
    """What decides how updates can be run.

    Args:
        device: where they run.
        precision: ``trainer.precision``.
        world_size: number of processes that train together.
        plain: nobody has changed the learner's loss, networks, optimizer or gradients.
    """

    device: torch.device
    precision: str
    world_size: int
    plain: bool = True

    def against_graph(self) -> str:
        """What a CUDA graph would need and is not there; empty if nothing."""
        if self.device.type != "cuda":
            return f"a CUDA device, not {self.device.type}"
        if self.world_size > 1:
            return "one process: gradients are exchanged between the updates"
        return "" if self.precision in ("32", "32-true") else f"trainer.precision 32-true, not {self.precision}"

    def against_by_hand(self) -> str:
        """What ``FastUpdate`` would need and is not there; empty if nothing."""
        if self.device.type != "cpu":
            return f"a CPU, not {self.device.type}"
        if self.world_size > 1:
            return "one process: gradients are exchanged between the updates"
        if self.precision not in ("32", "32-true", "64", "64-true"):
            return f"trainer.precision 32-true or 64-true, not {self.precision}"
        return "" if self.plain else "AWAC's own loss, networks, optimizer and gradients"


def choose_mode(asked: CompileMode, circumstances: Circumstances) -> CompileMode:
    """Resolve the requested mode to a supported one; warn if they differ.

    ``auto`` is ``graph`` where a graph can be captured, ``by_hand`` on a CPU, else ``off``. It is never ``torch.compile``,
    which is some 10 % faster than ``by_hand`` and takes 50 s the first time, 5 s later.
    """
    obstacles = {"graph": circumstances.against_graph(), "by_hand": circumstances.against_by_hand()}
    if asked == "auto":
        return next((mode for mode in ("graph", "by_hand") if not obstacles[mode]), "off")
    if obstacle := obstacles.get(asked):
        log.warning("model.compile: %s needs %s; the updates run eagerly", asked, obstacle)
        return "off"
    return asked


class ChunkGraph:
    """A function of a TensorDict as a CUDA graph: two eager calls, then one capture, then replays of it.

    Every call runs the function once. A chunk of another shape is captured anew. (tensordict's ``CudaGraphModule`` runs the
    function before it captures it; gradients then point into a graph that has not run yet.)

    Args:
        function: of one TensorDict, returns a TensorDict; whatever else it reads or writes keeps its place in memory.
    """

    WARMUP = 2

    def __init__(self, function: Callable[[TensorDict], TensorDict]) -> None:
        self.function = function
        self._calls = 0
        self._failed = False
        self._inputs: TensorDict | None = None

    def __call__(self, chunk: TensorDict) -> TensorDict:
        """Run it."""
        self._calls += 1
        if self._failed:
            return self.function(chunk)
        if self._calls <= self.WARMUP:
            return self._warm_up(chunk)
        if self._inputs is None or self._inputs.shape != chunk.shape:
            self._inputs = chunk.clone()
            try:
                self._replay, self._outputs = self._capture(self._inputs)
            except Exception as error:
                log.warning("model.compile: the CUDA graph failed, the updates run eagerly: %s", first_line(error))
                self._failed = True
                return self.function(chunk)
        self._inputs.copy_(chunk)
        self._replay()
        return self._outputs.clone()

    def _warm_up(self, chunk: TensorDict) -> TensorDict:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(chunk)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _capture(self, inputs: TensorDict) -> tuple[Callable[[], None], TensorDict]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(inputs)
        return graph.replay, outputs


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
