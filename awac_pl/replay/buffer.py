"""The replay buffer: TorchRL's, with offline rows that are never overwritten."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from awac_pl.envs.graphics import import_mujoco
from awac_pl.envs.tasks import Spaces
from awac_pl.episode import Episode, to_transitions
from awac_pl.errors import AwacError, SettingError, WriteError, first_line
from awac_pl.files import reserve
from awac_pl.settings import check_memory

import_mujoco()  # before TorchRL does, which fails where MUJOCO_GL names graphics that this machine has not
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer  # noqa: E402
from torchrl.data.replay_buffers.storages import Storage  # noqa: E402

from awac_pl.replay.sampler import OfflineOnlineSampler  # noqa: E402

log = logging.getLogger(__name__)
logging.getLogger("torchrl").setLevel(logging.WARNING)  # it announces every storage, in colours

#: Number of a dataset's episodes that are in memory at once while the buffer is filled.
EPISODES_AT_A_TIME = 100


class ReservedMemmapStorage(LazyMemmapStorage):
    """TorchRL's, whose files get all of their space at once: a full disk would kill the process at a later write."""

    def _init(self, data: Any) -> None:
        folder = Path(self.scratch_dir)
        try:
            super()._init(data)
            for path in folder.rglob("*.memmap"):
                reserve(path, path.stat().st_size)
        except (OSError, RuntimeError) as error:  # the latter from torch, above a limit of the file size
            size = self.max_size * sum(column.nbytes for column in data.values())  # of one row
            reason = getattr(error, "strerror", None) or first_line(error).rpartition(": ")[2]
            raise WriteError(
                f"data.storage memmap: no room for {self.max_size} transitions, {size / 1e6:.1f} MB, in {folder.parent} "
                f"({reason}); lower data.capacity, or make room"
            ) from error


