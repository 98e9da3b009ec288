"""The callback that acts: after pretraining it adds a block of episodes per epoch to the replay buffer."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._pytree import tree_map

from awac_pl.algorithms.base import Learner
from awac_pl.callbacks.stopping import planned_epochs
from awac_pl.envs.rollouts import Block, RolloutWorkers, collect_block
from awac_pl.envs.seeds import EPISODES_PER_SEED
from awac_pl.episode import score_episodes
from awac_pl.errors import first_line
from awac_pl.parallel.ranks import ending_together, gather_objects, own_state, rank, world_size
from awac_pl.policies.policy import Policy, UniformPolicy
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.settings import Count, CountOrZero, check_arguments

log = logging.getLogger(__name__)


class EnvironmentInteraction(Callback):
    """Collects nothing during pretraining, then one block of environment steps per epoch.

    During the updates of an epoch, workers collect the next block with the policy of the epoch's start. ``synchronous``
    collects each block before its epoch instead (the paper's alternation). Of several training processes each collects its
    share of the block, from its own seeds, into its own buffer.

    Args:
        env_steps_per_epoch: environment steps of a block, over all ranks. Episodes are whole; surplus steps are subtracted
            from the next block.
        synchronous: collect first, then train. Always the case with ``data.workers: 0``.
        max_failed_episodes: of a run, on each rank. An episode in which the environment raises, or returns what it must not,
            is left out, and the next seed takes its place; one more of them ends the run.
        random_env_steps: added to the first block, which is then collected with uniformly random actions.
    """

    def __init__(
        self,
        env_steps_per_epoch: Count = 1000,
        synchronous: bool = False,
        max_failed_episodes: CountOrZero = 10,
        random_env_steps: CountOrZero = 0,
    ) -> None:
        check_arguments(EnvironmentInteraction.__init__, locals(), "interaction")
        self.env_steps_per_epoch = env_steps_per_epoch
        self.synchronous = synchronous
        self.max_failed_episodes = max_failed_episodes
        self.random_env_steps = random_env_steps
        self.own_failed = 0
        self.env_steps_due: int | None = 0  # by all blocks so far; None after a checkpoint of version 0.1
        self.episodes = 0  # of all ranks
        self.failures = 0.0
        self.own_episodes = 0
        self.own_env_steps = 0
        self._background: ThreadPoolExecutor | None = None
        self._next_block: Future[Block] | None = None
        self._next_policy: tuple[int, Policy] | None = None  # of the next block: its online epoch, its policy
        self._restored: tuple[int, Mapping[str, Any]] | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add this epoch's block to the buffer, and start the next one."""
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        module = cast(Learner, pl_module)
        if not data.is_online(trainer.current_epoch):
            return
        online_epoch = trainer.current_epoch - data.offline_epochs
        if self.env_steps_due is None:
            self.env_steps_due = online_epoch * self.env_steps_per_epoch
        with ending_together():
            if self._next_block is None:
                uniform = self.random_env_steps and online_epoch == 0
                policy = UniformPolicy(data.action_dim) if uniform else module.policy()
                block = collect_block(*self._job(data, policy))
            else:
                block = self._next_block.result()
        self._next_block = self._next_policy = None
        self.env_steps_due += self.env_steps_per_epoch
        if block.episodes:  # the surplus of earlier blocks can be all that this one needs
            data.replay.add_online(block.episodes)
        self.own_episodes += len(block.episodes)
        self.own_failed += len(block.failed)
        for error in block.failed:
            log.warning("an episode failed and is left out, of the data and the success rate (%d of at most %d): %s",
                        self.own_failed, self.max_failed_episodes, first_line(error))  # fmt: skip
        self.own_env_steps += block.env_steps
        self._count_and_log(block, module)

        if not self.synchronous and data.workers.num_workers > 0:
            more_to_come = trainer.current_epoch + 1 < (planned_epochs(trainer) or math.inf)
            self._start_next(data, module.policy(), online_epoch + 1, now=more_to_come)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Tell a resumed run's module its success, and start again on the block that was under way, with its policy then."""
        module = cast(Learner, pl_module)
        module.training_success = self._success()
        if self._restored is None:
            return
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        online_epoch, arrays = self._restored
        self._restored = None
        if self.env_steps_due is None:
            self.env_steps_due = online_epoch * self.env_steps_per_epoch
        if not self.synchronous and data.workers.num_workers > 0:
            self._start_next(data, with_arrays(module.policy(), arrays), online_epoch, now=True)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the background thread."""
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave an unfinished block; the data module closes its workers."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Counters. Of the next block the policy is saved: a resumed run collects it (again) from the same seeds."""
        own = {"episodes": self.own_episodes, "env_steps": self.own_env_steps, "failed": self.own_failed}
        under_way = self._next_policy and (self._next_policy[0], as_arrays(self._next_policy[1]))
        return {
            "episodes": self.episodes, "failures": self.failures, "ranks": gather_objects(own), "under_way": under_way,
            "env_steps_due": self.env_steps_due,
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counters."""
        self.episodes, self.failures = state_dict["episodes"], state_dict["failures"]
        self._restored, self.env_steps_due = state_dict.get("under_way"), state_dict.get("env_steps_due")
        ranks = state_dict["ranks"]
        if world_size() == 1:  # goes on behind the episodes of all of them
            self.own_episodes, self.own_env_steps = (sum(own[key] for own in ranks) for key in ("episodes", "env_steps"))
            self.own_failed = max(own.get("failed", 0) for own in ranks)
        else:
            own = own_state(ranks, "environment interaction")
            self.own_episodes, self.own_env_steps = own["episodes"], own["env_steps"]
            self.own_failed = own.get("failed", 0)

    def _start_next(self, data: ReplayDataModule, policy: Policy, online_epoch: int, *, now: bool) -> None:
        """Collect the block of that online epoch in the background; keep its policy for a resumed run if not ``now``."""
        self._next_policy = online_epoch, policy
        if now:
            self._background = self._background or ThreadPoolExecutor(1, "awac-interaction")
            self._next_block = self._background.submit(collect_block, *self._job(data, policy))

    def _job(self, data: ReplayDataModule, policy: Policy) -> tuple[RolloutWorkers, Policy, int, int, int]:
        """Arguments of ``collect_block`` for the next block: this rank's share of all blocks, without what it has."""
        first_seed = data.seed * EPISODES_PER_SEED + rank() * (EPISODES_PER_SEED // world_size())
        first_seed += self.own_episodes + self.own_failed
        assert self.env_steps_due is not None
        due = self.random_env_steps + self.env_steps_due + self.env_steps_per_epoch
        share = math.ceil(due / world_size())
        more_failures = max(0, self.max_failed_episodes - self.own_failed)  # a resumed run may allow fewer than it has had
        return data.workers, policy, first_seed, share - self.own_env_steps, more_failures

    def _count_and_log(self, block: Block, module: Learner) -> None:
        blocks = gather_objects(block)
        episodes = [episode for block in blocks for episode in block.episodes]
        if not episodes:
            return
        module.env_steps += sum(block.env_steps for block in blocks)
        scores = score_episodes(episodes)
        self.episodes += len(episodes)
        self.failures += (1 - scores["success_rate"]) * len(episodes)
        metrics = {f"rollout/{name}": scores[name] for name in ("success_rate", "episode_return", "episode_length")}
        metrics["rollout/regret"] = self.failures / self.episodes
        module.training_success = self._success()
        metrics["rollout/env_steps_per_s"] = sum(block.env_steps / max(block.seconds, 1e-9) for block in blocks)
        module.log_epoch(metrics)

    def _success(self) -> float:
        """Share of all episodes so far that succeeded; 1 where none is known to have failed."""
        success = 1 - self.failures / self.episodes if self.episodes else 1.0
        return 1.0 if math.isnan(success) else success

    def _stop(self) -> None:
        if self._background is not None:
            self._background.shutdown(wait=False, cancel_futures=True)
        self._background = self._next_block = self._next_policy = None


def as_arrays(policy: Policy) -> dict[str, Any]:
    """The fields of a policy, its arrays as tensors, for a checkpoint."""
    fields = {field.name: getattr(policy, field.name) for field in dataclasses.fields(cast(Any, policy))}
    return tree_map(lambda value: torch.from_numpy(value) if isinstance(value, np.ndarray) else value, fields)


def with_arrays(policy: Policy, fields: Mapping[str, Any]) -> Policy:
    """A policy like this one with the fields that ``as_arrays`` gave; those that came after them have their defaults."""
    own = dataclasses.fields(cast(Any, policy))
    defaults = {field.name: field.default for field in own if field.default is not dataclasses.MISSING}
    arrays = tree_map(lambda value: value.numpy() if isinstance(value, torch.Tensor) else value, fields)
    return dataclasses.replace(cast(Any, policy), **defaults | arrays)
