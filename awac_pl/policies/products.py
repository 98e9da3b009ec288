"""Dense layers on a CPU, and which library multiplies their matrices.

PyTorch's wheels give float32 products to MKL. On an AMD processor MKL takes its AVX2 kernels even where the processor has
AVX-512, and then runs at about half of what oneDNN reaches, which is part of the same wheel (pytorch/builder#504;
pytorch/pytorch#125386: products of float32 go to MKL). PyTorch offers no switch for it, so ``onednn`` calls an operator that
PyTorch keeps for its own compiler; it is tried out before it is used.
"""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from awac_pl.errors import first_line

Engine = Literal["native", "onednn"]
log = logging.getLogger(__name__)

_SMALLEST = 8  # in a product with a smaller dimension oneDNN spends its time on rearranging the operands


@functools.cache
def choose_engine(asked: Literal["auto", "native", "onednn"] = "auto") -> Engine:
    """Which library multiplies: decided by what the processor is, so that a resumed run computes the same bits.

    ``auto`` is ``onednn`` on an AMD processor with AVX-512 where PyTorch would call MKL, and ``native`` (whatever
    PyTorch calls) elsewhere. Where oneDNN was chosen and cannot be used, one line says so.
    """
    if asked == "native" or (asked == "auto" and not _mkl_misses_avx512()):
        return "native"
    if obstacle := _obstacle():
        log.warning("model.matmul_engine: onednn cannot be used (%s); PyTorch's own products are", obstacle)
        return "native"
    return "onednn"


def matmul(left: Tensor, right: Tensor, engine: Engine, out: Tensor | None = None) -> Tensor:
    """``[M, K] x [K, N]``; either operand may be a transposed view."""
    if engine == "native" or min(*left.shape, right.shape[1]) < _SMALLEST:
        return torch.mm(left, right, out=out)
    product = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
    return product if out is None else out.copy_(product)


def dense(rows: Tensor, weight: Tensor, bias: Tensor, relu: bool, engine: Engine) -> Tensor:
    """``[B, in] x [in, out] + [out]``, through a ReLU where asked; not differentiable with ``onednn``."""
    if engine == "native" or min(*rows.shape, weight.shape[1]) < _SMALLEST:
        out = torch.addmm(bias, rows, weight)
        return out.relu_() if relu else out
    return torch.ops.mkldnn._linear_pointwise(rows, weight.t(), bias, "relu" if relu else "none", [], "")


class DenseFunction(torch.autograd.Function):
    """``dense`` with gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, relu: bool, engine: Engine) -> Tensor:
        """See ``dense``."""
        out = dense(rows, weight, bias, relu, engine)
        ctx.save_for_backward(rows, weight, out if relu else None)
        ctx.engine = engine
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of rows, weight and bias, those that are needed."""
        rows, weight, out = ctx.saved_tensors
        gradient = gradients[0] if out is None else torch.ops.aten.threshold_backward(gradients[0], out, 0)
        needs_rows, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            matmul(gradient, weight.t(), ctx.engine) if needs_rows else None,
            matmul(rows.t(), gradient, ctx.engine) if needs_weight else None,
            gradient.sum(dim=0) if needs_bias else None,
            None,
            None,
        )


