"""What Lightning iterates over: chunks of transitions to train on, and seeds to evaluate on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from tensordict import TensorDict

from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.parallel.ranks import rank, world_size

#: Online steps at which an evaluation takes more episodes.
MILESTONES = (50_000, 100_000, 200_000, 300_000, 500_000)


class ChunkStream:
    """One epoch of chunks. It is live: the next chunk can contain rows that were just added to the buffer.

    Args:
        length: chunks of an epoch.
        sample: returns the next chunk ``[K, B]``.
    """

    def __init__(self, length: int, sample: Callable[[], TensorDict]) -> None:
        self.length = length
        self.sample = sample

    def state_dict(self) -> dict:
        """Empty: the replay buffer and its random state determine the next chunk."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Does nothing; a loader that has both methods tells Lightning that it can resume within an epoch."""

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[TensorDict]:
        for _ in range(self.length):
            yield self.sample()


class SeedStream:
    """Evaluation seeds, in lists that keep all workers busy. They are always the same ones, and the ranks share them.

    Args:
        episodes: returns their number when an evaluation begins.
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


class EvaluationSchedule:
    """How many episodes each evaluation of a fit takes.

    Args:
        episodes: of an evaluation.
        milestone_episodes: of an evaluation at a milestone: the first one after one of ``MILESTONES``, and those that the
            caller names.
    """

    def __init__(self, episodes: int, milestone_episodes: int) -> None:
        self.episodes = episodes
        self.milestone_episodes = milestone_episodes
        self._evaluated_at = self._evaluated_before = 0
        self._epoch: int | None = None

    def episodes_at(self, epoch: int, env_steps: int, milestone: bool) -> int:
        """Episodes of the evaluation after an epoch."""
        if (epoch, env_steps) != (self._epoch, self._evaluated_at):  # else it was interrupted and starts again
            self._epoch, self._evaluated_before = epoch, self._evaluated_at
        self._evaluated_at = env_steps
        passed = any(self._evaluated_before < step <= env_steps for step in MILESTONES)
        return self.milestone_episodes if passed or milestone else self.episodes

    def state_dict(self) -> dict[str, Any]:
        """Environment steps of the last evaluation and of the one before, for a checkpoint."""
        return {"evaluated_at": self._evaluated_at, "evaluation": (self._epoch, self._evaluated_before)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore; checkpoints of version 0.1 lack ``evaluation``."""
        self._evaluated_at = state_dict["evaluated_at"]
        self._epoch, self._evaluated_before = state_dict.get("evaluation", (None, 0))
