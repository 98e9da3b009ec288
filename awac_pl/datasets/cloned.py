"""The cloned dataset of the paper's recipe: demonstrations -> policy -> 500 episodes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from tqdm import tqdm

from awac_pl.datasets.catalog import (
    POLICY_FILE,
    check_free,
    data_file,
    find_dataset,
    local_root,
    read_metadata,
    recorded_layout,
)
from awac_pl.datasets.minari_io import dataset_bytes, load_dataset, save_dataset
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.seeds import CLONING_SEEDS, EVALUATION_SEEDS
from awac_pl.envs.tasks import TASKS, Task, inspect_spaces
from awac_pl.episode import Episode, score_episodes
from awac_pl.errors import DatasetError
from awac_pl.files import check_room, file_digest
from awac_pl.policies.cloning import Clone, fit_clone
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.policy import Policy

#: Entries that recipes of version 0.1 lack.
OLD_RECIPE = {"clip_actions": True, "normalize_observations": False}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CloneOptions:
    """The options of ``clone_dataset`` that change the cloned dataset."""

    num_demonstrations: int | None
    num_episodes: int
    seed: int
    normalize_observations: bool


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
    """Fit a policy to a dataset by maximum likelihood, and store episodes of the stochastic policy as a new dataset.

    Args:
        source: id of the demonstrations.
        target: id of the dataset to write.
        task: the stored episodes are whole, even if the task ends at success.
        num_demonstrations: use only the first episodes; None for all.
        num_episodes: episodes to store.
        evaluation_episodes: episodes that measure the success of the deterministic policy.
        num_workers: rollout processes.
        seed: of the fit and of the stored episodes.
        normalize_observations: see ``fit_clone``.
        overwrite: replace a dataset of the target's id.
        progress: show progress bars.

    Returns:
        ``cloning`` of the metadata: log-likelihoods, and the success of the deterministic and of the stochastic policy.

    Raises:
        AwacError: the source does not fit the task, or the target is taken, no dataset id, or larger than the disk.
    """
    check_free(target, overwrite)
    recipe = _recipe(source, task, CloneOptions(num_demonstrations, num_episodes, seed, normalize_observations))
    spaces, endless = inspect_spaces(task), replace(task, terminate_on_success=False)
    check_room(local_root() / target, dataset_bytes(num_episodes, spaces))
    demonstrations = load_dataset(source, endless, spaces, num_episodes=num_demonstrations).episodes
    clone = fit_clone(demonstrations, seed=seed, normalize_observations=normalize_observations, progress=progress)
    with closing(RolloutWorkers(task, num_workers, spaces)) as workers:
        seeds = range(CLONING_SEEDS + seed * num_episodes, CLONING_SEEDS + (seed + 1) * num_episodes)
        episodes = roll_out(workers, clone.policy(), seeds, f"{target}: episodes of the clone", progress)
        seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + evaluation_episodes)
        evaluation = roll_out(workers, clone.policy(deterministic=True), seeds, "evaluating the clone", progress)
    metadata = _metadata(recipe, clone, episodes, evaluation)
    save_dataset(target, episodes, task, spaces, metadata, policy=clone.policy(), overwrite=overwrite)
    log.info("%s: %s", target, _summary(metadata["cloning"], num_episodes))
    return metadata["cloning"]


def _summary(measures: Mapping[str, float], num_episodes: int) -> str:
    text = f"cloned in {measures['updates']:,.0f} updates"
    if "success_deterministic" not in measures:
        return f"{text}; whether an episode succeeds is unknown"
    mean, number = measures["success_deterministic"], int(measures["evaluation_episodes"])
    kept = f"{measures['success_stochastic']:.2f} in the {num_episodes} kept"
    return f"{text}; success {mean:.2f} by mean actions ({number} episodes), {kept}"


def roll_out(workers: RolloutWorkers, policy: Policy, seeds: range, title: str, progress: bool) -> list[Episode]:
    """Whole episodes of a policy, with a progress bar."""
    with tqdm(total=len(seeds), desc=title, unit="episode", disable=not progress or None, leave=False) as bar:
        return workers.rollout(policy, seeds, whole_episodes=True, on_episode=bar.update)


def _metadata(
    recipe: Mapping[str, Any], clone: Clone, episodes: Sequence[Episode], evaluation: Sequence[Episode]
) -> dict[str, Any]:
    measures = {
        "held_out_log_prob": clone.held_out_log_prob,
        "train_log_prob": clone.train_log_prob,
        "updates": float(clone.updates),
        "success_deterministic": score_episodes(evaluation)["success_rate"],
        "success_stochastic": score_episodes(episodes)["success_rate"],
        "evaluation_episodes": float(len(evaluation)),
    }
    layout = recorded_layout(recipe["source"])
    return {
        "algorithm_name": "behaviour cloning, stochastic policy",
        "description": f"{len(episodes)} episodes of a policy cloned from {recipe['source']}",
        "recipe": recipe,
        "cloning": {key: value for key, value in measures.items() if math.isfinite(value)},  # NaN means unknown
        "early_stopping": clone.early_stopping,
        **({"observation_layout": layout} if layout else {}),
    }


def make_missing(source: str, names: Sequence[str], task: Task, options: CloneOptions, **more: Any) -> None:
    """Make the cloned datasets that do not exist yet; ``more`` are the other arguments of ``clone_dataset``."""
    for name in names:
        if find_dataset(name) is None:
            log.info("making %s: %d episodes of a policy cloned from %s", name, options.num_episodes, source)
            clone_dataset(
                source, name, cloning_task(task), overwrite=True, **asdict(options), **more
            )  # another run may make it, too


def cloning_task(task: Task) -> Task:
    """The task with its own horizon: runs with different horizons share one cloned dataset."""
    return replace(task, horizon=TASKS[task.name].horizon) if task.name in TASKS else task


def check_recipe(name: str, source: str, task: Task, options: CloneOptions) -> None:
    """Refuse a cloned dataset that was made from another source, for another task, or with other options.

    A dataset that this package did not make passes.

    Raises:
        DatasetError: the recipes differ.
    """
    stored = read_metadata(name).get("recipe")
    if stored is None or not name.startswith("awac/"):
        return
    stored, expected = OLD_RECIPE | stored, _recipe(source, cloning_task(task), options)
    changed = [f"{key} {stored.get(key)} instead of {value}" for key, value in expected.items() if stored.get(key) != value]
    if changed:
        raise DatasetError(
            f"{find_dataset(name)}: was cloned with {', '.join(changed)}; "
            f"name another one, such as {name.rpartition('-v')[0]}-2-v0, and it is made; or remove that folder"
        )


def _recipe(source: str, task: Task, options: CloneOptions) -> dict[str, str | int | None]:
    """Everything that a cloned dataset depends on, for its metadata."""
    return {
        "source": source,
        "source_digest": file_digest(data_file(source)),
        "num_demonstrations": options.num_demonstrations or read_metadata(source)["total_episodes"],
        "num_episodes": options.num_episodes,
        "env_id": task.env_id,
        "horizon": task.horizon,
        "seed": options.seed,
        "clip_actions": task.clip_actions,
        "normalize_observations": options.normalize_observations,
    }


def cloned_id(
    dataset_id: str, num_demonstrations: int | None, clip_actions: bool = True, normalize_observations: bool = False
) -> str:
    """The id of a cloned dataset with these options; other ids stay the same.

    ``awac/pen/cloned-v0`` becomes ``awac/pen/cloned-10-v0`` for 10 demonstrations, ``awac/pen/cloned-sampled-v0`` without
    clipped actions, and ``awac/pen/cloned-normalized-v0`` with normalised observations.
    """
    if not is_cloned(dataset_id):
        return dataset_id
    kinds = [] if num_demonstrations is None else [str(num_demonstrations)]
    kinds += [] if clip_actions else ["sampled"]
    kinds += ["normalized"] if normalize_observations else []
    return dataset_id.replace("/cloned-v", "-".join(["/cloned", *kinds, "v"]))


def is_cloned(dataset_id: str) -> bool:
    """Whether this package makes the dataset if it is missing."""
    return dataset_id.startswith("awac/") and dataset_id.split("/")[-1].startswith("cloned-")


def cloning_result(dataset_ids: Sequence[str]) -> dict[str, float] | None:
    """Success and likelihood of the policy behind a run's cloned dataset; None without one."""
    for name in dataset_ids:
        if find_dataset(name) is not None and "cloning" in (metadata := read_metadata(name)):
            return metadata["cloning"]
    return None


def cloned_policy(dataset_ids: Sequence[str]) -> NumpyPolicy | None:
    """The stochastic policy behind a run's cloned dataset; None if no dataset has one."""
    for name in dataset_ids:
        folder = find_dataset(name)
        if folder is not None and (path := folder.with_name(POLICY_FILE)).exists():
            return NumpyPolicy.load(path)
    return None
