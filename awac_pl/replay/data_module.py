"""The data of a run: datasets fill a replay buffer, chunks of transitions stream out of it, and seeds to evaluate on."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
from tensordict import TensorDict
from torch import Tensor

from awac_pl.datasets.catalog import check_environment, find_dataset, recorded_layout
from awac_pl.datasets.cloned import CloneOptions, check_recipe, cloned_id, is_cloned, make_missing
from awac_pl.datasets.downloading import fetch_dataset
from awac_pl.datasets.minari_io import manifest_entry, read_episodes
from awac_pl.envs.rollouts import RolloutError, RolloutWorkers
from awac_pl.envs.tasks import RewardKind, find_task, inspect_spaces, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, SettingError
from awac_pl.files import staging
from awac_pl.parallel.executor import Kind
from awac_pl.parallel.ranks import ending_together, gather_objects, own_state, rank, world_size
from awac_pl.policies.policy import Policy
from awac_pl.replay.buffer import Replay, check_device, check_rows, merge_states
from awac_pl.replay.streams import ChunkStream, EvaluationPlan, SeedStream
from awac_pl.settings import (
    Count,
    CountOrZero,
    Discount,
    Episodes,
    Horizon,
    Positive,
    PositiveShare,
    Range,
    RunSeed,
    Share,
    Workers,
    check_arguments,
)  # fmt: skip

log = logging.getLogger(__name__)


class ReplayDataModule(lightning.LightningDataModule):
    """Fills a replay buffer with datasets, streams chunks from it, and owns the workers that act in the task.

    Args:
        task: ``pen``, ``door``, ``relocate``, ``hammer``, or any Gymnasium environment id.
        datasets: Minari ids, local, built-in (``awac/pen/expert-v0``) or remote (``D4RL/pen/human-v2``). A mapping
            ``{id: weight}`` draws a dataset's transitions ``weight`` times as often as online ones. A missing
            ``awac/…/cloned-v0`` is made from the first dataset: demonstrations -> cloned policy -> ``clone_episodes``.
        num_demonstrations: use only the first episodes of the first dataset; null for all. 10 makes ``…/cloned-10-v0``.
        train_split: use only the first episodes of each dataset, as a share.
        clone_episodes: episodes of a cloned dataset.
        clone_seed: seed of a cloned dataset.
        horizon: time limit of an episode in steps; null keeps the task's.
        success_key: key of the environment's ``info`` that says whether a step succeeded; null is ``success``, else
            ``is_success``. A step whose ``info`` lacks the key is no success.
        reward: ``binary`` is success - 1, ``environment`` is the environment's, ``auto`` is binary where success is known.
        terminate_on_success: end episodes at the first success, in the data and online.
        clip_actions: store actions clipped to [-1, 1]; false stores them as sampled, as the authors' code does. The
            environment gets clipped actions in both cases.
        n_step: environment steps that a transition spans: its reward is their discounted sum, its next observation the one
            after them (DDPGfD, arXiv 1707.08817). 1 is AWAC.
        batch_size: B, transitions per update, of each training process.
        offline_batch_size: B of the offline epochs; null for the same.
        offline_ratio: share of each batch (without the part for ``demonstration_ratio``) from the offline data; null samples
            uniformly from all data.
        demonstration_ratio: share of each batch from the first dataset, the demonstrations, whatever its size; the rest is
            drawn from all data. null draws no such share.
        self_imitation: count every recorded or online episode that succeeds among these demonstrations.
        chunk_size: K, updates per training step; changes the speed, not the numbers.
        updates_per_epoch: gradient updates of one epoch, a multiple of ``chunk_size``.
        offline_epochs: epochs of pretraining before the first online step.
        capacity: largest number of transitions. In a full buffer, new online transitions replace the oldest online ones.
        device: of the buffer: ``auto`` is the device of the training; ``cpu`` saves a GPU's memory.
        storage: ``memory``, or ``memmap`` for a buffer larger than memory: a file in the run folder, deleted after the run.
        evaluation_episodes: episodes of one evaluation.
        milestone_episodes: of those after pretraining, at 50k, 100k, 200k, 300k and 500k online steps, and at the end.
        workers: processes that run episodes; 0 runs them in this process.
        executor: where they are: ``local``, or ``ray`` for a Ray cluster; the episodes are the same.
        episode_timeout: longest time of an episode in seconds, in a worker process; then the process is replaced and the
            episode run again, three times at most. null is 20 times the longest one so far, at least a minute.
        discount: gamma, for the range of returns and n_step; linked from the model.
        normalize_observations: of the cloned policy; linked from the model.
        seed: of sampling; linked from ``seed_everything``.
        progress: show progress bars while datasets are made.
    """

    datasets: Sequence[dict[str, Any]] = ()  # manifest entries of the datasets in the buffer
    _remove_scratch: weakref.finalize | None = None  # the folder of a memory-mapped buffer; also at the process's end

    def __init__(
        self,
        *,
        task: str,
        datasets: Sequence[str] | Mapping[str, Positive],
        num_demonstrations: Count | None = None,
        train_split: PositiveShare = 1.0,
        clone_episodes: Episodes = 500,
        clone_seed: RunSeed = 0,
        horizon: Horizon | None = None,
        success_key: str | None = None,
        reward: RewardKind = "auto",
        terminate_on_success: bool = False,
        clip_actions: bool = True,
        n_step: Count = 1,
        batch_size: Count = 1024,
        offline_batch_size: Count | None = None,
        offline_ratio: Share | None = None,
        demonstration_ratio: Share | None = None,
        self_imitation: bool = False,
        chunk_size: Count = 50,
        updates_per_epoch: Count = 1000,
        offline_epochs: CountOrZero = 25,
        capacity: Annotated[int, Range(1, 10**12)] = 1_000_000,
        device: str = "auto",
        storage: Literal["memory", "memmap"] = "memory",
        evaluation_episodes: Episodes = 20,
        milestone_episodes: Episodes = 100,
        workers: Workers = 2,
        executor: Kind = "local",
        episode_timeout: Positive | None = None,
        discount: Discount = 0.99,
        normalize_observations: bool = False,
        seed: RunSeed = 0,
        progress: bool = True,
    ) -> None:
        check_arguments(ReplayDataModule.__init__, locals(), "data")
        super().__init__()
        self.save_hyperparameters(logger=False)  # so that a checkpoint can be evaluated without its run folder
        self.weights = list(datasets.values()) if isinstance(datasets, Mapping) else [1.0] * len(datasets)
        self.batch_size, self.offline_batch_size = batch_size, offline_batch_size or batch_size
        self.chunk_size, self.updates_per_epoch, self.offline_epochs = chunk_size, updates_per_epoch, offline_epochs
        self.capacity, self.device, self.storage, self.discount, self.seed = capacity, device, storage, discount, seed
        self.offline_ratio, self.demonstration_ratio, self.n_step = offline_ratio, demonstration_ratio, n_step
        self.self_imitation = self_imitation
        self.evaluations = EvaluationPlan(evaluation_episodes, milestone_episodes, offline_epochs)
        ends: dict[str, Any] = {"horizon": horizon, "terminate_on_success": terminate_on_success}
        self.task = find_task(task, success_key=success_key, reward=reward, clip_actions=clip_actions, **ends)
        self.spaces = inspect_spaces(self.task)
        self._check_together()
        self.dataset_ids = [cloned_id(name, num_demonstrations, clip_actions, normalize_observations) for name in datasets]
        self.clone_options = CloneOptions(num_demonstrations, clone_episodes, clone_seed, normalize_observations)
        self.workers = RolloutWorkers(self.task, workers, self.spaces, episode_timeout, executor)

    def _check_together(self) -> None:
        """Check what the types of the arguments cannot say: how they fit each other, the task and this machine."""
        if not self.weights:
            raise SettingError("data.datasets is empty; name at least one, for example awac/pen/expert-v0")
        if (updates := self.updates_per_epoch) % self.chunk_size:
            raise SettingError(f"data.updates_per_epoch {updates} is no multiple of data.chunk_size {self.chunk_size}")
        if self.self_imitation and not self.demonstration_ratio:
            raise SettingError("data.self_imitation is true; it needs a data.demonstration_ratio, for example 0.25")
        check_device(self.device)
        if self.n_step > self.spaces.horizon:
            raise SettingError(f"data.n_step is {self.n_step}; an episode has {self.spaces.horizon} steps at most")
        batch = max(self.batch_size, self.offline_batch_size)
        check_rows(f"data.batch_size {batch} times data.chunk_size {self.chunk_size}", self.chunk_size * batch, self.spaces)
        if self.storage == "memory" and self.device in ("auto", "cpu"):
            check_rows(f"data.capacity {self.capacity}", self.capacity, self.spaces)

    @property
    def observation_dim(self) -> int:
        """O."""
        return self.spaces.observation_dim

    @property
    def action_dim(self) -> int:
        """A."""
        return self.spaces.action_dim

    @property
    def return_range(self) -> tuple[float, float] | None:
        """Smallest and largest discounted return of a binary reward; None for the environment's own reward."""
        return (-1 / (1 - self.discount), 0.0) if uses_binary_reward(self.task, self.spaces) else None

    def demonstrations(self) -> Tensor:
        """``[N, O]``: the observations of the first dataset in this rank's buffer."""
        return self.replay.buffer.storage[: self.replay.demonstration_size]["observation"]

    def evaluate(self, policy: Policy, seeds: Sequence[int]) -> tuple[list[Episode], list[RolloutError]]:
        """Whole episodes of a policy, one per seed, and the errors of those that fail."""
        with ending_together():
            return self.workers.evaluate(policy, seeds)

    def is_online(self, epoch: int) -> bool:
        """Whether this epoch comes after pretraining."""
        return epoch >= self.offline_epochs

    def prepare_data(self) -> None:
        """Download remote datasets, and make missing cloned ones. An evaluation needs none.

        Raises:
            DatasetError: a dataset is missing and cannot be downloaded, or is of another environment.
        """
        ids = self.dataset_ids if self.trainer is None or self.trainer.state.fn == "fit" else []
        cloned = [name for name in ids[1:] if is_cloned(name)]
        for name in ids:
            if name not in cloned:
                fetch_dataset(name)
            if find_dataset(name) is not None:
                check_environment(name, self.task, self.spaces)
        recorded_layout(*(name for name in ids if find_dataset(name) is not None))  # refuses those that differ
        how = {"evaluation_episodes": self.evaluations.milestone_episodes, "num_workers": self.workers.num_workers}
        make_missing(self.dataset_ids[0], cloned, self.task, self.clone_options, progress=self.hparams["progress"], **how)

    def setup(self, stage: str) -> None:
        """Load the datasets into the buffer, once. An evaluation needs none.

        Raises:
            DatasetError: a dataset is damaged or does not fit, or a cloned one was made with another recipe.
        """
        if stage != "fit" or self.datasets:
            return
        training = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        scratch = None
        if self.storage == "memmap":
            stack = contextlib.ExitStack()
            scratch = stack.enter_context(staging(Path("." if self.trainer is None else self.trainer.default_root_dir)))
            self._remove_scratch = weakref.finalize(self, stack.close)
        self.replay = Replay(
            self.capacity, device=training if self.device == "auto" else self.device, seed=self.seed,
            offline_ratio=self.offline_ratio, demonstration_ratio=self.demonstration_ratio,
            self_imitation=self.self_imitation, n_step=self.n_step, discount=self.discount,
            rank=rank(), world_size=world_size(), scratch=None if scratch is None else str(scratch),
        )  # fmt: skip
        self.datasets = [self._fill_from(*one) for one in zip(self.dataset_ids, self.weights, strict=True)]

    def _fill_from(self, name: str, weight: float) -> dict[str, Any]:
        """Stream a dataset into the replay buffer; returns its manifest entry."""
        first = name == self.dataset_ids[0]
        if not first:
            check_recipe(name, self.dataset_ids[0], self.task, self.clone_options)
        number = self.clone_options.num_demonstrations if first else None
        stream = read_episodes(name, self.task, self.spaces, num_episodes=number, share=self.hparams["train_split"])
        episodes, transitions, clipped = self.replay.fill(stream, weight, demonstrations=first)
        if clipped:
            share = 100 * clipped / (of := transitions * self.action_dim)
            log.warning("%s: %d of %d action values (%.1f %%) are out of bounds and were clipped", name, clipped, of, share)
        return manifest_entry(name, episodes, transitions, clipped) | ({"weight": weight} if weight != 1 else {})

    def train_dataloader(self) -> ChunkStream:
        """One epoch of chunks ``[K, B]``, each sampled when training needs it."""
        return ChunkStream(self.updates_per_epoch // self.chunk_size, self._sample_chunk)

    def val_dataloader(self) -> SeedStream:
        """This rank's evaluation seeds; at milestones there are more."""
        return SeedStream(self._evaluation_episodes, self.workers.num_workers)

    def test_dataloader(self) -> SeedStream:
        """``milestone_episodes`` evaluation seeds."""
        return SeedStream(lambda: self.evaluations.milestone_episodes, self.workers.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The replay buffers of all ranks, the digests of the datasets, and the last evaluation, for a checkpoint."""
        digests = [entry["sha256"] for entry in self.datasets]
        return {"replay": gather_objects(self.replay.state_dict()), "digests": digests, **self.evaluations.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the replay buffer.

        Raises:
            AwacError: the checkpoint's run had other datasets.
        """
        if not self.datasets:  # an evaluation
            return
        if state_dict["digests"] != [entry["sha256"] for entry in self.datasets]:
            raise AwacError(
                f"the checkpoint's run had other data than {', '.join(self.dataset_ids)}; resume with the same datasets"
            )
        states = state_dict["replay"]
        self.replay.load_state_dict(merge_states(states) if world_size() == 1 else own_state(states, "replay buffer"))
        self.evaluations.load_state_dict(state_dict)

    def teardown(self, stage: str) -> None:
        """Close the workers, prepare new ones for the next stage, and delete a memory-mapped buffer's file."""
        if stage == "fit" and self._remove_scratch is not None:
            self._remove_scratch()
        self.workers = self.workers.renewed()

    def on_exception(self, exception: BaseException) -> None:
        """Close the workers after an error or Ctrl-C, and prepare new ones: another fit or an evaluation may follow."""
        self.workers = self.workers.renewed()

    def _sample_chunk(self) -> TensorDict:
        online = self.trainer is None or self.is_online(self.trainer.current_epoch)
        return self.replay.sample(self.chunk_size, self.batch_size if online else self.offline_batch_size)

    def _evaluation_episodes(self) -> int:
        trainer = self.trainer
        if trainer is None or trainer.state.fn != "fit":
            return self.evaluations.milestone_episodes
        env_steps = int(trainer.lightning_module.env_steps)  # type: ignore[arg-type]
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        return self.evaluations.episodes_at(trainer.current_epoch, env_steps, last)
