"""Offline-to-online reinforcement learning for dexterous manipulation: AWAC on PyTorch Lightning and TorchRL."""

from __future__ import annotations

import os
from importlib import import_module

TYPE_CHECKING = False  # as type checkers read it; importing typing would take as long as everything else here
if TYPE_CHECKING:
    from typing import Any

    from awac_pl.algorithms.awac import AWAC
    from awac_pl.callbacks.interaction import EnvironmentInteraction
    from awac_pl.deploy.runner import PolicyRunner
    from awac_pl.replay.data_module import ReplayDataModule

__version__ = "0.2.0.dev0"
__all__ = ["AWAC", "EnvironmentInteraction", "PolicyRunner", "ReplayDataModule"]

#: Where the public classes live. They are imported at first use: a robot that needs ``PolicyRunner`` has no torch.
_HOMES = {
    "AWAC": "algorithms.awac",
    "EnvironmentInteraction": "callbacks.interaction",
    "PolicyRunner": "deploy.runner",
    "ReplayDataModule": "replay.data_module",
}

# Torch's threads spin while they wait for each other. On busy cores a spinning thread takes the core that the other thread
# needs, and an update takes 30 times as long. A bounded spin costs nothing on idle cores. Torch reads the variable when it
# is loaded, so it must be set here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
