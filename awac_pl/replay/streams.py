"""What Lightning iterates over: chunks of transitions to train on, and seeds to evaluate on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tensordict import TensorDict

from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.parallel.ranks import rank, world_size
from awac_pl.runs.summary import REPORTED_STEPS


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


class EvaluationPlan:
    """How many episodes each evaluation of a fit takes: more at milestones.

    Args:
        episodes: of an ordinary evaluation.
        milestone_episodes: of the evaluations after pretraining, at ``REPORTED_STEPS``, and at the end.
        offline_epochs: epochs of pretraining.
    """

    def __init__(self, episodes: int, milestone_episodes: int, offline_epochs: int) -> None:
        self.episodes = episodes
        self.milestone_episodes = milestone_episodes
        self.offline_epochs = offline_epochs
        self._latest: tuple[int | None, int] = (None, 0)  # epoch and environment steps
        self._before = 0  # environment steps of the one before

    def episodes_at(self, epoch: int, env_steps: int, last: bool = False) -> int:
        """Episodes of the evaluation after an epoch; ``last`` is the end of the run. An evaluation may begin twice."""
        if (epoch, env_steps) != self._latest:
            self._latest, self._before = (epoch, env_steps), self._latest[1]
        passed = any(self._before < milestone <= env_steps for milestone in REPORTED_STEPS)
        return self.milestone_episodes if passed or last or epoch + 1 == self.offline_epochs else self.episodes

    def state_dict(self) -> dict[str, Any]:
        """The latest evaluation, for a checkpoint."""
        return {"evaluated_at": self._latest[1], "evaluation": (self._latest[0], self._before)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore it; checkpoints of version 0.1 have only ``evaluated_at``."""
        epoch, self._before = state_dict.get("evaluation", (None, 0))
        self._latest = (epoch, state_dict["evaluated_at"])


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
