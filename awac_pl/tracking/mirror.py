"""A run folder in MLflow: looks at what is there and sends what is not, as often as it takes.

The folder is the truth (``config.yaml``, ``manifest.json``, ``metrics.csv`` and the files beside them), so a server may be
down, slow or restarted at any time: the next look sends what is missing, from the run itself or from ``awac sync``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awac_pl.errors import AwacError, first_line
from awac_pl.runs.manifest import Manifest, read_manifest
from awac_pl.tracking.client import set_timeouts
from awac_pl.tracking.content import Points, describe, milliseconds, parameters_of, points_of
from awac_pl.tracking.destination import Destination
from awac_pl.tracking.parent_run import find_parent, latest_values, summarise

if TYPE_CHECKING:  # slow to import: the first contact does it
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

#: What of a run folder goes to MLflow as artifacts, small things first.
ARTIFACTS = ("config.yaml", "manifest.json", "metrics.csv", "report.html", "figures", "videos", "checkpoints")
STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
KEY_TAG, NAME_TAG, NOTE_TAG, PARENT_TAG = "awac.run", "mlflow.runName", "mlflow.note.content", "mlflow.parentRunId"
METRICS_PER_REQUEST, PARAMETERS_PER_REQUEST = 1000, 100  # MLflow takes no more
#: Of an MLflow run, with the time in ms when it ended.
Status = tuple[str, int | None]


class Mirror:
    """Makes an MLflow run equal to a run folder.

    Whatever fails raises, and the next call goes on from there. For one thread.

    Args:
        folder: the run folder.
        destination: where in MLflow it belongs.
        live: whether the run's own process asks. If not, a run that has not said how it ended was killed.
    """

    def __init__(self, folder: Path, destination: Destination, *, live: bool) -> None:
        self.folder = folder
        self.destination = destination
        self.live = live
        self.points_sent = 0
        self._client: MlflowClient | None = None
        self._run: Run | None = None  # as it was when it was opened
        self._tags: dict[str, str] = {}
        self._status: Status | None = None
        self._summed_up: Status | None = None  # the status that the group has seen
        self._values: dict[str, dict[int, float]] = {}  # metric -> step -> value, of those that MLflow was asked for
        self._refusals: set[str] = set()

    @property
    def client(self) -> MlflowClient:
        """Of MLflow; the first time takes seconds, and more where a SQLite file has to be made."""
        if self._client is None:
            set_timeouts()  # the next look is another try
            from mlflow import MlflowClient

            for name, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
                logging.getLogger(name).setLevel(level)  # not each table that is made and each request that fails
            if self.destination.database is not None and not self.destination.database.exists():
                make_store(self.destination.database)
            self._client = MlflowClient(self.destination.uri)
        return self._client

    @property
    def run_id(self) -> str:
        """Of the MLflow run; it exists once ``update`` has succeeded."""
        assert self.destination.run_id is not None
        return self.destination.run_id

    def update(self) -> None:
        """Send what MLflow has not got, all but the files; the first time find or create the run."""
        from mlflow.exceptions import MlflowException

        manifest = self._manifest()
        if self._run is None:
            self._run = self._open(manifest)
        points = points_of(self.folder, manifest)
        try:
            self._send_tags(manifest)
            self._send_points(points)
            self._send_status(manifest, points)
            if self.destination.group and self._summed_up != self._status:
                parent = find_parent(self.client, self._run.info.experiment_id, self.destination.group)
                self._set_tags({PARENT_TAG: parent, "group": self.destination.group})
                summarise(self.client, parent)
                self._summed_up = self._status
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the server has lost it: look again from the start
                self._run = None
            raise

    def missing_rows(self) -> int:
        """How many rows of ``metrics.csv`` MLflow has not got, as far as it was asked."""
        return len({step for _, step, _, _ in self._missing(points_of(self.folder, self._manifest()))})

    def missing_files(self) -> list[Path]:
        """The artifacts that MLflow has not got as they are now."""
        found = [self.folder / name for name in ARTIFACTS]
        files = [path for top in found for path in ([top] if top.is_file() else sorted(top.rglob("*"))) if path.is_file()]
        return [path for path in files if self.destination.files.get(self._name(path)) != _stamp(path)]

    def send_file(self, path: Path) -> None:
        """Send one of ``missing_files``."""
        name, stamp = self._name(path), _stamp(path)
        self.client.log_artifact(self.run_id, str(path), name.rpartition("/")[0] or None)
        self.destination.files[name] = stamp
        self.destination.save(self.folder)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def _open(self, manifest: Manifest) -> Run:
        """Find the run or create it, and send what does not change."""
        run = self._existing_run() or self._new_run(manifest)
        self.destination.run_id = run.info.run_id
        self._forget_lost_files()
        self.destination.save(self.folder)
        self._tags, self._values = dict(run.data.tags), {}
        self._status, self._summed_up = (run.info.status, run.info.end_time), None
        if KEY_TAG not in self._tags:  # `mlflow run` has opened it, under a name of its own
            self._set_tags({KEY_TAG: self.destination.key, NAME_TAG: self.folder.absolute().name})
        self._send_parameters(run)
        self._send_datasets(manifest, run)
        return run

    def _existing_run(self) -> Run | None:
        from mlflow.exceptions import MlflowException

        if self.destination.run_id is None:
            return None
        try:
            run = self.client.get_run(self.destination.run_id)
            if run.info.lifecycle_stage == "active":
                return run
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        log.warning(
            "MLflow at %s has no run %s any more; a new one is made", self.destination.shown_uri, self.destination.run_id
        )
        self.destination = self.destination.elsewhere(self.destination.uri)
        return None

    def _new_run(self, manifest: Manifest) -> Run:
        """A new run, or the one whose creation MLflow could not report."""
        from mlflow.tracking.context.registry import resolve_tags

        experiment = self._experiment()
        found = self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{self.destination.key}'", max_results=1)
        if found:
            return found[0]
        tags = {KEY_TAG: self.destination.key, "mlflow.source.name": "awac fit", "mlflow.source.type": "LOCAL"}
        commit = manifest["tags"].get("commit", "unknown").partition("+")[0]
        if commit != "unknown":
            tags["mlflow.source.git.commit"] = commit
        started, name = milliseconds(manifest["started"]), self.folder.absolute().name
        return self.client.create_run(experiment, started, resolve_tags(tags), name)

    def _experiment(self) -> str:
        """Id of the experiment, which is made where it does not exist."""
        from mlflow.exceptions import MlflowException

        name, database = self.destination.experiment, self.destination.database
        if self.client.get_experiment_by_name(name) is None:
            try:
                self.client.create_experiment(name, str(_artifacts_beside(database)) if database else None)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run was quicker
                    raise
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise AwacError(f"MLflow experiment '{name}' is deleted; restore it, or pass --mlflow_experiment")
        return experiment.experiment_id

    def _forget_lost_files(self) -> None:
        folders = {name.rpartition("/")[0] or None for name in self.destination.files}
        there = {entry.path for folder in folders for entry in self.client.list_artifacts(self.run_id, folder)}
        self.destination.files = {name: stamp for name, stamp in self.destination.files.items() if name in there}

    def _send_parameters(self, run: Run) -> None:
        """The configuration. No value changes once it is there: what ``mlflow run -P`` sent stays as the user wrote it."""
        from mlflow.entities import Param

        parameters = parameters_of(self.folder)
        new = [Param(name, value) for name, value in parameters.items() if name not in run.data.params]
        for start in range(0, len(new), PARAMETERS_PER_REQUEST):
            self._send(self.client.log_batch, params=new[start : start + PARAMETERS_PER_REQUEST])

    def _send_datasets(self, manifest: Manifest, run: Run) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        there = {entry.dataset.name for entry in run.inputs.dataset_inputs} if run.inputs else set()
        new = [
            Dataset(
                name=facts["id"],
                digest=facts["sha256"][:10],  # as many as MLflow recommends; the profile has all of it
                source_type="local",
                source=json.dumps({"uri": facts.get("path", facts["id"])}),
                profile=json.dumps({name: value for name, value in facts.items() if name not in ("id", "path")}),
            )
            for facts in manifest["datasets"]
            if facts["id"] not in there
        ]
        if new:
            tag = InputTag("mlflow.data.context", "offline data")
            self._send(self.client.log_inputs, [DatasetInput(dataset, [tag]) for dataset in new])

    def _send_tags(self, manifest: Manifest) -> None:
        self._set_tags(manifest["tags"] | {"device": manifest["device"], "run_folder": str(self.folder.absolute())})
        description = describe(manifest, self.folder.absolute(), live=self.live)
        if description != self.destination.description:
            written = self.client.get_run(self.run_id).data.tags.get(NOTE_TAG, "")
            if written in ("", self.destination.description):  # else it is somebody's own by now
                self._set_tags({NOTE_TAG: description})
            self.destination.description = description
            self.destination.save(self.folder)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(name, value) for name, value in tags.items() if self._tags.get(name) != value]
        if new:
            self._send(self.client.log_batch, tags=new)
            self._tags |= {tag.key: tag.value for tag in new}

    def _missing(self, points: Points) -> Iterator[tuple[str, int, int, float]]:
        for (name, step), (time, value) in points.items():
            there = self._values.get(name, {}).get(step)
            if there is None or not (there == value or (math.isnan(there) and math.isnan(value))):
                yield name, step, time, value

    def _send_points(self, points: Points) -> None:
        from mlflow.entities import Metric

        assert self._run is not None
        for name in {name for name, _ in points} - set(self._values):
            known = name in self._run.data.metrics
            self._values[name] = latest_values(self.client.get_metric_history(self.run_id, name)) if known else {}
        missing = [Metric(name, value, time, step) for name, step, time, value in self._missing(points)]
        for start in range(0, len(missing), METRICS_PER_REQUEST):
            part = missing[start : start + METRICS_PER_REQUEST]
            self._send(self.client.log_batch, metrics=part)
            for metric in part:
                self._values[metric.key][metric.step] = metric.value
            self.points_sent += len(part)

    def _send_status(self, manifest: Manifest, points: Points) -> None:
        status, end = STATUS[manifest["status"]], None
        if status == "RUNNING" and not self.live:
            status, end = "KILLED", max((time for time, _ in points.values()), default=milliseconds(manifest["started"]))
        elif status != "RUNNING":
            end = milliseconds(manifest["finished"])
        if (status, end) == self._status:
            return
        if end is None:
            self.client.update_run(self.run_id, status)
        else:
            self.client.set_terminated(self.run_id, status, end)
        self._status = status, end

    def _send(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Call MLflow. What it refuses for good is told once and passed over, or nothing behind it would ever get there."""
        from mlflow.exceptions import MlflowException

        try:
            call(self.run_id, *arguments, **keywords)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"):
                raise
            if first_line(error) not in self._refusals:
                log.warning("MLflow refuses a part of the run: %s", first_line(error))
            self._refusals.add(first_line(error))


def make_store(path: Path) -> None:
    """Make a SQLite file for MLflow, in one step.

    That takes seconds. MLflow cannot use a file in which a process was killed meanwhile, nor one that two make together.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        SqlAlchemyStore(f"sqlite:///{staging}", str(_artifacts_beside(path))).engine.dispose()
        with contextlib.suppress(FileExistsError):  # another run was quicker
            os.link(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def _artifacts_beside(database: Path) -> Path:
    return database.parent / "mlartifacts"


def reason(error: BaseException) -> str:
    """What is at the bottom of an error: "Connection refused" instead of what four libraries say about it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{first_line(error):.300}"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
