"""Shared fixtures: datasets in a folder of the test, and a tiny reach task made of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import torch

from awac_pl.commands.main import main
from awac_pl.datasets.minari_io import save_dataset
from awac_pl.envs.tasks import Spaces, Task, find_task, inspect_spaces
from awac_pl.policies.cloning import fit_clone
from awac_pl.tracking.client import make_store
from tests.toy import reach_episodes

ROOT = Path(__file__).parents[1]
REACH = "tests.toy:Reach-v0"
WIDE = "tests.toy:Wide-v0"
WIDE_CONFIG = """\
preset: small
run_dir: runs/wide
mlflow_uri: none
data:
  task: tests.toy:Wide-v0
  datasets: [toy/wide-v0]
  batch_size: 16
  chunk_size: 50
  updates_per_epoch: 100
  offline_epochs: 1
  evaluation_episodes: 1
  milestone_episodes: 1
  workers: 0
model:
  actor_hidden_sizes: [16, 16]
  critic_hidden_sizes: [16, 16]
  learning_rate: 0.01
interaction:
  env_steps_per_epoch: 20
trainer:
  max_epochs: 2
  check_val_every_n_epoch: 1
  accelerator: cpu
"""
torch.set_num_threads(1)  # tiny networks: more threads only get in each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor in the processes that tests start


@pytest.fixture(autouse=True)
def datasets_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the user's datasets."""
    root = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, to copy: making them takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    make_store(path)
    return path


@pytest.fixture
def reach() -> tuple[Task, Spaces]:
    """The toy task and its spaces."""
    task = find_task(REACH)
    return task, inspect_spaces(task)


@pytest.fixture
def short_cloning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cloned policies get 500 updates at most: for tests of what becomes of them, not of how good they are."""
    monkeypatch.setitem(fit_clone.__kwdefaults__, "max_updates", 500)


@pytest.fixture
def reach_dataset(reach: tuple[Task, Spaces]) -> str:
    """Id of a dataset of 20 good episodes of the toy task."""
    save_dataset("toy/reach-v0", reach_episodes(20), *reach, {})
    return "toy/reach-v0"


@pytest.fixture(scope="session")
def wide_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small fit of a task whose actions go from -2 to 4."""
    folder = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
        task = find_task(WIDE)
        save_dataset("toy/wide-v0", reach_episodes(20), task, inspect_spaces(task), {})
        (folder / "wide.yaml").write_text(WIDE_CONFIG)
        assert main(["fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=wide.yaml"]) == 0
    return folder / "runs/wide"


@pytest.fixture(scope="session")
def wide_export(wide_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its policy, exported."""
    folder = tmp_path_factory.mktemp("exported") / "wide"
    assert main(["export", "--ckpt_path", str(wide_run / "checkpoints/last.ckpt"), "--to", str(folder)]) == 0
    return folder
