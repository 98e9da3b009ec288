"""``awac fit``, ``validate`` and ``test``: LightningCLI with this package's classes. Slow to import."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from awac_pl.algorithms.checkpoints import check_module, read_checkpoint
from awac_pl.callbacks.checkpointing import DurableCheckpointIO, LastCheckpoint, monitor_what_is_known
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.messages import measures
from awac_pl.callbacks.progress import AwacProgressBar
from awac_pl.callbacks.run_writer import RunWriter, SaveRunConfig
from awac_pl.callbacks.stopping import Limits, Stopping, whole_epochs
from awac_pl.callbacks.video_recorder import VideoRecorder
from awac_pl.commands.parser import HELP, LEARNERS, AwacParser, Help, check_ranges
from awac_pl.commands.presets import algorithm_of, check_files, conf, expand, run_name
from awac_pl.commands.processes import RUN_DIR_VARIABLE, follow_parent, rank, started_by_rank_zero
from awac_pl.commands.resuming import check_configuration
from awac_pl.commands.trainer_options import check_callbacks, check_options
from awac_pl.errors import AwacError, WriteError, first_line
from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted
from awac_pl.parallel.ranks import restore_random_state, world_size
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.runs.folder import RunFolder, last_checkpoint, run_of, take_run_folder
from awac_pl.runs.manifest import git_commit
from awac_pl.tracking.destination import find_destination
from awac_pl.tracking.logger import RunFolderLogger

log = logging.getLogger("awac_pl")


class AwacCLI(LightningCLI):
    """Adds the run folder, the callbacks and MLflow to the model, the data and the trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.run_folder: RunFolder | None = None
        self._scratch: tempfile.TemporaryDirectory | None = None  # instead of a run folder
        self._command: str = kwargs["args"][0]
        try:
            super().__init__(*args, **kwargs)  # parses, builds and runs
        except (Interrupted, WriteError) as error:
            if isinstance(error, Interrupted) and started_by_rank_zero():
                raise SystemExit(0) from error  # Lightning would kill rank zero if this were a failure
            if self.run_folder is not None and last_checkpoint(self.run_folder.path).exists():
                folder = shlex.quote(str(self.run_folder.path))
                print(f"awac: go on with: awac fit --resume {folder}", file=sys.stderr)
            raise
        except AwacError:
            raise
        except Exception as error:
            _name_the_checkpoint(error)
            if world_size() > 1 and re.search(r"gloo|NCCL|Connection (closed|reset)", str(error)):
                raise AwacError(
                    f"another training process has ended ({first_line(error):.200}); this one ends, too"
                ) from error
            raise
        finally:
            if self.run_folder is not None:
                self.run_folder.release()
            if self._scratch is not None:
                self._scratch.cleanup()

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command that was typed alone: each parser takes a third of a second to build."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own options, the callbacks, and the links between sections."""
        algorithm_help = "what learns; loads conf/algorithm/NAME.yaml after base.yaml: its options, with its paper's values"
        names: Any = Literal[tuple(LEARNERS)]
        parser.add_argument("--algorithm", type=names, default="awac", help=algorithm_help)
        preset_help = "loads conf/preset/NAME.yaml after the task's file and before --config; its name is part of the run's"
        parser.add_argument("--preset", type=str, default="custom", help=preset_help)
        folder_help = "run folder; by default the first free one of runs/TASK[-ALGORITHM]-PRESET-seedN"
        parser.add_argument("--run_dir", type=str | None, default=None, help=folder_help)
        resume_help = (
            "run folder to go on in, with its own configuration; settings named here are changed. 'auto' goes on with this "
            "command's run if it has a checkpoint, and starts it otherwise (for schedulers that start a job again)"
        )
        parser.add_argument("--resume", type=str | None, default=None, help=resume_help)
        uri_help = "MLflow tracking URI; $MLFLOW_TRACKING_URI by default, else sqlite:///mlflow.db; 'none' for no MLflow"
        parser.add_argument("--mlflow_uri", type=str | None, default=None, help=uri_help)
        experiment_help = "MLflow experiment; $MLFLOW_EXPERIMENT_NAME by default, else awac"
        parser.add_argument("--mlflow_experiment", type=str | None, default=None, help=experiment_help)
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
        if self.subcommand == "fit" and config.ckpt_path not in (None, "last"):
            read_checkpoint(Path(config.ckpt_path), to_resume=True)
        if self.subcommand != "fit":
            config.trainer.logger = config.verbose = False  # its table has no intervals
            config.data.device, config.data.storage = "auto", "memmap"  # a buffer is not made, so it need not fit here
            return
        check_options(config.trainer)
        if config.checkpoint.monitor is None:
            base = conf() / "base.yaml"
            raise AwacError(
                f"checkpoint.monitor is not set, as in base.yaml: put --config {base} before yours, or use --task, --preset"
            )
        every = config.trainer.check_val_every_n_epoch or 1
        if (epochs := config.data.offline_epochs) % every:
            log.warning("data.offline_epochs %d is no multiple of trainer.check_val_every_n_epoch %d: no evaluation and no "
                        "checkpoint at its end", epochs, every)  # fmt: skip
        config.run_dir = config.trainer.default_root_dir = str(self._take_run_folder(config))
        config.checkpoint.dirpath = str(Path(config.run_dir) / "checkpoints")
        last, named = last_checkpoint(Path(config.run_dir)), config.ckpt_path == "last"
        if named and not last.exists():
            raise AwacError(f"there is nothing to resume: no {last}; pass --run_dir or start without --ckpt_path")
        if named or (config.resume == "auto" and config.ckpt_path is None and last.exists()):
            config.ckpt_path = str(last)
            read_checkpoint(last, to_resume=True)
        if config.ckpt_path is not None and run_of(config.ckpt_path) == Path(config.run_dir).resolve():
            log.info("going on in %s", config.run_dir)
            check_configuration(Path(config.run_dir), config.as_dict(), meant=config.resume not in (None, "auto"))

    def after_validate(self) -> None:
        """Print the measures."""
        if self.trainer.is_global_zero:
            print(measures(self.trainer.callback_metrics))

    after_test = after_validate

    def _take_run_folder(self, config: Any) -> Path:
        """Choose and lock the run folder. Of several processes rank 0 does; the others get its path from the environment."""
        if rank():
            follow_parent()
            return Path(os.environ.get(RUN_DIR_VARIABLE) or config.run_dir or ".")
        name = f"{run_name(config.as_dict())}-seed{config.seed_everything}"
        if config.trainer.fast_dev_run:
            self._scratch = tempfile.TemporaryDirectory(prefix="awac-fast-dev-run-")
            os.environ[RUN_DIR_VARIABLE] = self._scratch.name
            log.info("trainer.fast_dev_run: a try of %d chunk(s); it keeps nothing, not even a run folder",
                     config.trainer.fast_dev_run)  # fmt: skip
            return Path(self._scratch.name)
        of_checkpoint = run_of(config.ckpt_path)
        folder = Path(config.run_dir) if config.run_dir else of_checkpoint
        own = folder and of_checkpoint and folder.resolve() == of_checkpoint  # a checkpoint from elsewhere begins a new run
        resume = bool(own) or config.ckpt_path == "last" or config.resume is not None
        self.run_folder = take_run_folder(folder, Path("runs") / name, resume=resume)
        os.environ[RUN_DIR_VARIABLE] = str(self.run_folder.path)
        return self.run_folder.path

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Add the run's files, the progress bar and MLflow."""
        config = self.config[self.subcommand]
        named = _listed(self.config_init[self.subcommand].trainer.callbacks)
        if self.subcommand == "fit":
            monitor_what_is_known(self.config_init[self.subcommand].checkpoint, self.datamodule.task, self.datamodule.spaces)
            tags = {name: str(config[name]) for name in ("algorithm", "preset")}
            tags |= {"task": config.data.task, "seed": str(config.seed_everything)}
            for callback in named:
                if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                    callback.dirpath = config.checkpoint.dirpath
            no_bar = config.trainer.enable_progress_bar is False or any(isinstance(one, ProgressBar) for one in named)
            self.config_init[self.subcommand].trainer.callbacks = [
                Stopping(),  # first: it saves what the others clear on an exception
                *named,
                *([] if no_bar else [AwacProgressBar()]),
                Limits(None if config.trainer.max_time is None else Timer(config.trainer.max_time)),
                *([] if config.trainer.fast_dev_run else [RunWriter(tags | {"commit": git_commit()})]),
            ]
            # Lightning would cut an epoch
            kwargs |= {"max_time": None, "max_steps": -1, "max_epochs": whole_epochs(config.trainer, config.data)}
            if config.trainer.logger in (None, True):
                kwargs["logger"] = _run_logger(config)
        elif not sys.stdout.isatty() and not any(isinstance(one, ProgressBar) for one in named):
            kwargs["enable_progress_bar"] = False  # Lightning's bar would stand among the measures
        kwargs["plugins"] = [DurableCheckpointIO(), *_listed(self.config_init[self.subcommand].trainer.plugins)]
        trainer = super().instantiate_trainer(**kwargs)
        if not started_by_rank_zero():
            interruption.relay_to(lambda: [process.pid for process in getattr(trainer.strategy.launcher, "procs", [])])
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> lightning.Trainer:
        """Add ``last.ckpt`` after ``best.ckpt``, whose score it holds."""
        if self.subcommand == "fit":
            options = self.config[self.subcommand].checkpoint
            callbacks = [*callbacks, LastCheckpoint(options.dirpath, options.every_n_epochs)]
        return super()._instantiate_trainer(config, callbacks)

    def after_instantiate_classes(self) -> None:
        """Refuse callbacks that could not run."""
        if self.subcommand == "fit":
            check_callbacks(self.trainer, self.model)


