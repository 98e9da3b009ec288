"""Behaviour cloning, and the cloned dataset of the paper's recipe: demonstrations -> policy -> 500 episodes."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from awac_pl.datasets.catalog import POLICY_FILE, check_dataset_id, data_file, file_digest, find_dataset, read_metadata
from awac_pl.datasets.minari_io import load_dataset, save_dataset
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.tasks import Task, inspect_spaces
from awac_pl.episode import Episode, to_transitions
from awac_pl.errors import DatasetError
from awac_pl.policies.networks import Actor, Normalizer
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.replay.streams import EVALUATION_SEEDS
from awac_pl.runs.scores import score_episodes

#: Seeds of cloned episodes start here; training seeds lie below, evaluation seeds above.
CLONING_SEEDS = 1_000_000_000
#: What the recipe of a dataset of version 0.1 lacks.
OLD_RECIPE = {"clip_actions": True, "normalize_observations": False}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A cloned policy and how well it predicts actions it has not seen.

    Args:
        actor: the network, at the update with the best held-out likelihood.
        updates: how many updates that took.
        held_out_log_prob: mean log-likelihood per transition of the held-out episodes.
        train_log_prob: the same of the episodes it was fitted to.
        early_stopping: how the end was found: episodes held out, updates between checks, checks without a better likelihood.
        normalizer: of the observations; None where the network gets them as they are.
    """

    actor: Actor
    updates: int
    held_out_log_prob: float
    train_log_prob: float
    early_stopping: dict[str, int]
    normalizer: Normalizer | None = None

    def policy(self, deterministic: bool = False) -> NumpyPolicy:
        """The policy for workers."""
        policy = self.actor.to_numpy(deterministic)
        return policy if self.normalizer is None else self.normalizer.fold_into(policy)


