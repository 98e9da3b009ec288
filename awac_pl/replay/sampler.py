"""Which rows of the replay buffer make a batch: TorchRL's sampler with weights and shares."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from awac_pl.envs.graphics import import_mujoco

import_mujoco()  # see buffer.py
from torchrl.data.replay_buffers.samplers import RandomSampler  # noqa: E402
from torchrl.data.replay_buffers.storages import Storage  # noqa: E402

log = logging.getLogger(__name__)


class OfflineOnlineSampler(RandomSampler):
    """Draws rows in proportion to the weights of their datasets, or a fixed share of each batch from the offline rows.

    Args:
        seed: of the sampler's own generator, so that other draws do not change its draws.
        offline_ratio: share of each batch from the offline rows; None draws from all rows. While there are no online rows,
            all rows are offline.
        demonstration_ratio: share of each batch from ``demonstrations``; the rest of the batch is drawn from all rows. None
            draws no such share.
        device: of the generator; the device of the rows saves a copy per batch.
    """

    def __init__(
        self,
        seed: int,
        offline_ratio: float | None = None,
        demonstration_ratio: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.generator = torch.Generator(device).manual_seed(seed)
        self.offline_ratio = offline_ratio
        self.demonstration_ratio = demonstration_ratio
        self.offline_size = 0
        self.demonstrations = torch.zeros(0, dtype=torch.int64, device=device)  # row numbers
        self._parts: list[tuple[int, float]] = []  # offline rows and their weight, in the order of the rows

    def add_offline(self, rows: int, weight: float) -> None:
        """Count more offline rows; each is drawn ``weight`` times as often as an online row."""
        before = 0
        if self._parts and self._parts[-1][1] == weight:  # a dataset arrives in blocks
            before, _ = self._parts.pop()
        self._parts.append((before + rows, weight))
        self.offline_size += rows

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict]:
        """``[batch_size]`` row numbers, for TorchRL."""
        return self.rows(len(storage), 1, batch_size)[0], {}

    def rows(self, size: int, num_batches: int, batch_size: int) -> Tensor:
        """``[K, B]`` row numbers below ``size``. Batches are drawn one by one, so K does not change the numbers."""
        device = self.generator.device
        draws = [torch.rand(batch_size, generator=self.generator, dtype=torch.float64, device=device)
                 for _ in range(num_batches)]  # fmt: skip
        point = torch.stack(draws)
        number = len(self.demonstrations)
        share = round((self.demonstration_ratio or 0) * batch_size) if number else 0
        demonstrations = self.demonstrations[(point[:, :share] * number).long()]
        return torch.cat([demonstrations, self._from_all(point[:, share:], size - self.offline_size)], dim=1)

    def _from_all(self, point: Tensor, online: int) -> Tensor:
        """Rows for points in [0, 1)."""
        offline = sum(rows * weight for rows, weight in self._parts)
        if self.offline_ratio is None or online == 0:
            return self._rows_at(point * (offline + online), online)
        share = round(self.offline_ratio * point.shape[1])
        return self._rows_at(torch.cat([point[:, :share] * offline, point[:, share:] * online + offline], dim=1), online)

    def _rows_at(self, point: Tensor, online: int) -> Tensor:
        """Rows for points on an axis on which an offline row has the length of its weight, and an online row length 1."""
        if all(weight == 1 for _, weight in self._parts):
            return point.long()
        row, first, position = point, 0, 0.0
        for rows, weight in [*self._parts, (online, 1.0)]:
            own_row = (first + (point - position) / weight).clamp(max=first + rows - 1)
            row = torch.where(point >= position, own_row, row)
            first, position = first + rows, position + rows * weight
        return row.long()

    def load_generator(self, state: Tensor) -> None:
        """Restore the generator of a checkpoint. A state from another kind of device does not fit and is ignored."""
        if len(state) == len(self.generator.get_state()):
            self.generator.set_state(state.cpu())
        else:
            log.warning("the checkpoint's buffer was on another kind of device: this run draws other batches than that run")