class Replay:
    """Offline transitions first, then a ring of online ones.

    Processes that train together have a buffer each: every W-th offline transition, and the episodes that they collect. The
    union of their buffers is the buffer of a single process.

    Args:
        capacity: largest number of transitions.
        device: where they are stored and sampled.
        seed: of the sampler.
        offline_ratio: see ``OfflineOnlineSampler``.
        demonstration_ratio: see ``OfflineOnlineSampler``.
        self_imitation: count every episode that succeeds among the demonstrations.
        n_step: steps that a transition spans.
        discount: gamma.
        rank: number of this process.
        world_size: W, the number of processes.
        scratch: folder for the file of a memory-mapped buffer, which can be larger than memory; None keeps it in memory.
    """

    def __init__(
        self,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        offline_ratio: float | None = None,
        demonstration_ratio: float | None = None,
        self_imitation: bool = False,
        n_step: int = 1,
        discount: float = 0.99,
        rank: int = 0,
        world_size: int = 1,
        scratch: str | None = None,
    ) -> None:
        self.capacity = capacity // world_size
        self.n_step, self.discount = n_step, discount
        self.self_imitation = self_imitation
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device if scratch is None else "cpu")  # training moves the chunks of a file
        own_seed = seed + 1000 * rank  # seeds of runs are below 1000
        self.sampler = OfflineOnlineSampler(own_seed, offline_ratio, demonstration_ratio, self.device)
        storage: Storage
        if scratch is None:
            storage = LazyTensorStorage(self.capacity, device=self.device)
        else:
            storage = ReservedMemmapStorage(self.capacity, scratch_dir=scratch)
        self.buffer = TensorDictReplayBuffer(storage=storage, sampler=self.sampler)
        self.demonstration_size = 0  #: rows of the demonstrations; they are the first ones
        self._online_written = 0

    def __len__(self) -> int:
        return len(self.buffer)

    @property
    def offline_size(self) -> int:
        """Number of offline transitions."""
        return self.sampler.offline_size

    @property
    def online_size(self) -> int:
        """Number of stored online transitions."""
        return len(self) - self.offline_size

    def fill(
        self, stream: Iterator[tuple[Episode, int]], weight: float = 1.0, demonstrations: bool = False
    ) -> tuple[int, int, int]:
        """Add the offline episodes of ``read_episodes``, few at a time; see ``add_offline``.

        Returns:
            How many episodes, transitions and clipped action values the stream had.
        """
        episodes = transitions = clipped = 0
        while block := list(itertools.islice(stream, EPISODES_AT_A_TIME)):
            self.add_offline([episode for episode, _ in block], weight, demonstrations)
            episodes += len(block)
            transitions += sum(len(episode) for episode, _ in block)
            clipped += sum(outside for _, outside in block)
        return episodes, transitions, clipped

    def add_offline(self, episodes: Sequence[Episode], weight: float = 1.0, demonstrations: bool = False) -> None:
        """Store this rank's share of offline episodes. Every call must come before the first online episode.

        Args:
            episodes: to store.
            weight: how often their transitions are drawn, relative to online ones.
            demonstrations: they count for ``demonstration_ratio``; they must come before all other episodes.

        Raises:
            AwacError: the capacity is too small for them and one online transition.
        """
        rows = self._to_rows(episodes, demonstrations)[self.rank :: self.world_size]
        if (size := self.offline_size + len(rows)) >= self.capacity:
            ranks = self.world_size
            raise AwacError(
                f"data.capacity is {self.capacity * ranks}, the datasets hold {size * ranks} transitions; "
                "set it to these plus the online steps to keep"
            )
        self.buffer.extend(rows)
        self.sampler.add_offline(len(rows), weight)
        self.demonstration_size += len(rows) if demonstrations else 0
        self._find_demonstrations()

    def add_online(self, episodes: Sequence[Episode]) -> None:
        """Add online episodes. In a full buffer they replace the oldest online transitions."""
        self._write_online(self._to_rows(episodes))

    def sample(self, num_batches: int, batch_size: int) -> TensorDict:
        """``[K, B]`` transitions, each batch drawn with replacement."""
        index = self.sampler.rows(len(self), num_batches, batch_size).flatten()
        rows = self.buffer.storage[: len(self)].exclude("index", "demonstration")  # views, without the row's number and kind
        # One index_select per column is several times as fast as indexing a TensorDict.
        columns = {key: column.index_select(0, index) for key, column in rows.items()}
        return TensorDict(columns, [num_batches * batch_size], device=self.device).reshape(num_batches, batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The online rows and the sampler's state; the offline rows come back from their datasets.

        The rows are copied, because a slice would save the whole capacity.
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
            AwacError: the offline data have another size, or the online rows do not fit.
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
        if "demonstration" not in rows:  # saved by version 0.1
            rows["demonstration"] = torch.zeros(len(rows), dtype=torch.bool)
        if (size := self.offline_size + len(rows)) > self.capacity:
            ranks = self.world_size
            raise AwacError(f"data.capacity is {self.capacity * ranks}, the checkpoint holds {size * ranks} transitions")
        written = state["online_written"]
        if len(rows) < min(written, self.capacity - self.offline_size):  # the checkpoint's ring was full, this one is larger
            rows, written = _oldest_first(rows, written), len(rows)
        self._write_online(rows.to(self.device))
        self._online_written = written

    def _to_rows(self, episodes: Sequence[Episode], demonstrations: bool = False) -> TensorDict:
        transitions = to_transitions(episodes, self.n_step, self.discount)
        columns = {key: torch.from_numpy(column) for key, column in transitions.items()}
        kind = [
            demonstrations or (self.self_imitation and episode.success is not None and bool(episode.success.any()))
            for episode in episodes
        ]
        columns["demonstration"] = torch.tensor(kind).repeat_interleave(torch.tensor([len(episode) for episode in episodes]))
        return TensorDict(columns, batch_size=[len(columns["reward"])]).to(self.device)

    def _write_online(self, rows: TensorDict) -> None:
        """Write the next rows of the ring; of more rows than the ring holds, the last ones stay."""
        ring = self.capacity - self.offline_size
        self._online_written += len(rows)
        rows = rows[-ring:]
        number = torch.arange(self._online_written - len(rows), self._online_written, device=self.device)
        index = self.offline_size + number % ring
        self.buffer.storage.set(index, rows.set("index", index))  # TorchRL's writer would continue at row 0 after the end
        self._find_demonstrations()

    def _find_demonstrations(self) -> None:
        self.sampler.demonstrations = self.buffer.storage["demonstration"][: len(self)].nonzero().flatten()


def check_device(name: str) -> None:
    """Refuse a device that does not exist here.

    Raises:
        SettingError: it does not.
    """
    try:
        torch.empty(0, device="cpu" if name == "auto" else name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(
            f"data.device is {name}; use auto, cpu, or a device of this machine ({first_line(error)})"
        ) from error


def check_rows(what: str, rows: int, spaces: Spaces) -> None:
    """Refuse more transitions than memory holds.

    Args:
        what: the setting, for the message.
        rows: number of transitions, each with the indices that draw it.
        spaces: of the task's environment.

    Raises:
        SettingError: they do not fit.
    """
    check_memory(what, rows * (4 * (2 * spaces.observation_dim + spaces.action_dim + 2) + 3 + 16))


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One buffer's state from those of several ranks: their online rows, and the first rank's generator.

    The rows come rank by rank, each rank's oldest first, so that an episode stays in one piece. A full buffer overwrites
    them in this order.
    """
    if len(states) == 1:
        return states[0]
    online = [
        _oldest_first(TensorDict.from_dict(state["online"], auto_batch_size=True), state["online_written"])
        for state in states
        if state["online"]
    ]
    return {
        "offline_size": sum(state["offline_size"] for state in states),
        "online_written": sum(len(rows) for rows in online),
        "online": TensorDict.cat(online).to_dict() if online else {},
        "generator": states[0]["generator"],
    }


def _oldest_first(rows: TensorDict, written: int) -> TensorDict:
    """The ``[N]`` online rows of a ring into which ``written`` rows have been written so far, N or more."""
    return rows[torch.arange(written, written + len(rows)) % len(rows)]
