"""Writes the run folder: configuration, manifest, metrics and report. ``tracking/logger.py`` uploads it."""

from __future__ import annotations

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
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from awac_pl.algorithms.base import Learner
from awac_pl.callbacks.messages import evaluation_line, introduction, summary
from awac_pl.callbacks.stopping import updates_per_epoch
from awac_pl.callbacks.usage import Usage
from awac_pl.datasets.cloned import cloning_result
from awac_pl.datasets.minari_io import data_file
from awac_pl.errors import AwacError, WriteError, first_line, without_credentials
from awac_pl.files import write_text
from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted
from awac_pl.policies.products import processor
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.report.page import write_report
from awac_pl.runs.manifest import Manifest, read_manifest
from awac_pl.runs.metrics import append_metrics, write_metrics, x_axis
from awac_pl.runs.reading import read_rows
from awac_pl.runs.summary import score_run
from awac_pl.tracking.logger import RunFolderLogger

log = logging.getLogger(__name__)

_PACKAGES = (
    "awac_pl", "torch", "lightning", "torchrl", "tensordict", "mujoco", "gymnasium", "gymnasium-robotics", "minari",
    "mlflow", "numpy",
)  # fmt: skip


class SaveRunConfig(SaveConfigCallback):
    """Writes the resolved configuration to the run folder, and as parameters to loggers."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Nothing yet: ``RunWriter`` saves the configuration when the checkpoint is known to fit it."""

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """See the class."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        config.ckpt_path = config.resume = None  # how this start was asked for is not part of the run
        write_text(folder / "config.yaml", without_credentials(self.parser.dump(config, skip_none=False)))
        parameters = {
            key: without_credentials(value) if isinstance(value, str) else value
            for key, value in vars(config.as_flat()).items()
            if value is not None
        }
        for logger in trainer.loggers:
            _tolerate(logger.log_hyperparams, parameters)


class RunWriter(Callback):
    """Writes ``manifest.json`` and ``metrics.csv`` into ``trainer.default_root_dir``; ``RunFolderLogger`` uploads them.

    Rank 0 writes one row per epoch. The x axis of loggers is ``env_steps``. Pretraining has negative steps: minus the number
    of pretraining updates that remain. A logger that fails gives a warning; the run continues.

    Args:
        tags: for the manifest and MLflow, such as task and seed.
    """

    def __init__(self, tags: Mapping[str, str] | None = None) -> None:
        self.tags = dict(tags or {})
        self.rows: list[dict[str, float]] = []
        self._evaluation: dict[str, float] = {}
        self._manifest: dict[str, Any] = {}
        self._started = 0.0
        self._usage = Usage()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write configuration and manifest. A resumed run keeps its rows up to the checkpoint.

        The checkpoint is restored by now: a command that does not fit the run was refused, and has changed nothing.
        """
        if not trainer.is_global_zero:
            return
        self._started = time.time()
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        path, updates = Path(trainer.default_root_dir) / "metrics.csv", int(pl_module.updates)  # type: ignore[arg-type]
        if resumed := bool(updates and path.exists()):
            if not path.stat().st_size:
                raise AwacError(f"{path} is empty, after {updates:,} updates; restore it, or remove it to go on without it")
            self.rows = [row for row in read_rows(path) if row["updates"] <= updates]
            self._started -= self.rows[-1].get("seconds", 0.0) if self.rows else 0.0
        commands = [*self._commands_before(trainer, updates), sys.argv]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveRunConfig):
                callback.save_config(trainer, pl_module, "fit")
        if resumed:
            write_metrics(path, self.rows)  # without the rows that will be repeated
        self._manifest = {
            "format": 1,
            "status": "running",
            "tags": self.tags,
            "command": sys.argv,
            "commands": commands,
            "started": _iso(time.time()),
            "seconds_count_from": _iso(self._started),
            "offline_updates": data.offline_epochs * updates_per_epoch(trainer, data),
            "device": str(pl_module.device),
            "processor": processor(),
            "compile": pl_module.compile_mode,
            "matmul_engine": pl_module.actor.engine,  # type: ignore[union-attr]
            "versions": {name: _version(name) for name in _PACKAGES} | {"python": sys.version.split()[0]},
            "datasets": [dataset | {"path": str(data_file(dataset["id"]))} for dataset in data.datasets],
            "cloning": cloning_result(data.dataset_ids),
        }
        self._write_manifest(trainer)
        self._usage.measure(pl_module.device)  # the first epoch is measured from here
        log.info("%s", introduction(trainer, data, cast(Manifest, self._manifest)))
        for logger in _uploading(trainer):
            logger.start()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the evaluation for the row of this epoch."""
        self._evaluation = _with_prefix(trainer, "eval/")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the row of this epoch."""
        if not trainer.is_global_zero:
            return
        updates, env_steps = int(pl_module.updates), int(pl_module.env_steps)  # type: ignore[arg-type]
        row: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "updates": updates,
            "env_steps": env_steps,
            "seconds": round(time.time() - self._started, 3),
        }
        row |= {name: _rounded(value) for name, value in cast(Learner, pl_module).epoch_metrics.items()}
        row |= _with_prefix(trainer, "train/") | self._evaluation
        self._evaluation = {}
        self.rows.append(row)
        self._write_row(trainer, row)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Evaluate a run that has ended early, complete the folder and print a summary."""
        if not self._manifest:  # there was nothing to train
            self.on_train_start(trainer, pl_module)
        if trainer.strategy.broadcast(self._lacks_last_evaluation(trainer)):
            module = cast(Learner, pl_module)
            module.on_validation_epoch_start()
            for index, seeds in enumerate(trainer.datamodule.test_dataloader()):  # type: ignore[attr-defined]
                module.validation_step(seeds, index)
            evaluation = module.evaluation()
            if trainer.is_global_zero:
                self.rows[-1] |= {name: _rounded(value) for name, value in evaluation.items()}
                self._write_row(trainer, self.rows[-1], again=True)
        if trainer.is_global_zero:
            self._finish(trainer, "interrupted" if trainer.interrupted else "finished")
            if not trainer.interrupted:
                print(self.summary(trainer), flush=True)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Write to the manifest how the run ended."""
        status, unwritten = self._manifest.get("status"), isinstance(exception, WriteError)
        if status == "running" or (status and unwritten):  # the report of a finished run, too
            stopped = isinstance(exception, Interrupted | KeyboardInterrupt | SIGTERMException)
            try:
                self._finish(trainer, "interrupted" if stopped else "failed", "" if stopped else repr(exception))
            except WriteError as error:
                if not unwritten:
                    log.error("%s", error)

    def summary(self, trainer: lightning.Trainer) -> str:
        """The success rate after each stage, and where to find the run."""
        lines = ["", *summary(self.rows, self._manifest["cloning"] or {}, self._manifest["offline_updates"])]
        lines += ["", f"run folder  {trainer.default_root_dir}"]
        lines += [f"MLflow      {logger.how_to_look}" for logger in _uploading(trainer)]
        return "\n".join(lines)

    def _lacks_last_evaluation(self, trainer: lightning.Trainer) -> bool:
        """Whether the last epoch was evaluated on fewer episodes than the end of a run is."""
        if not self.rows or not trainer.enable_validation:
            return False
        plan, episodes = trainer.datamodule.evaluations, self.rows[-1].get("eval/episodes", 0)  # type: ignore[attr-defined]
        return episodes < plan.milestone_episodes and episodes <= plan.episodes

    def _write_row(self, trainer: lightning.Trainer, row: Mapping[str, float], *, again: bool = False) -> None:
        """Write the last row, a second time with more measures if ``again``, and send it to the loggers."""
        (write_metrics if again else append_metrics)(Path(trainer.default_root_dir) / "metrics.csv", self.rows)
        step = x_axis(row, self._manifest["offline_updates"])
        for logger in trainer.loggers:
            if isinstance(logger, RunFolderLogger):  # reads the row from the folder
                logger.log_metrics(self._usage.measure(trainer.lightning_module.device), step)
            else:
                _tolerate(logger.log_metrics, row, step=step)
        if "eval/success_rate" in row:
            log.info("%s", evaluation_line(row))

    def _finish(self, trainer: lightning.Trainer, status: str, error: str = "") -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._manifest |= {
            "finished": _iso(time.time()),
            "seconds": round(time.time() - self._started, 1),
            "trainer_peak_memory_mib": round(peak),  # of this process, without workers
            "scores": {name: value for name, value in score_run(self.rows).items() if math.isfinite(value)},
        }
        if error:
            self._manifest["error"] = error
        with interruption.deferred():  # what is said here and what is written are one
            self._manifest["status"] = status
            self._write_manifest(trainer)
        if status == "finished":
            interruption.check()
        folder = Path(trainer.default_root_dir)
        try:
            write_report([folder], folder / "report.html", figures=folder / "figures")
        except WriteError:
            raise
        except Exception as error:
            log.warning("no report, the run goes on: %s", first_line(error))

    def _commands_before(self, trainer: lightning.Trainer, updates: int) -> list[list[str]]:
        """The commands of a run that is resumed, from its manifest."""
        folder = Path(trainer.default_root_dir)
        if not updates or not (folder / "manifest.json").exists():
            return []
        before = read_manifest(folder)
        return before.get("commands") or [before["command"]]

    def _write_manifest(self, trainer: lightning.Trainer) -> None:
        path, text = Path(trainer.default_root_dir) / "manifest.json", json.dumps(self._manifest, indent=2) + "\n"
        write_text(path, without_credentials(text), full_disk=True)


def _uploading(trainer: lightning.Trainer) -> list[RunFolderLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunFolderLogger)]


def _with_prefix(trainer: lightning.Trainer, prefix: str) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    return {name: _rounded(value) for name, value in metrics.items()}


def _rounded(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else value


def _tolerate(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
    """Call a logger. If it fails, warn: the run folder has everything."""
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
