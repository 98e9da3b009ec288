"""Tasks: success from observations, rewards, spaces, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from awac_pl.datasets.minari_io import load_dataset
from awac_pl.envs.tasks import TASKS, find_task, inspect_spaces, make_environment, scale_action, unscale_action
from awac_pl.errors import AwacError


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
        ("tests.toy:Endless-v0", {}, "has no time limit; set data.horizon"),
        ("tests.toy:Wide-v0", {"reward": "binary"}, "reports no success; use reward: environment"),
        ("tests.toy:Wide-v0", {"terminate_on_success": True}, "reports no success"),
        ("tests.nothing:Gone-v0", {}, "cannot be made: "),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        inspect_spaces(find_task(name, **options))
