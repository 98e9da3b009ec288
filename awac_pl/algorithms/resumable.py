"""A module whose fit goes on from a checkpoint to the bit: its metrics of an unfinished epoch and its random state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms.evaluating import EvaluatedModule
from awac_pl.errors import AwacError
from awac_pl.parallel.ranks import gather_objects, gather_random_states, rank, restore_random_state


class ResumableModule(EvaluatedModule):
    """``epoch_metrics`` holds what ``log_epoch`` got in this epoch, ``chunk_metrics`` what each chunk of it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch_metrics: dict[str, float] = {}
        self.chunk_metrics: list[TensorDict] = []

    def log_epoch(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Log the epoch's values of training metrics, the mean over all ranks."""
        self.epoch_metrics |= {name: float(value) for name, value in metrics.items()}
        self.log_dict(dict(metrics), on_step=False, on_epoch=True, logger=False, batch_size=1, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Forget the metrics of this epoch; the callbacks have read them."""
        self.epoch_metrics = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not save: the learner's class name, the random state, an unfinished epoch's metrics."""
        checkpoint["algorithm"] = type(self).__name__
        checkpoint["random_state"] = gather_random_states(self.device)
        checkpoint["epoch_metrics"] = self.epoch_metrics
        checkpoint["chunk_metrics"] = gather_objects([dict(chunk.items()) for chunk in self.chunk_metrics])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for ``on_train_start``.

        Raises:
            AwacError: the checkpoint is of another algorithm.
        """
        if (other := checkpoint.get("algorithm", type(self).__name__)) != type(self).__name__:
            raise AwacError(f"the checkpoint is of the algorithm {other}, not of {type(self).__name__}")
        self._random_states = checkpoint["random_state"]
        self.epoch_metrics = checkpoint.get("epoch_metrics", {})
        chunks = checkpoint.get("chunk_metrics", [[]])
        own = chunks[rank()] if rank() < len(chunks) else []
        self.chunk_metrics = list(map(TensorDict, own))

    def on_train_start(self) -> None:
        """Restore the random state of a resumed run as late as possible (the set-up may draw), and use its new settings."""
        states = self.__dict__.pop("_random_states", None)
        if states is None:
            if rank():  # rank 0 keeps the run's own seed
                torch.manual_seed(torch.initial_seed() + 1000 * rank())  # seeds of runs are below 1000
            return
        restore_random_state(states, self.device)
        asked = self.configure_optimizers()
        if isinstance(asked, torch.optim.Optimizer):  # the checkpoint has brought back the settings of the start before
            groups = self.optimizers().optimizer.param_groups  # type: ignore[union-attr]
            for group, new in zip(groups, asked.param_groups, strict=True):
                group.update({name: value for name, value in new.items() if name != "params"})

    def log_chunks(self) -> None:
        """Log the means over this epoch's chunks."""
        chunks = [chunk.to(self.device) for chunk in self.chunk_metrics]  # those of a checkpoint came before the device
        means = TensorDict.stack(chunks).mean(dim=0)
        self.chunk_metrics = []
        self.log_epoch(dict(means.items()))
