"""The replay buffer: TorchRL's, with offline rows that are never overwritten and a sampler that can tell them apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import RandomSampler
from torchrl.data.replay_buffers.storages import Storage

from awac_pl.episode import Episode, to_transitions
from awac_pl.errors import AwacError

log = logging.getLogger(__name__)


class OfflineOnlineSampler(RandomSampler):
    """Rows in proportion to the weights of their datasets, or a fixed share of each batch from the offline rows.

    Args:
        seed: of the sampler's own generator, so that nothing else moves its draws.
        offline_ratio: share of each batch from the offline rows; None draws from everything. While there are no online
            rows, all come from the offline rows.
        demonstration_ratio: share of each batch from the demonstrations, which are the first rows; the others come from
            everything. None draws no rows apart.
        device: where row numbers are drawn: where the rows lie, so that nothing waits for a copy.
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
        self.demonstration_size = 0
        self._parts: list[tuple[int, float]] = []

    def add_offline(self, rows: int, weight: float) -> None:
        """So many rows more, each drawn ``weight`` times as often as an online row."""
        if self._parts and self._parts[-1][1] == weight:  # a dataset arrives in blocks
            rows_before, _ = self._parts.pop()
            self._parts.append((rows_before + rows, weight))
        else:
            self._parts.append((rows, weight))
        self.offline_size += rows

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict]:
        """``[batch_size]`` row numbers."""
        return self.rows(len(storage), 1, batch_size)[0], {}

    def rows(self, size: int, num_batches: int, batch_size: int) -> Tensor:
        """``[K, B]`` row numbers below ``size``; each batch is a draw of its own, so K changes no numbers."""
        online = size - self.offline_size
        device = self.generator.device
        draws = [torch.rand(batch_size, generator=self.generator, dtype=torch.float64, device=device)
                 for _ in range(num_batches)]  # fmt: skip
        point = torch.stack(draws)
        demonstrations = round((self.demonstration_ratio or 0) * batch_size) if self.demonstration_size else 0
        apart = (point[:, :demonstrations] * self.demonstration_size).long()
        return torch.cat([apart, self._from_everything(point[:, demonstrations:], online)], dim=1)

    def _from_everything(self, point: Tensor, online: int) -> Tensor:
        """Rows at points in [0, 1)."""
        offline = sum(rows * weight for rows, weight in self._parts)
        if self.offline_ratio is None or online == 0:
            return self._row(point * (offline + online))
        from_offline = round(self.offline_ratio * point.shape[1])
        point[:, :from_offline] *= offline
        point[:, from_offline:] *= online
        point[:, from_offline:] += offline
        return self._row(point)

    def load_generator(self, state: Tensor) -> None:
        """Go on with the draws of a checkpoint; with fresh ones where it was made on another kind of device."""
        if len(state) == len(self.generator.get_state()):
            self.generator.set_state(state.cpu())
        else:
            log.warning(
                "the checkpoint's buffer was on another kind of device: batches are drawn anew, not exactly as there"
            )

    def _row(self, point: Tensor) -> Tensor:
        """Rows at points of an axis on which an offline row is as long as its weight, and an online row 1."""
        if all(weight == 1 for _, weight in self._parts):
            return point.long()
        row = point - sum(rows * weight for rows, weight in self._parts) + self.offline_size
        start, position = 0, 0.0
        for rows, weight in self._parts:
            inside = (point >= position) & (point < position + rows * weight)
            here = (start + (point - position) / weight).clamp(max=start + rows - 1)
            row = torch.where(inside, here, row)
            start, position = start + rows, position + rows * weight
        return row.long()


