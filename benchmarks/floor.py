"""What no update goes below: its matrix products alone, by whatever multiplies fastest here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from awac_pl.policies.products import choose_engine, matmul

Multiply = Callable[[Tensor, Tensor, Tensor], object]


def products(
    observation_dim: int, action_dim: int, hidden: Sequence[int], batch: int, critics: int = 2
) -> list[tuple[int, int, int]]:
    """``(m, k, n)`` of every matrix product of one AWAC update, each forward pass made once.

    Forward: the actor at s and s', each critic at (s, a), the targets at (s', a') and V(s). Backward: weights of all layers,
    inputs of all but the first.
    """
    shapes = []
    for sizes, networks, forwards in (
        ([observation_dim, *hidden, action_dim], 1, 2),
        ([observation_dim + action_dim, *hidden, 1], critics, 3),
    ):
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            each = [(batch, fan_in, fan_out)] * forwards + [(fan_in, batch, fan_out)]
            shapes += networks * (each + ([(batch, fan_out, fan_in)] if layer else []))
    return shapes


def multipliers(device: torch.device) -> dict[str, Multiply]:
    """What there is to multiply with, ``(left, right, out)``: PyTorch, and on a CPU also oneDNN and numpy's OpenBLAS."""
    multiply: dict[str, Multiply] = {"torch.mm": lambda left, right, out: torch.mm(left, right, out=out)}
    if device.type == "cpu":
        threadpool_limits(torch.get_num_threads(), user_api="blas")  # of numpy's
        if choose_engine("onednn") == "onednn":
            multiply["oneDNN"] = lambda left, right, out: matmul(left, right, "onednn")
        multiply["numpy"] = lambda left, right, out: np.matmul(left.numpy(), right.numpy(), out=out.numpy())
    return multiply


def ceiling(
    shapes: Sequence[tuple[int, int, int]], device: torch.device, updates: int, multiply: Multiply
) -> Callable[[], None]:
    """The products and nothing else, into buffers that are there."""
    operands = [
        (torch.randn(m, k, device=device), torch.randn(k, n, device=device), torch.empty(m, n, device=device))
        for m, k, n in shapes
    ]

    def run() -> None:
        for _ in range(updates):
            for left, right, out in operands:
                multiply(left, right, out)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def floor(
    shapes: Sequence[tuple[int, int, int]], parameters: int, trained: int, device: torch.device, size: int = 2048
) -> dict[str, Any]:
    """Operations over this machine's largest rate, or bytes over its bandwidth, whichever takes longer.

    Operations: two per multiplication of ``shapes``, over the rate of one large product by whatever multiplies fastest.
    Bytes: Adam reads parameter, gradient and two moments and writes three of them, targets are read and written, over the
    rate of one large addition in place.

    Args:
        shapes: of the update's products.
        parameters: numbers in the networks that learn.
        trained: how many of them have a target.
        device: where to measure.
        size: of the large product; the addition takes 8 times its bytes.

    Returns:
        ``gflop`` and ``megabytes`` of one update, ``gflops`` and ``gigabytes_per_s`` of this machine, ``gflops_of`` each
        multiplier, ``updates_per_s``.
    """

    def fastest(work: Callable[[], object], repeats: int = 5) -> float:
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    square, result = torch.randn(size, size, device=device), torch.empty(size, size, device=device)

    def rate_of(multiply: Multiply) -> float:
        return 2 * size**3 / fastest(lambda: multiply(square, square, result))

    rates = {name: rate_of(multiply) for name, multiply in multipliers(device).items()}
    rate = max(rates.values())
    long = torch.zeros(8 * size * size, device=device)
    bandwidth = 2 * long.nbytes / fastest(lambda: long.add_(1))
    operations = sum(2 * m * k * n for m, k, n in shapes)
    moved = 4 * (7 * parameters + 3 * trained)
    return {
        "gflop": operations / 1e9, "megabytes": moved / 1e6, "gflops": rate / 1e9, "gigabytes_per_s": bandwidth / 1e9,
        "gflops_of": {name: value / 1e9 for name, value in rates.items()},
        "updates_per_s": 1 / max(operations / rate, moved / bandwidth),
    }  # fmt: skip
