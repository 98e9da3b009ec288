"""Tasks and presets: the configuration files of ``conf/``, in the working folder or as they ship with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

import awac_pl


def shipped() -> Path:
    """The ``conf/`` of the package; that of the repository where the package runs from its source."""
    package = Path(awac_pl.__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "base.yaml").is_file())


def conf() -> Path:
    """The ``conf/`` that ``--task`` and ``--preset`` read: your own in the working folder, else the shipped one."""
    own = Path("conf")
    return own if (own / "base.yaml").is_file() else shipped()


def expand(arguments: list[str]) -> list[str]:
    """``fit --task pen --preset quick`` as ``fit --config base --config task/pen --config preset/quick``.

    The files come before every other argument, in this order, so ``--config`` and single values change them. Beside a
    ``--config``, ``--preset`` alone names the run and loads nothing, as it did in version 0.1.

    Args:
        arguments: start with the subcommand.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task")
    parser.add_argument("--preset")
    asked, rest = parser.parse_known_args(arguments[1:])
    configured = any(argument.split("=")[0] in ("--config", "-c") for argument in rest)
    if asked.task is None and (asked.preset is None or configured):
        return arguments
    files, values = [conf() / "base.yaml"], []
    if asked.task is not None:
        task = conf() / "task" / f"{asked.task}.yaml"
        if task.is_file():
            files.append(task)
        else:
            values.append(f"--data.task={asked.task}")  # a Gymnasium id, or a mistake that the task's own error explains
    if asked.preset is not None:
        files.append(conf() / "preset" / f"{asked.preset}.yaml")  # fit.py names a file that is not there
    return [arguments[0], *(f"--config={file}" for file in files), *values, *rest]
