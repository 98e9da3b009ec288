"""What a run tells the person who started it: where it begins, what it reached. Text only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning

from awac_pl.algorithms.base import Learner
from awac_pl.callbacks.stopping import planned_epochs, updates_per_epoch
from awac_pl.datasets.catalog import read_metadata
from awac_pl.envs.tasks import uses_binary_reward
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.report.statistics import wilson_interval
from awac_pl.runs.manifest import Manifest
from awac_pl.runs.reading import number_of, weighted
from awac_pl.runs.summary import score_run


def introduction(trainer: lightning.Trainer, data: ReplayDataModule, manifest: Manifest) -> str:
    """Folder, task, data, device and plan of a run that begins."""
    binary = uses_binary_reward(data.task, data.spaces)
    lines = [
        ("run folder", str(trainer.default_root_dir)),
        ("task", f"{data.task.name}, {data.spaces.horizon} steps an episode, "
                 + ("reward: success - 1" if binary else "the environment's reward")),
        *(("data" if not index else "", text) for index, text in enumerate(map(_dataset, manifest["datasets"]))),
        ("device", f"{manifest['device']} ({manifest['processor']}), updates: {manifest['compile']}, "
                   f"products: {manifest['matmul_engine']}, {data.workers.num_workers} workers"),
        *(("plan" if not index else "", text) for index, text in enumerate(_plan(trainer, data))),
    ]  # fmt: skip
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _dataset(entry: Mapping[str, Any]) -> str:
    metadata = read_metadata(entry["id"])
    successes, all_episodes = metadata.get("successes"), metadata.get("total_episodes")
    if successes is None:
        succeed = "success unknown"
    elif all_episodes == entry["episodes"]:
        succeed = f"{successes} succeed"
    else:
        succeed = f"{successes} of all {all_episodes} succeed"
    size = f"{number_of(entry['episodes'], 'episode')}, {entry['transitions']:,} steps"
    return f"{entry['id']}: {size}, {succeed}{weighted(entry)}"


def _plan(trainer: lightning.Trainer, data: ReplayDataModule) -> list[str]:
    """Both phases, the evaluations, and where a resumed run stands."""
    epochs, updates = planned_epochs(trainer), f"{updates_per_epoch(trainer, data):,} updates"
    offline = data.offline_epochs if epochs is None else min(data.offline_epochs, epochs)
    online = "endless epochs" if epochs is None else number_of(epochs - offline, "epoch")
    steps = [each.env_steps_per_epoch for each in trainer.callbacks if hasattr(each, "env_steps_per_epoch")]  # type: ignore[attr-defined]
    plan = [f"pretraining: {number_of(offline, 'epoch')} of {updates}"] if offline else []
    if epochs is None or epochs > offline:
        acting = f" and {steps[0]:,} environment steps" if steps else ""
        plan.append(f"fine-tuning: {online} of {updates}{acting}")
    every, evaluations = trainer.check_val_every_n_epoch, data.evaluations
    plan.append(
        f"evaluation: every {number_of(every or 1, 'epoch')}, {number_of(evaluations.episodes, 'episode')}; "
        f"{evaluations.milestone_episodes} at milestones"
    )
    done = int(cast(Learner, trainer.lightning_module).updates)
    return plan + ([f"goes on after {done:,} updates"] if done else [])


def evaluation_line(row: Mapping[str, float]) -> str:
    """One line about the evaluation of a row of ``metrics.csv``."""
    rate, episode_return = row["eval/success_rate"], f"return {row['eval/episode_return']:.1f}"
    result = f"{episode_return} (success unavailable)" if math.isnan(rate) else f"success {rate:.2f}, {episode_return}"
    return (
        f"epoch {row['epoch'] + 1:.0f}, {row['updates']:,.0f} updates, {row['env_steps']:,.0f} env steps: {result} over "
        + number_of(int(row["eval/episodes"]), "episode")
    )


def measures(metrics: Mapping[str, Any]) -> str:
    """The measures of ``awac test``; success with its interval, the return with its deviation."""
    values = {name: float(value) for name, value in metrics.items() if name.startswith("eval/")}
    episodes, deviation = values.pop("eval/episodes"), values.pop("eval/episode_return_std", math.nan)
    texts = {name: "unavailable" if math.isnan(value) else f"{value:.2f}" for name, value in values.items()}
    texts["eval/success_rate"] = rate_with_interval(values["eval/success_rate"], episodes)
    texts["eval/episode_return"] += f"   standard deviation {deviation:.2f} over the episodes"
    return "\n".join(f"{name:<26} {text}" for name, text in texts.items())


def summary(rows: Sequence[Mapping[str, float]], cloning: Mapping[str, Any], offline_updates: int) -> list[str]:
    """The success rate after each stage of a run that has ended, with so many updates of pretraining."""
    evaluated = [row for row in rows if "eval/success_rate" in row]
    offline = [row for row in evaluated if row["env_steps"] == 0 and row["updates"] >= offline_updates]
    online = [row for row in evaluated if row["env_steps"] > 0]
    stages = [("after cloning", cloning.get("success_deterministic"), cloning.get("evaluation_episodes", 0))]
    for name, of_stage in (("after pretraining", offline), ("after fine-tuning", online)):
        stages += [(name, row["eval/success_rate"], row["eval/episodes"]) for row in of_stage[-1:]]
    lines = ["success rate (any step of the episode, deterministic policy)"]
    lines += [
        f"  {name:<18} {rate_with_interval(rate, episodes)}"
        for name, rate, episodes in stages
        if rate is not None and episodes
    ]
    if math.isfinite(regret := score_run(rows)["regret"]):
        lines.append(f"  online training    regret {regret:.2f} (mean of 1 - success, with exploration noise)")
    return lines


def rate_with_interval(rate: float, episodes: float) -> str:
    """``0.90   95 % interval 0.83 to 0.94, 100 episodes``."""
    if math.isnan(rate):
        return "unavailable: the environment reports no success"
    low, high = wilson_interval(rate * episodes, episodes)
    return f"{rate:.2f}   95 % interval {low:.2f} to {high:.2f}, {episodes:.0f} episodes"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
