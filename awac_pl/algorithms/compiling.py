"""How the updates of a chunk are run: by autograd, written out, compiled, or as one CUDA graph."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from tensordict import TensorDict

from awac_pl.errors import first_line

CompileMode = Literal["auto", "off", "by_hand", "default", "reduce-overhead", "graph"]
log = logging.getLogger(__name__)


def find_obstacles(device: torch.device, precision: str, world_size: int, plain: bool = True) -> dict[str, str]:
    """What the modes ``graph`` and ``by_hand`` need and lack; an empty text if nothing.

    Args:
        device: of the updates.
        precision: ``trainer.precision``.
        world_size: number of processes that train together.
        plain: see ``Learner.is_plain``.
    """
    obstacles = {}
    for mode, kind, name, precisions in (
        ("graph", "cuda", "a CUDA device", ("32-true",)),
        ("by_hand", "cpu", "a CPU", ("32-true", "64-true")),
    ):
        obstacles[mode] = ""
        if device.type != kind:
            obstacles[mode] = f"{name}, not {device.type}"
        elif world_size > 1:
            obstacles[mode] = "one process: gradients are exchanged between the updates"
        elif precision not in precisions and f"{precision}-true" not in precisions:
            obstacles[mode] = f"trainer.precision {' or '.join(precisions)}, not {precision}"
    if not plain and not obstacles["by_hand"]:
        obstacles["by_hand"] = "AWAC's own loss, networks, optimizer and gradients"
    return obstacles


def choose_mode(asked: CompileMode, obstacles: Mapping[str, str]) -> CompileMode:
    """Resolve the requested mode to a supported one; warn if they differ.

    ``auto`` is ``default`` where a CUDA graph is possible: an update is many small kernels there, and the compiler makes few
    of them. Else it is ``by_hand`` where possible, else ``off``. On a CPU the compiler gains some 10 % over ``by_hand``, and
    takes 50 s the first time.
    """
    if asked == "auto":
        if not obstacles["graph"]:
            return "default"
        return "off" if obstacles["by_hand"] else "by_hand"
    if obstacle := obstacles.get(asked):
        log.warning("model.compile: %s needs %s; the updates run eagerly", asked, obstacle)
        return "off"
    return asked


class ChunkGraph:
    """A function of a TensorDict as a CUDA graph: two eager calls, then one capture, then replays of it.

    Every call runs the function once. Each shape of a chunk has its own graph. tensordict's ``CudaGraphModule`` does not
    serve: it runs the function before it captures it, and gradients then point into a graph that has not run yet.

    Args:
        function: of one TensorDict, returns a TensorDict; the other tensors that it uses keep their place in memory.
    """

    WARMUP = 2

    def __init__(self, function: Callable[[TensorDict], TensorDict]) -> None:
        self.function = function
        self._calls: Counter[torch.Size] = Counter()  # with chunks of each shape
        self._failed = False
        self._graphs: dict[torch.Size, tuple[TensorDict, Callable[[], None], TensorDict]] = {}  # inputs, replay, outputs

    def __call__(self, chunk: TensorDict) -> TensorDict:
        """Run it."""
        shape = chunk.shape
        self._calls[shape] += 1
        if self._failed:
            return self.function(chunk)
        if self._calls[shape] <= self.WARMUP:  # here a compiler sees the shape first
            return self._warm_up(chunk)
        if shape not in self._graphs:
            inputs = chunk.clone()
            try:
                self._graphs[shape] = (inputs, *self._capture(inputs))
            except Exception as error:
                log.warning("model.compile: the CUDA graph failed, the updates run eagerly: %s", first_line(error))
                self._failed = True
                return self.function(chunk)
        inputs, replay, outputs = self._graphs[shape]
        inputs.copy_(chunk)
        replay()
        return outputs.clone()

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
    """``torch.compile`` at the first call; if that fails, one warning and the function itself.

    The compiler draws random numbers of its own, from PyTorch's seed. Its option ``fallback_random`` would draw PyTorch's,
    but gives every draw of one shape the same numbers where gradients are needed (seen with torch 2.13).
    """
    run: Callable[..., Any] = torch.compile(function, mode=mode, dynamic=False)  # its floats, too, are constants
    first = True

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal run, first
        try:
            result = run(*args, **kwargs)
        except Exception as error:
            if not first:
                raise
            log.warning("model.compile: %s failed, the updates run eagerly: %s", mode, first_line(error))
            run = function
            result = run(*args, **kwargs)
        first = False
        return result

    return call
