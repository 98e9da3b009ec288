"""``awac fit``, ``validate`` and ``test``: LightningCLI with this package's classes. Slow to import."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.checkpoints import check_module, read_checkpoint
from awac_pl.callbacks.checkpointing import DurableCheckpointIO
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.progress import AwacProgressBar
from awac_pl.callbacks.run_writer import RunWriter, SaveRunConfig
from awac_pl.callbacks.stopping import Stopping
from awac_pl.callbacks.video_recorder import VideoRecorder
from awac_pl.commands.parser import AwacParser, check_ranges
from awac_pl.commands.presets import check_files, conf, expand
from awac_pl.commands.resuming import check_configuration
from awac_pl.errors import AwacError
from awac_pl.parallel.interruption import Interrupted
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.runs.folder import RunFolder, choose_run_folder, last_checkpoint, run_of
from awac_pl.runs.manifest import git_commit
from awac_pl.tracking.destination import find_destination
from awac_pl.tracking.logger import RunFolderLogger

#: Environment variable in which rank 0 passes its run folder to the processes that it starts.
RUN_DIR_VARIABLE = "AWAC_RUN_DIR"
log = logging.getLogger("awac_pl")


class AwacCLI(LightningCLI):
    """Adds the run folder, the callbacks and MLflow to the model, the data and the trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.run_folder: RunFolder | None = None
        try:
            super().__init__(*args, **kwargs)  # parses, builds and runs
        except AwacError:
            raise
        except Exception as error:
            _name_the_checkpoint(error)
            raise
        except Interrupted:
            if self.run_folder is not None and last_checkpoint(self.run_folder.path).exists():
                print(f"awac: go on with: awac fit --resume {self.run_folder.path}", file=sys.stderr)
            raise
        finally:
            if self.run_folder is not None:
                self.run_folder.release()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Without ``predict``, which this package has not, and whose parser takes a third of a second to build."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own options, the callbacks, and the links between sections."""
        preset_help = (
            "a preset of conf/preset, loaded after conf/base.yaml and --task; beside --config it only names the run"
        )
        parser.add_argument("--preset", type=str, default="custom", help=preset_help)
        folder_help = "run folder; by default the first free one of runs/TASK-PRESET-seedN"
        parser.add_argument("--run_dir", type=str | None, default=None, help=folder_help)
        resume_help = (
            "run folder to go on in, with its own configuration; settings named here are changed. 'auto' goes on with this "
            "command's run if it has a checkpoint, and starts it otherwise (for schedulers that start a job again)"
        )
        parser.add_argument("--resume", type=str | None, default=None, help=resume_help)
        uri_help = "MLflow tracking URI; $MLFLOW_TRACKING_URI by default, else sqlite:///mlflow.db; 'none' for no MLflow"
        parser.add_argument("--mlflow_uri", type=str | None, default=None, help=uri_help)
        parser.add_argument("--mlflow_experiment", type=str, default="awac", help="MLflow experiment")
        group_help = (
            "name for runs that differ only in their seed: MLflow shows them below one parent run of that name, which has "
            "their mean and standard deviation (for seed in 0 1 2; do awac fit ... --seed_everything=$seed "
            "--group=pen-quick; done)"
        )
        parser.add_argument("--group", type=str | None, default=None, help=group_help)
        parser.add_lightning_class_args(EnvironmentInteraction, "interaction")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(VideoRecorder, "video")
        parser.link_arguments("data.observation_dim", "model.observation_dim", apply_on="instantiate")
        parser.link_arguments("data.action_dim", "model.action_dim", apply_on="instantiate")
        parser.link_arguments("data.return_range", "model.return_range", apply_on="instantiate")
        parser.link_arguments("model.discount", "data.discount")
        parser.link_arguments("model.normalize_observations", "data.normalize_observations")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("trainer.check_val_every_n_epoch", "checkpoint.every_n_epochs")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and compare all values with their ranges before anything starts."""
        super().parse_arguments(parser, args)
        check_ranges(self.config.as_dict()[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Evaluate with the checkpoint's own arguments; a resumed fit uses its configuration."""
        subcommand = self.config.subcommand
        if subcommand != "fit" and (checkpoint := self.config[subcommand].ckpt_path) is not None:
            check_module(Path(checkpoint), read_checkpoint(Path(checkpoint)))
            super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Choose the run folder before anything heavy starts."""
        config = self.config[self.subcommand]
        config.weights_only = True  # no checkpoint may run code
        if config.ckpt_path not in (None, "last"):
            read_checkpoint(Path(config.ckpt_path), to_resume=self.subcommand == "fit")
        if self.subcommand != "fit":
            config.trainer.logger = False
            return
        if ModelCheckpoint(**config.checkpoint.as_dict()).state_key == _last_checkpoint(config).state_key:
            base = conf() / "base.yaml"
            raise AwacError(
                f"checkpoint.monitor is not set, as base.yaml does: put --config {base} before yours, or use --task"
            )
        every = config.trainer.check_val_every_n_epoch or 1
        for name in ("data.offline_epochs", "trainer.max_epochs"):
            epochs = config[name]
            if epochs and epochs > 0 and epochs % every:
                log.warning("%s %d is no multiple of trainer.check_val_every_n_epoch %d: no evaluation and no checkpoint "
                            "at its end", name, epochs, every)  # fmt: skip
        config.run_dir = str(self._take_run_folder(config))
        config.trainer.default_root_dir = config.run_dir
        config.checkpoint.dirpath = str(Path(config.run_dir) / "checkpoints")
        last = last_checkpoint(Path(config.run_dir))
        if config.ckpt_path == "last":
            if not last.exists():
                raise AwacError(f"there is nothing to resume: no {last}; pass --run_dir or start without --ckpt_path")
            config.ckpt_path = str(last)
        elif config.resume == "auto" and config.ckpt_path is None and last.exists():
            config.ckpt_path = str(last)
        if config.ckpt_path is not None and run_of(config.ckpt_path) == Path(config.run_dir).resolve():
            log.info("going on in %s", config.run_dir)
            check_configuration(Path(config.run_dir), config.as_dict(), meant=config.resume not in (None, "auto"))
        if config.ckpt_path is not None:
            read_checkpoint(Path(config.ckpt_path), to_resume=True)

    def _take_run_folder(self, config: Any) -> Path:
        """Choose and lock the run folder. Of several processes rank 0 does; the others get its path from the environment."""
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
            return Path(config.run_dir or os.environ.get(RUN_DIR_VARIABLE) or ".")
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', config.data.task)}-{config.preset}-seed{config.seed_everything}"
        self.run_folder = choose_run_folder(
            Path(config.run_dir) if config.run_dir else run_of(config.ckpt_path),
            Path("runs") / name,
            resume=config.ckpt_path is not None or config.resume is not None,
        )
        self.run_folder.take()
        os.environ[RUN_DIR_VARIABLE] = str(self.run_folder.path)
        return self.run_folder.path

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Add the run's files, the progress bar and MLflow."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            tags = {"task": config.data.task, "preset": config.preset, "seed": str(config.seed_everything)}
            self.config_init[self.subcommand].trainer.callbacks = [
                Stopping(),  # first: it saves what the others clear on an exception
                *(self.config_init[self.subcommand].trainer.callbacks or []),
                *([] if config.trainer.enable_progress_bar is False else [AwacProgressBar()]),
                RunWriter(tags | {"commit": git_commit()}),
            ]
            if config.trainer.logger in (None, True):
                kwargs["logger"] = _run_logger(config)
        kwargs["plugins"] = [DurableCheckpointIO(), *(self.config_init[self.subcommand].trainer.plugins or [])]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> lightning.Trainer:
        """Add ``last.ckpt`` after ``best.ckpt``, whose score it holds."""
        if self.subcommand == "fit":
            callbacks = [*callbacks, _last_checkpoint(self.config[self.subcommand])]
        return super()._instantiate_trainer(config, callbacks)


def _last_checkpoint(config: Any) -> ModelCheckpoint:
    """Writes ``last.ckpt``, from which a stopped run resumes; Lightning keeps it apart from ``best.ckpt`` by its monitor."""
    return ModelCheckpoint(
        dirpath=config.checkpoint.dirpath,
        filename="last",
        every_n_epochs=config.checkpoint.every_n_epochs,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _name_the_checkpoint(error: Exception) -> None:
    """Raise one line instead of an error that came up while Lightning restored a checkpoint."""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.endswith("checkpoint_connector.py") and frame.name.startswith(("restore", "resume")):
            reason = " ".join(str(error).split())  # torch's has a line for each layer
            raise AwacError(f"the checkpoint does not fit this run ({reason[:300]})") from error


def _end_with(parent: int) -> None:
    """End this process after its parent has ended: no other signal reaches a rank that waits for the others."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_logger(config: Any) -> RunFolderLogger | bool:
    """Uploads the run folder to MLflow: to the run that ``mlflow run`` opened, a server, or a local SQLite file."""
    if (config.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")) == "none":
        return False
    folder = Path(config.run_dir)
    return RunFolderLogger(
        folder, find_destination(folder, config.mlflow_uri, experiment=config.mlflow_experiment, group=config.group)
    )


def run(arguments: list[str]) -> None:
    """Parse, build and run.

    Args:
        arguments: of the command line, after ``awac``.

    Raises:
        AwacError: the arguments do not make a run.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    for name in ("lightning.pytorch", "lightning.fabric", "mlflow", "alembic"):  # their notices tell a user nothing
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        r"You called `self.log\(.*no logger configured.*",  # validate, test
        ".*LeafSpec.* is deprecated",  # inside Lightning
        "Be aware that when using `ckpt_path`.*",  # evaluation needs no callbacks
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    arguments = expand(arguments)
    check_files(arguments)
    run_cli(arguments)


def run_cli(arguments: list[str]) -> None:
    """Run the command line as it is given, with no name expanded."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended.*")  # main.py has read sys.argv
    AwacCLI(
        AWAC,
        ReplayDataModule,
        args=arguments,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=AwacParser,
        parser_kwargs={"prog": "awac"},
    )
