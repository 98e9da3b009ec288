"""The run folder: config, manifest, metrics, and what came of the run. ``tracking/logger.py`` uploads it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import lightning
import psutil
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from awac_pl.algorithms.base import Learner
from awac_pl.datasets.cloned import cloning_result
from awac_pl.datasets.minari_io import data_file
from awac_pl.errors import first_line
from awac_pl.files import write_text
from awac_pl.parallel.interruption import Interrupted
from awac_pl.policies.products import processor
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.report.page import write_report
from awac_pl.report.statistics import wilson_interval
from awac_pl.runs.metrics import read_metrics, write_metrics, x_axis
from awac_pl.runs.summary import score_run
from awac_pl.tracking.logger import RunFolderLogger

log = logging.getLogger(__name__)

_PACKAGES = (
    "awac_pl", "torch", "lightning", "torchrl", "tensordict", "mujoco", "gymnasium", "gymnasium-robotics", "minari",
    "mlflow", "numpy",
)  # fmt: skip


class SaveRunConfig(SaveConfigCallback):
    """Writes the resolved configuration into the run folder, and to loggers as parameters."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Only a fit has a run folder."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """See the class."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(self.parser.dump(self.config, skip_none=False))
        parameters = {key: value for key, value in vars(self.config.as_flat()).items() if value is not None}
        for logger in trainer.loggers:
            _tolerate(logger.log_hyperparams, parameters)


class RunWriter(Callback):
    """Writes ``manifest.json`` and ``metrics.csv`` into ``trainer.default_root_dir``; ``RunFolderLogger`` uploads them.

    One row per epoch, by rank 0. The x axis of loggers is ``env_steps``; pretraining lies left of zero, at minus the updates
    that are left of it. A logger that fails costs a warning, not the run.

    Args:
        tags: what the run is, for the manifest and as MLflow tags.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.tags = dict(tags)
        self.rows: list[dict[str, float]] = []
        self._evaluation: dict[str, float] = {}
        self._manifest: dict[str, Any] = {}
        self._started = 0.0
        self._usage = _Usage()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the manifest, and take over the rows of the run that is resumed, up to its checkpoint."""
        if not trainer.is_global_zero:
            return
        self._started = time.time()
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        path, updates = Path(trainer.default_root_dir) / "metrics.csv", int(pl_module.updates)  # type: ignore[arg-type]
        if updates and path.exists():
            self.rows = [row for row in read_metrics(path) if row["updates"] <= updates]
            self._started -= self.rows[-1]["seconds"] if self.rows else 0.0
            write_metrics(path, self.rows)  # what is done again is no longer true
        self._manifest = {
            "format": 1,
            "status": "running",
            "tags": self.tags,
            "command": sys.argv,
            "started": _iso(time.time()),
            "seconds_count_from": _iso(self._started),
            "offline_updates": data.offline_epochs * data.updates_per_epoch,
            "device": str(pl_module.device),
            "processor": processor(),
            "compile": pl_module.compile_mode,
            "matmul_engine": pl_module.actor.engine,  # type: ignore[union-attr]
            "versions": {name: _version(name) for name in _PACKAGES} | {"python": sys.version.split()[0]},
            "datasets": [facts | {"path": str(data_file(facts["id"]))} for facts in data.datasets],
            "cloning": cloning_result(data.dataset_ids),
        }
        self._write_manifest(trainer)
        self._usage.measure(pl_module.device)  # what was before belongs to no epoch
        for logger in trainer.loggers:
            if isinstance(logger, RunFolderLogger):
                logger.start()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hold the evaluation for the row of this epoch."""
        self._evaluation = _with_prefix(trainer, "eval/")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the row of this epoch."""
        if not trainer.is_global_zero:
            return
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        updates, env_steps = int(pl_module.updates), int(pl_module.env_steps)  # type: ignore[arg-type]
        online = data.is_online(trainer.current_epoch)
        row: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "updates": updates,
            "env_steps": env_steps,
            "seconds": round(time.time() - self._started, 3),
        }
        row |= {name: _rounded(value) for name, value in cast(Learner, pl_module).epoch_metrics.items()}
        row |= _with_prefix(trainer, "train/") | (_with_prefix(trainer, "rollout/") if online else {}) | self._evaluation
        self._evaluation = {}
        self.rows.append(row)
        write_metrics(Path(trainer.default_root_dir) / "metrics.csv", self.rows)
        step = x_axis(row, self._manifest["offline_updates"])
        for logger in trainer.loggers:
            if isinstance(logger, RunFolderLogger):  # reads the row from the folder
                logger.log_metrics(self._usage.measure(pl_module.device), step)
            else:
                _tolerate(logger.log_metrics, row, step=step)
        if "eval/success_rate" in row:
            _report_evaluation(row)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Sum up, and hand the folder's files to MLflow."""
        if not trainer.is_global_zero:
            return
        interrupted = trainer.interrupted
        self._finish(trainer, "interrupted" if interrupted else "finished")
        if not interrupted:
            print(self.summary(trainer), flush=True)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Say in the manifest how the run ended."""
        if self._manifest.get("status") == "running":
            stopped = isinstance(exception, Interrupted | KeyboardInterrupt | SIGTERMException)
            self._finish(trainer, "interrupted" if stopped else "failed", "" if stopped else repr(exception))

    def summary(self, trainer: lightning.Trainer) -> str:
        """The success rates of each stage, and where to find the run."""
        scores = score_run(self.rows)
        cloning = cloning_result(trainer.datamodule.dataset_ids) or {}  # type: ignore[attr-defined]
        stages = [("after cloning", cloning.get("success_deterministic"), cloning.get("evaluation_episodes", 0))]
        evaluated = [row for row in self.rows if "eval/success_rate" in row]
        before = [row for row in evaluated if row["env_steps"] == 0]
        for name, rows in (("after pretraining", before), ("after fine-tuning", evaluated)):
            if rows and (name != "after fine-tuning" or rows[-1]["env_steps"] > 0):
                stages.append((name, rows[-1]["eval/success_rate"], rows[-1]["eval/episodes"]))
        lines = ["", "success rate (any step of the episode, deterministic policy)"]
        for name, rate, episodes in stages:
            if rate is None or not episodes:
                continue
            if math.isnan(rate):
                lines.append(f"  {name:<18} unavailable: the environment reports no success")
                continue
            low, high = wilson_interval(rate * episodes, episodes)
            lines.append(f"  {name:<18} {rate:.2f}   95 % interval {low:.2f} to {high:.2f}, {episodes:.0f} episodes")
        if math.isfinite(scores["regret"]):
            lines.append(f"  online training    regret {scores['regret']:.2f} (mean of 1 - success, with exploration noise)")
        lines += ["", f"run folder  {trainer.default_root_dir}"]
        lines += [f"MLflow      {logger.how_to_look}" for logger in trainer.loggers if isinstance(logger, RunFolderLogger)]
        return "\n".join(lines)

    def _finish(self, trainer: lightning.Trainer, status: str, error: str = "") -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._manifest |= {
            "status": status,
            "finished": _iso(time.time()),
            "seconds": round(time.time() - self._started, 1),
            "trainer_peak_memory_mib": round(peak),  # of this process; the workers have their own
            "scores": {name: value for name, value in score_run(self.rows).items() if math.isfinite(value)},
        }
        if error:
            self._manifest["error"] = error
        self._write_manifest(trainer)
        folder = Path(trainer.default_root_dir)
        try:
            write_report([folder], folder / "report.html", figures=folder / "figures")
        except Exception as error:
            log.warning("no report, the run goes on: %s", first_line(error))
        # Behind this, what lies in the folder goes to MLflow.

    def _write_manifest(self, trainer: lightning.Trainer) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "manifest.json", json.dumps(self._manifest, indent=2) + "\n")


class _Usage:
    """What this process and those that it has started take of the machine."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = (time.monotonic(), 0.0)

    def measure(self, device: torch.device) -> dict[str, float]:
        """Processor time since the last call (100 is one core), memory now, the device's memory at most, in MiB."""
        cpu = memory = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it may be gone by now
                times = process.cpu_times()
                cpu, memory = cpu + times.user + times.system, memory + process.memory_info().rss
        then, cpu_then = self._before
        now = time.monotonic()
        self._before = now, cpu
        usage = {
            "system/cpu_percent": round(100 * max(0.0, cpu - cpu_then) / max(now - then, 1e-9), 1),
            "system/memory_mib": round(memory / 2**20),
        }
        if device.type == "cuda":
            usage["system/gpu_memory_mib"] = round(torch.cuda.max_memory_reserved(device) / 2**20)
        return usage


def _report_evaluation(row: Mapping[str, float]) -> None:
    rate = row["eval/success_rate"]
    if math.isnan(rate):
        result = f"return {row['eval/episode_return']:.1f} (success unavailable)"
    else:
        result = f"success {rate:.2f}, return {row['eval/episode_return']:.1f}"
    log.info(
        "epoch %d, %d updates, %d env steps: %s over %d episodes",
        row["epoch"] + 1, row["updates"], row["env_steps"], result, row["eval/episodes"],
    )  # fmt: skip


def _with_prefix(trainer: lightning.Trainer, prefix: str) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    return {name: _rounded(value) for name, value in metrics.items()}


def _rounded(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else value


def _tolerate(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
    """Call a logger; the run folder holds everything, so one that fails costs a warning."""
    try:
        call(*arguments, **keywords)
    except Exception as error:
        lightning.pytorch.utilities.rank_zero_warn(f"a logger failed, the run goes on: {first_line(error)}")


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
