"""Episodes depend on seed and policy alone; workers may die."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from awac_pl.envs.rollouts import RolloutError, RolloutWorkers, _Runner, collect_block, run_episode
from awac_pl.envs.tasks import find_task, inspect_spaces, make_environment
from awac_pl.episode import Episode
from awac_pl.policies.actor import Actor
from awac_pl.policies.numpy_policy import NumpyPolicy
from tests.conftest import REACH, ROOT
from tests.toy import constant_policy

SEEDS = [3, 1, 4, 15, 9, 2, 6]


def rollout(task: str, workers: int, policy: NumpyPolicy, seeds: list[int], **options) -> list[Episode]:
    pool = RolloutWorkers(find_task(task, **options), workers)
    try:
        return pool.rollout(policy, seeds)
    finally:
        pool.close()


def assert_equal(first: list[Episode], second: list[Episode]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "success"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
        assert one.seed == other.seed


def test_equal_to_the_bit_for_any_number_of_workers_on_the_real_task() -> None:
    torch.manual_seed(0)
    policy = Actor(45, 24, initial_std=0.3).to_numpy()
    reference = rollout("pen", 0, policy, SEEDS, horizon=60)
    for workers in (1, 2, 4):
        assert_equal(reference, rollout("pen", workers, policy, SEEDS, horizon=60))
    shuffled = rollout("pen", 0, policy, SEEDS[::-1], horizon=60)  # what ran before leaves no trace
    assert_equal(reference, shuffled[::-1])


@pytest.mark.parametrize("clip", [True, False])
def test_the_environment_gets_clipped_actions_and_the_episode_what_it_is_asked_to_keep(clip: bool) -> None:
    sampled = rollout("tests.toy:Reach-v0", 0, constant_policy(std=3.0), [5, 6], clip_actions=clip)
    for episode in sampled:
        moved = np.diff(episode.observations[:, 0])  # 0.3 times what arrived
        np.testing.assert_allclose(moved, 0.3 * np.clip(episode.actions[:, 0], -1, 1), atol=1e-6)
    assert (max(np.abs(episode.actions).max() for episode in sampled) > 1) == (not clip)


def test_an_episode_is_what_the_environment_gave() -> None:
    episode = rollout("tests.toy:Reach-v0", 0, constant_policy(std=0.0), [5])[0]
    assert (episode.observations.shape, episode.actions.shape, len(episode)) == ((11, 2), (10, 1), 10)
    np.testing.assert_allclose(np.diff(episode.observations[:, 0]), 0.15, atol=1e-6)  # 0.3 times 0.5
    reached = np.abs(episode.observations[1:, 0] - episode.observations[1:, 1]) < 0.1  # success t is that of s'
    np.testing.assert_array_equal(episode.success, reached)
    np.testing.assert_array_equal(episode.rewards, reached.astype(np.float32) - 1)
    distances = np.abs(episode.observations[1:, 0] - episode.observations[1:, 1])
    np.testing.assert_allclose(episode.environment_rewards, -distances, atol=1e-6)  # what it paid, beside the binary reward
    assert episode.truncated.tolist() == [False] * 9 + [True]
    assert not episode.terminated.any()


def test_an_environment_may_use_its_arrays_again_and_change_the_action() -> None:
    reusing, reference = (rollout(f"tests.toy:{name}-v0", 0, constant_policy(), SEEDS) for name in ("Reusing", "Reach"))
    assert_equal(reusing, reference)
    assert np.abs(np.diff(reference[0].observations, axis=0)).max() > 0


def test_noise_depends_on_the_seed_and_not_on_the_reset() -> None:
    first, second, again = rollout("tests.toy:Reach-v0", 0, constant_policy(), [1, 2, 1])
    np.testing.assert_array_equal(first.actions, again.actions)
    assert not np.array_equal(first.actions, second.actions)


def test_end_on_success() -> None:
    episodes = rollout("tests.toy:Reach-v0", 0, constant_policy(), list(range(40)), terminate_on_success=True)
    reached = [episode for episode in episodes if episode.success.any()]
    assert 0 < len(reached) < len(episodes)
    for episode in reached:
        assert episode.success.sum() == 1
        assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [True]
        assert not episode.truncated.any()


def test_failure_is_no_end_under_a_binary_reward_but_is_one_under_the_environments() -> None:
    binary = rollout("tests.toy:Ending-v0", 0, constant_policy(), [0])[0]
    assert (len(binary), binary.terminated.any(), binary.truncated[-1]) == (3, False, True)
    own = rollout("tests.toy:Ending-v0", 0, constant_policy(), [0], reward="environment")[0]
    assert (own.terminated[-1], own.truncated[-1]) == (True, False)


def test_success_by_another_key_and_by_one_that_comes_and_goes() -> None:
    for name in ("GoalReach", "Seldom"):
        episodes = rollout(f"tests.toy:{name}-v0", 0, constant_policy(3 if name == "GoalReach" else 2), list(range(20)))
        successes = np.array([episode.success for episode in episodes])
        assert 0 < successes.sum() < successes.size
        np.testing.assert_array_equal(np.array([episode.rewards for episode in episodes]), successes - 1.0)


def test_success_told_as_a_number_ends_an_episode() -> None:
    options = {"terminate_on_success": True}
    episodes = rollout("tests.toy:GoalReach-v0", 0, constant_policy(3), list(range(20)), **options)
    assert any(episode.terminated[-1] for episode in episodes)
    assert all(episode.success[:-1].sum() == 0 for episode in episodes)


def test_observations_that_are_too_large_are_named() -> None:
    with pytest.raises(
        RolloutError, match=r"Huge-v0: seed 1: step 0: the observation reaches .*e\+(19|20), more than 1e\+15"
    ):
        rollout("tests.toy:Huge-v0", 0, constant_policy(), [1])


def test_actions_are_scaled_and_success_is_unavailable() -> None:
    episode = rollout("tests.toy:Wide-v0", 0, constant_policy(std=0.0), [5])[0]
    np.testing.assert_allclose(episode.actions, 0.5, atol=1e-6)  # in [-1, 1]; the environment checks its own range
    np.testing.assert_allclose(np.diff(episode.observations[:, 0]), 0.15, atol=1e-6)
    assert episode.success is None
    np.testing.assert_allclose(episode.rewards, -np.abs(np.diff(episode.observations[1:], axis=1))[:, 0], atol=1e-6)


def test_a_worker_that_dies_is_replaced_and_its_seeds_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAC_TEST_MARKS", str(tmp_path))
    episodes = rollout("tests.toy:Deadly-v0", 2, constant_policy(), SEEDS)
    assert {int(mark.name) for mark in tmp_path.iterdir() if mark.is_file()} == {1, 3, 9, 15}  # each died once
    assert_equal(episodes, rollout("tests.toy:Reach-v0", 0, constant_policy(), SEEDS))


def test_a_seed_that_always_kills_is_given_up() -> None:
    with pytest.raises(RolloutError, match="seed 7: the worker died 3 times in a row in its first job; does your script"):
        rollout("tests.toy:AlwaysDeadly-v0", 1, constant_policy(), [7])


def test_an_environments_error_names_task_seed_and_place() -> None:
    with pytest.raises(RolloutError, match=r"Broken-v0: seed 7: RuntimeError\('the simulator exploded'\) at .*toy.py:\d+"):
        rollout("tests.toy:Broken-v0", 1, constant_policy(), [7])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"OSError\('the motor is too hot'\) at .*toy.py:\d+, step 2"),
        ("exit", r"SystemExit\(3\) at .*toy.py:\d+, step 2"),
        ("reward", "step 2: the reward is nan; it must be finite"),
        ("text", "step 2: the reward is '-1', not a number"),
        ("none", r"step 2: step\(\) returned no \(observation, reward, terminated, truncated, info\)"),
        ("gym", r"step 2: step\(\) returned no"),
        ("shape", r"step 2: the observation is a ndarray \[1\], not numbers \[2\]"),
        ("nan", "step 2: the observation is not finite"),
        ("success", "step 2: the success is nan; it must be finite"),
    ],
)
def test_what_an_environment_must_not_do_is_named(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAC_TEST_FAULT", fault)
    with pytest.raises(RolloutError, match=f"^tests.toy:Flaky-v0: seed 4: {message}"):
        rollout("tests.toy:Flaky-v0", 0, constant_policy(), [3, 4])


def test_an_environment_that_cannot_be_closed_is_named_and_its_episodes_count(caplog: pytest.LogCaptureFixture) -> None:
    (episode,) = rollout("tests.toy:Unclosed-v0", 0, constant_policy(), [7])
    assert len(episode) == 10
    assert re.search(r"Unclosed-v0: close\(\) failed: OSError\('the bus is busy'\) at .*toy.py:\d+", caplog.text)


def test_an_environment_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RolloutWorkers(find_task("tests.toy:Reach-v0"), 0)

    def fails(task) -> None:
        raise OSError("no display")

    monkeypatch.setattr("awac_pl.envs.rollouts.make_environment", fails)
    with pytest.raises(RolloutError, match=r"Reach-v0: seed 7: OSError\('no display'\) at .*test_rollouts.py:\d+"):
        pool.rollout(constant_policy(), [7])


@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_that_fail_are_left_out_up_to_a_number(workers: int) -> None:
    pool = RolloutWorkers(find_task("tests.toy:Flaky-v0"), workers)
    block = collect_block(pool, constant_policy(), 0, 60, max_failed=3)
    assert [episode.seed for episode in block.episodes] == [0, 2, 3, 5, 6, 8]
    assert [str(error).split(": ")[1] for error in block.failed] == ["seed 1", "seed 4", "seed 7"]
    with pytest.raises(RolloutError, match=r"too many episodes failed .*: tests.toy:Flaky-v0: seed 7: OSError"):
        collect_block(pool, constant_policy(), 0, 60, max_failed=2)
    pool.close()


def test_a_map_that_was_interrupted_leaves_no_answers_behind() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    pool = RolloutWorkers(find_task("tests.toy:Reach-v0"), 2)
    with pytest.raises(KeyboardInterrupt):
        pool.rollout(constant_policy(), SEEDS, on_episode=stop)
    assert [episode.seed for episode in pool.rollout(constant_policy(), SEEDS)] == SEEDS
    pool.close()


def test_an_episode_that_hangs_is_run_again_in_a_new_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAC_TEST_MARKS", str(tmp_path))
    pool = RolloutWorkers(find_task("tests.toy:Hanging-v0"), 1, timeout=1)
    pool.rollout(constant_policy(), [2])  # its first one may take longer: the process starts
    (before,) = pool._workers.values()
    assert_equal(pool.rollout(constant_policy(), [3, 4]), rollout("tests.toy:Reach-v0", 0, constant_policy(), [3, 4]))
    assert not _alive(before.pid)
    pool.close()


def test_a_stopped_worker_is_closed_and_an_orphan_ends(tmp_path: Path) -> None:
    pool = RolloutWorkers(find_task("tests.toy:Reach-v0"), 1)
    pool.rollout(constant_policy(), [1])
    (process,) = pool._workers.values()
    os.kill(process.pid, signal.SIGSTOP)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 10
    assert not _alive(process.pid)
    code = (
        "import os, time; os.environ['AWAC_TEST_MARKS'] = '.'; from awac_pl.envs.rollouts import RolloutWorkers;"
        "from awac_pl.envs.tasks import find_task; from tests.toy import constant_policy;"
        "pool = RolloutWorkers(find_task('tests.toy:Hanging-v0'), 1); pool.rollout(constant_policy(), [2]);"
        "print(*[one.pid for one in pool._workers.values()], flush=True); pool.rollout(constant_policy(), [3])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as parent:
        worker = int(parent.stdout.readline())
        while not (tmp_path / "3").exists():
            time.sleep(0.05)
        parent.kill()  # while its worker hangs
    deadline = time.monotonic() + 10
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_policy_that_is_not_finite_is_stopped() -> None:
    with pytest.raises(RolloutError, match="seed 7: step 0: the action is not finite"):
        rollout("tests.toy:Reach-v0", 1, constant_policy(action=np.nan), [7])


def test_workers_end_when_closed() -> None:
    pool = RolloutWorkers(find_task("tests.toy:Reach-v0"), 2)
    pool.rollout(constant_policy(), [1, 2])
    pids = [process.pid for process in pool._workers.values()]
    pool.close()
    pool.close()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)
    with pytest.raises(RolloutError, match="closed"):
        pool.rollout(constant_policy(), [1])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_policys_noise_is_not_what_the_reset_draws() -> None:
    """The reset draws position and goal, uniform in [-1, 1], from the episode's seed."""

    class Draws:
        def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            self.drawn = getattr(self, "drawn", rng.uniform(-1, 1, 2))
            return np.zeros(1, np.float32)

    task, policy = find_task(REACH), Draws()
    episode = run_episode(make_environment(task), task, inspect_spaces(task), policy, 5)
    assert not np.isclose(policy.drawn, episode.observations[0]).any()


def test_after_a_failure_a_worker_makes_another_environment() -> None:
    task = find_task("tests.toy:Flaky-v0")
    runner, payload = _Runner(inspect_spaces(task)), pickle.dumps(constant_policy())
    runner((payload, task, 3, True))
    first = runner.environment
    assert isinstance(runner((payload, task, 4, True)), RolloutError)
    runner((payload, task, 5, True))
    assert runner.environment is not first  # which is closed
