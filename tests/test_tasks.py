"""Tasks: success from observations, rewards, spaces, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from awac_pl.datasets.minari_io import load_dataset
from awac_pl.envs.goals import goal_rewards, goal_success
from awac_pl.envs.observations import as_vector, environment_layout, layout_of
from awac_pl.envs.tasks import (
    TASKS,
    find_task,
    inspect_spaces,
    make_environment,
    recorded_success_key,
    recorded_task,
    scale_action,
    unscale_action,
)
from awac_pl.errors import AwacError
from awac_pl.parallel.interruption import Interrupted
from tests.conftest import REACH


@pytest.mark.parametrize("name", TASKS)
def test_success_from_observations_is_what_the_environment_says(name: str) -> None:
    task = find_task(name)
    environment = make_environment(task)
    unwrapped = environment.unwrapped
    observation, _ = environment.reset(seed=0)
    steps = successes = 0
    rng = np.random.default_rng(0)
    for step in range(120):
        if step % 10 == 5:
            _move_to_goal(name, unwrapped, rng)
        observation, _, _, _, info = environment.step(rng.uniform(-1, 1, environment.action_space.shape).astype(np.float32))
        assert bool(task.success(observation.astype(np.float32))) == bool(info["success"]), f"step {step}"
        steps, successes = steps + 1, successes + bool(info["success"])
    environment.close()
    assert 0 < successes < steps


def _move_to_goal(name: str, environment, rng: np.random.Generator) -> None:
    """Put the simulation near its goal, at random on either side of the threshold."""
    data, model = environment.data, environment.model
    if name == "door":
        data.qpos[model.joint("door_hinge").qposadr] = rng.uniform(1.2, 1.5)
    elif name == "hammer":
        data.qpos[model.joint("nail_dir").qposadr] = rng.uniform(0.06, 0.09)
    elif name == "relocate":
        offset = data.site_xpos[environment.target_obj_site_id] - data.xpos[environment.obj_body_id]
        for axis, joint in enumerate(("OBJTx", "OBJTy", "OBJTz")):
            data.qpos[model.joint(joint).qposadr] += offset[axis] + rng.uniform(-0.08, 0.08)
    else:
        model.body_quat[environment.target_obj_body_id] = data.xquat[environment.obj_body_id]


@pytest.mark.parametrize("name", ["pen", "door", "relocate"])
def test_built_in_demonstrations_succeed(name: str) -> None:
    task = find_task(name)
    dataset = load_dataset(f"awac/{name}/expert-v0", task, inspect_spaces(task))
    assert len(dataset.episodes) == 25
    assert all(episode.success[-1] for episode in dataset.episodes)
    assert all(set(np.unique(episode.rewards)) <= {-1.0, 0.0} for episode in dataset.episodes)
    assert not any(episode.terminated.any() for episode in dataset.episodes)


def test_horizon_and_spaces() -> None:
    spaces = inspect_spaces(find_task("pen", horizon=37))
    assert (spaces.observation_dim, spaces.action_dim, spaces.horizon) == (45, 24, 37)


def test_observations_by_name_become_a_vector_in_the_order_of_the_space() -> None:
    spaces = inspect_spaces(find_task("tests.toy:GoalReach-v0"))
    assert [part["key"] for part in spaces.observation_layout] == ["achieved_goal", "desired_goal", "observation"]
    assert (spaces.observation_dim, spaces.success_key) == (3, "is_success")
    environment = make_environment(find_task("tests.toy:Nested-v0"))
    observation, _ = environment.reset(seed=0)
    np.testing.assert_allclose(observation, [0, 1, 2, 3, 4])
    layout = environment_layout(environment)
    assert layout == [{"key": "z", "size": 1}, {"key": "a/_index_0", "size": 2},
                      {"key": "a/_index_1", "size": 1}, {"key": "a/_index_2/b", "size": 1}]  # fmt: skip
    np.testing.assert_array_equal(as_vector(environment.unwrapped._observation(), layout), observation)
    own = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.FlattenObservation(environment.unwrapped), 5)
    assert environment_layout(own) == layout


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Discrete(3), "its observation space is Discrete; AWAC needs numbers"),
        (Dict({"a": Dict({"grip": Discrete(3)})}), "its observation 'a/grip' is Discrete"),
        (Dict({"camera": Box(0, 255, (8, 8, 3), np.uint8)}), r"its observation 'camera' is a picture \[8, 8, 3\]"),
    ],
)
def test_observations_that_are_no_numbers_are_refused(space: gymnasium.Space, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        layout_of(space)


def test_goals_tell_reward_and_success_that_were_not_recorded() -> None:
    task = find_task("tests.toy:GoalReach-v0")
    spaces, states = inspect_spaces(task), np.array([[0.5, 0.45, 0.05], [0.5, 0.3, 0.2]], np.float32)
    assert goal_rewards(task, spaces, states).tolist() == [0, -1]
    assert goal_success(task, spaces, states).tolist() == [True, False]
    assert goal_success(find_task("tests.toy:Reach-v0"), inspect_spaces(find_task("tests.toy:Reach-v0")), states) is None


def test_a_module_that_ends_the_program_is_an_error_and_a_signal_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, content, message in (
        ("ends", "import sys\nsys.exit(3)", r"cannot be made: SystemExit\(3\) at .*ends.py:2"),
        ("wrong", "def f(:", "cannot be made: SyntaxError: invalid syntax at .*wrong.py:1"),
        ("lacks", "\nimport no_such_simulator", "ModuleNotFoundError.*no_such_simulator.* at .*lacks.py:2"),
    ):
        (tmp_path / f"{name}.py").write_text(content)
        with pytest.raises(AwacError, match=message):
            make_environment(find_task(f"{name}:Robot-v0"))
    (tmp_path / "signalled.py").write_text("from awac_pl.parallel.interruption import Interrupted\nraise Interrupted(15)")
    with pytest.raises(Interrupted):
        make_environment(find_task("signalled:Robot-v0"))


def test_a_named_key_of_success_and_a_typing_mistake_in_it(caplog: pytest.LogCaptureFixture) -> None:
    assert inspect_spaces(find_task("tests.toy:Reach-v0", success_key="success")).success_key == "success"
    assert not caplog.messages
    assert inspect_spaces(find_task("tests.toy:Wide-v0", success_key="at_goal")).success_key == "at_goal"
    inspect_spaces(find_task("tests.toy:Reach-v0", success_key="sucess"))
    assert "info has no 'at_goal' after the first step" in caplog.messages[0]
    assert "Did you mean 'success'?" in caplog.messages[1]


def test_a_locked_joint_has_action_0() -> None:
    spaces = inspect_spaces(find_task("tests.toy:Locked-v0"))
    actions = unscale_action(
        np.array([[1.0, 0.5], [-2.0, 0.5], [0.0, 2.5]], np.float32), spaces.action_low, spaces.action_high
    )
    np.testing.assert_allclose(actions, [[0.5, 0], [-1, 0], [0, 4]])  # 2.5 is not 0.5: beyond the bounds, as clipping counts
    np.testing.assert_allclose(scale_action(actions, spaces.action_low, spaces.action_high)[:, 1], 0.5)


def test_actions_map_to_the_environments_bounds_and_back() -> None:
    low, high = np.array([-2.0], np.float32), np.array([4.0], np.float32)
    np.testing.assert_allclose(scale_action(np.array([[-1.0], [0.0], [1.0]]), low, high), [[-2.0], [1.0], [4.0]])
    actions = np.linspace(-1, 1, 7)[:, None]
    np.testing.assert_allclose(unscale_action(scale_action(actions, low, high), low, high), actions)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("relocat", {}, "unknown task 'relocat'.*Did you mean 'relocate'"),
        ("AdroitHandPenSparse-v9", {}, "unknown task.*Did you mean 'AdroitHandPen"),
        ("tests.toy:DiscreteReach-v0", {}, "action space is Discrete; AWAC needs continuous actions"),
        ("tests.toy:Endless-v0", {}, "has no time limit; set one: --horizon"),
        ("tests.toy:Raising-v0", {}, r"cannot be made: FileNotFoundError\('robot.xml'\) at .*toy.py:\d+"),
        ("MyTask-v0", {}, "An environment of your own is named with its module: my_robot:Push-v0"),
        ("tests.toy:Wide-v0", {"reward": "binary"}, "reports no success; use reward: environment"),
        ("tests.toy:Wide-v0", {"terminate_on_success": True}, "reports no success"),
        (
            "tests.nothing:Gone-v0",
            {},
            "cannot be made: there is no module 'tests.nothing', neither in this folder nor installed",
        ),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        inspect_spaces(find_task(name, **options))


def test_actions_are_scaled_where_one_bound_alone_is_another() -> None:
    low, high = np.array([-1, -2], np.float32), np.array([1, 4], np.float32)
    np.testing.assert_allclose(scale_action(np.array([0.5, 0.5]), low, high), [0.5, 2.5])


def test_the_options_that_name_a_task_to_other_commands() -> None:
    assert find_task("pen").options == "--task pen"
    task = find_task("a:B-v0", horizon=7, success_key="at goal", reward="environment")
    assert task.options == "--task a:B-v0 --horizon 7 --success_key 'at goal' --reward environment"


def test_the_named_key_of_success_comes_before_the_usual_ones() -> None:
    assert recorded_success_key({"success": 0, "at_goal": 0}, "at_goal") == "at_goal"
    assert recorded_success_key({"success": 0, "at_goal": 0}, None) == "success"


def test_the_task_of_a_run_has_its_horizon_its_key_of_success_and_its_reward() -> None:
    task = recorded_task({"task": REACH, "horizon": 7, "success_key": "at_goal", "reward": "environment"})
    assert (task.horizon, task.success_key, task.reward) == (7, "at_goal", "environment")
