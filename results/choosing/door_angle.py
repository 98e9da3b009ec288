"""How far policies open the door: the share of 100 evaluation episodes in which the hinge passes 1.0 and 1.35 rad.

    python results/choosing/door_angle.py runs/results/door-human-seed11 …

The task counts 1.35 as success; the human demonstrations all pass 1.0, and 7 of the 25 pass 1.35. Each run's clone is
fitted anew from its demonstrations (the fit depends on its seed alone), acting with its mean.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import yaml

from awac_pl.algorithms.checkpoints import load_module
from awac_pl.datasets.minari_io import load_dataset
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.envs.tasks import find_task
from awac_pl.policies.cloning import fit_clone
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.report.statistics import wilson_interval

HINGE, EPISODES = 28, 100


def main() -> None:
    """Print a line per policy, and one for all runs together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of results/run.sh")
    options = parser.parse_args()
    task = find_task("door")
    workers = RolloutWorkers(task, 2)
    angles: dict[str, list[np.ndarray]] = {"cloned": [], "fine-tuned": []}
    for folder in options.runs:
        data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
        os.environ["MINARI_DATASETS_PATH"] = str(folder.parents[1] / "datasets" / folder.name)
        demonstrations = load_dataset(data["datasets"][0], task, workers.spaces).episodes
        clone = fit_clone(demonstrations, seed=data["clone_seed"], progress=False).actor.to_numpy(deterministic=True)
        tuned = load_module(folder / "checkpoints" / "last.ckpt").policy(deterministic=True)
        for name, policy in (("cloned", clone), ("fine-tuned", tuned)):
            angles[name].append(largest_angles(workers, policy))
            report(f"{folder.name}, {name}", angles[name][-1])
    workers.close()
    for name, found in angles.items():
        report(f"all, {name}", np.concatenate(found))


def largest_angles(workers: RolloutWorkers, policy: NumpyPolicy) -> np.ndarray:
    """Of each evaluation episode, in radians."""
    episodes = workers.rollout(policy, range(EVALUATION_SEEDS, EVALUATION_SEEDS + EPISODES), whole_episodes=True)
    return np.array([episode.observations[1:, HINGE].max() for episode in episodes])


def report(name: str, angles: np.ndarray) -> None:
    """Print the shares with Wilson's intervals."""
    parts = []
    for level in (1.0, 1.35):
        low, high = wilson_interval((angles >= level).sum(), len(angles))
        parts.append(f"{level} rad {np.mean(angles >= level):.3f} ({low:.3f} to {high:.3f})")
    print(f"{name}: passes {', '.join(parts)}; median {np.median(angles):.2f} rad", flush=True)


if __name__ == "__main__":
    main()
