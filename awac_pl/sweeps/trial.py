"""A trial of Ray Tune is an ordinary run: ``awac fit`` in a process of its own, whose metrics the trial reports."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ray
from ray import tune

from awac_pl.errors import AwacError, first_line, without_credentials
from awac_pl.files import write_text
from awac_pl.runs.folder import RunFolder, last_checkpoint
from awac_pl.runs.manifest import read_manifest
from awac_pl.runs.reading import read_rows
from awac_pl.sweeps.plan import FILE, Plan, SweepRun, read_plan
from awac_pl.sweeps.storage import Store, pull, push

#: The sweep's configuration, beside ``sweep.json``.
CONFIG = "config.yaml"
#: Seconds between two looks at a run, and those in which one that has to end must do so.
LOOK, PATIENCE = 0.2, 120.0


class RunTrial(tune.Trainable):
    """Starts, resumes or reads one run. A result is a row of ``metrics.csv``, or says that there is no new one."""

    def setup(self, config: dict[str, Any], plan: Plan, text: str, store: Store | None, heartbeat: float) -> None:
        """Start the run, or go on where it was left: by this trial, by one whose node died, by an earlier sweep.

        Args:
            config: the number of the run in the grid, or the values that the search chose.
            plan: of the sweep.
            text: its configuration.
            store: keeps the run folder where this machine does not see the sweep's.
            heartbeat: seconds after which a result is due, with news or without.
        """
        self.process: subprocess.Popen | None = None
        self.plan, self.heartbeat = plan, heartbeat
        self.run = run_of(plan, config, str(self.trial_name))
        self.store = None if store is None or sees(plan) else store
        base = Path(plan.folder) if self.store is None else _scratch(plan)
        self.folder, self.log = base / self.run.name, base / f"{self.run.name}.log"
        self._sent: dict[str, Any] = {}
        self._reported: set[tuple[float, bool]] = set()
        self._last: dict[str, Any] = dict.fromkeys(("env_steps", "updates", "steps", "seconds", "pace"), 0.0)
        self._last |= {plan.metric: math.nan, "node": ray.get_runtime_context().get_node_id()}
        self._wait_until_free()
        if self.store is not None:
            pull(self.store, self.run.name, self.folder)
        self._logged = self.log.stat().st_size if self.log.is_file() else 0  # by attempts before this one
        if self._status() == "finished" or plan.runs.get(self.run.name, {}).get("outcome") == "stopped early":
            return
        if not (base / CONFIG).is_file():
            write_text(base / CONFIG, text)
        self.process = self._start(self._command(base))

    def step(self) -> dict[str, Any]:
        """The next row, or the last one again after a heartbeat, or the end."""
        began = time.monotonic()
        while True:
            ended = self.process is None or self.process.poll() is not None
            for row in self._rows():
                self._reported.add(_identity(row))
                return self._result(row)
            if ended:
                return self._end()
            if time.monotonic() - began > self.heartbeat:
                return dict(self._last)
            time.sleep(LOOK)

    def cleanup(self) -> None:
        """End the run, with a checkpoint."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            self.process.kill()
            self.process.wait()
        self._push()
        if self.store is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, base: Path) -> list[str]:
        if last_checkpoint(self.folder).is_file() and (self.folder / "config.yaml").is_file():
            return ["fit", f"--resume={self.folder}"]
        command = ["fit", f"--config={base / CONFIG}", *self.run.arguments, f"--run_dir={self.folder}"]
        away = self.store is not None and "://" not in str(self.plan.place["mlflow_uri"]).replace("sqlite:", "")
        return [*command, *(["--mlflow_uri=none"] if away else [f"--group={self.plan.name}"])]

    def _start(self, command: list[str]) -> subprocess.Popen:
        place = self.plan.place
        environment = {**place["environment"], **os.environ, "OMP_NUM_THREADS": place["threads"]}
        environment.pop("MLFLOW_RUN_ID", None)  # of the sweep, under ``mlflow run``
        if without_credentials(uri := place["mlflow_uri"]) != uri:  # the configuration has none
            environment["MLFLOW_TRACKING_URI"] = uri
        where = place["cwd"] if os.path.isdir(place["cwd"]) else self.folder.parent
        paths = [*place["paths"], *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
        log: IO[bytes]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "awac_pl.sweeps.child", *command], cwd=where, env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _wait_until_free(self) -> None:
        """A run whose node died may still be saving its last checkpoint."""
        deadline = time.monotonic() + PATIENCE
        while RunFolder(self.folder).busy and time.monotonic() < deadline:
            time.sleep(LOOK)

    def _rows(self) -> list[dict[str, float]]:
        with contextlib.suppress(AwacError, OSError):  # a row that is being written
            return [row for row in read_rows(self.folder / "metrics.csv") if _identity(row) not in self._reported]
        return []

    def _result(self, row: Mapping[str, float]) -> dict[str, Any]:
        """A row for the scheduler. Its ``env_steps`` are those of the last evaluation: only there it is judged."""
        done = row["updates"] - self._last["updates"]
        if done > 0:
            self._last["pace"] = (row.get("seconds", 0.0) - self._last["seconds"]) / done
        self._last |= {"updates": row["updates"], "steps": row["env_steps"], "seconds": row.get("seconds", 0.0)}
        if self.plan.metric in row:
            self._last |= {self.plan.metric: row[self.plan.metric], "env_steps": row["env_steps"]}
            self._push()
        return dict(self._last)

    def _end(self) -> dict[str, Any]:
        self._push()
        status = "stopped early" if self.process is None and self._status() != "finished" else self._status()
        error = ""
        if self.process is not None and (self.process.returncode or status != "finished"):
            status, error = "failed", self._reason()
        return dict(self._last) | {"done": True, "outcome": status, "error": error}

    def _status(self) -> str:
        with contextlib.suppress(AwacError):
            return str(read_manifest(self.folder).get("status", ""))
        return ""

    def _reason(self) -> str:
        """What the run said last: its line for the user, or the end of its traceback."""
        said = self.log.read_bytes()[self._logged :] if self.log.is_file() else b""
        lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        told = [line.removeprefix("awac: error: ") for line in lines if line.startswith("awac: error: ")]
        code = self.process.returncode if self.process is not None else 0
        return (told or lines or [""])[-1][:300] or f"exit status {code}"

    def _push(self) -> None:
        if self.store is not None and self.folder.is_dir():
            push(self.store, self.run.name, self.folder, self._sent)


def run_of(plan: Plan, config: Mapping[str, Any], name: str) -> SweepRun:
    """The run of a trial: by its number in the grid, or by its own name and the values that the search chose."""
    if "run" in config:
        return plan.grid_runs()[config["run"]]
    return plan.trial(int(name.rpartition("trial")[2].partition("-")[0]), config)


def sees(plan: Plan) -> bool:
    """Whether this machine sees the sweep's folder: it is the one that started the sweep, or they share a file system."""
    if plan.storage is not None or not (Path(plan.folder) / FILE).is_file():
        return False
    try:
        return read_plan(Path(plan.folder)).key == plan.key
    except AwacError:
        return False


def reason(error: BaseException) -> str:
    """One line of an error of Ray's, which has those of a remote process behind it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else first_line(error)


def _identity(row: Mapping[str, float]) -> tuple[float, bool]:
    """A row is written after its epoch, and once more where its evaluation comes later."""
    return row["updates"], "eval/episodes" in row


def _scratch(plan: Plan) -> Path:
    folder = Path(tempfile.gettempdir()) / f"awac-sweep-{plan.key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
