"""What Lightning iterates over: chunks of transitions to train on, seeds to evaluate on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from tensordict import TensorDict

from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.parallel.ranks import rank, world_size


class ChunkStream:
    """One epoch of chunks. It is live: rows added to the buffer can be in the next chunk.

    Args:
        length: chunks of an epoch.
        sample: the next chunk ``[K, B]``.
    """

    def __init__(self, length: int, sample: Callable[[], TensorDict]) -> None:
        self.length = length
        self.sample = sample

    def state_dict(self) -> dict:
        """Nothing: what comes next follows from the replay buffer and its random state."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """See ``state_dict``; Lightning takes a loader with both for resumable within an epoch."""

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[TensorDict]:
        for _ in range(self.length):
            yield self.sample()


class SeedStream:
    """Evaluation seeds, as many at a time as keep all workers busy; always the same ones, shared out among the ranks.

    Args:
        episodes: how many, asked for when the evaluation begins.
        num_workers: of each rank.
    """

    def __init__(self, episodes: Callable[[], int], num_workers: int) -> None:
        self.episodes = episodes
        self.num_workers = num_workers

    def __iter__(self) -> Iterator[list[int]]:
        episodes = self.episodes()
        at_a_time = math.lcm(10, max(1, self.num_workers) * world_size())
        for start in range(0, episodes, at_a_time):
            seeds = range(EVALUATION_SEEDS + start, EVALUATION_SEEDS + min(start + at_a_time, episodes))
            yield list(seeds)[rank() :: world_size()]