def fit_clone(
    episodes: Sequence[Episode],
    *,
    hidden_sizes: Sequence[int] = (256, 256),
    seed: int = 0,
    max_updates: int = 20_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    held_out: float = 0.1,
    patience: int = 10,
    check_every: int = 250,
    normalize_observations: bool = False,
    progress: bool = True,
) -> Clone:
    """Fit a policy to episodes by maximum likelihood, until the held-out likelihood stops rising.

    Args:
        episodes: at least 2.
        hidden_sizes: of the actor.
        seed: of initial weights, batches and the choice of held-out episodes.
        max_updates: gradient updates at most.
        batch_size: transitions per update.
        learning_rate: Adam's.
        weight_decay: Adam's.
        held_out: share of the episodes held out, at least one.
        patience: stop after so many checks without a better likelihood.
        check_every: updates between checks.
        normalize_observations: to mean 0 and deviation 1 in these episodes.
        progress: show a progress bar.

    Raises:
        DatasetError: fewer than 2 episodes.
    """
    if len(episodes) < 2:
        raise DatasetError(f"cloning needs at least 2 episodes (one is held out), got {len(episodes)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(episodes), generator=generator).tolist()
    num_held_out = max(1, round(held_out * len(episodes)))
    held_out_columns = to_transitions([episodes[index] for index in order[:num_held_out]])
    train_columns = to_transitions([episodes[index] for index in order[num_held_out:]])
    held_out_pair = [torch.from_numpy(held_out_columns[key]) for key in ("observation", "action")]
    train_pair = [torch.from_numpy(train_columns[key]) for key in ("observation", "action")]
    normalizer = Normalizer(train_pair[0].shape[1]) if normalize_observations else None
    if normalizer is not None:
        normalizer.measure(train_pair[0])
        train_pair[0], held_out_pair[0] = normalizer(train_pair[0]), normalizer(held_out_pair[0])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = Actor(train_pair[0].shape[1], train_pair[1].shape[1], hidden_sizes)
    optimizer = torch.optim.Adam(actor.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)

    def log_prob(observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return actor.log_prob(actor(observation), action).mean()

    best, best_state, best_update, checks = -np.inf, copy.deepcopy(actor.state_dict()), 0, 0
    with tqdm(total=max_updates, desc="cloning", unit="update", disable=not progress, leave=False) as bar:
        for update in range(1, max_updates + 1):
            index = torch.randint(len(train_pair[0]), (batch_size,), generator=generator)
            loss = -log_prob(train_pair[0][index], train_pair[1][index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if update % check_every:
                continue
            with torch.no_grad():
                likelihood = float(log_prob(*held_out_pair))
            bar.update(check_every)
            bar.set_postfix(held_out=f"{likelihood:.2f}")
            checks = 0 if likelihood > best else checks + 1
            if likelihood > best:
                best, best_state, best_update = likelihood, copy.deepcopy(actor.state_dict()), update
            if checks >= patience:
                break
    actor.load_state_dict(best_state)
    with torch.no_grad():
        return Clone(
            actor=actor,
            normalizer=normalizer,
            updates=best_update,
            held_out_log_prob=best,
            train_log_prob=float(log_prob(*train_pair)),
            early_stopping={
                "held_out_episodes": num_held_out, "check_every": check_every, "patience": patience,
                "max_updates": max_updates, "stopped_at": update,
            },
        )  # fmt: skip


def clone_dataset(
    source: str,
    target: str,
    task: Task,
    *,
    num_demonstrations: int | None = None,
    num_episodes: int = 500,
    evaluation_episodes: int = 100,
    num_workers: int = 2,
    seed: int = 0,
    normalize_observations: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """Clone a dataset's policy, roll it out stochastically and store the episodes as a new Minari dataset.

    Args:
        source: id of the demonstrations.
        target: id of the dataset to write.
        task: what to act in; the stored episodes are whole, whether or not it ends them at success.
        num_demonstrations: use the first so many episodes; None for all.
        num_episodes: episodes to store.
        evaluation_episodes: episodes of the deterministic clone, for its success.
        num_workers: rollout processes.
        seed: of the fit and of the stored episodes.
        normalize_observations: see ``fit_clone``.
        progress: show progress bars.

    Returns:
        What is also stored under ``cloning`` in the metadata: the held-out likelihood, and the clone's success acting
        deterministically and stochastically.

    Raises:
        DatasetError: the source does not fit the task, or the target is no dataset id.
    """
    check_dataset_id(target)
    recipe = clone_recipe(source, task, num_demonstrations, num_episodes, seed, normalize_observations)
    workers = RolloutWorkers(task, num_workers, inspect_spaces(task))
    try:
        whole = replace(task, terminate_on_success=False)
        demonstrations = load_dataset(source, whole, workers.spaces, num_episodes=num_demonstrations)
        clone = fit_clone(
            demonstrations.episodes, seed=seed, normalize_observations=normalize_observations, progress=progress
        )

        def rollout(policy: NumpyPolicy, seeds: range, what: str) -> list[Episode]:
            with tqdm(total=len(seeds), desc=what, unit="episode", disable=not progress, leave=False) as bar:
                return workers.rollout(policy, seeds, whole_episodes=True, on_episode=bar.update)

        stored_seeds = range(CLONING_SEEDS + seed * num_episodes, CLONING_SEEDS + (seed + 1) * num_episodes)
        stored = rollout(clone.policy(), stored_seeds, f"{target}: episodes of the clone")
        evaluation_seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + evaluation_episodes)
        evaluated = rollout(clone.policy(deterministic=True), evaluation_seeds, "evaluating the clone")
    finally:
        workers.close()
    result = {
        "held_out_log_prob": clone.held_out_log_prob,
        "train_log_prob": clone.train_log_prob,
        "updates": float(clone.updates),
        "success_deterministic": score_episodes(evaluated)["success_rate"],
        "success_stochastic": score_episodes(stored)["success_rate"],
        "evaluation_episodes": float(evaluation_episodes),
    }
    result = {key: value for key, value in result.items() if np.isfinite(value)}
    save_dataset(
        target,
        stored,
        task,
        workers.spaces,
        {
            "algorithm_name": "behaviour cloning, stochastic policy",
            "description": f"{num_episodes} episodes of a policy cloned from {source}",
            "recipe": recipe,
            "cloning": result,
            "early_stopping": clone.early_stopping,
        },
        policy=clone.policy(),
    )
    log.info("%s: %s", target, json.dumps(result))
    return result


def clone_recipe(
    source: str,
    task: Task,
    num_demonstrations: int | None,
    num_episodes: int,
    seed: int,
    normalize_observations: bool = False,
) -> dict[str, str | int | None]:
    """What a cloned dataset depends on; compared before one that is already there is used again.

    Datasets of version 0.1 lack the last two: ``OLD_RECIPE``.
    """
    return {
        "source": source,
        "source_digest": file_digest(data_file(source)),
        "num_demonstrations": num_demonstrations or read_metadata(source)["total_episodes"],
        "num_episodes": num_episodes,
        "env_id": task.env_id,
        "horizon": task.horizon,
        "seed": seed,
        "clip_actions": task.clip_actions,
        "normalize_observations": normalize_observations,
    }


def cloned_id(
    dataset_id: str, num_demonstrations: int | None, clip_actions: bool = True, normalize_observations: bool = False
) -> str:
    """``awac/pen/cloned-v0`` with 10 demonstrations is ``awac/pen/cloned-10-v0``; other ids stay as they are.

    With actions as they were sampled it is ``awac/pen/cloned-sampled-v0``, of a policy with normalised observations
    ``awac/pen/cloned-normalized-v0``.
    """
    if not is_cloned(dataset_id):
        return dataset_id
    kinds = [] if num_demonstrations is None else [str(num_demonstrations)]
    kinds += [] if clip_actions else ["sampled"]
    kinds += ["normalized"] if normalize_observations else []
    return dataset_id.replace("/cloned-v", "-".join(["/cloned", *kinds, "v"]))


def is_cloned(dataset_id: str) -> bool:
    """Whether it is a cloned dataset that this package makes where it is missing."""
    return dataset_id.startswith("awac/") and dataset_id.split("/")[-1].startswith("cloned-")


def cloning_result(dataset_ids: Sequence[str]) -> dict[str, float] | None:
    """What is known of the policy behind a run's cloned dataset (its success and likelihood); None without one."""
    for name in dataset_ids:
        if find_dataset(name) is not None and "cloning" in (metadata := read_metadata(name)):
            return metadata["cloning"]
    return None


def cloned_policy(dataset_ids: Sequence[str]) -> NumpyPolicy | None:
    """The policy behind a run's cloned dataset, acting stochastically as it did there; None where none is kept."""
    for name in dataset_ids:
        folder = find_dataset(name)
        if folder is not None and (path := folder.with_name(POLICY_FILE)).exists():
            return NumpyPolicy.load(path)
    return None
