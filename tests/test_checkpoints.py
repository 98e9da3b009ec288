"""Checkpoints of this version and of older ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from awac_pl import AWAC
from awac_pl.algorithms.checkpoints import load_module
from awac_pl.datasets.from_runs import record_replay
from awac_pl.envs.tasks import find_task
from awac_pl.errors import AwacError
from tests.conftest import REACH

OLD = Path(__file__).parent / "data/checkpoint-0.1.0.ckpt"


def test_a_checkpoint_of_version_0_1_acts_as_it_did_there() -> None:
    module = load_module(OLD)
    assert (type(module), int(module.updates), int(module.env_steps)) == (AWAC, 60, 40)
    policy, rng = module.policy(deterministic=True), np.random.default_rng(0)
    observations = np.array([[0.5, -0.5], [-1, 1], [0.2, 0.3]], np.float32)
    actions = [policy.act(observation, rng).item() for observation in observations]
    np.testing.assert_allclose(actions, [0.12600406, 0.10586806, 0.09062473], atol=1e-6)  # of commit b58df3d
    assert sum(weight.abs().sum() for weight in module.critics.weights[:1]).item() == pytest.approx(31.055658, rel=1e-6)


def test_its_replay_buffer_becomes_a_dataset(datasets_root: Path) -> None:
    assert record_replay(OLD, "toy/old-v0", find_task(REACH))["episodes"] == 4


def test_a_checkpoint_names_its_learner(tmp_path: Path) -> None:
    state = torch.load(OLD, weights_only=True)
    torch.save(state | {"algorithm": "AWAC"}, tmp_path / "new.ckpt")
    assert type(load_module(tmp_path / "new.ckpt")) is AWAC
    torch.save(state | {"algorithm": "Mine"}, tmp_path / "other.ckpt")
    with pytest.raises(AwacError, match=r"other\.ckpt: is of the algorithm 'Mine'; this version has AWAC"):
        load_module(tmp_path / "other.ckpt")
