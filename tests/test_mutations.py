"""Damaged files of every kind that a user can hand to a command: refused in one line, or read; never worse.

Six of each in ``make test``; ``make faults`` runs some 300 of each.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from awac_pl.datasets.catalog import data_file, local_root
from awac_pl.datasets.minari_io import save_dataset
from awac_pl.deploy.contract import read_contract
from awac_pl.envs.tasks import Spaces, Task
from awac_pl.errors import AwacError
from awac_pl.files import file_digest
from tests.conftest import REACH
from tests.mutations import mutate, outcome
from tests.toy import reach_episodes

FEW = 6
MANY = int(os.environ.get("AWAC_MUTATIONS", 300))


def flat(count: int = 3) -> dict[str, np.ndarray]:
    """Columns of a flat file."""
    episodes = reach_episodes(count)
    return {
        "observations": np.concatenate([episode.observations[:-1] for episode in episodes]),
        "next_observations": np.concatenate([episode.observations[1:] for episode in episodes]),
        "actions": np.concatenate([episode.actions for episode in episodes]),
        "rewards": np.concatenate([episode.rewards for episode in episodes]),
        "terminals": np.concatenate([episode.terminated for episode in episodes]),
        "timeouts": np.concatenate([episode.truncated for episode in episodes]),
    }


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, column in flat().items():
            file.create_dataset(name, data=column, compression="gzip" if name == "observations" else None)


def write_npz(path: Path) -> None:
    episodes = reach_episodes(3)
    np.savez_compressed(
        path,
        observations=np.stack([episode.observations for episode in episodes]),
        actions=np.stack([episode.actions for episode in episodes]),
        rewards=np.stack([episode.rewards for episode in episodes]),
    )


def write_npy(path: Path) -> None:
    paths = [
        {
            "observations": list(episode.observations[:-1]),
            "next_observations": list(episode.observations[1:]),
            "actions": list(episode.actions),
            "rewards": episode.rewards,
        }
        for episode in reach_episodes(3)
    ]
    np.save(path, np.array(paths, dtype=object), allow_pickle=True)


def write_pickle(path: Path) -> None:
    demonstrations = [
        {"observations": episode.observations, "actions": episode.actions, "rewards": episode.rewards}
        for episode in reach_episodes(3)
    ]
    path.write_bytes(pickle.dumps(demonstrations, protocol=2))


WRITERS: dict[str, Callable[[Path], None]] = {
    "hdf5": write_hdf5, "npz": write_npz, "npy": write_npy, "pickle": write_pickle,
}  # fmt: skip


def report(faults: dict[int, str]) -> None:
    """Fail with every fault and the seed that makes it again."""
    assert not faults, "\n".join(f"seed {seed}: {fault}" for seed, fault in faults.items())


def try_all(original: Path, target: Path, arguments: list[str], seeds: range, log: Path) -> dict[int, str]:
    """Run a command on each damaged copy of ``original``, put at ``target``."""
    data, faults = original.read_bytes(), {}
    for seed in seeds:
        target.write_bytes(mutate(data, seed))
        result = outcome(arguments, log)
        if result.fault:
            faults[seed] = f"{result.fault}: {' '.join(arguments[:2])}: {' | '.join(result.output.splitlines()[-2:])[-300:]}"
    return faults


def amounts(test: Callable) -> Callable:
    """Few of them always, many behind the marker."""
    return pytest.mark.parametrize(
        "seeds", [pytest.param(range(FEW), id="few"), pytest.param(range(FEW, MANY), id="many", marks=pytest.mark.faults)]
    )(test)


@pytest.mark.parametrize("kind", WRITERS)
@amounts
def test_files_to_import(kind: str, seeds: range, tmp_path: Path, reach_dataset: str) -> None:
    kept = file_digest(data_file(reach_dataset))
    original, damaged = tmp_path / f"whole.{kind}", tmp_path / f"damaged.{kind}"
    WRITERS[kind](original)
    log = tmp_path / "log"
    stored = ["data", "import", str(damaged), "--task", REACH, "--reward", "environment", "--to", "mine/new-v0"]
    shutil.copy(original, damaged)
    assert outcome(stored, log).status == 0, log.read_text()
    shutil.rmtree(local_root() / "mine")
    faults = try_all(original, damaged, stored, seeds, log) if seeds.start else {}
    shutil.rmtree(local_root() / "mine", ignore_errors=True)
    faults |= try_all(
        original, damaged, ["data", "inspect", str(damaged), "--task", REACH, "--reward", "environment"], seeds, log
    )
    report(faults)
    assert file_digest(data_file(reach_dataset)) == kept
    assert not list(local_root().rglob(".*"))  # nothing half-done


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
@amounts
def test_minari_datasets(name: str, seeds: range, tmp_path: Path, reach: tuple[Task, Spaces]) -> None:
    for dataset in ("toy/reach-v0", "toy/other-v0"):
        save_dataset(dataset, reach_episodes(3), *reach, {})
    target = data_file("toy/reach-v0").with_name(name)
    original = tmp_path / name
    shutil.copy(target, original)
    log = tmp_path / "log"
    for arguments in (["data", "inspect", "toy/reach-v0", "--task", REACH], ["data", "list"]):
        assert outcome(arguments, log).fault is None, log.read_text()
        report(try_all(original, target, arguments, seeds, log))
    assert "toy/other-v0" in log.read_text()  # a damaged dataset hides none of the others


@amounts
def test_checkpoints(seeds: range, tmp_path: Path, wide_run: Path) -> None:
    original, run = wide_run / "checkpoints/last.ckpt", tmp_path / "run"
    shutil.copytree(wide_run, run)
    arguments = ["export", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--to", str(tmp_path / "exported")]
    data, unnoticed = original.read_bytes(), []
    for seed in seeds:
        (run / "checkpoints/last.ckpt").write_bytes(mutate(data, seed))
        result = outcome(arguments, tmp_path / "log")
        report({seed: f"{result.fault}: {result.output[-300:]}"} if result.fault else {})
        shutil.rmtree(tmp_path / "exported", ignore_errors=True)
        unnoticed += [seed] if result.status == 0 else []
    assert len(unnoticed) <= 1 + len(seeds) // 10, unnoticed  # padding between the tensors, and the zip's own fields


@pytest.mark.parametrize("name", ["contract.json", "policy.onnx", "policy.safetensors", "examples.npz"])
@amounts
def test_exported_policies(name: str, seeds: range, tmp_path: Path, wide_export: Path) -> None:
    folder = tmp_path / "exported"
    shutil.copytree(wide_export, folder)
    arguments = ["deploy", str(folder), "--env", "tests.toy:Wide-v0", "--action_limits", "contract"]
    assert outcome(arguments, tmp_path / "log").status == 0, (tmp_path / "log").read_text()
    report(try_all(wide_export / name, folder / name, arguments, seeds, tmp_path / "log"))
    original = (wide_export / name).read_bytes()
    for damaged in (mutate(original, seed) for seed in range(300)):
        (folder / name).write_bytes(damaged)
        if damaged != original and not (name == "contract.json" and _same_json(damaged, original)):
            with pytest.raises(AwacError, match=name):
                read_contract(folder)


def _same_json(damaged: bytes, original: bytes) -> bool:
    """Whether the damage is to blanks and line ends alone."""
    try:
        return json.loads(damaged) == json.loads(original)
    except ValueError:
        return False