class Layers:
    """The dense ReLU layers of one network, forward and backward; gradients go to ``grad`` of the parameters, if there.

    Args:
        weights: of each layer, ``[in, out]``, or ``[out, in]`` as ``nn.Linear`` has them.
        biases: of each layer, ``[out]``.
        out_first: the weights are ``[out, in]``.
        layer_norm: normalise the inputs of every hidden ReLU.
        engine: which library multiplies.
        critic: which of an ensemble, whose weights are ``[E, in, out]`` and biases ``[E, 1, out]``; None for one network.
    """

    def __init__(
        self, weights: Iterable[Tensor], biases: Iterable[Tensor], *, out_first: bool, layer_norm: bool, engine: Engine,
        critic: int | None = None,
    ) -> None:  # fmt: skip
        self.out_first, self.layer_norm, self.engine = out_first, layer_norm, engine
        place: Any = ... if critic is None else critic
        row: Any = ... if critic is None else (critic, 0)
        self._weights = [weight.data[place].t() if out_first else weight.data[place] for weight in weights]  # [in, out]
        self._transposed = [weight.t() for weight in self._weights]
        self._biases = [bias.data[row] for bias in biases]
        self._of_weights = [weight.grad[place] for weight in weights if weight.grad is not None]
        self._of_biases = [bias.grad[row] for bias in biases if bias.grad is not None]
        self._inputs: list[Tensor] = []  # of each layer in the last forward pass
        self._normalised: list[tuple[Tensor, Tensor, Tensor]] = []  # what went into each normalisation, its mean and 1 / std

    def forward(self, rows: Tensor, keep: bool = True) -> Tensor:
        """Outputs ``[N, out]`` of rows ``[N, in]``; ``keep``: ``backward`` may follow."""
        self._inputs, self._normalised = [], []
        last = len(self._weights) - 1
        for index, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            if keep:
                self._inputs.append(rows)
            rows = dense(rows, weight, bias, index < last and not self.layer_norm, self.engine)
            if index < last and self.layer_norm:
                before = rows
                rows, mean, inverse_std = torch.native_layer_norm(before, before.shape[1:], None, None, 1e-5)
                if keep:
                    self._normalised.append((before, mean, inverse_std))
                rows.relu_()
        return rows

    def backward(self, gradient: Tensor, batch: int, input_from: int | None = None) -> Tensor | None:
        """Gradients of the parameters, and of the inputs where they are wanted.

        Args:
            gradient: of the outputs, ``[N, out]``, for the first N rows of the last forward pass.
            batch: the first so many rows move the parameters; the others tell the gradient of the inputs.
            input_from: first column of the inputs whose gradient is wanted; None for none.

        Returns:
            ``[N - batch, in - input_from]``, or None.
        """
        size = len(gradient)
        for index in reversed(range(len(self._weights))):
            inputs, own = _first(self._inputs[index], size), _first(gradient, batch)
            pair = (own.t(), _first(inputs, batch)) if self.out_first else (_first(inputs, batch).t(), own)
            matmul(*pair, self.engine, out=self._of_weights[index])
            torch.sum(own, dim=0, out=self._of_biases[index])
            if index:
                gradient = matmul(gradient, self._transposed[index], self.engine)
                gradient = torch.ops.aten.threshold_backward(gradient, inputs, 0)
                if self.layer_norm:
                    before, mean, inverse_std = (_first(part, size) for part in self._normalised[index - 1])
                    gradient, _, _ = torch.ops.aten.native_layer_norm_backward(
                        gradient, before, before.shape[1:], mean, inverse_std, None, None, [True, False, False]
                    )
        self._inputs, self._normalised = [], []  # so that the next network finds its memory in the processor's cache
        if input_from is None:
            return None
        return matmul(gradient[batch:], self._transposed[0][:, input_from:], self.engine)


def _first(rows: Tensor, count: int) -> Tensor:
    """The first so many rows; a slice of all of them would cost as much as a small operation."""
    return rows if rows.shape[0] == count else rows[:count]


def usable(rows: Tensor, weight: Tensor) -> bool:
    """Whether ``DenseFunction`` may stand in for PyTorch's own operators: plain float32 on a CPU, nobody tracing."""
    return (
        rows.device.type == "cpu"
        and rows.dim() == 2
        and rows.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def processor() -> str:
    """The processor's model, as the operating system names it."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def _mkl_misses_avx512() -> bool:
    vendor = _cpu_info().get("vendor_id") or platform.processor()
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return "AuthenticAMD" in vendor and wide and torch.backends.mkl.is_available()


def _cpu_info() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = (line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _obstacle() -> str:
    """Why oneDNN cannot be used, found by trying it on a product as layers need them; empty if it can."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch is built without it"
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((16, 24), (24, 32), (32,)))
    try:
        pairs = [
            (dense(rows, weight, bias, True, "onednn"), dense(rows, weight, bias, True, "native")),
            (dense(rows, weight.t().contiguous().t(), bias, False, "onednn"), torch.addmm(bias, rows, weight)),
            (matmul(weight.t(), rows.t(), "onednn"), torch.mm(weight.t(), rows.t())),
        ]
    except (AttributeError, RuntimeError, TypeError) as error:
        return first_line(error)
    alike = all(torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in pairs)
    return "" if alike else "its results differ from PyTorch's"
