"""Shared fixtures: datasets in a folder of the test, and a tiny reach task made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from awac_pl.datasets import save_dataset
from awac_pl.tasks import Spaces, Task, find_task, inspect_spaces
from tests.toy import reach_episodes

REACH = "tests.toy:Reach-v0"
torch.set_num_threads(1)  # tiny networks: more threads only get in each other's way


@pytest.fixture(autouse=True)
def datasets_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the user's datasets."""
    root = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.fixture
def reach() -> tuple[Task, Spaces]:
    """The toy task and its spaces."""
    task = find_task(REACH)
    return task, inspect_spaces(task)


@pytest.fixture
def reach_dataset(reach: tuple[Task, Spaces]) -> str:
    """Id of a dataset of 20 good episodes of the toy task."""
    save_dataset("toy/reach-v0", reach_episodes(20), *reach, {})
    return "toy/reach-v0"
