"""The cloned dataset of the paper's recipe: demonstrations -> policy -> 500 episodes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from awac_pl.datasets.catalog import POLICY_FILE, check_free, data_file, find_dataset, read_metadata
from awac_pl.datasets.minari_io import load_dataset, save_dataset
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.seeds import CLONING_SEEDS, EVALUATION_SEEDS
from awac_pl.envs.tasks import Task, inspect_spaces
from awac_pl.episode import Episode, score_episodes
from awac_pl.errors import DatasetError
from awac_pl.files import file_digest
from awac_pl.policies.cloning import Clone, fit_clone
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.policy import Policy

#: What the recipe of a dataset of version 0.1 lacks.
OLD_RECIPE = {"clip_actions": True, "normalize_observations": False}

log = logging.getLogger(__name__)


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
    overwrite: bool = False,
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
        overwrite: replace a dataset of that id.
        progress: show progress bars.

    Returns:
        What is also stored under ``cloning`` in the metadata: the held-out likelihood, and the clone's success acting
        deterministically and stochastically.

    Raises:
        DatasetError: the source does not fit the task, or the target is taken or no dataset id.
    """
    check_free(target, overwrite)
    recipe = clone_recipe(source, task, num_demonstrations, num_episodes, seed, normalize_observations)
    workers = RolloutWorkers(task, num_workers, inspect_spaces(task))
    try:
        whole = replace(task, terminate_on_success=False)
        demonstrations = load_dataset(source, whole, workers.spaces, num_episodes=num_demonstrations)
        clone = fit_clone(
            demonstrations.episodes, seed=seed, normalize_observations=normalize_observations, progress=progress
        )
        first = CLONING_SEEDS + seed * num_episodes
        what = f"{target}: episodes of the clone"
        stored = _roll_out(workers, clone.policy(), range(first, first + num_episodes), what, progress)
        seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + evaluation_episodes)
        evaluated = _roll_out(workers, clone.policy(deterministic=True), seeds, "evaluating the clone", progress)
    finally:
        workers.close()
    result = _measures(clone, stored, evaluated)
    metadata = {
        "algorithm_name": "behaviour cloning, stochastic policy",
        "description": f"{num_episodes} episodes of a policy cloned from {source}",
        "recipe": recipe,
        "cloning": result,
        "early_stopping": clone.early_stopping,
    }
    save_dataset(target, stored, task, workers.spaces, metadata, policy=clone.policy(), overwrite=overwrite)
    log.info("%s: %s", target, json.dumps(result))
    return result


def _roll_out(workers: RolloutWorkers, policy: Policy, seeds: range, what: str, progress: bool) -> list[Episode]:
    with tqdm(total=len(seeds), desc=what, unit="episode", disable=not progress, leave=False) as bar:
        return workers.rollout(policy, seeds, whole_episodes=True, on_episode=bar.update)


def _measures(clone: Clone, stored: Sequence[Episode], evaluated: Sequence[Episode]) -> dict[str, float]:
    """How good a clone is, by likelihood and by its episodes; without what is unknown."""
    found = {
        "held_out_log_prob": clone.held_out_log_prob,
        "train_log_prob": clone.train_log_prob,
        "updates": float(clone.updates),
        "success_deterministic": score_episodes(evaluated)["success_rate"],
        "success_stochastic": score_episodes(stored)["success_rate"],
        "evaluation_episodes": float(len(evaluated)),
    }
    return {key: value for key, value in found.items() if np.isfinite(value)}


def make_missing(source: str, names: Sequence[str], task: Task, recipe: Mapping[str, Any], **options: Any) -> None:
    """Make the cloned datasets that are not there.

    Args:
        source: id of the demonstrations.
        names: ids of cloned datasets.
        task: see ``clone_dataset``.
        recipe: arguments of ``clone_recipe`` behind the task.
        options: other arguments of ``clone_dataset``.
    """
    for name in names:
        if find_dataset(name) is None:
            log.info("making %s: %d episodes of a policy cloned from %s", name, recipe["num_episodes"], source)
            clone_dataset(source, name, task, overwrite=True, **recipe, **options)  # another run may be making it, too


def check_recipe(name: str, source: str, task: Task, recipe: Mapping[str, Any]) -> None:
    """Refuse a cloned dataset that was made by another recipe than this.

    Args:
        name: of the dataset; one that somebody else has made passes.
        source: id of the demonstrations.
        task: see ``clone_dataset``.
        recipe: arguments of ``clone_recipe`` behind the task.

    Raises:
        DatasetError: it was.
    """
    made_by = read_metadata(name).get("recipe")
    if made_by is None or not name.startswith("awac/"):
        return
    made_by, asked = OLD_RECIPE | made_by, clone_recipe(source, task, **recipe)
    changed = [f"{key} {made_by.get(key)} instead of {asked[key]}" for key in asked if made_by.get(key) != asked[key]]
    if changed:
        raise DatasetError(
            f"{find_dataset(name)}: was cloned with {', '.join(changed)}; "
            "remove that folder to make it anew, or set MINARI_DATASETS_PATH to another"
        )


def clone_recipe(
    source: str,
    task: Task,
    num_demonstrations: int | None,
    num_episodes: int,
    seed: int,
    normalize_observations: bool,
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
