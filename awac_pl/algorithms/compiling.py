"""How the updates of a chunk are run: by autograd, written out, compiled, or as one CUDA graph."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from awac_pl.errors import first_line

CompileMode = Literal["auto", "off", "by_hand", "default", "graph"]
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
        elif precision not in precisions:
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


class _Graph(NamedTuple):
    """What a capture leaves behind."""

    inputs: TensorDict
    replay: Callable[[], None]
    outputs: TensorDict
    gradients: list[Tensor | None]


class ChunkGraph:
    """A function of a TensorDict as CUDA graphs: two eager calls, then one capture, then replays of it.

    Every call runs the function once. Each shape of a chunk, and each value of ``constants``, has its own graph.
    tensordict's ``CudaGraphModule`` does not serve: it runs the function before it captures it, and gradients then point
    into a graph that has not run yet.

    Args:
        function: of one TensorDict, returns a TensorDict; the other tensors that it uses keep their place in memory.
        parameters: whose gradients the function leaves; after a replay they are that graph's.
        constants: what else the function depends on; a graph cannot see it change.
    """

    WARMUP = 2

    def __init__(
        self,
        function: Callable[[TensorDict], TensorDict],
        parameters: Iterable[Tensor] = (),
        constants: Callable[[], Hashable] = lambda: None,
    ) -> None:
        self.function, self.constants = function, constants
        self.parameters = list(parameters)
        self._calls: Counter[Hashable] = Counter()
        self._failed = False
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, chunk: TensorDict) -> TensorDict:
        """Run it."""
        kind = (chunk.shape, self.constants())
        self._calls[kind] += 1
        if self._failed:
            return self.function(chunk)
        if self._calls[kind] <= self.WARMUP:  # here a compiler sees this kind first
            return self._warm_up(chunk)
        if kind not in self._graphs:
            inputs = chunk.clone()
            try:
                replay, outputs = self._capture(inputs)
            except Exception as error:
                log.warning("model.compile: the CUDA graph failed, the updates run eagerly: %s", first_line(error))
                self._failed = True
                return self.function(chunk)
            self._graphs[kind] = _Graph(inputs, replay, outputs, [parameter.grad for parameter in self.parameters])
        graph = self._graphs[kind]
        graph.inputs.copy_(chunk)
        graph.replay()
        for parameter, gradient in zip(self.parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        return graph.outputs.clone()

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


def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile``. Numbers that are no tensors are constants, each new value compiles anew.

    The compiler draws random numbers of its own, from PyTorch's seed. Its option ``fallback_random`` would draw PyTorch's,
    but gives every draw of one shape the same numbers where gradients are needed (seen with torch 2.13).
    """
    return torch.compile(function, dynamic=False)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``compile_function``; if that fails, the function itself."""
    run = compile_function(function)

    def leave() -> bool:
        nonlocal run
        was, run = run, function
        return was is not function

    return falling_back(lambda *args, **kwargs: run(*args, **kwargs), leave)


def falling_back(run: Callable[..., Any], leave_compiler: Callable[[], bool]) -> Callable[..., Any]:
    """``run``. If it fails, as compiled code does in its first calls, forward or backward: one warning, and again without.

    Args:
        run: calls something that is compiled.
        leave_compiler: has it call what is not compiled from now on; False if it does so already.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except Exception as error:
            if not leave_compiler():
                raise
            log.warning("model.compile: the compiler failed, the updates run without it: %s", first_line(error))
            return run(*args, **kwargs)

    return call
