"""The progress of a sweep: one table in a terminal, a line for each piece of news elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from awac_pl.sweeps.plan import Plan

#: Seconds between two pictures of the table, and between two lines of a run elsewhere.
REFRESH, LINE = 0.5, 60.0
#: Order of the phases in the table.
PHASES = ("online", "offline", "starting", "failed", "finished", "stopped early")


class ProgressTable:
    """Run, phase, what is done, success or return, and time left of every run that has begun.

    Args:
        plan: of the sweep.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.live = sys.stderr.isatty()
        self.results: dict[str, dict[str, Any]] = {}
        self._lines = 0
        self._drawn = 0.0
        self._told: dict[str, float] = {}

    def show(self, name: str, result: Mapping[str, Any]) -> None:
        """Take in a run's last result."""
        before = self.results.get(name, {})
        self.results[name] = {**before, **result}
        if self.live:
            return
        phase = self.results[name]["phase"] = self._phase(name)
        moved, since = result.get("updates") != before.get("updates"), time.monotonic() - self._told.get(name, 0.0)
        if phase != before.get("phase") or (moved and since > LINE):
            self._told[name] = time.monotonic()
            print("  ".join(filter(None, self._row(name))), file=sys.stderr, flush=True)

    def draw(self) -> None:
        """Draw the table anew, if it is time."""
        if not self.live or time.monotonic() - self._drawn < REFRESH:
            return
        self._drawn = time.monotonic()
        width, height = shutil.get_terminal_size()
        rows = [self._row(name) for name in sorted(self.results, key=lambda name: (PHASES.index(self._phase(name)), name))]
        measure = "success" if self.plan.metric == "eval/success_rate" else "return"
        rows = [["run", "phase", "done", measure, "time left"], *rows[: max(1, height - 4)]]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True))[: width - 1] for row in rows]
        self.clear()
        print("\n".join([*lines, self.summary()]), file=sys.stderr, flush=True)
        self._lines = len(lines) + 1

    def clear(self) -> None:
        """Take the table away."""
        if self._lines:
            print(f"\x1b[{self._lines}F\x1b[J", end="", file=sys.stderr, flush=True)
        self._lines = 0

    def summary(self) -> str:
        """How many runs are where."""
        phases = [self._phase(name) for name in list(self.results)]  # Tune's thread adds to them
        counts = {"running": sum(phase in ("online", "offline", "starting") for phase in phases)}
        counts |= {phase: phases.count(phase) for phase in ("finished", "stopped early", "failed")}
        counts["waiting"] = self.plan.count - len(phases)
        return f"{self.plan.count} runs: " + ", ".join(f"{number} {name}" for name, number in counts.items() if number)

    def _phase(self, name: str) -> str:
        result = self.results[name]
        if result.get("outcome") in PHASES[3:]:
            return str(result["outcome"])
        if not result.get("updates"):
            return "starting"
        return "online" if result.get("steps") else "offline"

    def _row(self, name: str) -> list[str]:
        result, totals = self.results[name], self.plan.totals
        updates, phase = result.get("updates", 0), self._phase(name)
        offline = phase == "offline"
        done, total = (updates, totals["offline_updates"]) if offline else (result.get("steps", 0), totals["env_steps"])
        value = result.get(self.plan.metric, math.nan)
        left = result.get("pace", 0.0) * max(0.0, totals["updates"] - updates)
        return [
            name, phase, f"{done:,.0f} of {total:,.0f} {'updates' if offline else 'steps'}" if updates else "",
            f"{value:.2f}" if math.isfinite(value) else "",
            tqdm.format_interval(left) if left and phase in PHASES[:2] else "",
        ]  # fmt: skip
