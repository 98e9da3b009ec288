"""Does it learn? Minutes, not seconds: ``pytest -m learning``."""

from __future__ import annotations

from pathlib import Path

import pytest

from awac_pl.algorithms.bc import BC
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.run_writer import RunWriter
from awac_pl.datasets.minari_io import load_dataset, save_dataset
from awac_pl.episode import score_episodes
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.runs.metrics import read_metrics
from tests.conftest import REACH
from tests.test_training import fit, make_module
from tests.toy import reach_episodes

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("advantage", ["critic", "td"])
def test_reach_gets_far_better_than_its_demonstrations(tmp_path: Path, reach, seed: int, advantage: str) -> None:
    """Demonstrations so noisy that they hold still at the goal a fifth of the time; the optimum is to go there and stay."""
    demonstrations = reach_episodes(100, noise=2.0, first_seed=1000 * seed)
    save_dataset("toy/noisy-v0", demonstrations, *reach, {})
    data = ReplayDataModule(
        task=REACH, datasets=["toy/noisy-v0"], batch_size=128, updates_per_epoch=500, offline_epochs=4, seed=seed,
        evaluation_episodes=50, milestone_episodes=100, workers=1, discount=0.9, progress=False,
    )  # fmt: skip
    module = make_module(data, discount=0.9, learning_rate=1e-3, polyak=0.02, advantage=advantage)
    fit(
        tmp_path, data, EnvironmentInteraction(env_steps_per_epoch=500), RunWriter({}),
        module=module, max_epochs=16, check_val_every_n_epoch=4,
    )  # fmt: skip
    before = score_episodes(load_dataset("toy/noisy-v0", *reach).episodes)["success_share"]
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "eval/success_share" in row]
    assert before < 0.3
    assert rows[-1]["eval/success_share"] > max(0.6, 2 * before)
    assert rows[-1]["eval/success_final"] > 0.9


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["iql", "rlpd", "bc"])
def test_the_rivals_learn_what_they_can(tmp_path: Path, reach, name: str, seed: int) -> None:
    """IQL and RLPD get far better than these demonstrations; a clone's mean action is better than they are, no more."""
    save_dataset("toy/noisy-v0", reach_episodes(100, noise=2.0, first_seed=1000 * seed), *reach, {})
    prior = name == "rlpd"
    data = ReplayDataModule(
        task=REACH, datasets=["toy/noisy-v0"], batch_size=128, updates_per_epoch=500, offline_epochs=0 if prior else 4,
        offline_ratio=0.5 if prior else None, seed=seed, evaluation_episodes=50, milestone_episodes=100, workers=1,
        discount=0.9, progress=False,
    )  # fmt: skip
    shared = {
        "observation_dim": 2, "action_dim": 1, "return_range": data.return_range, "actor_hidden_sizes": (16, 16),
        "discount": 0.9, "learning_rate": 1e-3,
    }  # fmt: skip
    critics = {"critic_hidden_sizes": (16, 16), "polyak": 0.02}
    module = {
        "iql": lambda: IQL(**shared, **critics),
        "rlpd": lambda: RLPD(**shared, **critics, num_critics=5, initial_entropy_weight=0.1),
        "bc": lambda: BC(**shared),
    }[name]()
    interaction = EnvironmentInteraction(env_steps_per_epoch=500, random_env_steps=500 if prior else 0)
    fit(tmp_path, data, interaction, RunWriter({}), module=module, max_epochs=16, check_val_every_n_epoch=4)
    before = score_episodes(load_dataset("toy/noisy-v0", *reach).episodes)["success_share"]
    (*_, last) = [row for row in read_metrics(tmp_path / "metrics.csv") if "eval/success_share" in row]
    assert before < 0.3
    if name == "bc":
        assert last["eval/success_share"] > before
    else:
        assert last["eval/success_share"] > max(0.6, 2 * before)
        assert last["eval/success_final"] > 0.9
