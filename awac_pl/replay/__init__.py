"""The TorchRL replay buffer, and the data module that fills it and streams from it."""