def _listed(value: Any) -> list[Any]:
    """What the Trainer takes as one or several."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _name_the_checkpoint(error: Exception) -> None:
    """Raise one line instead of an error that came up while Lightning restored a checkpoint."""
    for frame in traceback.extract_tb(error.__traceback__):
        restores = frame.filename.endswith("checkpoint_connector.py") and frame.name.startswith(("restore", "resume"))
        if restores or frame.name == restore_random_state.__name__:
            reason = " ".join(str(error).split())  # torch's has a line for each layer
            raise AwacError(f"the checkpoint does not fit this run ({reason[:300]})") from error


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
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # what a profiler prints
    for message in (
        ".*does not have many workers.*",
        r"You called `self.log\(.*no logger configured.*",  # validate, test
        ".*LeafSpec.* is deprecated",  # inside Lightning
        "Be aware that when using `ckpt_path`.*",  # evaluation needs no callbacks
        ".*Checkpoint directory .* exists and is not empty.*|The dirpath has changed.*",  # of another run's checkpoint
    ):
        warnings.filterwarnings("ignore", message=message)
    arguments = expand(arguments)
    check_files(arguments)
    run_cli(arguments)


def run_cli(arguments: list[str], cli: type[AwacCLI] = AwacCLI) -> AwacCLI:
    """Run the command line as it is given, with no name expanded."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended.*")  # main.py has read sys.argv
    algorithm, command = algorithm_of(arguments), arguments[0]
    return cli(
        LEARNERS.get(algorithm, LEARNERS["awac"]),  # the parser refuses an unknown name
        ReplayDataModule,
        args=arguments,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=AwacParser,
        parser_kwargs={
            "prog": "awac",
            "formatter_class": Help,
            command: {"description": HELP[command], "usage": f"awac {command} [options]"},
        },
    )