class Replay:
    """Offline transitions first, then a ring of online ones.

    Args:
        capacity: largest number of transitions.
        device: where they are stored and sampled.
        seed: of the sampler.
        offline_ratio: see ``OfflineOnlineSampler``.
        demonstration_ratio: see ``OfflineOnlineSampler``.
        n_step: steps that a transition spans.
        discount: gamma.
        rank: number of this process among those that train together.
        world_size: number of those.
        scratch: folder for a memory-mapped buffer, larger than memory; None keeps it in memory.

    Of several processes that train together each has a buffer of its own: every W-th offline transition, and the episodes it
    collects itself. Their union is the one buffer.
    """

    def __init__(
        self,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        offline_ratio: float | None = None,
        demonstration_ratio: float | None = None,
        n_step: int = 1,
        discount: float = 0.99,
        rank: int = 0,
        world_size: int = 1,
        scratch: str | None = None,
    ) -> None:
        self.capacity = capacity // world_size
        self.n_step, self.discount = n_step, discount
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device if scratch is None else "cpu")  # chunks of a file are moved when they are used
        own_seed = seed + 1000 * rank  # seeds of runs are below 1000
        self.sampler = OfflineOnlineSampler(own_seed, offline_ratio, demonstration_ratio, self.device)
        storage: Storage
        if scratch is None:
            storage = LazyTensorStorage(self.capacity, device=self.device)
        else:
            storage = LazyMemmapStorage(self.capacity, scratch_dir=scratch)
        self.buffer = TensorDictReplayBuffer(storage=storage, sampler=self.sampler, batch_size=1)
        self._online_written = 0

    def __len__(self) -> int:
        return len(self.buffer)

    @property
    def offline_size(self) -> int:
        """Number of offline transitions."""
        return self.sampler.offline_size

    @property
    def online_size(self) -> int:
        """Number of online transitions that are still there."""
        return len(self) - self.offline_size

    def add_offline(self, episodes: Sequence[Episode], weight: float = 1.0, demonstrations: bool = False) -> None:
        """Store this rank's share of some offline episodes; may be called again, before the first online episode.

        Args:
            episodes: to store.
            weight: how often one of their transitions is drawn, compared with an online one.
            demonstrations: they count for ``demonstration_ratio``, and come before all others.

        Raises:
            AwacError: the capacity does not hold them and at least one online transition.
        """
        rows = self._to_rows(episodes)[self.rank :: self.world_size]
        if (size := self.offline_size + len(rows)) >= self.capacity:
            ranks = self.world_size
            raise AwacError(
                f"data.capacity is {self.capacity * ranks}, the datasets hold {size * ranks} transitions; "
                "set it to these plus the online steps to keep"
            )
        self.buffer.extend(rows)
        self.sampler.add_offline(len(rows), weight)
        if demonstrations:
            self.sampler.demonstration_size += len(rows)

    def add_online(self, episodes: Sequence[Episode]) -> None:
        """Add online episodes; once full, they replace the oldest online transitions."""
        self._extend_rows(self._to_rows(episodes))

    def sample(self, num_batches: int, batch_size: int) -> TensorDict:
        """``[K, B]`` transitions, each batch drawn with replacement."""
        index = self.sampler.rows(len(self), num_batches, batch_size).flatten()
        rows = self.buffer.storage[: len(self)].exclude("index")  # views, without TorchRL's own row number
        # One index_select per column is several times as fast as indexing a TensorDict.
        columns = {key: column.index_select(0, index) for key, column in rows.items()}
        return TensorDict(columns, [num_batches * batch_size], device=self.device).reshape(num_batches, batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The online rows and the sampler's state; the offline rows come back from their datasets.

        The rows are copied: a slice would drag the whole capacity into the checkpoint.
        """
        online = self.buffer[self.offline_size :].clone().to("cpu").to_dict() if self.online_size else {}
        return {
            "offline_size": self.offline_size,
            "online_written": self._online_written,
            "online": online,
            "generator": self.sampler.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore into a buffer that was just filled with the same offline data.

        Raises:
            AwacError: the offline data are not of the same size, or the online rows do not fit.
        """
        if state["offline_size"] != self.offline_size:
            raise AwacError(
                f"the checkpoint's run had {state['offline_size']} offline transitions, this one has "
                f"{self.offline_size}; resume with the same data.datasets"
            )
        self.sampler.load_generator(state["generator"])
        if not state["online"]:
            return
        rows = TensorDict.from_dict(state["online"], auto_batch_size=True)
        rows.auto_batch_size_(1)
        if len(rows) > self.capacity - self.offline_size:
            raise AwacError(
                f"data.capacity is {self.capacity}, the checkpoint holds {self.offline_size + len(rows)} transitions"
            )
        self._extend_rows(rows.to(self.device))
        ring = self.capacity - self.offline_size
        self._online_written = state["online_written"]
        self._set_cursor(self.offline_size + self._online_written % ring)

    def _to_rows(self, episodes: Sequence[Episode]) -> TensorDict:
        transitions = to_transitions(episodes, self.n_step, self.discount)
        columns = {key: torch.from_numpy(column) for key, column in transitions.items()}
        return TensorDict(columns, batch_size=[len(columns["reward"])]).to(self.device)

    def _extend_rows(self, rows: TensorDict) -> None:
        ring = self.capacity - self.offline_size
        while len(rows):
            room = ring - self._online_written % ring
            self.buffer.extend(rows[:room])
            self._online_written += len(rows[:room])
            if self._online_written % ring == 0:  # past the end, TorchRL's writer would go on at row 0
                self._set_cursor(self.offline_size)
            rows = rows[room:]

    def _set_cursor(self, row: int) -> None:
        writer = self.buffer.writer
        writer.load_state_dict({**writer.state_dict(), "_cursor": row})


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One buffer's state of those of several ranks: all their online rows, rank after rank, and the first one's draws."""
    if len(states) == 1:
        return states[0]
    online = [TensorDict.from_dict(state["online"], auto_batch_size=True) for state in states if state["online"]]
    return {
        "offline_size": sum(state["offline_size"] for state in states),
        "online_written": sum(state["online_written"] for state in states),
        "online": TensorDict.cat(online).to_dict() if online else {},
        "generator": states[0]["generator"],
    }
