"""The load of a run on its machine."""

from __future__ import annotations

import contextlib
import time

import psutil
import torch


class Usage:
    """Processor time and memory of this process and its children."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = (time.monotonic(), 0.0)

    def measure(self, device: torch.device) -> dict[str, float]:
        """Processor time since the last call (100 is one core), present memory, the device's peak memory, in MiB."""
        cpu = memory = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it may have ended
                times = process.cpu_times()
                cpu, memory = cpu + times.user + times.system, memory + process.memory_info().rss
        then, cpu_then = self._before
        now = time.monotonic()
        self._before = now, cpu
        usage = {
            "system/cpu_percent": round(100 * max(0.0, cpu - cpu_then) / max(now - then, 1e-9), 1),
            "system/memory_mib": round(memory / 2**20),
        }
        if device.type == "cuda":
            usage["system/gpu_memory_mib"] = round(torch.cuda.max_memory_reserved(device) / 2**20)
        return usage
