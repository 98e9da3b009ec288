"""MLflow: equal to the run folder whatever the server does, complete, with the right status; seeds below one parent."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import lightning
import mlflow
import pytest
import yaml
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from mlflow import MlflowClient
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS

from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.run_writer import RunWriter
from awac_pl.commands.fit import _run_logger
from awac_pl.commands.main import main
from awac_pl.errors import AwacError, TrainingDivergedError
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.manifest import read_manifest
from awac_pl.runs.metrics import append_logged, read_metrics, write_metrics
from awac_pl.tracking import content
from awac_pl.tracking import logger as run_logger
from awac_pl.tracking import parent_run as parents
from awac_pl.tracking.client import SETTINGS, connect, make_store
from awac_pl.tracking.destination import Destination, find_destination
from awac_pl.tracking.logger import RunFolderLogger
from awac_pl.tracking.mirror import Mirror
from tests.test_distributed import free_port
from tests.test_training import make_data, make_module

ROWS = [
    {"epoch": 0, "updates": 10, "env_steps": 0, "seconds": 1.5, "eval/success_rate": 0.25},
    {"epoch": 1, "updates": 20, "env_steps": 0, "seconds": 2.5, "train/loss": math.nan},
    {"epoch": 2, "updates": 30, "env_steps": 21, "seconds": 4.0, "eval/success_rate": 0.5, "train/loss": math.inf},
]


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    """A store of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def write_run(folder: Path, rows: list[dict[str, float]] = ROWS, status: str = "finished", **changes) -> Path:
    """A run folder as RunWriter leaves it."""
    ended = {} if status == "running" else {"finished": "2026-01-02T03:10:00.000+00:00", "scores": {"last": 0.5}}
    manifest = {
        "status": status,
        "tags": {"task": "pen", "preset": "quick", "seed": "0", "commit": "0123abc+changes"},
        "command": ["/usr/bin/awac", "fit", "--config=my run.yaml"],
        "started": "2026-01-02T03:04:05.000+00:00",
        "seconds_count_from": "2026-01-02T03:04:05.000+00:00",
        "offline_updates": 20,
        "device": "cpu",
        "datasets": [
            {"id": "toy/a-v0", "sha256": "ab" * 32, "episodes": 20, "transitions": 200, "path": "/data/a.hdf5"},
            {"id": "toy/b-v0", "sha256": "cd" * 32, "episodes": 3, "transitions": 30, "path": "/data/b.hdf5"},
        ],
        "cloning": None,
        **ended,
        **changes,
    }
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    config = {"model": {"temperature": 0.3, "max_weight": None}, "data": {"datasets": {"toy/a-v0": 2.0}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "checkpoints/last.ckpt").write_bytes(b"weights")
    write_metrics(folder / "metrics.csv", rows)
    return folder


def end(folder: Path) -> None:
    """What RunWriter writes when a run ends."""
    manifest = json.loads((folder / "manifest.json").read_text())
    ended = {"status": "finished", "finished": "2026-01-02T03:10:00.000+00:00"}
    (folder / "manifest.json").write_text(json.dumps(manifest | ended))


def mirrored(folder: Path, uri: str | None, group: str | None = None) -> Mirror:
    """The mirror of a folder, after one look."""
    mirror = Mirror(folder, find_destination(folder, uri, group=group), live=True)
    mirror.update()
    return mirror


def only_run(uri: str) -> mlflow.entities.Run:
    client = MlflowClient(uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run


def points(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every point of a run, as MLflow has it: metric -> (step, value)."""
    client = MlflowClient(uri)
    names = client.get_run(run_id).data.metrics
    return {name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name)) for name in names}


def without_system(points: dict[str, list]) -> dict[str, list]:
    return {name: values for name, values in points.items() if not name.startswith("system/")}


def points_of_csv(folder: Path) -> dict[str, list[tuple[int, float]]]:
    rows = read_metrics(folder / "metrics.csv")
    manifest = json.loads((folder / "manifest.json").read_text())
    steps = [row["env_steps"] or row["updates"] - manifest["offline_updates"] for row in rows]
    names = {name for row in rows for name in row}
    return {name: [(step, row[name]) for step, row in zip(steps, rows, strict=True) if name in row] for name in names}


# The run folder, in MLflow


def test_what_mlflow_shall_show_by_hand(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    append_logged(folder / "logged.jsonl", 1_767_323_046_000, 7, {"lr": 0.1})
    with (folder / "logged.jsonl").open("a") as file:
        file.write("[1, 2")  # cut off by a kill
    shown = content.points_of(folder, json.loads((folder / "manifest.json").read_text()))
    start = 1_767_323_045_000  # 2026-01-02T03:04:05Z
    assert shown["eval/success_rate", -10] == (start + 1500, 0.25)
    assert shown["eval/success_rate", 21] == (start + 4000, 0.5)
    assert shown["updates", 0] == (start + 2500, 20)
    assert math.isnan(shown["train/loss", 0][1])
    assert shown["train/loss", 21][1] == sys.float_info.max  # as MLflow keeps infinity
    assert shown["lr", 7] == (1_767_323_046_000, 0.1)
    assert len(shown) == 3 * 4 + 2 + 2 + 1


def test_a_description_by_hand(tmp_path: Path) -> None:
    changes = {"cloning": {"success_deterministic": 0.4}, "seconds": 90.0, "error": "ValueError('x')"}
    folder = write_run(tmp_path / "run", status="failed", scores={"last": 0.5, "env_steps": 12345.0}, **changes)
    assert content.describe(read_manifest(folder), Path("/there/run"), live=True).splitlines() == [
        "AWAC, task pen, preset quick, seed 0, on cpu, from toy/a-v0 (20 episodes), toy/b-v0 (3 episodes).",
        "",
        "**Failed** after 1.5 min: ValueError('x')",
        "",
        "    awac fit '--config=my run.yaml'",
        "",
        "Run folder `/there/run`, commit 0123abc+changes.",
        "",
        "| success rate | |",
        "|---|---|",
        "| cloned | 0.400 |",
        "| last | 0.500 |",
        "| env_steps | 12,345 |",
    ]


def test_small_files_are_sent_first_and_the_spare_checkpoint_never(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in (
        "figures/b.png",
        "figures/a.png",
        "report.html",
        "checkpoints/last.previous.ckpt",
        "notes.txt",
        "logged.jsonl",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    missing = Mirror(folder, Destination("http://nobody:5000"), live=True).missing_files()
    assert [str(path.relative_to(folder)) for path in missing] == [
        "config.yaml", "manifest.json", "metrics.csv", "report.html", "figures/a.png", "figures/b.png",
        "checkpoints/last.ckpt",
    ]  # fmt: skip


def test_names_that_mlflow_refuses_are_changed(tmp_path: Path) -> None:
    logger = RunFolderLogger(tmp_path, Destination("http://nobody:5000"))
    logger.log_metrics({"lr?/µ 1.x:y-z": 0.5})
    _, step, values = json.loads((tmp_path / "logged.jsonl").read_text())
    assert (step, values) == (0, {"lr_/µ 1.x:y-z": 0.5})


def test_a_run_is_complete(tmp_path: Path, uri: str) -> None:
    mirror = mirrored(write_run(tmp_path / "my-run"), uri)
    run = only_run(uri)
    assert (run.info.run_name, run.info.status) == ("my-run", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (1_767_323_045_000, 1_767_323_400_000)
    assert run.data.params == {"model.temperature": "0.3", "data.datasets": "{'toy/a-v0': 2.0}"}
    assert {run.data.tags[name] for name in ("task", "preset", "seed", "device")} == {"pen", "quick", "0", "cpu"}
    assert run.data.tags["mlflow.source.git.commit"] == "0123abc"
    description = run.data.tags["mlflow.note.content"]
    for part in ("task pen, preset quick, seed 0", "awac fit '--config=my run.yaml'", "**Finished**", "| last | 0.500 |"):
        assert part in description
    first, second = sorted(run.inputs.dataset_inputs, key=lambda entry: entry.dataset.name)
    assert (first.dataset.name, first.dataset.digest, second.dataset.name) == ("toy/a-v0", "ababababab", "toy/b-v0")
    assert json.loads(first.dataset.profile) == {"sha256": "ab" * 32, "episodes": 20, "transitions": 200}
    assert {tag.key: tag.value for tag in first.tags} == {"mlflow.data.context": "offline data"}
    assert mlflow.data.get_source(first.dataset).uri == "/data/a.hdf5"
    stored = points(uri, run.info.run_id)
    assert stored["eval/success_rate"] == [(-10, 0.25), (21, 0.5)]
    assert math.isnan(stored["train/loss"][0][1])
    for path in mirror.missing_files():
        mirror.send_file(path)
    client = MlflowClient(uri)
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} == {
        "config.yaml", "manifest.json", "metrics.csv", "checkpoints",
    }  # fmt: skip
    assert mirror.missing_files() == []
    (tmp_path / "my-run/figures").mkdir()
    (tmp_path / "my-run/figures/curve.png").write_bytes(b"picture")
    assert [path.name for path in mirror.missing_files()] == ["curve.png"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED"), ("running", "RUNNING")],
)
def test_status(tmp_path: Path, uri: str, status: str, expected: str) -> None:
    mirrored(write_run(tmp_path / "run", status=status, error="ValueError('x')"), uri)
    assert only_run(uri).info.status == expected
    assert "ValueError" in only_run(uri).data.tags["mlflow.note.content"]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "log_inputs"])
def test_an_answer_that_is_lost_costs_no_second_run_and_no_second_point(
    tmp_path: Path, uri: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does what it is asked for and dies before it can say so, every time it is asked for the first time."""
    real, asked = getattr(MlflowClient, call), []

    def die_behind(*arguments, **keywords):
        answer = real(*arguments, **keywords)
        if (what := repr(sorted(keywords))) not in asked:
            asked.append(what)
            raise ConnectionError("the server died")
        return answer

    monkeypatch.setattr(MlflowClient, call, die_behind)
    folder = write_run(tmp_path / "run", ROWS[:1] + ROWS[2:])
    mirror = Mirror(folder, find_destination(folder, uri), live=True)
    for _ in range(10):
        try:
            mirror.update()
        except ConnectionError:
            continue
        break
    assert asked
    run = only_run(uri)
    assert run.info.status == "FINISHED"
    assert len(run.inputs.dataset_inputs) == 2
    expected = points_of_csv(folder)
    expected["train/loss"] = [(21, sys.float_info.max)]
    assert points(uri, run.info.run_id) == expected


def test_a_resumed_run_goes_on_in_the_same_run(tmp_path: Path, uri: str) -> None:
    """The last row is done again with another result: of a step with two points the later one holds."""
    folder = write_run(tmp_path / "run", status="interrupted")
    first = mirrored(folder, uri)
    first.destination.save(folder)
    assert only_run(uri).info.status == "KILLED"
    again = [*ROWS[:2], ROWS[2] | {"eval/success_rate": 0.75, "train/loss": 1.0, "seconds": 4.5}]
    again.append({"epoch": 3, "updates": 40, "env_steps": 40, "seconds": 6.0, "eval/success_rate": 1.0})
    shutil.rmtree(folder)
    write_run(folder, again[:3], status="running", seconds_count_from="2026-01-02T05:00:00.000+00:00")
    first.destination.save(folder)
    second = mirrored(folder, None)
    assert only_run(uri).info.status == "RUNNING"
    assert second.points_sent == 3  # what has changed, no more
    write_metrics(folder / "metrics.csv", again)
    second.update()
    history = MlflowClient(uri).get_metric_history(only_run(uri).info.run_id, "eval/success_rate")
    assert parents.latest_values(history) == {-10: 0.25, 21: 0.75, 40: 1.0}
    assert len(history) == 4


def test_the_variable_names_the_experiment_of_a_new_run(tmp_path: Path, uri: str, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "robots")
    folder = write_run(tmp_path / "run")
    assert find_destination(folder, uri, experiment="mine").experiment == "mine"  # the command line comes first
    mirrored(folder, uri).destination.save(folder)
    assert MlflowClient(uri).get_experiment(only_run(uri).info.experiment_id).name == "robots"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "others")
    assert find_destination(folder, None).experiment == "robots"  # a run stays where it is
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert find_destination(tmp_path / "new", uri).experiment == "awac"


def test_the_variable_names_the_experiment_by_its_id(tmp_path: Path, uri: str, monkeypatch) -> None:
    number = MlflowClient(uri).create_experiment("robots")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    folder = write_run(tmp_path / "run")
    assert find_destination(folder, uri, experiment="mine").experiment_id is None
    mirrored(folder, uri).destination.save(folder)
    (run,) = MlflowClient(uri).search_runs([number])
    assert run.info.experiment_id == find_destination(folder, None).experiment_id == number
    assert find_destination(folder, "http://elsewhere:5000").experiment_id is None  # there it is another one's
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "others")
    assert find_destination(tmp_path / "new", uri).experiment_id is None


@pytest.mark.parametrize(
    ("uri", "run_id", "expected"),
    [
        (
            "sqlite:////a/m.db",
            "0ab",
            "mlflow ui --backend-store-uri sqlite:////a/m.db, then http://127.0.0.1:5000/#/runs/0ab",
        ),
        (
            "sqlite:////a b/m.db",
            "0ab",
            "mlflow ui --backend-store-uri 'sqlite:////a b/m.db', then http://127.0.0.1:5000/#/runs/0ab",
        ),
        ("http://me:secret@host:5000/", "0ab", "http://host:5000/#/runs/0ab"),
        ("http://host", None, "http://host/#/experiments"),
    ],
)
def test_the_address_that_shows_the_run(tmp_path: Path, uri: str, run_id: str | None, expected: str) -> None:
    assert RunFolderLogger(tmp_path, Destination(uri, run_id=run_id)).how_to_look == expected


def test_a_run_that_is_gone_is_made_anew(tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_run(tmp_path / "run")
    MlflowClient(uri).delete_run(mirrored(folder, uri).run_id)
    mirror = mirrored(folder, None)
    assert "has no run" in caplog.text
    assert only_run(uri).info.run_id == mirror.run_id
    assert points(uri, mirror.run_id).keys() == points_of_csv(folder).keys()


def test_a_server_that_has_lost_the_run_gets_it_again(tmp_path: Path, uri: str) -> None:
    folder = write_run(tmp_path / "run", status="running")
    mirror = mirrored(folder, uri)
    mirror.client._tracking_client.store._hard_delete_run(mirror.run_id)
    end(folder)
    with pytest.raises(mlflow.MlflowException, match="not found"):
        mirror.update()
    mirror.update()
    run = only_run(uri)
    assert (run.info.status, run.info.run_id) == ("FINISHED", mirror.run_id)
    assert points(uri, mirror.run_id).keys() == points_of_csv(folder).keys()
    assert len(run.inputs.dataset_inputs) == 2


def test_what_others_have_written_stays(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mlflow run`` opens the run and logs ``-P model.temperature=3e-1``; somebody describes it in the browser."""
    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("projects", str(tmp_path / "files"))).info.run_id
    client.log_param(run_id, "model.temperature", "3e-1")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = write_run(tmp_path / "run", status="running")
    mirror = mirrored(folder, None)
    assert only_run(uri).info.run_name == "run"
    assert only_run(uri).data.params["model.temperature"] == "3e-1"
    client.set_tag(run_id, "mlflow.note.content", "my best run")
    client.set_tag(run_id, "mlflow.runName", "best")
    end(folder)
    mirror.update()
    mirrored(folder, None)
    run = only_run(uri)
    assert (run.info.status, run.info.run_name, run.data.tags["mlflow.note.content"]) == ("FINISHED", "best", "my best run")


def test_what_mlflow_refuses_does_not_hold_up_the_rest(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").write_text("'a?b': 1\n")
    assert mirrored(folder, uri).points_sent > 0
    assert "MLflow refuses a part of the run" in caplog.text
    assert points(uri, only_run(uri).info.run_id).keys() == points_of_csv(folder).keys()

    def refuse(*arguments: object, **more: object) -> None:
        raise mlflow.MlflowException("too many points", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    assert mirrored(write_run(tmp_path / "another"), uri).points_sent == 0


def test_more_than_one_request_can_hold(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server takes 1,000 points, and 100 parameters, at a time."""
    rows = [{"epoch": epoch, "updates": 10, "env_steps": epoch + 1, "seconds": 1.0} for epoch in range(260)]
    folder = write_run(tmp_path / "run", rows)
    (folder / "config.yaml").write_text(yaml.safe_dump({f"key{number}": number for number in range(150)}))
    real, sizes = MlflowClient.log_batch, []

    def log_batch(self, run_id: str, metrics=(), params=(), tags=()) -> None:
        sizes.append((len(metrics), len(params)))
        real(self, run_id, metrics, params, tags)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    assert mirrored(folder, uri).points_sent == 4 * 260
    assert sorted(size for size in sizes if any(size)) == [(0, 50), (0, 100), (40, 0), (1000, 0)]
    run = only_run(uri)
    assert len(run.data.params) == 150
    assert len(MlflowClient(uri).get_metric_history(run.info.run_id, "seconds")) == 260


def test_two_runs_make_the_experiment_at_once(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlflowClient.create_experiment

    def be_slower(self, *given) -> None:
        real(self, *given)
        raise mlflow.MlflowException("it exists", error_code=RESOURCE_ALREADY_EXISTS)

    monkeypatch.setattr(MlflowClient, "create_experiment", be_slower)
    mirrored(write_run(tmp_path / "run"), uri)
    assert only_run(uri).info.artifact_uri.startswith(str(tmp_path / "mlartifacts"))  # beside the database
    MlflowClient(uri).delete_experiment(only_run(uri).info.experiment_id)
    with pytest.raises(AwacError, match="MLflow experiment 'awac' is deleted; restore it, or name another one"):
        mirrored(write_run(tmp_path / "next"), uri)


def test_a_store_is_made_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    make_store(tmp_path / "whole" / "mlflow.db")
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["mlflow.db"]

    def die(self, uri: str, artifacts: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(SqlAlchemyStore, "__init__", die)
    with pytest.raises(KeyboardInterrupt):
        make_store(tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()

    def be_slower(self, uri: str, artifacts: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("mine")
        (tmp_path / "mlflow.db").write_text("another run's")
        self.engine = SimpleNamespace(dispose=lambda: None)

    monkeypatch.setattr(SqlAlchemyStore, "__init__", be_slower)
    make_store(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_text() == "another run's"


# Where a run belongs


def test_where_a_run_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_destination(tmp_path, None).uri == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(AwacError, match="is no file that can be read and written; name another one"):
        find_destination(tmp_path, f"sqlite:///{tmp_path}")  # MLflow would try for minutes
    assert find_destination(tmp_path, "sqlite:///there/my.db").uri == f"sqlite:///{tmp_path}/there/my.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://everybody:5000")
    assert find_destination(tmp_path, None).uri == "http://everybody:5000"
    assert find_destination(tmp_path, "http://mine:5000").uri == "http://mine:5000"
    sent = {"files": {"config.yaml": [1, 2]}, "description": "of the first one"}
    Destination("http://first:5000", "awac", group="g", run_id="a", **sent).save(tmp_path)
    resumed = find_destination(tmp_path, None)
    assert (resumed.uri, resumed.run_id, resumed.group) == ("http://first:5000", "a", "g")
    moved = find_destination(tmp_path, "http://mine:5000")
    assert (moved.uri, moved.run_id, moved.files, moved.key) == ("http://mine:5000", None, {}, resumed.key)
    assert moved.description == ""  # nothing has been sent there
    assert find_destination(tmp_path, None, group="h").group == "h"
    monkeypatch.setenv("MLFLOW_RUN_ID", "b")
    opened = find_destination(tmp_path, None)
    assert (opened.uri, opened.run_id, opened.files) == ("http://everybody:5000", "b", {})


def test_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AwacError, match=r"MLflow URI 'mlruns' is a folder"):
        find_destination(tmp_path, "mlruns")
    with pytest.raises(AwacError, match="group 'it's': use letters"):
        find_destination(tmp_path, None, group="it's")
    (tmp_path / "mlflow.json").write_text("{}")
    with pytest.raises(AwacError, match=r"mlflow\.json is damaged"):
        find_destination(tmp_path, None)


def test_places_that_only_mlflow_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("databricks", "databricks://profile", "postgresql://host/mlflow"):
        assert find_destination(tmp_path, uri).uri == uri
    with pytest.raises(AwacError, match="is a folder"):
        find_destination(tmp_path, "file:///mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "True")
    assert find_destination(tmp_path, "file:///mlruns").uri == "file:///mlruns"


def test_what_fit_says_of_mlflow_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"run_dir": str(tmp_path), "mlflow_uri": None, "mlflow_experiment": "robots", "group": "pens"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert _run_logger(SimpleNamespace(**options)) is False
    logger = _run_logger(SimpleNamespace(**options | {"mlflow_uri": "http://mine:5000"}))  # before the variable
    assert isinstance(logger, RunFolderLogger)
    destination = logger.destination
    assert (destination.uri, destination.experiment, destination.group) == ("http://mine:5000", "robots", "pens")
    assert (logger.folder, logger.name, logger.version) == (tmp_path, "robots", tmp_path.name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _run_logger(SimpleNamespace(**options | {"mlflow_uri": "none"})) is False


def test_a_dead_server_is_not_asked_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")  # the user's own
    connect(Destination("http://nobody:5000"))
    assert (os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("1", "7")


def test_a_password_is_not_shown() -> None:
    assert Destination("https://me:secret@host:5000/x").shown_uri == "https://host:5000/x"


# awac sync


def sync(*arguments: object) -> int:
    return main(["sync", *map(str, arguments)])


def test_sync_sends_what_is_missing_once(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture) -> None:
    folder = write_run(tmp_path / "run")
    assert sync(folder, "--mlflow_uri", uri) == 0
    assert "16 points and 4 files sent" in capsys.readouterr().out
    run = only_run(uri)
    assert points(uri, run.info.run_id).keys() == points_of_csv(folder).keys()
    before = Path(uri.removeprefix("sqlite:///")).read_bytes()
    assert sync(folder) == 0  # the folder remembers where
    assert "nothing to send" in capsys.readouterr().out
    assert Path(uri.removeprefix("sqlite:///")).read_bytes() == before
    write_metrics(folder / "metrics.csv", [*ROWS, {"epoch": 3, "updates": 40, "env_steps": 40, "seconds": 5.0}])
    assert sync(folder) == 0
    assert "4 points and 1 files sent" in capsys.readouterr().out
    shutil.rmtree(Path(run.info.artifact_uri) / "checkpoints")  # what the server has lost
    assert sync(folder) == 0
    assert "0 points and 1 files sent" in capsys.readouterr().out


def test_sync_tells_a_killed_run_from_a_running_one(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture) -> None:
    folder = write_run(tmp_path / "run", status="running")
    mirrored(folder, uri)
    lock = RunFolder(folder)
    lock.take()
    assert sync(folder) == 0
    assert "still going on" in capsys.readouterr().out
    assert only_run(uri).info.status == "RUNNING"
    lock.release()  # as the kernel does when a process is killed
    assert sync(folder) == 0
    run = only_run(uri)
    assert (run.info.status, run.info.end_time) == ("KILLED", 1_767_323_045_000 + 4000)
    assert "**Killed**" in run.data.tags["mlflow.note.content"]


def test_sync_marks_a_run_that_was_killed_before_its_first_row(tmp_path: Path, uri: str) -> None:
    assert sync(write_run(tmp_path / "run", [], status="running"), "--mlflow_uri", uri) == 0
    run = only_run(uri)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("KILLED", *[1_767_323_045_000] * 2)


def test_sync_puts_runs_where_they_or_the_user_say(tmp_path: Path, uri: str) -> None:
    """While it sends, nobody can resume the run."""
    client, folders = MlflowClient(uri), [write_run(tmp_path / name) for name in ("one", "other")]
    for folder in folders:
        (folder / "config.yaml").write_text("mlflow_experiment: robots\ngroup: pens\n")
    assert sync(folders[0], "--mlflow_uri", uri) == 0
    assert sync(folders[1], "--mlflow_uri", uri, "--mlflow_experiment", "hands", "--group", "doors") == 0
    for experiment, group, name in (("robots", "pens", "one"), ("hands", "doors", "other")):
        runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
        assert {run.info.run_name for run in runs} == {group, name}


def test_nobody_resumes_a_run_while_it_is_sent(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run")
    real, busy = Mirror.missing_files, []
    monkeypatch.setattr(Mirror, "missing_files", lambda self: busy.append(RunFolder(folder).busy) or real(self))
    assert sync(folder, "--mlflow_uri", uri) == 0
    assert busy == [True]
    assert not RunFolder(folder).busy


def test_sync_says_what_it_cannot_do(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    assert sync(one, tmp_path) == 2
    assert f"{tmp_path} is no run folder" in capsys.readouterr().err
    Destination(f"http://127.0.0.1:{free_port()}").save(one)
    Destination(uri).save(other)
    assert sync(one, other) == 2
    printed = capsys.readouterr()
    assert "Connection refused" in printed.out
    assert f"1 of 2 runs not sent: {one}" in printed.err
    assert only_run(uri).info.run_name == "other"
    (one / "mlflow.json").write_text("{")
    assert sync(one, other) == 2  # a mistake of one run does not hold up the next one
    printed = capsys.readouterr()
    assert [line.partition(": ")[0] for line in printed.out.splitlines()] == [str(one), str(other)]
    assert "is damaged" in printed.out.splitlines()[0]
    assert sync(one) == 2
    assert "mlflow.json is damaged" in capsys.readouterr().err
    (one / "mlflow.json").unlink()
    (one / "config.yaml").write_text(f"mlflow_uri: {uri}\n")
    assert sync(one) == 0  # to the run's own server, as its configuration says
    assert uri in capsys.readouterr().out
    (one / "manifest.json").write_text('{"status": "finished"}')
    assert sync(one) == 2
    assert "was written by a version of awac_pl that cannot be sent" in capsys.readouterr().err


# Seeds below one parent


def test_mean_and_standard_deviation_by_hand() -> None:
    curves = {"success_rate": [{-10: 0.2, 100: 0.5}, {-10: 0.4, 100: 0.7, 200: 0.9}], "episode_return": [{}, {}]}
    assert parents.aggregate(curves) == {
        ("2_seeds/success_rate_mean", -10): pytest.approx(0.3),
        ("2_seeds/success_rate_std", -10): pytest.approx(math.sqrt(0.02)),  # deviations of 0.1, over n - 1 = 1
        ("2_seeds/success_rate_mean", 100): pytest.approx(0.6),
        ("2_seeds/success_rate_std", 100): pytest.approx(math.sqrt(0.02)),
        ("seeds/final_success_rate_mean", 0): pytest.approx(0.7),  # of .5 and .9
        ("seeds/final_success_rate_std", 0): pytest.approx(math.sqrt(0.08)),
    }
    assert parents.aggregate({"success_rate": [{100: 0.5}]}) == {("seeds/final_success_rate_mean", 0): 0.5}
    assert parents.aggregate({"success_rate": []}) == {}


def write_seed(folder: Path, seed: int, rates: list[float], env_steps: list[int], **changes) -> Path:
    rows = [
        {"epoch": epoch, "updates": 10 * (epoch + 1), "env_steps": steps, "seconds": epoch + 1.0,
         "eval/success_rate": rate, "eval/episode_return": 100 * rate}
        for epoch, (rate, steps) in enumerate(zip(rates, env_steps, strict=True))
    ]  # fmt: skip
    write_run(folder, rows, offline_updates=10, tags={"task": "pen", "preset": "quick", "seed": str(seed)}, **changes)
    config = {
        "seed_everything": seed,
        "data": {"offline_epochs": 1},
        "interaction": {"env_steps_per_epoch": 100},
        "model": {"temperature": 0.3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def parent_of(uri: str, group: str) -> mlflow.entities.Run:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("awac").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`awac.group` = '{group}'")
    return parent


def test_seeds_are_children_of_one_parent(tmp_path: Path, uri: str) -> None:
    """Episodes are whole, so that seeds evaluate at 103 and 110 steps where 100 were due."""
    zero = write_seed(tmp_path / "zero", 0, [0.2, 0.5], [0, 103])
    one = write_seed(tmp_path / "one", 1, [0.4, 0.7], [0, 110])
    two = write_seed(tmp_path / "two", 2, [0.0], [0], status="failed")
    assert sync(zero, one, two, "--mlflow_uri", uri, "--group", "pens") == 0
    parent = parent_of(uri, "pens")
    client = MlflowClient(uri)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.group = 'pens'"
    )
    assert {child.info.run_name for child in children} == {"zero", "one", "two"}
    assert (parent.info.run_name, parent.info.status) == ("pens", "FINISHED")
    shown = {
        name: parents.latest_values(client.get_metric_history(parent.info.run_id, name)) for name in parent.data.metrics
    }
    assert shown["seeds/finished"] == {0: 2}
    assert shown["2_seeds/success_rate_mean"] == pytest.approx({0: 0.3, 100: 0.6})
    assert shown["2_seeds/success_rate_std"] == pytest.approx({0: math.sqrt(0.02), 100: math.sqrt(0.02)})
    assert shown["2_seeds/episode_return_mean"] == pytest.approx({0: 30, 100: 60})
    assert shown["seeds/final_success_rate_mean"] == pytest.approx({0: 0.6})
    assert "| zero | 0 | finished | 0.5 | 50 |" in parent.data.tags["mlflow.note.content"]
    assert "Not the same" not in parent.data.tags["mlflow.note.content"]


def test_a_run_that_changes_its_group_leaves_no_mean_behind(tmp_path: Path, uri: str) -> None:
    runs = [write_seed(tmp_path / str(seed), seed, [rate], [0]) for seed, rate in enumerate((0.2, 0.4, 0.9))]
    assert sync(*runs, "--mlflow_uri", uri, "--group", "pens") == 0
    assert sync(runs[2], "--mlflow_uri", uri, "--group", "others") == 0
    stayed, others = parent_of(uri, "pens"), parent_of(uri, "others")
    assert stayed.data.metrics["seeds/finished"] == 2
    assert stayed.data.metrics["seeds/final_success_rate_mean"] == pytest.approx(0.3)
    assert {name for name in stayed.data.metrics if "_seeds/" in name and "return" not in name} == {
        "2_seeds/success_rate_mean",
        "2_seeds/success_rate_std",
    }
    assert others.data.metrics["seeds/final_success_rate_mean"] == pytest.approx(0.9)
    assert sync(*runs[:2], "--mlflow_uri", uri, "--group", "others") == 0
    with pytest.raises(ValueError, match="not enough values"):
        parent_of(uri, "pens")
    assert parent_of(uri, "others").data.metrics["seeds/finished"] == 3


def test_the_parent_of_somebody_else_stays(tmp_path: Path, uri: str) -> None:
    folder, client = write_seed(tmp_path / "a", 0, [0.2], [0]), MlflowClient(uri)
    mirror = mirrored(folder, uri)
    experiment = client.get_experiment_by_name("awac").experiment_id
    foreign = client.create_run(experiment, run_name="mine").info.run_id
    client.set_tag(mirror.run_id, "mlflow.parentRunId", foreign)
    assert sync(folder, "--mlflow_uri", uri, "--group", "pens") == 0
    assert client.get_run(foreign).info.lifecycle_stage == "active"
    assert client.get_run(mirror.run_id).data.tags["mlflow.parentRunId"] == parent_of(uri, "pens").info.run_id


def test_a_group_of_unlike_runs_says_so(tmp_path: Path, uri: str) -> None:
    zero, one = write_seed(tmp_path / "zero", 0, [0.2], [0]), write_seed(tmp_path / "one", 1, [0.4], [0])
    (one / "config.yaml").write_text((one / "config.yaml").read_text().replace("0.3", "0.5"))
    assert sync(zero, one, "--mlflow_uri", uri, "--group", "pens") == 0
    parent = parent_of(uri, "pens")
    assert "Not the same in all of them: `model.temperature`" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["seeds/finished"] == 2
    last = parent.data.tags["mlflow.note.content"].splitlines()[0]
    assert last == "Runs with different settings, therefore without means."


def test_a_parent_runs_as_long_as_one_of_its_runs(tmp_path: Path, uri: str) -> None:
    """Where and how fast its runs are made does not matter."""
    zero = write_seed(tmp_path / "zero", 0, [0.2], [0], finished="2026-01-02T03:20:00.000+00:00")
    one = write_seed(tmp_path / "one", 1, [0.4], [0], status="running")
    own = {"run_dir": "runs/one", "mlflow_uri": "http://here", "data": {"workers": 7, "seed": 1, "executor": "ray"}}
    config = yaml.safe_load((one / "config.yaml").read_text())
    (one / "config.yaml").write_text(yaml.safe_dump(config | own | {"data": config["data"] | own["data"]}))
    mirrored(zero, uri, group="pens")
    running = mirrored(one, uri, group="pens")
    parent = parent_of(uri, "pens")
    assert (parent.info.status, parent.data.metrics["seeds/finished"]) == ("RUNNING", 1)
    assert "| one | 1 | running |" in parent.data.tags["mlflow.note.content"]
    end(one)
    running.update()
    parent = parent_of(uri, "pens")
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", 1_767_324_000_000)  # when the last one ended
    assert parent.data.metrics["seeds/final_success_rate_mean"] == pytest.approx(0.3)


def test_seeds_that_start_and_end_at_the_same_time(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parents made at once become one; a child that has looked before the other ended does not have the last word."""
    one, other = (
        write_seed(tmp_path / name, seed, [rate], [0], status=status)
        for name, seed, rate, status in (("a", 0, 0.2, "finished"), ("b", 1, 0.4, "running"))
    )
    client = MlflowClient(uri)
    experiment = client.create_experiment("awac", str(tmp_path / "files"))
    for moment in (1000, 2000):
        client.create_run(experiment, moment, {"awac.group": "pens"}, run_name="pens")
    running = mirrored(other, uri, group="pens")
    real_describe, held_up = parents._describe, []

    def describe_late(children):  # the other one ends between this one's look and its writing
        if not held_up:
            held_up.append(True)
            end(other)
            running.update()
        return real_describe(children)

    monkeypatch.setattr(parents, "_describe", describe_late)
    mirrored(one, uri, group="pens")
    parent = parent_of(uri, "pens")
    assert (parent.info.start_time, parent.info.status) == (1000, "FINISHED")
    assert parent.data.metrics["seeds/finished"] == 2
    assert parent.data.metrics["seeds/final_success_rate_mean"] == pytest.approx(0.3)
    assert "| b | 1 | finished |" in parent.data.tags["mlflow.note.content"]


# Training and its thread


class Stuck(Mirror):
    """A server that takes a request and never answers."""

    released = threading.Event()

    def update(self) -> None:
        self.released.wait()


def train(
    folder: Path, dataset: str, *callbacks: Callback, logger: RunFolderLogger | None, epochs: int = 4, **options
) -> lightning.Trainer:
    data = make_data(dataset, workers=0, updates_per_epoch=10, offline_epochs=1, **options)
    trainer = lightning.Trainer(
        max_epochs=epochs, check_val_every_n_epoch=1, num_sanity_val_steps=0, accelerator="cpu", default_root_dir=folder,
        logger=logger or False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1, callbacks=[EnvironmentInteraction(20), RunWriter({"task": "reach"}), *callbacks],
    )  # fmt: skip
    trainer.fit(make_module(data), datamodule=data)
    return trainer


def test_training_never_waits_for_mlflow(
    tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_logger, "Mirror", Stuck)
    monkeypatch.setattr(run_logger, "PATIENCE_SECONDS", 0.3)
    Stuck.released.clear()
    train(tmp_path / "run", reach_dataset, logger=RunFolderLogger(tmp_path / "run", Destination("http://stuck:5000")))
    assert len(read_metrics(tmp_path / "run/metrics.csv")) == 4  # though the first request is not answered yet
    assert "4 rows and 7 files are missing" in caplog.text
    Stuck.released.set()


def test_a_server_that_is_never_there_gets_everything_from_sync(
    tmp_path: Path, uri: str, reach_dataset: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_logger, "PATIENCE_SECONDS", 0.3)
    folder = tmp_path / "run"
    train(folder, reach_dataset, logger=RunFolderLogger(folder, Destination(f"http://127.0.0.1:{free_port()}")))
    assert "Connection refused. The run goes on" in caplog.text
    assert f"4 rows and 7 files are missing. Send them with: awac sync {folder}" in caplog.text
    assert find_destination(folder, None).uri.startswith("http://127.0.0.1:")  # from the start of the run on
    assert sync(folder, "--mlflow_uri", uri) == 0
    run = only_run(uri)
    assert run.info.status == "FINISHED"
    assert without_system(points(uri, run.info.run_id)) == points_of_csv(folder)


@pytest.mark.parametrize(("stop", "status"), [("ctrl-c", "KILLED"), ("sigterm", "KILLED"), ("nan", "FAILED")])
def test_status_of_a_run_that_does_not_reach_its_end(
    tmp_path: Path, uri: str, reach_dataset: str, stop: str, status: str
) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if trainer.current_epoch < 2:
                return
            if stop == "nan":
                batch["reward"][:] = math.nan
            elif stop == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    raised = {"ctrl-c": SystemExit, "sigterm": SIGTERMException, "nan": TrainingDivergedError}[stop]
    with pytest.raises(raised):
        train(tmp_path / "run", reach_dataset, Stop(), logger=RunFolderLogger(tmp_path / "run", Destination(uri)))
    signal.signal(signal.SIGINT, handler)  # Lightning ignores Ctrl-C from the first one on
    run = only_run(uri)
    assert run.info.status == status
    assert without_system(points(uri, run.info.run_id)) == points_of_csv(tmp_path / "run")
    assert len(read_metrics(tmp_path / "run/metrics.csv")) == 2


class Server:
    """``mlflow server`` on a SQLite file, which can be killed and started again."""

    def __init__(self, folder: Path, store: Path) -> None:
        shutil.copy(store, folder / "mlflow.db")
        self.folder, self.port = folder, free_port()
        self.store, self.uri = f"sqlite:///{folder / 'mlflow.db'}", f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            "mlflow", "server", "--port", self.port, "--workers", "1", "--backend-store-uri", self.store,
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    server = Server(tmp_path, empty_store)
    server.start()
    yield server
    server.kill()


def has_points(uri: str) -> bool:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("awac")
    return experiment is not None and any(run.data.metrics for run in client.search_runs([experiment.experiment_id]))


class Outage(Callback):
    """The server is not there at first, has the first points after two epochs, dies, and comes back before the last one."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1:
            self.server.wait()
            while not has_points(self.server.store):
                time.sleep(0.1)
        if trainer.current_epoch == 2:
            self.server.kill()
            self.server.start()
        if trainer.current_epoch == 4:
            self.server.wait()


def test_a_server_that_dies_and_comes_back_has_every_point(
    tmp_path: Path, reach_dataset: str, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_logger, "RETRY_SECONDS", 0.5)
    caplog.set_level("INFO", "awac_pl")
    folder = tmp_path / "run"
    logger = RunFolderLogger(folder, find_destination(folder, server.uri))
    train(folder, reach_dataset, Outage(server), LearningRateMonitor("epoch"), logger=logger, epochs=6)
    assert caplog.text.count("The run goes on; what is missing is sent when MLflow answers") == 2
    assert caplog.text.count("answers again, and has everything") == 2
    run = only_run(server.store)
    assert run.info.status == "FINISHED"
    stored = points(server.store, run.info.run_id)
    rates = stored.pop("lr-Adam/pg1")
    assert len(rates) == 6  # what another callback has logged
    del stored["lr-Adam/pg2"]
    assert [step for step, _ in stored["system/memory_mib"]] == [0, 20, 40, 60, 80, 100]
    assert all(0 < value < 10_000 for _, value in stored["system/memory_mib"])
    assert without_system(stored) == points_of_csv(folder)
    assert len(stored["updates"]) == 6
    sent = {path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert {name for name in sent if not name.startswith("reach-")} == {"manifest.json", "metrics.csv", "report.html"}


def test_links_out_of_a_run_folder_are_not_uploaded(tmp_path: Path, uri: str, reach_dataset: str) -> None:
    folder = tmp_path / "run"
    train(folder, reach_dataset, logger=False)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key.mp4").write_text("private")
    (folder / "videos").symlink_to(tmp_path / "secret")
    (folder / "figures/link.png").symlink_to(tmp_path / "secret/key.mp4")
    assert sync(folder, "--mlflow_uri", uri) == 0
    client = mlflow.MlflowClient(uri)
    run = only_run(uri).info.run_id
    assert {file.path for file in client.list_artifacts(run)} >= {"figures", "metrics.csv"}
    assert "videos" not in {file.path for file in client.list_artifacts(run)}
    assert "figures/link.png" not in {file.path for file in client.list_artifacts(run, "figures")}
