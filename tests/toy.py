"""Small environments and stand-ins for the tests; workers import this module by name (``tests.toy:Reach-v0``).

Nothing heavy here: each worker of each test would wait for it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from awac_pl.episode import Episode
from awac_pl.policies.numpy_policy import NumpyPolicy


class Reach(gymnasium.Env):
    """A point on a line goes where the action pushes it; success within 0.1 of the goal. 10 steps."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(-1.0, 1.0, (1,))
    reports_success = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, 2)
        return self._observation(), {}

    def step(self, action):
        self.position += 0.3 * float(action[0])
        distance = abs(self.position - self.goal)
        info = {"success": np.bool_(distance < 0.1)} if self.reports_success else {}
        return self._observation(), -distance, False, False, info

    def _observation(self):
        return np.array([self.position, self.goal])


class Reusing(Reach):
    """Has one array for all observations and one for success, and changes the action that it gets."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.own, self.success = observation.copy(), np.zeros((), bool)
        return self.own, info

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        action[:] = 0.0
        self.own[:], self.success[...] = observation, info["success"]
        return self.own, reward, terminated, truncated, {"success": self.success}


class Wide(Reach):
    """Actions from -2 to 4, and nobody says what success is."""

    action_space = Box(-2.0, 4.0, (1,))
    reports_success = False

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, dtype=np.float32))
        return super().step((action - 1) / 3)


class DiscreteReach(Reach):
    action_space = Discrete(3)


class Ending(Reach):
    """Terminates in failure after 3 steps."""

    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.steps == 3, False, info


class Deadly(Reach):
    """Kills its process the first time a worker runs an odd seed; a file remembers."""

    def reset(self, *, seed=None, options=None):
        mark = Path(os.environ["AWAC_TEST_MARKS"]) / str(seed)
        if seed % 2 and not mark.exists():
            mark.touch()
            os._exit(9)
        return super().reset(seed=seed)


class AlwaysDeadly(Reach):
    def reset(self, *, seed=None, options=None):
        if seed:  # seed 0 is where spaces are looked at
            os._exit(9)
        return super().reset(seed=seed)


class Broken(Reach):
    def step(self, action):
        if self.np_random_seed:
            raise RuntimeError("the simulator exploded")
        return super().step(action)


class Flaky(Reach):
    """Breaks in every third episode, after two steps, in the way that ``AWAC_TEST_FAULT`` names."""

    def reset(self, *, seed=None, options=None):
        self.steps, self.breaks = 0, seed is not None and seed % 3 == 1
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self.breaks and self.steps == 3:
            match os.environ.get("AWAC_TEST_FAULT", "raise"):
                case "raise":
                    raise OSError("the motor is too hot")
                case "exit":
                    raise SystemExit(3)
                case "reward":
                    reward = np.nan
                case "text":
                    reward = "-1"
                case "none":
                    return None
                case "info":
                    info = None
                case "gym":
                    return observation, reward, terminated, info
                case "shape":
                    observation = observation[:1]
                case "nan":
                    observation = observation * np.nan
                case "success":
                    info = {"success": np.nan}
        return observation, reward, terminated, truncated, info


class Unclosed(Reach):
    """Cannot be closed."""

    def close(self):
        raise OSError("the bus is busy")


class Hanging(Reach):
    """Hangs the first time that a worker runs an odd seed; a file remembers."""

    def reset(self, *, seed=None, options=None):
        mark = Path(os.environ["AWAC_TEST_MARKS"]) / str(seed)
        if seed % 2 and not mark.exists():
            mark.touch()
            time.sleep(1000)
        return super().reset(seed=seed)


class Slow(Reach):
    """20 ms a step."""

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


class Pictures(Reach):
    """Can be seen: pictures 24 wide and 12 high, 20 brighter with each step."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode, self.width, self.height = render_mode, 24, 12

    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        return super().step(action)

    def render(self):
        return np.full((self.height, self.width, 3), 20 * self.steps, np.uint8)


class SizedPictures(Pictures):
    def __init__(self, render_mode=None, width=24, height=12):
        self.render_mode, self.width, self.height = render_mode, width, height


class DyingPictures(Pictures):
    """A graphics driver that takes its process along."""

    def render(self):
        os._exit(9)


