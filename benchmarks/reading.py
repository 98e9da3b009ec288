"""Datasets: into the buffer and into Minari's format, against Minari's own reader and writer; and memory while reading."""

from __future__ import annotations

import itertools
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDict

from awac_pl.datasets.catalog import data_file
from awac_pl.datasets.importing import import_dataset
from awac_pl.datasets.minari_io import read_episodes, save_dataset
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.episode import Episode, to_transitions
from awac_pl.replay.buffer import EPISODES_AT_A_TIME, Replay
from benchmarks.measure import compare, in_turn, timed
from benchmarks.updating import ACTION_DIM, OBSERVATION_DIM

ROOT = Path(__file__).parents[1]
STEPS = 200


def episodes(number: int) -> list[Episode]:
    """Random ones of the pen task's size."""
    rng = np.random.default_rng(0)
    none, end = np.zeros(STEPS, bool), np.arange(STEPS) == STEPS - 1
    return [
        Episode(
            observations=rng.standard_normal((STEPS + 1, OBSERVATION_DIM), np.float32),
            actions=rng.uniform(-1, 1, (STEPS, ACTION_DIM)).astype(np.float32),
            rewards=np.full(STEPS, -1, np.float32), terminated=none, truncated=end, success=none, seed=seed,
        )
        for seed in range(number)
    ]  # fmt: skip


def against_minari(rounds: int, transitions: int = 100_000) -> dict[str, dict[str, Any]]:
    """Transitions per second: a dataset with infos into the buffer, arrays into a dataset; each beside Minari's own way."""
    import minari
    from minari.data_collector import EpisodeBuffer

    logging.getLogger("torchrl").setLevel(logging.WARNING)
    task = find_task("pen")
    spaces = inspect_spaces(task)
    made = episodes(transitions // STEPS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        save_dataset("bench/read-v0", made, task, spaces, {})
        arrays = Path(folder) / "arrays.npz"
        np.savez(
            arrays, observations=np.stack([e.observations for e in made]), actions=np.stack([e.actions for e in made]),
            rewards=np.stack([e.rewards for e in made]),
        )  # fmt: skip

        def ours() -> None:
            replay = Replay(transitions + 1)
            stream = read_episodes("bench/read-v0", task, spaces)
            while block := [episode for episode, _ in itertools.islice(stream, EPISODES_AT_A_TIME)]:
                replay.add_offline(block)

        def theirs() -> None:
            replay = Replay(transitions + 1)
            for data in minari.load_dataset("bench/read-v0").iterate_episodes():
                columns = to_transitions([Episode(
                    observations=data.observations, actions=data.actions, rewards=data.rewards.astype(np.float32),
                    terminated=data.terminations, truncated=data.truncations, success=data.infos["success"],
                )])  # fmt: skip
                replay.buffer.extend(TensorDict(columns, batch_size=[STEPS]))

        def import_ours() -> None:
            import_dataset(arrays, "bench/made-v0", task, progress=False)

        def import_theirs() -> None:
            with np.load(arrays) as source:
                columns = [source[name] for name in ("observations", "actions", "rewards")]
            buffers = [
                EpisodeBuffer(
                    id=index, observations=observation, actions=action, rewards=list(reward),
                    terminations=[False] * STEPS, truncations=[False] * (STEPS - 1) + [True],
                    infos={"success": np.zeros(STEPS, bool)},
                )
                for index, (observation, action, reward) in enumerate(zip(*columns, strict=True))
            ]  # fmt: skip
            minari.create_dataset_from_buffers(
                "bench/theirs-v0", buffers, env="AdroitHandPenSparse-v1", eval_env="AdroitHandPenSparse-v1"
            )
            minari.delete_dataset("bench/theirs-v0")

        loads = in_turn({"read: Minari": timed(theirs), "read: awac_pl": timed(ours)}, rounds)
        imports = in_turn({"import: Minari": timed(import_theirs), "import: awac_pl": timed(import_ours)}, rounds)
        table = compare(loads, "read: Minari", transitions) | compare(imports, "import: Minari", transitions)
        table["import: awac_pl"]["megabytes"] = data_file("bench/made-v0").stat().st_size / 1e6
    return table


def reading_memory(episodes_of_the_dataset: int = 4000) -> dict[str, float]:
    """A dataset twice as large as the memory that its reader may take, into a memory-mapped buffer.

    The process that reads, another than the one that wrote, is forbidden (``RLIMIT_DATA``) to take more than half of the
    dataset's columns beyond what it has when it starts; pages of the buffer's file belong to the file and are written back.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"MINARI_DATASETS_PATH": folder, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for part in ("write", "read"):
            command = [sys.executable, "-m", "benchmarks.reading", part, folder, str(episodes_of_the_dataset)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = re.search(r"allowed (\S+) peak (\S+) dataset (\S+)", done.stdout)
        if found is None:
            raise RuntimeError(done.stdout + done.stderr)
        return dict(zip(("allowed_mib", "peak_mib", "dataset_mib"), map(float, found.groups()), strict=True))


def _anonymous() -> int:
    """Bytes that belong to this process and to no file."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def _write(number: int) -> None:
    task = find_task("pen")
    save_dataset("bench/large-v0", episodes(10) * (number // 10), task, inspect_spaces(task), {})


def _read_within_limits(folder: str, number: int) -> None:
    task = find_task("pen")
    spaces = inspect_spaces(task)
    size = sum(column.nbytes for column in to_transitions(episodes(1)).values()) * number
    before = _anonymous()
    data = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (data + size // 2, resource.RLIM_INFINITY))
    replay, peak = Replay(number * STEPS + 1, scratch=folder), 0
    stream = read_episodes("bench/large-v0", task, spaces)
    while block := [episode for episode, _ in itertools.islice(stream, EPISODES_AT_A_TIME)]:
        replay.add_offline(block)
        peak = max(peak, _anonymous() - before)
    assert len(replay) == number * STEPS
    print("allowed", size / 2 / 2**20, "peak", peak / 2**20, "dataset", size / 2**20)


if __name__ == "__main__":
    _, _part, _folder, _number = sys.argv
    if _part == "write":
        _write(int(_number))
    else:
        _read_within_limits(_folder, int(_number))
