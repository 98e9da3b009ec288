"""Things timed in turn, round by round, so that a neighbour on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, returning its seconds."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def in_turn(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round; a first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            taken = run()
            if number:
                seconds[name].append(taken)
    return seconds


def compare(seconds: Mapping[str, list[float]], base: str, units: float) -> dict[str, dict[str, Any]]:
    """Units per second, and the ratio of speeds to ``base`` within each round: median, lowest and highest."""
    table = {}
    for name, values in seconds.items():
        ratios = [other / own for other, own in zip(seconds[base], values, strict=True)]
        table[name] = {
            "per_second": units / statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
    return table


def show(title: str, table: Mapping[str, Mapping[str, Any]], unit: str, base: str) -> None:
    """Print one table."""
    print(f"\n{title}")
    for name, row in table.items():
        low, high = row["ratio_range"]
        print(
            f"  {name:<34} {row['per_second']:10.1f} {unit}   {row['ratio']:5.2f} x {base} ({low:.2f} to {high:.2f})",
            flush=True,
        )
