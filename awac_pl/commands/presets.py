"""Arguments of ``awac fit`` that stand for others: names of tasks and presets, overrides, a checkpoint's own run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from awac_pl.commands.resuming import with_run
from awac_pl.errors import AwacError, first_line, nearest
from awac_pl.runs.folder import run_of
from awac_pl.settings_files import read_table, shipped


def conf() -> Path:
    """The ``conf/`` that ``--task`` and ``--preset`` read: your own in the working folder, else the shipped one."""
    own = Path("conf")
    return own if (own / "base.yaml").is_file() else shipped()


def names_of(kind: str) -> set[str]:
    """Names that ``--task`` or ``--preset`` takes."""
    return {path.stem for folder in (conf(), Path("conf")) for path in (folder / kind).glob("*.yaml")}


def _file(kind: str, name: str) -> Path:
    """The file of a task or a preset; one of your own needs no base.yaml beside it."""
    own = Path("conf", kind, f"{name}.yaml")
    return own if own.is_file() else conf() / kind / own.name


def _environment_id(task: str, file: Path) -> str:
    """A task that is a Gymnasium id; names of files are of other words."""
    if ":" in task or "-v" in task:
        return task
    hint = nearest(task, names_of("task"))
    raise AwacError(f"unknown task '{task}': neither a file {file} nor a Gymnasium environment id.{hint}")


def expand(arguments: list[str]) -> list[str]:
    """``fit --task pen --preset quick`` as ``fit --config`` of base, algorithm/awac, task/pen and preset/quick.

    The files come before every other argument, in this order; then those of ``--config``, then single values. The preset's
    name is the run's, whatever a file says. ``validate`` and ``test`` of a checkpoint get its run's configuration, unless
    they have a ``--config``; so does ``--resume FOLDER``.

    Args:
        arguments: start with the subcommand. ``--overrides "--model.temperature=0.3 --trainer.max_epochs=40"``, as
            ``mlflow run`` passes it, is replaced by its parts.

    Raises:
        AwacError: ``--resume`` names a folder without a run, or stands beside another configuration; there is no such task,
            or no task of the checkpoint.
    """
    expanded = with_overrides(arguments)
    command, *rest = expanded
    folders, others = _values(rest, "--resume")
    if command == "fit" and folders and folders[-1] != "auto":
        flags = (["--task"], ["--preset"], ["--config", "-c"], ["--run_dir"], ["--ckpt_path"])
        if named := [flag[0] for flag in flags if _values(others, *flag)[0]]:
            raise AwacError(f"--resume {folders[-1]} takes the run's own configuration and folder; leave out {named[0]}")
        return [command, *with_run(Path(folders[-1]), others), f"--resume={folders[-1]}"]
    tasks, others = _values(rest, "--task")
    presets, others = _values(others, "--preset")
    algorithms, others = _values(others, "--algorithm")
    own, others = _values(others, "--config", "-c")
    checkpoints, _ = _values(others, "--ckpt_path")
    if command != "fit" and checkpoints and not Path(checkpoints[-1]).is_file():
        raise AwacError(f"no checkpoint {checkpoints[-1]}")
    last = [f"--{flag}={values[-1]}" for flag, values in (("algorithm", algorithms), ("preset", presets)) if values]
    last = [*(f"--config={file}" for file in own), *last, *others]
    if not (tasks or presets or (algorithms and command == "fit")):
        if command == "fit" or not checkpoints or own:
            return [command, *last]
        return [command, *_of_checkpoint(Path(checkpoints[-1]), others), *last]
    preset_files = [_file("preset", preset) for preset in presets[-1:]]
    of_preset = "awac"
    with contextlib.suppress(AwacError):  # check_files will tell
        of_preset = next(map(read_table, preset_files), {}).get("algorithm", of_preset)
    first = [conf() / "base.yaml", *_algorithm_file(algorithm_of(rest, otherwise=of_preset))]
    loaded = [f"--config={file}" for file in first]
    for task in tasks[-1:]:
        file = _file("task", task)
        loaded.append(f"--config={file}" if file.is_file() else f"--data.task={_environment_id(task, file)}")
    return [command, *loaded, *(f"--config={file}" for file in preset_files), *last]


def with_overrides(arguments: list[str]) -> list[str]:
    """Replace ``--overrides "--a=1 --b=2"``, as ``mlflow run`` passes it, by its parts.

    Raises:
        AwacError: a quotation in it has no end.
    """
    expanded: list[str] = []
    following = iter(arguments)
    for argument in following:
        flag, equals, text = argument.partition("=")
        if flag != "--overrides":
            expanded.append(argument)
            continue
        text = text if equals else next(following, "")
        try:
            expanded += shlex.split(text)
        except ValueError as error:
            raise AwacError(f"--overrides {text}: {first_line(error)}") from error
    return expanded


def run_name(config: Mapping[str, Any]) -> str:
    """The name of a configuration's runs, without the seed: task, algorithm if it is not AWAC, preset."""
    algorithm = "" if config["algorithm"] == "awac" else f"-{config['algorithm']}"
    return re.sub(r"[^A-Za-z0-9]+", "-", config["data"]["task"]) + f"{algorithm}-{config['preset']}"


