"""Acting with an exported policy: within limits, on time, and not at all where something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from awac_pl.commands.main import main
from awac_pl.deploy import contract
from awac_pl.deploy.contract import Contract
from awac_pl.deploy.runner import PolicyRunner, RunReport, onnx_policy
from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.errors import AwacError
from tests.conftest import REACH, ROOT, WIDE
from tests.toy import Flaky, Reach, Wide

LIMITS = (-2, 4)
CONTRACT = Contract(
    env_id=WIDE,
    horizon=10,
    control_hz=None,
    observation_names=("position", "goal"),
    action_low=np.array([-2], np.float32),
    action_high=np.array([4], np.float32),
    facts={},
)


def runner_of(action: float, limits: tuple = LIMITS) -> PolicyRunner:
    """A runner of a policy that always does the same."""
    return PolicyRunner(CONTRACT, lambda observation: np.array([action], np.float32), limits)


@pytest.mark.parametrize("backend", ["onnxruntime", "numpy"])
def test_both_backends_do_what_was_recorded(wide_export: Path, backend) -> None:
    runner = PolicyRunner.load(wide_export, action_limits=LIMITS, backend=backend)
    with np.load(wide_export / "examples.npz") as examples:
        for observation, action in zip(examples["observation"], examples["action"], strict=True):
            np.testing.assert_allclose(runner.act(observation.astype(np.float64)), action, atol=1e-5)


def test_observations_by_name() -> None:
    """The dict that an environment returns, or the vector; the names and sizes must be those of the training."""
    names = ("achieved_goal", "desired_goal", "observation")
    layout = [{"key": name, "size": 1} for name in names]
    contract = replace(CONTRACT, observation_names=names, observation_layout=layout)
    runner = PolicyRunner(contract, lambda observation: observation @ np.array([[1.0], [0.1], [0.01]], np.float32), LIMITS)
    named = {"observation": [3.0], "desired_goal": [2.0], "achieved_goal": [1.0]}
    np.testing.assert_allclose([runner.act(named), runner.act([1.0, 2.0, 3.0])], 1.23)
    with pytest.raises(AwacError, match="no observation key 'desired_goal'"):
        runner.act({"observation": [3.0], "achieved_goal": [1.0]})
    with pytest.raises(AwacError, match="observation key 'observation' has 2 values, not 1"):
        runner.act({**named, "observation": [3.0, 4.0]})
    wide = PolicyRunner(replace(contract, action_low=-np.ones(1), action_high=np.ones(1)), lambda _: np.zeros(1), (-1, 1))
    raw = gymnasium.make("tests.toy:GoalReach-v0")
    report = wide.run(raw, [0, 1])
    assert report.successes == tuple(abs(raw.reset(seed=seed)[0]["observation"].item()) < 0.1 for seed in (0, 1))
    wide.contract = replace(wide.contract, observation_layout=layout[::-1])
    with pytest.raises(AwacError, match=r"are achieved_goal \(1\), .*, the policy takes observation \(1\), "):
        wide.run(raw, [0])


@pytest.mark.parametrize("backend", ["onnxruntime", "numpy"])
def test_no_torch_is_needed(wide_export: Path, backend: str) -> None:
    code = (
        "import sys; from awac_pl.commands.main import main\n"
        f"assert main(['deploy', {str(wide_export)!r}, '--env', 'MountainCarContinuous-v0', '--action_limits=-1,1',\n"
        f"             '--backend', {backend!r}]) == 0\n"
        "print([name for name in ('torch', 'lightning', 'mlflow', 'minari', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "1, 10 steps" in done.stdout  # the contract's horizon, not the 999 steps of that environment
    assert done.stdout.splitlines()[-1] == "[]"


def test_actions_are_clipped_to_the_limits() -> None:
    assert runner_of(3.5).act([0, 0]) == pytest.approx([3.5])
    assert runner_of(3.5, (-1, [2.5])).act([0, 0]) == pytest.approx([2.5])
    assert runner_of(-1.5, (-1, 2.5)).act([0, 0]) == pytest.approx([-1])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((-2, 4.5), r"action_limits \[-2, 4.5\] of action 0 reach outside of the contract's \[-2, 4\]"),
        ((-2.5, 4), "reach outside of the contract's"),
        ((1, -1), "the lower ones below the higher ones"),
        ((-np.inf, 4), "must be finite"),
        ((np.nan, 4), "must be finite"),
        (([-1, -1], 1), "one for each of the 1 actions"),
        (("low", "high"), "one for each of the 1 actions"),
        ((1,), "one for each of the 1 actions"),
        (None, "one for each of the 1 actions"),
    ],
)
def test_limits_must_be_sensible(limits, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        runner_of(0, limits)


def test_limits_must_be_named_and_the_backend_known(wide_export: Path) -> None:
    with pytest.raises(TypeError, match="action_limits"):
        PolicyRunner.load(wide_export)  # type: ignore[call-arg]
    with pytest.raises(AwacError, match="unknown backend 'tensorrt': onnxruntime or numpy"):
        PolicyRunner.load(wide_export, action_limits=LIMITS, backend="tensorrt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([0.0, 0.0, 0.0], r"the observation is float64 \[3\], the policy takes numbers \[2\]"),
        ([[0.0, 0.0]], r"float64 \[1, 2\], the policy takes numbers \[2\]"),
        (["0.1", "0.2"], "the policy takes numbers"),
        ([True, False], r"bool \[2\], the policy takes numbers"),
        ([None, 0.0], r"object \[2\], the policy takes numbers"),
        ([[0.0], [0.0, 1.0]], "the observation is no array"),
        ([0.0, np.nan], r"the observation is not finite: value 1 \(goal\) is nan"),
        ([-np.inf, 0.0], r"value 0 \(position\) is -inf"),
        ([1e300, 0.0], r"value 0 \(position\) is 1e\+300"),
    ],
)
def test_observations_are_checked(observation, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        runner_of(0).act(observation)


@pytest.mark.parametrize("action", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_never_clipped_into_one(action: float) -> None:
    with pytest.raises(AwacError, match="the action is not finite: value 0"):
        runner_of(action).act([0, 0])


def _edit(folder: Path, **changes) -> None:
    path = folder / "contract.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _wider(folder: Path) -> None:
    facts = json.loads((folder / "contract.json").read_text())
    _edit(folder, action=facts["action"] | {"high": [40.0]})


def _other_weights(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_wider, "contract.json: was changed after the export"),
        (lambda folder: _edit(folder, sha256={}), "contract.json: was changed after the export"),
        (lambda folder: _edit(folder, sha256=[1]), "contract.json: was changed after the export"),
        (lambda folder: _edit(folder, format=2), "contract.json: its format is 2, this version knows 1"),
        (lambda folder: (folder / "contract.json").write_text("[]"), "its format is None"),
        (lambda folder: (folder / "contract.json").write_text("{"), "contract.json: cannot be read"),
        (lambda folder: (folder / "contract.json").unlink(), "is no exported policy: no contract.json"),
        (lambda folder: _other_weights(folder, "policy.onnx"), "policy.onnx: is not the file that was exported"),
        (lambda folder: _other_weights(folder, "policy.safetensors"), "policy.safetensors: is not the file"),
        (lambda folder: (folder / "policy.onnx").unlink(), "policy.onnx: is not the file that was exported"),
    ],
)
def test_a_tampered_export_is_refused(wide_export: Path, tmp_path: Path, spoil, message: str) -> None:
    folder = shutil.copytree(wide_export, tmp_path / "copy")
    _edit(folder)  # spelled differently, it still is the same contract
    PolicyRunner.load(folder, action_limits=LIMITS)
    spoil(folder)
    with pytest.raises(AwacError, match=message):
        PolicyRunner.load(folder, action_limits=LIMITS)


def _forge(folder: Path, **changes) -> None:
    """A contract that another program has written, with digests that are right."""
    facts = json.loads((folder / "contract.json").read_text()) | changes
    contract.write_contract(folder, {key: value for key, value in facts.items() if value is not ...})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": ...}, r"contract.json: is no contract of this version \('horizon'\)"),
        ({"horizon": "ten"}, "contract.json: its env_id, horizon or bounds are of a wrong type"),
        ({"action": {"low": -1, "high": 1}}, "contract.json: its env_id, horizon or bounds are of a wrong type"),
        ({"action": {"low": ["a"], "high": [1]}}, "contract.json: is no contract of this version"),
        ({"observation": []}, "contract.json: is no contract of this version"),
    ],
)
def test_a_contract_of_another_program_is_refused(wide_export: Path, tmp_path: Path, changes, message: str) -> None:
    folder = shutil.copytree(wide_export, tmp_path / "copy")
    _forge(folder)
    PolicyRunner.load(folder, action_limits=LIMITS)
    _forge(folder, **changes)
    with pytest.raises(AwacError, match=message):
        PolicyRunner.load(folder, action_limits=LIMITS)


def test_a_graph_that_onnxruntime_cannot_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AwacError, match=r"onnxruntime cannot run the graph .*; update it, or use backend numpy"):
        onnx_policy(b"newer than this onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AwacError, match=r"onnxruntime cannot run the graph .*; update it, or use backend numpy"):
        onnx_policy(b"")


class Late(Wide):
    """Takes 30 ms for step 2, and nearly nothing for the others."""

    steps = 0

    def step(self, action):
        self.steps += 1
        time.sleep(0.03 if self.steps == 3 else 0)
        return super().step(action)


class Blind(Wide):
    """Its sensor fails after 3 steps."""

    steps = 0

    def step(self, action):
        self.steps += 1
        observation, *rest = super().step(action)
        return np.array([np.nan, 0]) if self.steps == 3 else observation, *rest


def test_a_rate_is_kept_and_misses_are_counted() -> None:
    report = runner_of(1).run(Wide(), range(2), rate_hz=100)
    assert (report.env_steps, len(report.environment_returns)) == (20, 2)
    assert report.rate_hz <= 100.5
    if not report.deadlines_missed:  # the machine was not busy elsewhere
        assert report.rate_hz == pytest.approx(100, rel=0.05)
    late = runner_of(1).run(Late(), [0], rate_hz=100)
    assert late.deadlines_missed >= 1
    assert late.rate_hz < 90  # 0.12 s instead of 0.1: nothing is caught up with
    assert 0 < late.action_us[0] <= late.action_us[1]


def test_what_is_reported_is_what_happened() -> None:
    """Action 1 of Wide moves nothing, so each step pays minus the distance at the start."""
    environment = Wide()
    position, goal = environment.reset(seed=7)[0]
    report = runner_of(1).run(environment, [7])
    assert report.environment_returns == pytest.approx((-10 * abs(position - goal),))
    assert report.successes == (None,)
    narrow = Contract(**{**vars(CONTRACT), "action_low": -np.ones(1), "action_high": np.ones(1)})
    goal_seeker = PolicyRunner(narrow, lambda row: np.clip((row[1:] - row[:1]) / 0.3, -1, 1), (-1, 1))
    assert goal_seeker.run(Reach(), range(5)).successes == (True,) * 5
    idle = PolicyRunner(narrow, lambda row: np.zeros(1, np.float32), (-1, 1))
    assert idle.run(Reach(), range(5)).successes.count(False) >= 3


def test_it_stops_at_a_broken_sensor() -> None:
    environment = Blind()
    with pytest.raises(AwacError, match=r"seed 5: step 3: the observation is not finite: value 0 \(position\) is nan"):
        runner_of(1).run(environment, [5, 6])
    assert environment.steps == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"seed 4: step 2: OSError\('the motor is too hot'\) at .*toy.py:\d+"),
        ("exit", r"seed 4: step 2: SystemExit\(3\) at .*toy.py:\d+"),
        ("none", "seed 4: step 2: the environment returned no tuple of 5 values"),
        ("gym", "seed 4: step 2: the environment returned no tuple of 5 values"),
        ("info", "seed 4: step 2: info is a NoneType, not a dict"),
        ("text", "the reward of seed 4: step 2 is '-1', not a number"),
    ],
)
def test_an_environment_that_fails_is_named(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAC_TEST_FAULT", fault)
    narrow = Contract(**{**vars(CONTRACT), "action_low": -np.ones(1), "action_high": np.ones(1)})
    with pytest.raises(AwacError, match=message):
        PolicyRunner(narrow, lambda row: np.zeros(1, np.float32), (-1, 1)).run(Flaky(), [4])


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("CartPole-v1", r"observations are \(4,\), the policy takes \(2,\)"),
        ("MountainCar-v0", r"action space is Discrete\(3\), the policy acts in \(1,\)"),
        ("MountainCarContinuous-v0", "the action limits reach outside of the environment's action space"),
    ],
)
def test_environments_that_do_not_fit_are_refused(environment: str, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        runner_of(1).run(gymnasium.make(environment), [0])


@pytest.mark.parametrize("rate", [0, -1, np.nan])
def test_a_rate_must_be_one(rate: float) -> None:
    with pytest.raises(AwacError, match="the rate is"):
        runner_of(1).run(Wide(), [0], rate_hz=rate)


def test_deploy_from_the_command_line(wide_export: Path, capsys: pytest.CaptureFixture) -> None:
    assert (
        main(["deploy", str(wide_export), "--env", WIDE, "--action_limits=-1,2.5", "--episodes", "2", "--rate", "200"]) == 0
    )
    printed = capsys.readouterr().out
    assert "2, 20 steps" in printed
    assert "successes    unknown" in printed
    assert main(["deploy", str(wide_export), "--env", WIDE, "--action_limits", "contract", "--backend", "numpy"]) == 0
    for limits, message in (("wide", "write contract, or two numbers"), ("-3,1", "reach outside of the contract's")):
        assert main(["deploy", str(wide_export), "--env", WIDE, f"--action_limits={limits}"]) == 2
        assert message in capsys.readouterr().err
    assert main(["deploy", str(wide_export), "--env", WIDE]) == 2
    assert "--action_limits" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "deploy", "serve"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"awac {command}" in capsys.readouterr().out.split("examples:")[1]


# Success, ends and limits by hand


class Steps(Reach):
    """Success, and an end, at the steps that it is told."""

    def __init__(self, success: Sequence[int] = (), **told: Any) -> None:
        self.success, self.told = success, told

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        self.steps += 1
        observation, *_ = super().step(action)
        info = {"success": False, self.told.get("key", "success"): self.told.get("value", self.steps in self.success)}
        terminated, truncated = (self.steps == self.told.get(end) for end in ("terminated", "truncated"))
        return observation, self.told.get("reward", -1.0), terminated, truncated, info


def run_one(environment: gymnasium.Env, **facts: Any) -> RunReport:
    """One episode of a policy that stands still."""
    unit = replace(CONTRACT, action_low=-np.ones(1, np.float32), action_high=np.ones(1, np.float32), facts=facts)
    return PolicyRunner(unit, lambda row: np.zeros(1, np.float32), (-1, 1)).run(environment, [0])


def test_success_at_any_step_counts_by_the_contracts_key() -> None:
    assert run_one(Steps([3])).successes == (True,)
    assert run_one(Steps([3], key="at_goal"), success_key="at_goal").successes == (True,)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_no_step_follows_an_end(end: str) -> None:
    report = run_one(Steps(**{end: 4}))
    assert (report.env_steps, report.environment_returns) == (4, (-4.0,))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"reward": float("nan")}, "the reward of seed 0: step 0 is nan; it must be finite"),
        ({"value": float("nan")}, "the success of seed 0: step 0 is nan; it must be finite"),
        ({"value": "False"}, "the success of seed 0: step 0 is 'False', not a number"),
    ],
)
def test_a_reward_or_success_that_is_no_number_ends_the_run(told: dict[str, Any], message: str) -> None:
    with pytest.raises(AwacError, match=message):
        run_one(Steps(**told))


@pytest.mark.parametrize("space", [Box(-1, 4, (1,)), Box(-2, 1, (1,))])
def test_limits_beyond_either_bound_are_refused(space: Box) -> None:
    environment = Reach()
    environment.action_space = space
    with pytest.raises(AwacError, match="the action limits reach outside of the environment's action space"):
        PolicyRunner(CONTRACT, lambda row: np.zeros(1, np.float32), (-2, 4)).run(environment, [0])


def test_every_option_of_deploy_arrives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """An episode in the training's environment has the training's time limit; and each environment is closed."""
    closed, asked = [], []
    short = PolicyRunner(replace(CONTRACT, horizon=7), lambda row: row, LIMITS)
    monkeypatch.setattr("awac_pl.commands.deploy.load_runner", lambda options: short)
    monkeypatch.setattr("awac_pl.envs.tasks.make_environment", lambda task: (task.env_id, task.horizon))
    monkeypatch.setattr("awac_pl.envs.faults.close_environment", closed.append)

    def run(self, environment, seeds, *, rate_hz, on_episode) -> RunReport:
        asked.append((environment, [*seeds], rate_hz))
        return RunReport(
            env_steps=21, environment_returns=(-1, -2, -4.5), successes=(True, None, False), rate_hz=49.96,
            deadlines_missed=4, action_us=(12.4, 99.6),
        )  # fmt: skip

    monkeypatch.setattr(PolicyRunner, "run", run)
    command = ["deploy", "exported", "--action_limits=contract", "--env"]
    assert main([*command, WIDE, "--episodes", "3", "--seed", "5", "--rate", "50"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  episodes     3, 21 steps, mean return -2.50",
        "  successes    1 of 2",
        "  rate         50.0 Hz, 4 deadlines missed",
        "  an action    12 µs (99th percentile 100 µs)",
    ]
    assert main([*command, REACH]) == 0
    assert asked == [((WIDE, 7), [5, 6, 7], 50), ((REACH, None), [EVALUATION_SEEDS], None)]
    assert closed == [(WIDE, 7), (REACH, None)]
