"""A goal environment, from a dataset of dicts to a policy that is deployed."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from awac_pl.commands.main import main
from awac_pl.datasets.catalog import read_metadata
from awac_pl.datasets.importing import import_dataset
from awac_pl.datasets.inspection import inspect_dataset
from awac_pl.datasets.minari_io import load_dataset, save_dataset
from awac_pl.datasets.relabelling import RawEpisode, relabel_episode
from awac_pl.deploy.runner import PolicyRunner
from awac_pl.envs import goals
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.errors import DatasetError
from tests.conftest import ROOT, WIDE_CONFIG


@pytest.fixture
def goal_dataset(datasets_root: Path) -> str:
    """Episodes of a goal environment, as Minari's collector records them without its option ``record_infos``."""
    environment, buffers = gymnasium.make("tests.toy:GoalReach-v0"), []
    for seed in range(5):
        rows, actions, rewards = [environment.reset(seed=seed)[0]], [], []
        for _ in range(10):
            actions.append(np.clip(-rows[-1]["observation"] / 0.3, -1, 1).astype(np.float32))
            observation, reward, *_ = environment.step(actions[-1])
            rows.append(observation)
            rewards.append(reward)
        named = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        ends = {"terminations": [False] * 10, "truncations": [False] * 9 + [True]}
        buffers.append(EpisodeBuffer(id=seed, observations=named, actions=np.array(actions), rewards=rewards, **ends))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("toy/goal-v0", buffers, env=environment)
    return "toy/goal-v0"


def test_a_goal_dataset_is_read_and_inspected_with_success_from_its_goals(goal_dataset: str) -> None:
    task = find_task("tests.toy:GoalReach-v0")
    spaces = inspect_spaces(task)
    dataset = load_dataset(goal_dataset, task, spaces)
    for episode in dataset.episodes:
        achieved, desired = episode.observations[1:, :2].T
        np.testing.assert_array_equal(episode.success, np.abs(achieved - desired) < 0.1)
        np.testing.assert_array_equal(episode.rewards, episode.success - 1.0)
    assert any(episode.success.any() for episode in dataset.episodes)
    report = inspect_dataset(goal_dataset, task)
    assert (report["observation_dim"], report["fits"]) == ([3], True)
    successes = sum(bool(episode.success.any()) for episode in dataset.episodes)
    assert (report["success"], report["training"]["succeed"]) == ({"stored": None, "recomputed": successes}, successes)
    save_dataset("toy/flat-v0", dataset.episodes, task, spaces, {})
    assert read_metadata("toy/flat-v0")["observation_layout"] == spaces.observation_layout
    other = replace(spaces, observation_layout=spaces.observation_layout[::-1])
    with pytest.raises(DatasetError, match=r"holds observations of achieved_goal \(1\), .*, the task has observation \(1\)"):
        load_dataset("toy/flat-v0", task, other)


def test_a_pickle_of_dicts_keeps_its_goals(tmp_path: Path) -> None:
    """One dict per row, as in rlkit; its order is not the task's."""
    rows = [{"observation": [0.3 - 0.1 * t], "desired_goal": [0.4], "achieved_goal": [0.7 - 0.1 * t]} for t in range(4)]
    path = {"observations": rows, "actions": [[-0.5]] * 3, "rewards": [-1.0, -1.0, 0.0], "success": [False, False, True]}
    (tmp_path / "goal.pickle").write_bytes(pickle.dumps([path]))
    task = find_task("tests.toy:GoalReach-v0")
    assert inspect_dataset(tmp_path / "goal.pickle", task)["observation_dim"] == [3]
    report = import_dataset(tmp_path / "goal.pickle", "toy/pickled-v0", task, progress=False)
    assert (report["steps"], report["observation_keys"]) == (3, "achieved_goal, desired_goal, observation")
    (episode,) = load_dataset("toy/pickled-v0", task, inspect_spaces(task)).episodes
    np.testing.assert_allclose(episode.observations[1], [0.6, 0.4, 0.2], atol=1e-6)


def test_a_goal_environment_from_its_dataset_to_its_deployment(
    goal_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    task = "tests.toy:GoalReach-v0"
    (tmp_path / "goal.yaml").write_text(WIDE_CONFIG.replace("tests.toy:Wide-v0", task).replace("toy/wide-v0", goal_dataset))
    assert main(["fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=goal.yaml", "--video.episodes=0"]) == 0
    assert main(["export", "--ckpt_path", "runs/wide/checkpoints/last.ckpt", "--to", "exported"]) == 0
    contract = json.loads(Path("exported/contract.json").read_text())
    names = ["achieved_goal", "desired_goal", "observation"]
    assert contract["observation"]["layout"] == [{"key": name, "size": 1} for name in names]
    assert (contract["observation"]["names"], contract["success_key"]) == (names, "is_success")
    runner = PolicyRunner.load("exported", action_limits=(-1, 1), backend="numpy")
    named = {"observation": [0.3], "achieved_goal": [0.7], "desired_goal": [0.4]}
    np.testing.assert_array_equal(runner.act(named), runner.act([0.7, 0.4, 0.3]))
    capsys.readouterr()
    assert main(["deploy", "exported", "--env", task, "--action_limits", "contract", "--episodes", "3"]) == 0
    assert "of 3" in next(line for line in capsys.readouterr().out.splitlines() if "successes" in line)


def test_a_dense_reward_says_nothing_about_success(monkeypatch: pytest.MonkeyPatch) -> None:
    task = find_task("tests.toy:GoalReach-v0")
    dense = (lambda achieved, desired, info: -abs(achieved - desired).item(), False)
    monkeypatch.setattr(goals, "_reward_function", lambda task: dense)
    states = np.array([[0.5, 0.45, 0.05], [0.5, 0.3, 0.2]], np.float32)
    assert goals.goal_success(task, inspect_spaces(task), states) is None
    np.testing.assert_allclose(goals.goal_rewards(task, inspect_spaces(task), states), [-0.05, -0.2], atol=1e-6)


def test_a_reward_from_the_goals_is_that_of_the_state_that_the_action_leads_to() -> None:
    task = find_task("tests.toy:GoalReach-v0", reward="environment")
    states = np.array([[0.5, 0.3, 0.2], [0.5, 0.45, 0.05], [0.5, 0.5, 0.0]], np.float32)  # at the goal from the second on
    raw = RawEpisode(observations=states, actions=np.zeros((2, 1), np.float32), terminations=np.zeros(2, bool))
    episode, _ = relabel_episode(raw, "here", task, inspect_spaces(task))
    assert episode.rewards.tolist() == [0, 0]
    assert episode.success is not None
    assert episode.success.tolist() == [True, True]
