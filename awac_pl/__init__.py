"""Offline-to-online reinforcement learning for dexterous manipulation: AWAC on PyTorch Lightning and TorchRL."""

import os

__version__ = "0.1.0"

# Torch's threads spin while they wait for each other, for as long as libgomp likes; where others use the cores, too, a
# thread that spins keeps the one that it waits for from running, and an update takes 30 times as long. A bounded spin costs
# nothing on idle cores. Read when torch is loaded, so it must stand here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
