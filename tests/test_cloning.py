"""Behaviour cloning and the dataset made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from awac_pl.datasets.catalog import POLICY_FILE, read_metadata
from awac_pl.datasets.cloned import clone_dataset, cloned_policy
from awac_pl.datasets.minari_io import load_dataset
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, DatasetError
from awac_pl.policies.cloning import fit_clone
from tests.conftest import REACH
from tests.toy import reach_episodes


def test_a_clone_predicts_actions_it_has_not_seen() -> None:
    clone = fit_clone(reach_episodes(60, noise=0.2), max_updates=750, progress=False)
    unseen = reach_episodes(20, noise=0.0, first_seed=1000)
    observation = torch.from_numpy(np.concatenate([episode.observations[:-1] for episode in unseen]))
    action = torch.from_numpy(np.concatenate([episode.actions for episode in unseen]))
    with torch.no_grad():
        error = (clone.actor(observation) - action).abs().mean()
    assert error < 0.1
    assert 0.05 < clone.actor.log_std.exp().item() < 0.3  # the noise of the demonstrations is 0.2, clipped


def test_fitting_stops_where_the_held_out_likelihood_stops_rising() -> None:
    clone = fit_clone(reach_episodes(4), max_updates=20_000, check_every=50, patience=4, progress=False)
    assert clone.updates < 10_000
    assert clone.train_log_prob > clone.held_out_log_prob


def test_same_seed_same_clone_and_other_random_state_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (fit_clone(reach_episodes(5), seed=3, max_updates=100, check_every=50, progress=False) for _ in range(2))
    torch.testing.assert_close(torch.rand(1), expected)
    torch.testing.assert_close(first.actor.state_dict(), second.actor.state_dict(), rtol=0, atol=0)


def test_a_clone_with_normalised_observations_does_not_feel_their_units() -> None:
    def moved(episode: Episode) -> Episode:
        return replace(episode, observations=episode.observations * np.array([100.0, 0.5], np.float32) + np.float32(3))

    options = {"max_updates": 400, "normalize_observations": True, "progress": False}
    episodes, unseen = reach_episodes(30, noise=0.1), reach_episodes(1, first_seed=1000)[0]
    policies = [fit_clone(those, **options).policy(True) for those in (episodes, [moved(episode) for episode in episodes])]
    for observation, other in zip(unseen.observations, moved(unseen).observations, strict=True):
        first, second = (
            policy.act(seen, np.random.default_rng(0)) for policy, seen in zip(policies, (observation, other), strict=True)
        )
        np.testing.assert_allclose(first, second, atol=0.02)  # rounding grows over the updates


def test_too_few_episodes() -> None:
    with pytest.raises(DatasetError, match="at least 2 episodes"):
        fit_clone(reach_episodes(1))


def test_a_bad_target_is_refused_before_the_work(reach, reach_dataset: str) -> None:
    with pytest.raises(DatasetError, match="'mine' is no dataset id"):
        clone_dataset(reach_dataset, "mine", reach[0])


@pytest.mark.usefixtures("short_cloning")
def test_cloned_dataset(reach, reach_dataset: str, datasets_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "awac_pl")
    result = clone_dataset(
        reach_dataset, "toy/cloned-v0", reach[0], num_episodes=12, evaluation_episodes=20, num_workers=1, progress=False
    )
    success = f"success {result['success_deterministic']:.2f} by mean actions (20 episodes)"
    assert f"toy/cloned-v0: cloned in {result['updates']:,.0f} updates; {success}" in caplog.messages[-1]
    dataset = load_dataset("toy/cloned-v0", *reach)
    assert [episode.seed for episode in dataset.episodes] == list(range(1_000_000_000, 1_000_000_012))
    assert result["success_deterministic"] > 0.8
    assert result["success_stochastic"] == np.mean([episode.success.any() for episode in dataset.episodes])
    metadata = read_metadata("toy/cloned-v0")
    assert metadata["cloning"] == result
    assert metadata["recipe"]["source"] == reach_dataset
    assert metadata["recipe"]["num_demonstrations"] == 20
    assert reach[0].env_id == REACH

    policy = cloned_policy([reach_dataset, "toy/cloned-v0"])  # kept beside the episodes that it acted
    assert policy is not None
    (again,) = RolloutWorkers(reach[0], 0).rollout(policy, [1_000_000_003])
    np.testing.assert_array_equal(again.actions, dataset.episodes[3].actions)
    assert cloned_policy([reach_dataset]) is None
    (datasets_root / "toy/cloned-v0" / POLICY_FILE).write_bytes(b"<html>")
    with pytest.raises(AwacError, match=r"policy\.safetensors: cannot be read as a policy"):
        cloned_policy(["toy/cloned-v0"])


def test_a_folder_that_cannot_be_written_is_found_before_the_work(reach, reach_dataset, tmp_path, monkeypatch) -> None:
    def access(path, mode) -> bool:  # root may write anywhere but to a read-only file system
        return Path(path) != tmp_path

    monkeypatch.setattr("awac_pl.datasets.catalog.os.access", access)
    monkeypatch.setattr("awac_pl.datasets.cloned.fit_clone", lambda *_, **__: pytest.fail("the work has begun"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "new"))
    with pytest.raises(DatasetError, match=f"{tmp_path} cannot be written; set MINARI_DATASETS_PATH"):
        clone_dataset(reach_dataset, "toy/cloned-v0", reach[0])
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="file is no folder; set MINARI_DATASETS_PATH"):
        clone_dataset(reach_dataset, "toy/cloned-v0", reach[0])
