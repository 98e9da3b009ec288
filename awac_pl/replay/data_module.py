"""The data of a run: datasets into a replay buffer, a live stream of chunks out of it, and the seeds to evaluate on."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
from tensordict import TensorDict
from torch import Tensor

from awac_pl.datasets.catalog import check_environment, data_file, find_dataset
from awac_pl.datasets.cloned import check_recipe, cloned_id, is_cloned, make_missing
from awac_pl.datasets.downloading import fetch_dataset
from awac_pl.datasets.minari_io import read_episodes
from awac_pl.envs.rollouts import RolloutError, RolloutWorkers
from awac_pl.envs.seeds import RUN_SEEDS
from awac_pl.envs.tasks import TASKS, RewardKind, Spaces, Task, find_task, inspect_spaces, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, first_line
from awac_pl.files import file_digest
from awac_pl.parallel import interruption
from awac_pl.parallel.ranks import gather_objects, own_state, rank, world_size
from awac_pl.policies.policy import Policy
from awac_pl.replay.buffer import Replay, merge_states
from awac_pl.replay.streams import ChunkStream, EvaluationPlan, SeedStream

log = logging.getLogger(__name__)

#: So many episodes of a dataset are in memory beside the buffer while it is filled.
EPISODES_AT_A_TIME = 100


class ReplayDataModule(lightning.LightningDataModule):
    """Fills a replay buffer with datasets, streams chunks from it, and owns the workers that act in the task.

    Args:
        task: ``pen``, ``door``, ``relocate``, ``hammer``, or any Gymnasium environment id with Box spaces.
        datasets: Minari ids, local, built-in (``awac/pen/expert-v0``) or remote (``D4RL/pen/human-v2``); a mapping
            ``{id: weight}`` draws the transitions of a dataset so many times as often as an online one. A missing
            ``awac/…/cloned-v0`` is made from the first one: demonstrations -> cloned policy -> ``clone_episodes``.
        num_demonstrations: use the first so many episodes of the first dataset; null for all. The cloned dataset is
            then one of its own, ``…/cloned-10-v0`` for 10.
        train_split: use the first so many episodes of each dataset, as a share.
        clone_episodes: episodes of a cloned dataset that is made.
        clone_seed: seed of a cloned dataset that is made.
        horizon: time limit of an episode in steps; null keeps the task's.
        reward: ``binary`` is success - 1, ``environment`` what the environment pays, ``auto`` is binary where success
            is known.
        terminate_on_success: end episodes at the first success, in the data and online.
        clip_actions: store actions clipped to [-1, 1]; false stores them as they were sampled, as the authors' code does.
            The environment gets clipped actions either way.
        n_step: environment steps that a transition spans: its reward is their discounted sum, its next observation the
            one behind them (DDPGfD, arXiv 1707.08817). 1 is AWAC.
        batch_size: B, transitions per update, of each process where several train together.
        offline_batch_size: B of the offline epochs; null for the same.
        offline_ratio: share of each batch, or of what ``demonstration_ratio`` leaves of it, from the offline data; null
            samples uniformly over everything.
        demonstration_ratio: share of each batch from the first dataset, the demonstrations, however large the others
            are; the rest is drawn from everything. null draws nothing apart.
        chunk_size: K, updates per training step; changes the speed, not the numbers.
        updates_per_epoch: gradient updates of one epoch, a multiple of ``chunk_size``.
        offline_epochs: epochs of pretraining before the first online step.
        capacity: largest number of transitions; once full, online ones replace the oldest online ones.
        device: where the buffer lives: ``auto`` is where training runs; ``cpu`` saves a GPU's memory.
        storage: ``memory``, or ``memmap`` for a buffer larger than that: a file in the run folder, gone after the run.
        evaluation_episodes: episodes of one evaluation.
        milestone_episodes: episodes of the evaluation after pretraining, at 50k, 100k, 200k, 300k and 500k online
            steps and at the end.
        workers: processes that run episodes; 0 runs them in this process.
        episode_timeout: longest time of an episode in seconds, in a worker process; then the process is replaced and the
            episode run again, three times at most. null is 20 times the longest one so far, at least a minute.
        discount: gamma, for the range of returns and n_step; linked from the model.
        normalize_observations: of the cloned policy that is made; linked from the model.
        seed: of sampling; linked from ``seed_everything``.
        progress: show progress bars while datasets are made.
    """

    def __init__(
        self,
        *,
        task: str,
        datasets: Sequence[str] | Mapping[str, float],
        num_demonstrations: int | None = None,
        train_split: float = 1.0,
        clone_episodes: int = 500,
        clone_seed: int = 0,
        horizon: int | None = None,
        reward: RewardKind = "auto",
        terminate_on_success: bool = False,
        clip_actions: bool = True,
        n_step: int = 1,
        batch_size: int = 1024,
        offline_batch_size: int | None = None,
        offline_ratio: float | None = None,
        demonstration_ratio: float | None = None,
        chunk_size: int = 50,
        updates_per_epoch: int = 1000,
        offline_epochs: int = 25,
        capacity: int = 1_000_000,
        device: str = "auto",
        storage: Literal["memory", "memmap"] = "memory",
        evaluation_episodes: int = 20,
        milestone_episodes: int = 100,
        workers: int = 2,
        episode_timeout: float | None = None,
        discount: float = 0.99,
        normalize_observations: bool = False,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        if not datasets:
            raise AwacError("data.datasets is empty; name at least one, for example awac/pen/expert-v0")
        if updates_per_epoch % chunk_size:
            raise AwacError(f"data.updates_per_epoch {updates_per_epoch} is no multiple of data.chunk_size {chunk_size}")
        if not 0 <= seed < RUN_SEEDS:
            raise AwacError(
                f"seed_everything is {seed}; choose 0 to {RUN_SEEDS - 1}, above it episodes would meet those of evaluation"
            )
        if n_step < 1:
            raise AwacError(f"data.n_step is {n_step}; it must be at least 1")
        for name, ratio in (("offline_ratio", offline_ratio), ("demonstration_ratio", demonstration_ratio)):
            if ratio is not None and not 0 <= ratio <= 1:
                raise AwacError(f"data.{name} is {ratio}; it must lie in [0, 1]")
        self.task = find_task(
            task, horizon=horizon, reward=reward, terminate_on_success=terminate_on_success, clip_actions=clip_actions
        )
        self.spaces: Spaces = inspect_spaces(self.task)
        self.binary_reward = uses_binary_reward(self.task, self.spaces)
        self.train_split = train_split
        self.recipe = {
            "num_demonstrations": num_demonstrations,
            "num_episodes": clone_episodes,
            "seed": clone_seed,
            "normalize_observations": normalize_observations,
        }
        self.batch_size = batch_size
        self.offline_batch_size = offline_batch_size or batch_size
        self.chunk_size = chunk_size
        self.updates_per_epoch = updates_per_epoch
        self.offline_epochs = offline_epochs
        self.evaluations = EvaluationPlan(evaluation_episodes, milestone_episodes, offline_epochs)
        self.discount = discount
        self.seed = seed
        self.progress = progress
        self.dataset_ids = [cloned_id(name, num_demonstrations, clip_actions, normalize_observations) for name in datasets]
        self.weights = list(datasets.values()) if isinstance(datasets, Mapping) else [1.0] * len(datasets)
        if min(self.weights) <= 0:
            raise AwacError(f"data.datasets has a weight of {min(self.weights)}; weights must be positive")
        self.storage = storage
        self._scratch: tempfile.TemporaryDirectory | None = None
        self.datasets: list[dict[str, Any]] = []
        self.capacity = capacity
        self.device = device
        self.offline_ratio = offline_ratio
        self.demonstration_ratio = demonstration_ratio
        self.n_step = n_step
        if workers < 0:
            raise AwacError(f"data.workers is {workers}; it must be at least 0")
        self.workers = RolloutWorkers(self.task, workers, self.spaces, episode_timeout)

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
        """Smallest and largest discounted return of a binary reward; None for an environment's own reward."""
        return (-1 / (1 - self.discount), 0.0) if self.binary_reward else None

    @property
    def cloning_task(self) -> Task:
        """The task with its own horizon: presets that change the horizon share one cloned dataset."""
        return replace(self.task, horizon=TASKS[self.task.name].horizon) if self.task.name in TASKS else self.task

    def demonstrations(self) -> Tensor:
        """``[N, O]``, the observations of the first dataset in the buffer of this rank."""
        return self.replay.buffer.storage[: self.replay.sampler.demonstration_size]["observation"]

    def evaluate(self, policy: Policy, seeds: Sequence[int]) -> list[Episode]:
        """Whole episodes of a policy, one per seed, without those that fail.

        Raises:
            RolloutError: all fail.
        """
        with interruption.allowed() if world_size() == 1 else contextlib.nullcontext():
            failed: list[RolloutError] = []
            episodes = self.workers.rollout(policy, seeds, whole_episodes=True, failed=failed)
        if failed and not episodes:
            raise failed[0]
        for error in failed:
            log.warning("an evaluation episode failed and is left out: %s", first_line(error))
        return episodes

    def is_online(self, epoch: int) -> bool:
        """Whether this epoch comes after pretraining."""
        return epoch >= self.offline_epochs

    def prepare_data(self) -> None:
        """Download what is remote, and make the cloned dataset where it is missing.

        Raises:
            DatasetError: a dataset cannot be had, is of another environment, or a cloned one was made by another recipe than
                this run asks for.
        """
        made_here = [name for name in self.dataset_ids[1:] if is_cloned(name)]
        for name in self.dataset_ids:
            if name not in made_here:
                fetch_dataset(name)
            if find_dataset(name) is not None:
                check_environment(name, self.task, self.spaces)
        make_missing(
            self.dataset_ids[0], made_here, self.cloning_task, self.recipe,
            evaluation_episodes=self.evaluations.milestone_episodes, num_workers=self.workers.num_workers,
            progress=self.progress,
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        """Check and load the datasets into the buffer, once; evaluation alone needs none."""
        if stage != "fit" or self.datasets:
            return
        training = self.trainer.strategy.root_device if self.trainer is not None else "cpu"
        if self.storage == "memmap":
            folder = Path(self.trainer.default_root_dir if self.trainer is not None else ".")
            folder.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(prefix=".replay-", dir=folder)
        self.replay = Replay(
            self.capacity,
            device=training if self.device == "auto" else self.device,
            seed=self.seed,
            offline_ratio=self.offline_ratio,
            demonstration_ratio=self.demonstration_ratio,
            n_step=self.n_step,
            discount=self.discount,
            rank=rank(),
            world_size=world_size(),
            scratch=self._scratch.name if self._scratch is not None else None,
        )
        for name, weight in zip(self.dataset_ids, self.weights, strict=True):
            self.datasets.append(self._fill_from(name, weight))

    def _fill_from(self, name: str, weight: float) -> dict[str, Any]:
        """Stream a dataset into the buffer, where alone its episodes live from now on; what the manifest says of it."""
        first = name == self.dataset_ids[0]
        if not first:
            check_recipe(name, self.dataset_ids[0], self.cloning_task, self.recipe)
        stream = read_episodes(
            name,
            self.task,
            self.spaces,
            num_episodes=self.recipe["num_demonstrations"] if first else None,
            share=self.train_split,
        )
        episodes = transitions = clipped = 0
        while block := list(itertools.islice(stream, EPISODES_AT_A_TIME)):
            self.replay.add_offline([episode for episode, _ in block], weight, demonstrations=first)
            episodes += len(block)
            transitions += sum(len(episode) for episode, _ in block)
            clipped += sum(outside for _, outside in block)
        if clipped:
            values = transitions * self.action_dim
            log.warning(
                "%s: %d of %d action values (%.1f %%) lay outside the bounds and were clipped",
                name, clipped, values, 100 * clipped / values,
            )  # fmt: skip
        facts = {"id": name, "sha256": file_digest(data_file(name)), "episodes": episodes, "transitions": transitions}
        return facts | {"clipped_action_values": clipped} | ({"weight": weight} if weight != 1 else {})

    def train_dataloader(self) -> ChunkStream:
        """One epoch of chunks ``[K, B]``, sampled when they are asked for."""
        return ChunkStream(self.updates_per_epoch // self.chunk_size, self._sample_chunk)

    def val_dataloader(self) -> SeedStream:
        """Evaluation seeds, more of them at milestones; those of this rank."""
        return SeedStream(self._evaluation_episodes, self.workers.num_workers)

    def test_dataloader(self) -> SeedStream:
        """``milestone_episodes`` evaluation seeds."""
        return SeedStream(lambda: self.evaluations.milestone_episodes, self.workers.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The replay buffer and whose data it began with, for a checkpoint."""
        return {
            "replay": gather_objects(self.replay.state_dict()),
            "digests": [facts["sha256"] for facts in self.datasets],
        } | self.evaluations.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the replay buffer.

        Raises:
            AwacError: the run was made with other datasets than these.
        """
        if not self.datasets:  # an evaluation has none
            return
        if state_dict["digests"] != [facts["sha256"] for facts in self.datasets]:
            raise AwacError(
                f"the checkpoint's run had other data than {', '.join(self.dataset_ids)}; resume with the same datasets"
            )
        states = state_dict["replay"]
        self.replay.load_state_dict(merge_states(states) if world_size() == 1 else own_state(states, "replay buffer"))
        self.evaluations.load_state_dict(state_dict)

    def teardown(self, stage: str) -> None:
        """Close the workers, of which the next stage gets new ones, and let go of a memory-mapped buffer's file."""
        if self._scratch is not None and stage == "fit":
            self._scratch.cleanup()
        self.workers.close()
        self.workers = RolloutWorkers(self.task, self.workers.num_workers, self.spaces, self.workers.timeout)

    def on_exception(self, exception: BaseException) -> None:
        """Close the workers on an error and on Ctrl-C, too."""
        self.workers.close()

    def episodes_at(self, epoch: int, env_steps: int) -> int:
        """How many episodes the evaluation after this epoch takes."""
        last = self.trainer is not None and epoch + 1 == self.trainer.max_epochs
        return self.evaluations.episodes_at(epoch, env_steps, last)

    def _sample_chunk(self) -> TensorDict:
        online = self.trainer is None or self.is_online(self.trainer.current_epoch)
        return self.replay.sample(self.chunk_size, self.batch_size if online else self.offline_batch_size)

    def _evaluation_episodes(self) -> int:
        if self.trainer is None or self.trainer.state.fn != "fit":
            return self.evaluations.milestone_episodes
        return self.episodes_at(self.trainer.current_epoch, int(self.trainer.lightning_module.env_steps))  # type: ignore[arg-type]