def _of_checkpoint(checkpoint: Path, others: list[str]) -> list[str]:
    """The configuration with which to evaluate a checkpoint: its run folder's, else what it holds itself."""
    run = run_of(checkpoint)
    if run is not None:
        return [f"--config={run / 'config.yaml'}"]
    if _values(others, "--data.task")[0]:
        return []
    from awac_pl.algorithms.checkpoints import data_of, read_checkpoint

    if (data := data_of(read_checkpoint(checkpoint))) is None:
        raise AwacError(
            f"{checkpoint}: lies in no run folder, and does not name its task (it is of an earlier version); pass the "
            "config.yaml of its run with --config"
        )
    return [f"--data={json.dumps(data)}"]


def algorithm_of(arguments: list[str], otherwise: str = "awac") -> str:
    """Name of the algorithm, before there is a parser: of ``--algorithm``, a configuration file, or the checkpoint's.

    Args:
        arguments: of the command line.
        otherwise: the name where none of them names one.

    Raises:
        AwacError: the checkpoint cannot be read.
    """
    if named := _values(arguments, "--algorithm")[0]:
        return named[-1]
    for path in reversed(_values(arguments, "--config", "-c")[0]):
        with contextlib.suppress(AwacError):  # check_files will tell
            if "algorithm" in (content := read_table(Path(path))):
                return str(content["algorithm"])
    checkpoints = _values(arguments, "--ckpt_path")[0]
    if checkpoints and Path(checkpoints[-1]).is_file():
        from awac_pl.algorithms.checkpoints import read_checkpoint

        return str(read_checkpoint(Path(checkpoints[-1])).get("algorithm", "awac")).lower()
    return otherwise


def _algorithm_file(algorithm: str) -> list[Path]:
    """The file of its own options. An own ``conf/`` of an earlier version has none: AWAC's are in base.yaml there."""
    if (conf() / "algorithm").is_dir():
        return [conf() / "algorithm" / f"{algorithm}.yaml"]
    return [] if algorithm == "awac" else [shipped() / "algorithm" / f"{algorithm}.yaml"]


def _values(arguments: list[str], *flags: str) -> tuple[list[str], list[str]]:
    """The values of an option, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*flags, dest="values", nargs="?", const="", default=[], action="append")
    options, others = parser.parse_known_args(arguments)
    return options.values, others


def check_files(arguments: list[str]) -> None:
    """Check that every configuration file exists, is a table of settings, and that a preset is for the algorithm.

    Raises:
        AwacError: one does not, with the nearest file beside it; or is none.
    """
    algorithm = None
    for path in map(Path, _values(arguments, "--config", "-c")[0]):
        if not path.is_file():
            if path.exists() and not path.is_dir():
                raise AwacError(
                    f"--config {path} is a pipe or a device, and settings are read more than once; save them to a file"
                )
            kind = path.parent.name if path.parent.name in ("task", "preset", "algorithm") else "configuration"
            others = {other.stem for other in path.parent.glob("*.yaml")} | names_of(kind)
            what = "is a folder" if path.is_dir() else "no file"
            raise AwacError(f"unknown {kind} '{path.stem}': {what} {path}.{nearest(path.stem, others)}")
        own = read_table(path).get("algorithm")
        if path.parent.name == "preset" and None not in (own, algorithm) and own != algorithm:
            raise AwacError(f"preset '{path.stem}' is for algorithm {own}, not {algorithm}; preset comparison is for all")
        algorithm = own if path.parent.name == "algorithm" else algorithm
    for section in ("--model", "--data", "--interaction", "--video", "--checkpoint", "--trainer"):  # these may be files, too
        for value in _values(arguments, section)[0]:
            if os.path.isfile(value):  # a Path would raise for a long text
                read_table(Path(value))
