"""A policy over HTTP: what a request may cost, and what is refused; and the forms of input that the MLflow model takes."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas
import pytest
from mlflow.exceptions import MlflowException

from awac_pl.commands.main import main
from awac_pl.deploy.http_server import listen, make_server
from awac_pl.deploy.runner import PolicyRunner
from awac_pl.errors import AwacError
from tests.conftest import ROOT
from tests.test_runner import CONTRACT

LIMIT = 100_000
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server whose action is the sum of the observation's two values; bodies of 100 kB within half a second."""
    runner = PolicyRunner(CONTRACT, lambda rows: rows.sum(axis=-1, keepdims=True), (-2, 3))
    server = make_server(runner.act_batch, 2, max_body_bytes=LIMIT, body_seconds=0.5)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=30)


def ask(port: int, body: object, headers: dict[str, str] = JSON, **options: bool) -> tuple[int, dict]:
    """Post a body; JSON unless it is bytes, or an iterator of chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        encoded = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request("POST", "/invocations", encoded, headers, **options)  # type: ignore[arg-type]
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def test_actions_by_hand(port: int) -> None:
    assert ask(port, {"inputs": [[1, 0.5], [-1, 0]]}) == (200, {"predictions": [[1.5], [-1]]})
    assert ask(port, {"instances": [[2, 5]]}) == (200, {"predictions": [[3]]})  # the limit of the action
    assert ask(port, {"inputs": [1, 0.5]}) == (200, {"predictions": [1.5]})
    assert ask(port, {"inputs": []}) == (200, {"predictions": []})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is no JSON in UTF-8"),
        (b'{"inputs": [[1,', "the body is no JSON in UTF-8"),
        (b"\xff", "the body is no JSON in UTF-8"),
        ('{"inputs": [[1, 2]]}'.encode("utf-16"), "the body is no JSON in UTF-8"),
        ('{"inputs": [[1, 2]]}'.encode("utf-16-le"), "the body is no JSON in UTF-8"),
        (b'{"inputs": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", "the body is no JSON in UTF-8"),
        (b'{"a":' * 15_000, "the body is no JSON in UTF-8"),
        (b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", "observation 0 has 1 values, the policy takes 2 numbers"),
        (b'{"inputs": [[1, ' + b"9" * 5_000 + b"]]}", "observation 0 is not finite: value 1 (goal) is inf"),
        ({"inputs": [[0, 10**400]]}, "observation 0 is not finite: value 1 (goal) is inf"),
        ({"inputs": [[0, 0], [np.nan, 0]]}, "observation 1 is not finite: value 0 (position) is nan"),
        ({"inputs": [[0, 1e300]]}, "observation 0 is not finite: value 1 (goal) is 1e+300"),
        ({"inputs": [[0, None]]}, "observation 0: value 1 is null, not a number"),
        ({"inputs": [[0, "1"]]}, "observation 0: value 1 is text, not a number"),
        ({"inputs": [True, 0]}, "observation 0: value 0 is true or false, not a number"),
        ({"inputs": [[[0, 0]]]}, "observation 0 has 1 values"),
        ({"inputs": [[[0], {}]]}, "observation 0: value 0 is a list, not a number"),
        ({"inputs": [[0, 0], [0]]}, "observation 1 has 1 values, the policy takes 2 numbers"),
        ({"inputs": [[0, 0], 0]}, "observation 1 is a number, the policy takes 2 numbers"),
        ({"inputs": [0, 0, 0]}, "observation 0 has 3 values, the policy takes 2 numbers"),
        ({"inputs": 0}, 'the body must be {"inputs": […]}'),
        ({"inputs": [[0, 0]], "params": {}}, 'the body must be {"inputs": […]}'),
        ({"dataframe_split": {"data": [[0, 0]]}}, 'the body must be {"inputs": […]}'),
        ({}, 'the body must be {"inputs": […]}'),
        (b"[[0, 0]]", 'the body must be {"inputs": […]}'),
    ],
)
def test_bodies_that_are_no_observations_get_400(port: int, body: object, message: str) -> None:
    status, answer = ask(port, body)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert answer["message"].startswith(message)
    assert "\n" not in answer["message"]


def test_large_bodies_get_413_without_being_read(port: int) -> None:
    refused = (413, "the body is larger than 100,000 bytes; send fewer observations at a time")
    status, answer = ask(port, b" " * (LIMIT + 1))
    assert (status, answer["message"]) == refused
    status, answer = ask(port, b"", JSON | {"Content-Length": str(100 << 30)})  # of which nothing ever comes
    assert (status, answer["message"]) == refused
    status, answer = ask(port, (b" " * 10_000 for _ in range(50)), JSON, encode_chunked=True)
    assert (status, answer["message"]) == refused
    assert ask(port, b'{"inputs": [[1, 0]]}'.ljust(LIMIT)) == (200, {"predictions": [[1]]})


@pytest.mark.parametrize("kind", ["text/csv", "application/json; charset=utf-16", "application/octet-stream", ""])
def test_other_content_types_get_415(port: int, kind: str) -> None:
    status, answer = ask(port, {"inputs": [[0, 0]]}, {"Content-Type": kind})
    assert status == 415
    assert answer["message"] == f"the content type is '{kind}'; this server takes application/json in UTF-8"
    assert ask(port, {"inputs": [[0, 0]]}, {"Content-Type": 'application/json; charset="UTF-8"'})[0] == 200


def test_slow_bodies_get_408_and_others_do_not_wait_for_them(port: int) -> None:
    head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(head.encode())
        assert ask(port, {"inputs": [[0, 0]]})[0] == 200
        answer = b"".join(iter(lambda: slow.recv(4096), b""))  # until the server closes it
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body took more than 0.5 s" in answer
    with socket.create_connection(("127.0.0.1", port)) as gone:
        gone.sendall(head.encode())
    assert ask(port, {"inputs": [[0, 0]]})[0] == 200


def test_serve_from_the_command_line(wide_export: Path, capsys: pytest.CaptureFixture) -> None:
    command = [sys.executable, "-m", "awac_pl", "serve", str(wide_export), "--action_limits=-1,2.5", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().partition("/invocations")[0].rpartition(":")[2]
        with np.load(wide_export / "examples.npz") as examples:
            status, answer = ask(int(port), {"inputs": examples["observation"].tolist()})
            np.testing.assert_allclose(answer["predictions"], np.clip(examples["action"], -1, 2.5), atol=1e-5)
        assert status == 200
        assert main(["serve", str(wide_export), "--action_limits", "contract", "--port", port]) == 2
        assert f"awac: error: --host 127.0.0.1 --port {port}: cannot be listened on" in capsys.readouterr().err
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 128 + signal.SIGTERM
        assert server.stderr is not None
        assert server.stderr.read() == "awac: stopped by SIGTERM\n"
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(("option", "value"), [("max_body_mib", "0"), ("body_seconds", "nan"), ("max_body_mib", "-1")])
def test_limits_that_are_none_are_refused(option: str, value: str, wide_export: Path, capsys) -> None:
    assert main(["serve", str(wide_export), "--action_limits", "contract", f"--{option}={value}"]) == 2
    assert f"awac: error: --{option} is" in capsys.readouterr().err


def test_a_robot_without_a_server_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "awac_pl.deploy.http_server")
    assert main(["serve", "exported", "--action_limits", "contract"]) == 2
    assert "awac: error: uvicorn is not installed: pip install starlette uvicorn" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("a name", 8000)])
def test_addresses_that_cannot_be_had_are_refused(host: str, port: int) -> None:
    with pytest.raises(AwacError, match=f"--host {host} --port {port}: cannot be listened on"):
        listen(host, port)


@pytest.fixture(scope="module")
def model(wide_export: Path) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(wide_export / "mlflow_model"))


NAMES = ["observation_0", "observation_1"]
ROWS = np.array([[0.25, -0.5], [1, 0.5]])


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        ROWS.astype(np.float32),
        ROWS.astype(np.float16),
        ROWS.astype(object),
        ROWS.tolist(),
        {"observation": ROWS},
        dict(zip(NAMES, ROWS.T, strict=True)),
        pandas.DataFrame(ROWS),
        pandas.DataFrame(ROWS, columns=["a", "b"]),
        pandas.DataFrame(ROWS[:, ::-1], columns=NAMES[::-1]),
        pandas.DataFrame({"observation": list(ROWS)}),
    ],
)
def test_the_mlflow_model_takes_what_people_have(given, model, wide_export: Path) -> None:
    runner = PolicyRunner.load(wide_export, action_limits=(-2, 4))
    expected = runner.act_batch(ROWS)
    assert np.abs(np.diff(expected, axis=0)) > 0.01  # a swapped column would show
    actions = model.predict(given)
    np.testing.assert_array_equal(actions, expected)
    assert actions.dtype == np.float32


def test_one_observation_none_and_whole_numbers(model) -> None:
    one = model.predict(ROWS[0])
    assert one.shape == (1,)
    for form in (ROWS[0].tolist(), pandas.Series(ROWS[0]), {"observation": ROWS[0]}, dict(zip(NAMES, ROWS[0], strict=True))):
        np.testing.assert_array_equal(model.predict(form), one)
    assert model.predict(np.zeros((0, 2))).shape == (0, 1)
    np.testing.assert_array_equal(model.predict(np.ones((1, 2), int)), model.predict(np.ones((1, 2))))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 3)), r"float64 \[1, 3\]; the policy takes numbers, \[N, 2\] or \[2\]"),
        (np.zeros((1, 1, 2)), r"float64 \[1, 1, 2\]; the policy takes numbers"),
        (np.zeros((1, 2), bool), r"bool \[1, 2\]; the policy takes numbers"),
        ([["left", "right"]], r"<U5 \[1, 2\]; the policy takes numbers"),
        ([[0, "right"]], "the policy takes numbers"),
        (np.array([[0, "right"]], object), "could not convert string to float: 'right'"),
        ([[0, 0], [0]], "inhomogeneous shape"),
        ([[10**400, 0]], "int too large"),
        (None, "the policy takes numbers"),
        ([], r"float64 \[0\]; the policy takes numbers"),
        ([[0, np.nan]], "observation 0 is not finite: value 1 is nan"),
        ([[0, 0], [None, 0]], "observation 1 is not finite: value 0 is nan"),
        ([0, 1e300], "observation 0 is not finite: value 1 is inf"),
        (pandas.DataFrame(ROWS, columns=["observation_0", "goal"]), "not in the contract: observation_1, goal"),
        (pandas.DataFrame(ROWS[:, [0, 1, 1]], columns=[*NAMES, NAMES[1]]), "twice there or not in the contract: obs.*_1"),
        ({"observation": ROWS, "desired_goal": ROWS}, "not in the contract: observation_0, observation_1, observation"),
    ],
)
def test_the_mlflow_model_refuses_the_rest_in_one_line(given, message: str, model) -> None:
    with pytest.raises(MlflowException, match=message) as refusal:
        model.predict(given)
    assert "\n" not in str(refusal.value)


def test_the_runner_takes_a_batch() -> None:
    runner = PolicyRunner(CONTRACT, lambda rows: rows.sum(axis=-1, keepdims=True), (-2, 3))
    np.testing.assert_array_equal(runner.act_batch([[1, 0.5], [2, 5]]), np.array([[1.5], [3]], np.float32))
    assert runner.act_batch(np.zeros((0, 2))).shape == (0, 1)
    for given, message in (
        ([0, 0], r"the observation is int64 \[2\], the policy takes numbers \[N, 2\]"),
        ([[0, 0], [0, np.inf]], r"observation 1 is not finite: value 1 \(goal\) is inf"),
        ([[2e38, 2e38]], "the action is not finite: value 0"),
    ):
        with pytest.raises(AwacError, match=message), np.errstate(over="ignore"):
            runner.act_batch(given)


def test_every_option_of_serve_arrives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    made, served = [], []
    runner = PolicyRunner(CONTRACT, lambda rows: rows, (-2, 3))
    monkeypatch.setattr("awac_pl.commands.serve.load_runner", lambda options: runner)
    listener = SimpleNamespace(getsockname=lambda: ("::1", 8080, 0, 0))
    monkeypatch.setattr("awac_pl.deploy.http_server.listen", lambda *address: made.append(address) or listener)

    def make(act, size: int, **limits: float) -> SimpleNamespace:
        made.append((act, size, limits))
        return SimpleNamespace(run=lambda sockets: served.extend(sockets))

    monkeypatch.setattr("awac_pl.deploy.http_server.make_server", make)
    command = ["serve", "exported", "--action_limits", "contract"]
    assert main(command) == 0
    assert main([*command, "--host", "::1", "--port", "8080", "--max_body_mib", "0.5", "--body_seconds", "2"]) == 0
    assert made == [
        ("127.0.0.1", 5001),
        (runner.act_batch, 2, {"max_body_bytes": 1 << 20, "body_seconds": 10}),
        ("::1", 8080),
        (runner.act_batch, 2, {"max_body_bytes": 1 << 19, "body_seconds": 2}),
    ]
    assert served == [listener, listener]
    assert "serving exported at http://[::1]:8080/invocations, until Ctrl-C\n" in capsys.readouterr().out
