"""Offline-to-online reinforcement learning for dexterous manipulation: AWAC on PyTorch Lightning and TorchRL."""

__version__ = "0.1.0"
