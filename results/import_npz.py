"""Turn arrays of recorded episodes into a local Minari dataset.

    python results/import_npz.py relocate relocate_noisy.npz awac/relocate/noisy-v0

The file holds ``observations`` [N, T + 1, O], ``actions`` [N, T, A] and ``reset_seed`` [N]; success is computed from the
observations. The built-in demonstrations were made from files of this form.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from awac_pl.datasets import save_dataset
from awac_pl.schema import Episode
from awac_pl.tasks import find_task, inspect_spaces


def main(task_name: str, file: str, dataset_id: str) -> None:
    """Read, compute success, write."""
    task = find_task(task_name)
    assert task.success is not None, f"{task_name}: success cannot be computed from observations"
    data = np.load(file)  # allow_pickle stays off
    episodes = []
    for observations, actions, seed in zip(data["observations"], data["actions"], data["reset_seed"], strict=True):
        success = task.success(observations[1:])
        end = np.arange(len(actions)) == len(actions) - 1
        episodes.append(
            Episode(
                observations=observations.astype(np.float32),
                actions=actions.astype(np.float32),
                rewards=success.astype(np.float32) - 1,
                terminated=np.zeros_like(end),
                truncated=end,
                success=success,
                seed=int(seed),
            )
        )
    description = f"{len(episodes)} episodes from {Path(file).name}; reward success - 1"
    print(save_dataset(dataset_id, episodes, inspect_spaces(task), {"description": description}))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
