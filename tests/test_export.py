"""A checkpoint's policy as a folder: every form of it gives the same action, and nothing half-done is left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from awac_pl.algorithms.checkpoints import load_module
from awac_pl.commands.main import main
from awac_pl.deploy import export
from awac_pl.deploy.contract import read_contract
from awac_pl.deploy.mlflow_model import register_policy
from awac_pl.deploy.runner import PolicyRunner, numpy_policy, onnx_policy
from awac_pl.errors import AwacError
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.onnx_graph import policy_graph
from awac_pl.tracking.client import mlflow_client
from tests.conftest import ROOT, WIDE
from tests.mutations import outcome
from tests.toy import constant_policy

LOW, HIGH = np.array([-2], np.float32), np.array([4], np.float32)


@pytest.fixture
def checkpoint(wide_run: Path) -> Path:
    return wide_run / "checkpoints/last.ckpt"


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a mistake gets."""
    assert main(["export", *map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("awac: error: ")]
    return line


def test_the_graph_scales_by_hand() -> None:
    """Mean .5 is three quarters of the way from -2 to 4, whatever the observation."""
    observations = np.array([[1, -1], [1e6, 3]], np.float32)
    graph = policy_graph(constant_policy(action=0.5), LOW, HIGH)
    np.testing.assert_allclose(onnx_policy(graph)(observations), [[2.5], [2.5]], atol=1e-6)
    plain = policy_graph(constant_policy(action=0.5), np.array([-1], np.float32), np.array([1], np.float32))
    np.testing.assert_allclose(onnx_policy(plain)(observations[0]), [0.5], atol=1e-6)


def test_the_graph_stays_within_bounds_that_floats_do_not_hit() -> None:
    low, high = np.array([-0.1], np.float32), np.array([0.7], np.float32)
    saturated = replace(constant_policy(), biases=(np.array([50], np.float32),))
    for policy in (saturated, replace(saturated, biases=(np.array([-50], np.float32),))):
        for act in (onnx_policy(policy_graph(policy, low, high)), numpy_policy(policy, low, high)):
            action = act(np.zeros(2, np.float32))
            assert low <= action <= high


def test_onnx_torch_and_numpy_agree(checkpoint: Path, wide_export: Path) -> None:
    observations = np.random.default_rng(1).uniform(-3, 3, (500, 2)).astype(np.float32)
    session = onnxruntime.InferenceSession(wide_export / "policy.onnx", providers=["CPUExecutionProvider"])
    (actions,) = session.run(None, {"observation": observations})
    with torch.inference_mode():
        mean = load_module(checkpoint).actor(torch.from_numpy(observations)).numpy()
    weights = NumpyPolicy.load(wide_export / "policy.safetensors")
    np.testing.assert_allclose(actions, -2 + (mean + 1) * 3, atol=1e-5)
    np.testing.assert_allclose(actions, numpy_policy(weights, LOW, HIGH)(observations), atol=1e-5)
    assert actions.shape == (500, 1)
    assert actions.dtype == np.float32
    assert actions.max() > 1.5  # scaled: beyond [-1, 1], and it is no constant
    assert actions.min() < 0.5
    model = onnx.load(wide_export / "policy.onnx")
    assert [node.op_type for node in model.graph.node][-5:] == ["Add", "Mul", "Add", "Max", "Min"]


def test_the_contract_says_where_it_comes_from(wide_run: Path, wide_export: Path) -> None:
    facts = json.loads((wide_export / "contract.json").read_text())
    assert (facts["task"], facts["env_id"], facts["horizon"], facts["control_hz"]) == (WIDE, WIDE, 10, None)
    assert facts["observation"]["shape"] == ["N", 2]
    assert facts["observation"]["names"] == ["observation_0", "observation_1"]
    assert (facts["action"]["low"], facts["action"]["high"]) == ([-2.0], [4.0])
    assert facts["observation"]["seen_low"] < facts["observation"]["seen_high"]
    manifest = json.loads((wide_run / "manifest.json").read_text())
    run = facts["training_run"]
    assert (run["folder"], run["preset"], run["seed"], run["checkpoint"]) == ("wide", "small", "0", "last.ckpt")
    assert (run["updates"], run["env_steps"]) == (200, 20)
    assert (run["commit"], run["scores"]) == (manifest["tags"]["commit"], manifest["scores"])
    for name in ("policy.onnx", "policy.safetensors", "examples.npz"):
        assert facts["sha256"][name] == hashlib.sha256((wide_export / name).read_bytes()).hexdigest()
    differences = facts["parity"]["largest_difference"]
    assert facts["parity"]["observations"] == 10_000
    assert 0 < differences["onnxruntime"] <= 1e-5
    assert 0 < differences["numpy"] <= 1e-5


def test_names_of_observations_come_from_the_datasets(wide_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(wide_run, run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["datasets"][0]["observation_layout"] = layout = [{"key": "mark", "size": 1}, {"key": "hand", "size": 1}]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["export", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--to", str(tmp_path / "to")]) == 0
    observation = json.loads((tmp_path / "to/contract.json").read_text())["observation"]
    assert (observation["names"], observation["layout"]) == (["mark", "hand"], layout)
    runner = PolicyRunner.load(tmp_path / "to", action_limits=(-2, 4))
    assert runner.act({"hand": 0.5, "mark": -0.25}) == runner.act([-0.25, 0.5])


def test_the_examples_are_what_the_policy_does(wide_export: Path) -> None:
    with np.load(wide_export / "examples.npz", allow_pickle=False) as examples:
        observations, actions = examples["observation"], examples["action"]
    assert observations.shape == (10, 2)
    act = onnx_policy((wide_export / "policy.onnx").read_bytes())
    np.testing.assert_allclose(act(observations), actions, atol=1e-5)
    position = observations[0, 0] + 0.3 * (actions[0, 0] - 1) / 3  # what Wide does with an action of these units
    assert observations[1, 0] == pytest.approx(position, abs=1e-6)


def test_the_rate_and_the_names_come_from_the_environment() -> None:
    from awac_pl.envs.tasks import find_task, inspect_spaces, make_environment

    task = find_task("pen")
    environment = make_environment(task)
    facts = export._interface(environment, task, inspect_spaces(task), np.zeros((3, 45)))
    environment.close()
    assert facts["control_hz"] == 100  # 5 frames of 2 ms
    assert facts["action"]["names"][:2] == ["A_WRJ1", "A_WRJ0"]


def test_nothing_of_this_machine_and_no_pickle_is_in_it(wide_export: Path) -> None:
    files = [path for path in wide_export.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".pkl"]
    for path in files:
        text = path.read_bytes()
        assert str(ROOT).encode() not in text, path
        assert str(wide_export.parent).encode() not in text, path
    assert "awac_pl" not in (wide_export / "mlflow_model/serving.py").read_text()  # it stands alone


def test_a_policy_that_has_diverged_is_refused(checkpoint: Path, tmp_path: Path, capsys) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["actor.layers.2.bias"] += torch.nan
    torch.save(state, tmp_path / "nan.ckpt")
    line = refused(capsys, "--ckpt_path", tmp_path / "nan.ckpt", "--to", tmp_path / "out", "--task", WIDE)
    assert "nan.ckpt: its policy cannot act: tests.toy:Wide-v0: seed 0: step 0: the action is not finite" in line


def test_a_checkpoint_outside_a_run_folder_knows_its_task(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    moved = tmp_path / "moved.ckpt"
    shutil.copy(checkpoint, moved)
    opened, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: opened.append(path) or load(path, **options))
    assert main(["export", "--ckpt_path", str(moved), "--to", str(tmp_path / "out")]) == 0
    run = read_contract(tmp_path / "out").facts["training_run"]
    assert (run["folder"], run["scores"], run["updates"]) == (None, None, 200)
    assert opened == [moved]
    monkeypatch.undo()
    state = torch.load(checkpoint, weights_only=True)
    del state["datamodule_hyper_parameters"]
    torch.save(state, moved)  # as version 0.1 saved it
    line = refused(capsys, "--ckpt_path", moved, "--to", tmp_path / "old")
    assert "moved.ckpt: lies in no run folder, so its task is unknown; pass --task" in line
    assert main(["export", "--ckpt_path", str(moved), "--to", str(tmp_path / "old"), "--task", WIDE]) == 0


def test_wrong_files_are_refused(wide_run: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    state["hyper_parameters"]["actor_hidden_sizes"] = [8]
    torch.save(state, tmp_path / "mixed.ckpt")
    cut = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(cut[: len(cut) // 2])
    for name, message in (
        ("gone.ckpt", "no checkpoint"),
        ("text.ckpt", "is no checkpoint, or is cut off"),
        ("cut.ckpt", "is no checkpoint, or is cut off"),
        ("other.ckpt", "is no checkpoint of a fit"),
        ("mixed.ckpt", "holds no module of this version"),
    ):
        assert message in refused(capsys, "--ckpt_path", tmp_path / name, "--to", tmp_path / "out", "--task", WIDE)
    line = refused(capsys, "--ckpt_path", checkpoint, "--to", tmp_path / "out", "--task", "pen")
    assert f"is of task {WIDE}, as its run folder says, not pen" in line
    shutil.copy(checkpoint, tmp_path / "moved.ckpt")
    line = refused(capsys, "--ckpt_path", tmp_path / "moved.ckpt", "--to", tmp_path / "out", "--task", "pen")
    assert "its policy maps 2 values to 1 actions; AdroitHandPenSparse-v1 has 45 and 24" in line
    shutil.copytree(wide_run, tmp_path / "run")
    (tmp_path / "run/manifest.json").write_text("{")
    line = refused(capsys, "--ckpt_path", tmp_path / "run/checkpoints/last.ckpt", "--to", tmp_path / "out")
    assert "its manifest.json or config.yaml is damaged" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["contract.json", "policy.onnx"])
def test_a_pipe_in_an_export_is_not_waited_for(name: str, wide_export: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    shutil.copytree(wide_export, exported)
    (exported / name).unlink()
    os.mkfifo(exported / name)
    arguments = ["deploy", str(exported), "--env", "tests.toy:Wide-v0", "--action_limits", "contract"]
    result = outcome(arguments, tmp_path / "log", patience=10)
    assert (result.status, result.fault) == (2, None), result.output


def test_a_folder_in_use_is_left_alone(checkpoint: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    assert "out: exists already; choose another" in refused(capsys, "--ckpt_path", checkpoint, "--to", tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "precious"


def test_a_form_that_disagrees_is_not_exported(checkpoint: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def slightly_off(policy: NumpyPolicy, low: np.ndarray, high: np.ndarray) -> bytes:
        return policy_graph(replace(policy, biases=tuple(bias + 1e-4 for bias in policy.biases)), low, high)

    monkeypatch.setattr(export, "policy_graph", slightly_off)
    line = refused(capsys, "--ckpt_path", checkpoint, "--to", tmp_path / "new/out")
    assert "onnxruntime differs from torch by up to" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_export_that_breaks_off_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch, error) -> None:
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr(export, "save_mlflow_model", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else AwacError):
        export.export_policy(checkpoint, tmp_path / "new/out", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_tracker_that_is_down_is_told_before_anything_is_written(checkpoint: Path, tmp_path: Path, capsys) -> None:
    line = refused(capsys, "--ckpt_path", checkpoint, "--to", tmp_path / "out", "--register", "wide", "--mlflow_uri",
                   "http://127.0.0.1:9")  # fmt: skip
    assert "MLflow at http://127.0.0.1:9 cannot be used" in line
    assert not (tmp_path / "out").exists()


def test_registered_and_served_over_http(
    wide_export: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--register`` twice, then a real server for the second version."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, "mlflow.db")
    client = mlflow_client()
    assert [register_policy(wide_export, "wide", client) for _ in range(2)] == ["1", "2"]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = mlflow.MlflowClient(uri).get_run(client.get_model_version("wide", "2").run_id)
    assert (run.info.status, run.data.tags["training_run"], run.data.tags["task"]) == ("FINISHED", "wide", WIDE)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": "",
    }
    command = ["mlflow", "models", "serve", "-m", "models:/wide/2", "--env-manager", "local", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(server, f"http://127.0.0.1:{port}/ping", tmp_path / "server.log")
        _check_answers(f"http://127.0.0.1:{port}/invocations", wide_export)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _wait_for(server: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)


def _check_answers(url: str, folder: Path) -> None:
    with np.load(folder / "examples.npz") as examples:
        observations, actions = examples["observation"], examples["action"]
    status, answer = _post(url, {"inputs": observations.tolist()})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], actions, atol=1e-5)
    status, answer = _post(url, {"inputs": observations[0].tolist()})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], actions[0], atol=1e-5)
    for rows, message in (
        ([[0.0, 0.0, 0.0]], "float64 [1, 3]; the policy takes numbers, [N, 2] or [2]"),
        ([["left", "right"]], "<U5 [1, 2]; the policy takes numbers, [N, 2] or [2]"),
        ([[0.0, 0.0], [0.0, float("nan")]], "observation 1 is not finite: value 1 is nan"),
        ([[0.0, None]], "observation 0 is not finite: value 1 is nan"),
        ([[1e300, 0.0]], "observation 0 is not finite: value 0 is inf"),
    ):
        status, answer = _post(url, {"inputs": rows})
        assert (status, message in answer["message"]) == (400, True), answer
        assert "Traceback" not in json.dumps(answer)


def _post(url: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_an_exported_graph_scales_actions_where_one_bound_alone_is_another() -> None:
    low, high = np.array([-1, -2], np.float32), np.array([1, 4], np.float32)
    policy = NumpyPolicy((np.zeros((1, 2), np.float32),), (np.full(2, np.arctanh(0.5), np.float32),), np.ones(2, np.float32))
    np.testing.assert_allclose(onnx_policy(policy_graph(policy, low, high))(np.zeros(1, np.float32)), [0.5, 2.5], atol=1e-6)


def test_the_command_registers_what_it_has_exported(
    wide_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    exports, registered = [], []
    facts = json.loads((wide_export / "contract.json").read_text())
    monkeypatch.setattr(
        "awac_pl.deploy.export.export_policy", lambda *given, **named: exports.append((given, named)) or facts
    )
    monkeypatch.setattr("awac_pl.tracking.client.mlflow_client", lambda uri: f"client of {uri}")
    monkeypatch.setattr("awac_pl.deploy.mlflow_model.register_policy", lambda *given: registered.append(given) or "3")
    command = ["export", "--ckpt_path", "last.ckpt", "--to", "my exports"]
    assert main([*command, "--task", "pen", "--register", "wide", "--mlflow_uri", "http://here:5000"]) == 0
    assert exports == [((Path("last.ckpt"), Path("my exports")), {"task_name": "pen"})]
    assert registered == [(Path("my exports"), "wide", "client of http://here:5000")]
    printed = capsys.readouterr().out
    assert f"task         {WIDE}, 2 values to 1 actions, control rate unknown" in printed
    assert "registered   models:/wide/3" in printed
    assert "awac serve 'my exports' --action_limits contract" in printed
    assert main(command) == 0
    assert len(registered) == 1


def test_nowhere_to_register(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri, variable in (("none", ""), (None, "none")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
        with pytest.raises(AwacError, match=r"MLflow is switched off .* name a database or a server"):
            mlflow_client(uri)
