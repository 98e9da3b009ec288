"""Dense layers on a CPU, and which library multiplies their matrices.

PyTorch's wheels give float32 products to MKL (pytorch/pytorch#125386). On AMD processors MKL uses its AVX2 kernels even
with AVX-512 (pytorch/builder#504), at about half the speed of oneDNN, which is in the same wheel. PyTorch has no switch for
this, so ``onednn`` calls an operator of PyTorch's own compiler, after a trial.
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

_SMALLEST = 8  # with a smaller dimension, oneDNN's time goes into rearranging the operands


@functools.cache
def choose_engine(asked: Literal["auto", "native", "onednn"] = "auto") -> Engine:
    """Which library multiplies. The processor decides, not a timing, so that a resumed run computes the same bits.

    ``native`` is PyTorch's choice. ``auto`` is ``onednn`` if PyTorch would call MKL on an AMD processor with AVX-512, else
    ``native``. If oneDNN is chosen and cannot be used, a warning says so.
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
    """``[B, in] x [in, out] + [out]``, and a ReLU if asked; not differentiable with ``onednn``."""
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
        """Gradients of rows, weight and bias, if needed."""
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
    """The dense ReLU layers of one network, forward and backward, without autograd.

    Gradients go into the parameters' ``grad``, which must be there before if ``backward`` is used.

    Args:
        weights: of each layer, ``[in, out]``.
        biases: of each layer, ``[out]``.
        out_first: the weights are ``[out, in]``, as those of ``nn.Linear``.
        layer_norm: normalise the inputs of every hidden ReLU.
        engine: the library that multiplies.
        critic: index in an ensemble with weights ``[E, in, out]`` and biases ``[E, 1, out]``; None for a single network.
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
        self._normalised: list[tuple[Tensor, Tensor, Tensor]] = []  # input, mean and 1 / std of each normalisation

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
        """Gradients of the parameters from the first rows, and of the inputs from the others.

        Args:
            gradient: of the outputs, ``[N, out]``, for the first N rows of the last forward pass.
            batch: number of rows whose gradients reach the parameters.
            input_from: first column of the inputs' gradient; None for no such gradient.

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
        self._inputs, self._normalised = [], []  # frees memory that is in the processor's cache for the next network
        if input_from is None:
            return None
        return matmul(gradient[batch:], self._transposed[0][:, input_from:], self.engine)


def _first(rows: Tensor, count: int) -> Tensor:
    """The first rows; without the slice if it would take all, which costs as much as a small operation."""
    return rows if rows.shape[0] == count else rows[:count]


def usable(rows: Tensor, weight: Tensor) -> bool:
    """Whether ``DenseFunction`` may replace PyTorch's operators: float32 rows on a CPU, no autocast, no tracing."""
    return (
        rows.device.type == "cpu"
        and rows.dim() == 2
        and rows.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def processor() -> str:
    """The processor's model by the operating system's name."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def _mkl_misses_avx512() -> bool:
    vendor = _cpu_info().get("vendor_id") or platform.processor()
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return "AuthenticAMD" in vendor and wide and torch.backends.mkl.is_available()


def _cpu_info() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``; empty if there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = (line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _obstacle() -> str:
    """Why oneDNN cannot be used, by a trial on small products; empty if it can."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch is built without it"
    try:
        with torch.device("cpu"):  # a checkpoint's learner is made on the device meta first
            alike = all(torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in _trial())
    except (AttributeError, RuntimeError, TypeError) as error:
        return first_line(error)
    return "" if alike else "its results differ from PyTorch's"


def _trial() -> list[tuple[Tensor, Tensor]]:
    """The same small products by oneDNN and by PyTorch's own choice."""
    generator = torch.Generator().manual_seed(0)
    shapes = (16, 24), (24, 32), (32,)
    rows, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float32) for shape in shapes)
    return [
        (dense(rows, weight, bias, True, "onednn"), dense(rows, weight, bias, True, "native")),
        (dense(rows, weight.t().contiguous().t(), bias, False, "onednn"), torch.addmm(bias, rows, weight)),
        (matmul(weight.t(), rows.t(), "onednn"), torch.mm(weight.t(), rows.t())),
    ]
