"""A run folder in MLflow: compares the two and sends what MLflow lacks, as often as it takes.

The folder decides. So a server may be down, slow or restarted at any time: the next update, from the run itself or from
``awac sync``, sends what is missing. It first reads the stored points, because sending a point twice may store it twice:
MLflow's file store appends everything, and its database compares times, which differ after a resumption.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awac_pl.errors import first_line
from awac_pl.runs.folder import PREVIOUS
from awac_pl.runs.manifest import Manifest, read_manifest
from awac_pl.tracking.client import connect, find_experiment
from awac_pl.tracking.content import PointReader, Points, describe, milliseconds, parameters_of, points_of
from awac_pl.tracking.destination import Destination
from awac_pl.tracking.parent_run import NOTE_TAG, PARENT_TAG, Curve, find_parent, latest_values, leave_parent, summarise

if TYPE_CHECKING:  # slow to import
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

#: Files and folders of a run folder that MLflow gets as artifacts, small ones first.
ARTIFACTS = ("config.yaml", "manifest.json", "metrics.csv", "report.html", "figures", "videos", "checkpoints")
STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
KEY_TAG, NAME_TAG = "awac.run", "mlflow.runName"
METRICS_PER_REQUEST, PARAMETERS_PER_REQUEST = 1000, 100  # MLflow's limits
#: Of an MLflow run, with the time in ms when it ended.
Status = tuple[str, int | None]


class Mirror:
    """Makes an MLflow run equal to a run folder. For one thread.

    A request that fails raises; the next call continues from there.

    Args:
        folder: the run folder.
        destination: where in MLflow it is stored.
        live: whether the run's own process asks; if not, a run with status ``running`` was killed.
    """

    def __init__(self, folder: Path, destination: Destination, *, live: bool) -> None:
        self.folder = folder
        self.destination = destination
        self.live = live
        self.points_sent = 0
        self._run: Run | None = None  # as MLflow returned it at first
        self._reader, self._unsent = PointReader(folder), Points()
        self._tags: dict[str, str] = {}
        self._status: Status | None = None
        self._summarised: Status | None = None  # the status in the group's last summary
        self._values: dict[str, Curve] = {}  # stored values of the metrics that were read
        self._rejections: set[str] = set()

    @cached_property
    def client(self) -> MlflowClient:
        """Takes seconds the first time; a failure is tried again at the next use."""
        return connect(self.destination)

    @property
    def run_id(self) -> str:
        """Of the MLflow run; known once ``update`` has succeeded."""
        assert self.destination.run_id is not None
        return self.destination.run_id

    def update(self) -> None:
        """Send all that MLflow lacks except files. The first call finds or creates the run."""
        from mlflow.exceptions import MlflowException

        manifest = self._manifest()
        run = self._run = self._run or self._open(manifest)
        points = self._unsent = self._unsent | self._reader.read(manifest)
        try:
            self._send_tags(manifest)
            self._send_points(run, points)
            self._send_status(manifest, points)
            self._unsent = {}
            if self.destination.group and self._summarised != self._status:
                parent = find_parent(self.client, run.info.experiment_id, self.destination.group)
                former = self._tags.get(PARENT_TAG, parent)
                self._set_tags({PARENT_TAG: parent, "group": self.destination.group})
                summarise(self.client, parent)
                if former != parent:
                    leave_parent(self.client, run.info.experiment_id, former)
                self._summarised = self._status
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the server has lost the run: start again
                self._run = None
            raise

    def missing_rows(self) -> int:
        """How many rows of ``metrics.csv`` MLflow lacks; all, if it never answered."""
        return len({step for _, step, _, _ in self._missing(points_of(self.folder, self._manifest()))})

    def missing_files(self) -> list[Path]:
        """Artifacts that MLflow lacks in their present state."""
        tops = [self.folder / name for name in ARTIFACTS]
        paths = [path for top in tops for path in ([top] if top.is_file() else sorted(top.rglob("*")))]
        own = self.folder.resolve()  # a link could name any file of this machine
        files = [path for path in paths if path.is_file() and own in path.resolve().parents and path.name != PREVIOUS]
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
        """Find or create the run, and send what does not change."""
        run = self._existing_run() or self._new_run(manifest)
        self.destination.run_id = run.info.run_id
        self._forget_lost_files()
        self.destination.save(self.folder)
        self._tags, self._values = dict(run.data.tags), {}
        self._reader = PointReader(self.folder)  # all points again
        self._status, self._summarised = (run.info.status, run.info.end_time), None
        if KEY_TAG not in self._tags:  # `mlflow run` has created it, under another name
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
        """A new run, or one that was created but whose id did not arrive."""
        from mlflow.tracking.context.registry import resolve_tags

        experiment = self.destination.experiment_id or find_experiment(
            self.client, self.destination.experiment, self.destination.database
        )
        created = self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{self.destination.key}'", max_results=1)
        if created:
            return created[0]
        tags = {KEY_TAG: self.destination.key, "mlflow.source.name": "awac fit", "mlflow.source.type": "LOCAL"}
        commit = manifest["tags"].get("commit", "unknown").partition("+")[0]
        if commit != "unknown":
            tags["mlflow.source.git.commit"] = commit
        started, name = milliseconds(manifest["started"]), self.folder.absolute().name
        return self.client.create_run(experiment, started, resolve_tags(tags), name)

    def _forget_lost_files(self) -> None:
        folders = {name.rpartition("/")[0] or None for name in self.destination.files}
        stored = {entry.path for folder in folders for entry in self.client.list_artifacts(self.run_id, folder)}
        self.destination.files = {name: stamp for name, stamp in self.destination.files.items() if name in stored}

    def _send_parameters(self, run: Run) -> None:
        """The configuration. MLflow refuses to change a value, so those of ``mlflow run -P`` stay as the user wrote them."""
        from mlflow.entities import Param

        new = [Param(name, value) for name, value in parameters_of(self.folder).items() if name not in run.data.params]
        for start in range(0, len(new), PARAMETERS_PER_REQUEST):
            self._send(self.client.log_batch, params=new[start : start + PARAMETERS_PER_REQUEST])

    def _send_datasets(self, manifest: Manifest, run: Run) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        stored = {entry.dataset.name for entry in run.inputs.dataset_inputs} if run.inputs else set()
        tag = InputTag("mlflow.data.context", "offline data")
        new = [
            DatasetInput(
                Dataset(
                    name=dataset["id"],
                    digest=dataset["sha256"][:10],  # as long as MLflow recommends; the profile has all digits
                    source_type="local",
                    source=json.dumps({"uri": dataset.get("path", dataset["id"])}),
                    profile=json.dumps({name: value for name, value in dataset.items() if name not in ("id", "path")}),
                ),
                [tag],
            )
            for dataset in manifest["datasets"]
            if dataset["id"] not in stored
        ]
        if new:
            self._send(self.client.log_inputs, new)

    def _send_tags(self, manifest: Manifest) -> None:
        self._set_tags(manifest["tags"] | {"device": manifest["device"], "run_folder": str(self.folder.absolute())})
        description = describe(manifest, self.folder.absolute(), live=self.live)
        if description != self.destination.description:
            shown = self.client.get_run(self.run_id).data.tags.get(NOTE_TAG, "")
            if shown in ("", self.destination.description):  # else a user wrote it
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
        """(metric, step, time, value) of the points whose value is not the stored one."""
        for (name, step), (time, value) in points.items():
            stored = self._values.get(name, {}).get(step)
            if stored is None or not (stored == value or (math.isnan(stored) and math.isnan(value))):
                yield name, step, time, value

    def _send_points(self, run: Run, points: Points) -> None:
        from mlflow.entities import Metric

        for name in {name for name, _ in points} - set(self._values):
            known = name in run.data.metrics
            self._values[name] = latest_values(self.client.get_metric_history(self.run_id, name)) if known else {}
        missing = [Metric(name, value, time, step) for name, step, time, value in self._missing(points)]
        for start in range(0, len(missing), METRICS_PER_REQUEST):
            part = missing[start : start + METRICS_PER_REQUEST]
            accepted = self._send(self.client.log_batch, metrics=part)
            for metric in part:  # what was refused is not sent again
                self._values[metric.key][metric.step] = metric.value
            self.points_sent += len(part) if accepted else 0

    def _send_status(self, manifest: Manifest, points: Points) -> None:
        status, end = STATUS[manifest["status"]], None
        if status != "RUNNING":
            end = milliseconds(manifest["finished"])
        elif not self.live:
            sent = self._status[1] if self._status else None  # with the points that were new before
            times = [time for time, _ in points.values()] or [sent or milliseconds(manifest["started"])]
            status, end = "KILLED", max(times)
        if (status, end) == self._status:
            return
        if end is None:
            self.client.update_run(self.run_id, status)
        else:
            self.client.set_terminated(self.run_id, status, end)
        self._status = status, end

    def _send(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> bool:
        """Call MLflow; whether it accepts. Permanent rejections are logged once, and do not block later requests."""
        from mlflow.exceptions import MlflowException

        try:
            call(self.run_id, *arguments, **keywords)
            return True
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"):
                raise
            if first_line(error) not in self._rejections:
                log.warning("MLflow refuses a part of the run: %s", first_line(error))
            self._rejections.add(first_line(error))
            return False


def reason(error: BaseException) -> str:
    """The first line of an error's root cause: "Connection refused" instead of the messages of four libraries."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{first_line(error):.300}"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