class GoalReach(Reach):
    """The same as a goal environment, as Fetch is one: observations by name, ``is_success``, a reward of the goals."""

    observation_space = Dict(
        {key: Box(-np.inf, np.inf, (1,), float) for key in ("observation", "achieved_goal", "desired_goal")}
    )
    reward_type = "sparse"

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        reward = self.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
        return observation, reward, terminated, truncated, {"is_success": float(reward == 0)}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -float(np.linalg.norm(achieved_goal - desired_goal) >= 0.1)

    def _observation(self):
        position, goal = np.array([[self.position], [self.goal]])
        return {"observation": position - goal, "achieved_goal": position, "desired_goal": goal}


class Nested(Reach):
    """Observations in a dict with a tuple, in an order that is not sorted."""

    observation_space = Dict(
        [("z", Box(-2, 2, (1,))), ("a", Tuple([Box(-2, 2, (2, 1)), Box(-2, 2, ()), Dict({"b": Box(-2, 2, (1,))})]))]
    )

    def _observation(self):
        return {"z": np.array([0.0]), "a": (np.array([[1.0], [2.0]]), np.array(3.0), {"b": np.array([4.0])})}


class Seldom(Reach):
    """Reports success in the first step and in those that succeed."""

    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        *outcome, info = super().step(action)
        return *outcome, info if info["success"] or self.steps == 1 else {}


class Locked(Reach):
    """Two actions; the second joint is locked."""

    action_space = Box(np.array([-2, 0.5], np.float32), np.array([2, 0.5], np.float32))


class Huge(Reach):
    """Observations in a unit that is far too small."""

    def _observation(self):
        return super()._observation() * 1e20


class Raising(Reach):
    def __init__(self):
        raise FileNotFoundError("robot.xml")


class Endless(Reach):
    """No time limit."""


for _class in (
    Reach, Reusing, Wide, DiscreteReach, Ending, Deadly, AlwaysDeadly, Broken, Flaky, Unclosed, Hanging, Pictures,
    SizedPictures, DyingPictures, Nested, Seldom, Locked, Huge, Raising, Slow,
):  # fmt: skip
    gymnasium.register(f"{_class.__name__}-v0", _class, max_episode_steps=10)
gymnasium.register("Endless-v0", Endless)
gymnasium.register("GoalReach-v0", "tests.toy:GoalReach", max_episode_steps=10)  # by name, as Minari's metadata need it


def constant_policy(observation_dim: int = 2, action: float = 0.5, std: float = 0.1) -> NumpyPolicy:
    """Always the same mean action, with noise around it."""
    return NumpyPolicy(
        weights=(np.zeros((observation_dim, 1), np.float32),),
        biases=(np.full(1, np.arctanh(action), np.float32),),
        std=np.full(1, std, np.float32),
    )


def make_episode(steps: int = 10, observation_dim: int = 2, action_dim: int = 1, seed: int = 0, **changes) -> Episode:
    """A random episode whose last step succeeds."""
    rng = np.random.default_rng(seed)
    success = np.zeros(steps, bool)
    success[-1] = True
    columns = {
        "observations": rng.normal(size=(steps + 1, observation_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, action_dim)).astype(np.float32),
        "rewards": success.astype(np.float32) - 1,
        "terminated": np.zeros(steps, bool),
        "truncated": success.copy(),
        "success": success,
        "seed": seed,
    }
    return Episode(**{**columns, **changes})


def reach_episodes(count: int, noise: float = 0.3, first_seed: int = 0) -> list[Episode]:
    """Episodes of a noisy controller that reaches the goal."""
    episodes = []
    for seed in range(first_seed, first_seed + count):
        environment = Reach()
        rng = np.random.default_rng([seed, 2])
        observation, _ = environment.reset(seed=seed)
        observations, actions, success = [observation], [], []
        for _ in range(10):
            action = np.clip((observation[1:] - observation[:1]) / 0.3 + noise * rng.standard_normal(1), -1, 1)
            observation, _, _, _, info = environment.step(action)
            observations.append(observation)
            actions.append(action)
            success.append(bool(info["success"]))
        episodes.append(
            make_episode(
                observations=np.array(observations, np.float32),
                actions=np.array(actions, np.float32),
                success=np.array(success),
                rewards=np.array(success, np.float32) - 1,
                seed=seed,
            )
        )
    return episodes
