"""Print a script that completes commands, options, choices and files in a shell. Print it anew after an update.

awac completion bash > ~/.local/share/bash-completion/completions/awac
awac completion zsh > ~/.zfunc/_awac          with fpath+=(~/.zfunc) before compinit in ~/.zshrc
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac completion``."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="whose script to print")


def run(options: argparse.Namespace) -> None:
    """Run ``awac completion``."""
    import shtab
    from jsonargparse import capture_parser

    from awac_pl.commands.fit import run_cli
    from awac_pl.commands.main import LIGHTNING, OWN, own_parser

    parser = argparse.ArgumentParser("awac")
    commands = parser.add_subparsers()
    for name, text in LIGHTNING.items():
        lightning: Any = capture_parser(run_cli, [name])
        _copy_options(lightning._subcommands_action.choices[name], commands.add_parser(name, help=text))
    for name, text in OWN.items():
        commands.add_parser(name, help=text)
        commands.choices[name] = own_parser(name)
    _add_values(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))


def _copy_options(lightning: argparse.ArgumentParser, parser: argparse.ArgumentParser) -> None:
    """Copy names and choices of options alone: with all that jsonargparse knows of them a script would have 800 kB."""
    parser.add_argument("--task", help="a task of conf/task, or a Gymnasium environment id")
    for action in lightning._actions:
        flags = [flag for flag in action.option_strings if flag.startswith("--") and not flag.endswith(("help", "+"))]
        if flags:
            metavar = str(action.metavar)  # {auto,graph} where there are choices
            choices = metavar.strip("{}").split(",") if metavar.startswith("{") else None
            parser.add_argument(*flags, choices=choices, help=str(action.help).replace("%", "%%"))


def _add_values(parser: argparse.ArgumentParser, file: object) -> None:
    """Name the tasks, the presets, and the arguments that are files, of a parser and of those below it."""
    from awac_pl.commands.presets import names_of

    for action in parser._actions:
        kind = action.dest.split(".")[-1]
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                _add_values(below, file)
        elif kind in ("task", "preset"):
            action.choices = sorted(names_of(kind))
        elif action.type is Path or kind in ("config", "ckpt_path", "source", "run_dir"):
            action.complete = file  # type: ignore[attr-defined]
