"""Offline-to-online reinforcement learning with AWAC.

awac fit --task pen --preset quick
awac fit --config conf/base.yaml --config mine.yaml
awac fit … --model.temperature=0.3 --trainer.max_epochs=40
awac fit --resume runs/pen-quick-seed0
awac sweep --task pen --preset quick --seeds 0,1,2
awac test --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt
awac sync runs/pen-quick-seed0
awac data inspect my_demonstrations.npz --task pen
awac video --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --before
awac export --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --to exported/pen
awac report runs/pen-quick-seed0
awac fit --help     every argument of the model, the data and the trainer
awac fit … --debug  the traceback of an error, too
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import select
import signal
import sys
from importlib import import_module

from awac_pl import __version__
from awac_pl.commands.arguments import Parser, help_from
from awac_pl.errors import AwacError, first_line, is_refused_by, without_credentials

# This file imports little: a command's own imports happen when it runs, so that `awac --help` answers at once.

#: Commands of Lightning's own command line, which ``fit.py`` extends.
LIGHTNING = {
    "fit": "pretrain on datasets, then improve in the environment",
    "validate": "evaluate a checkpoint",
    "test": "evaluate a checkpoint on 100 episodes",
}
#: Every other command. Each is a module of that name with ``add_arguments`` and ``run``, which raises an AwacError for a
#: mistake of the user. Its docstring is its help.
OWN = {
    "sweep": "run fit with several seeds or settings, here or on a cluster",
    "init": "write an editable conf/ with every task and preset",
    "sync": "upload runs that MLflow missed while it was unreachable",
    "data": "inspect, import, repair, choose, join, split and export datasets",
    "video": "render episodes of a checkpoint's policy",
    "export": "write a policy as ONNX, safetensors and an MLflow model",
    "deploy": "act with an exported policy, without torch",
    "serve": "answer observations with actions over HTTP, without torch",
    "report": "put figures, tables and videos of runs on one page",
    "completion": "print a script that completes these commands in a shell",
}

#: The option that shows a traceback.
DEBUG = "--debug"
#: A full disk, a quota, a file too large, a read-only disk or folder, a disk that fails; a path that cannot be one; too
#: many open files or processes.
NOT_POSSIBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EMFILE, errno.ENFILE, errno.EAGAIN,
)  # fmt: skip
#: What torch and the system's loader say without a MemoryError.
OUT_OF_MEMORY = re.compile(r"can't allocate memory|[Cc]annot allocate memory|out of memory|failed to map segment")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 2 for a mistake of the user, after one line that explains it; 128 + its number after a signal.
    """
    is_program = arguments is None  # else a test, or somebody's script
    given = sys.argv[1:] if arguments is None else arguments
    arguments = [argument for argument in given if argument != DEBUG]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal of another encoding cannot show
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # so that my_robot:Push-v0 is found in my_robot.py here, behind everything else
    parser = Parser("awac", **help_from(sys.modules[__name__]))
    parser.add_argument("--version", action="version", version=f"awac_pl {__version__}")
    commands = LIGHTNING | OWN
    listed = "\n".join(f"  {name:<12} {text}" for name, text in commands.items())
    parser.description = f"{parser.description}\n\ncommands:\n{listed}"
    parser.add_argument("command", choices=[*commands, "record"], metavar="command", help="one of these")
    try:
        command = parser.parse_args(arguments[:1]).command.replace("record", "video")  # record is its old name
        status = _run(command, arguments, is_program)
        sys.stdout.flush()
    except Exception as error:
        status = _told(error, debug=DEBUG in given)
    if is_program:
        from awac_pl.parallel import interruption

        interruption.ended(status)
    return status


def _told(error: Exception, *, debug: bool) -> int:
    """Tell the user of an error; returns the exit status."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return 128 + signal.SIGPIPE
    line = _one_line(error)
    if line is None:
        raise error
    if debug:
        sys.excepthook(type(error), error, error.__traceback__)
    print(f"awac: error: {without_credentials(line)}", file=sys.stderr)
    return 2


def _one_line(error: Exception) -> str | None:
    """What a user reads of an error; None for a mistake of this program, or of a user's module, whose traceback helps."""
    if isinstance(error, AwacError):
        return str(error)
    if isinstance(error, OSError) and error.errno in NOT_POSSIBLE:
        name = str(error.filename or "a file or process")
        return f"{name if len(name) <= 200 else name[:200] + '…'}: {error.strerror}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of pathlib, before Python 3.13
        return str(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return f"there is not enough memory ({first_line(error)[:200]}); free some, or raise the limit (ulimit -v)"
    if is_refused_by(error, "lightning"):
        text = " ".join(str(error).split())
        if "Union subtypes" in text:  # jsonargparse lists why each type does not fit; the first is the one that was meant
            text = re.sub(r".*? Errors: - (Problem with given class_path '\S*': )?(.*?) (- |Given value).*", r"\2", text)
        return f"Lightning: {text if len(text) <= 400 else text[:400] + ' …'} ({DEBUG} shows where)"
    return None


def _nobody_reads() -> bool:
    """Whether the program behind a pipe has ended, as ``head`` does. Then nothing more is written to the pipe."""
    output = select.poll()
    output.register(1, 0)
    if gone := any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return gone


def _run(command: str, arguments: list[str], is_program: bool) -> int:
    """Run a command to its end or to a signal; returns the exit status."""
    from awac_pl.parallel import interruption  # imports threading, which `awac --help` can do without

    try:
        with interruption.handled(last=is_program):
            _dispatch(command, arguments)
    except interruption.Interrupted as error:
        print(f"awac: {error}", file=sys.stderr)
        return int(error.code or 0)
    return 0


def _dispatch(command: str, arguments: list[str]) -> None:
    if command in LIGHTNING:
        from awac_pl.commands.fit import run

        run(arguments)
        return
    module = import_module(f"awac_pl.commands.{command}")
    options, others = own_parser(command).parse_known_args(arguments[1:])
    if others and not getattr(module, "PASSES_ON", False):
        own_parser(command).parse_args(arguments[1:])  # refuses them
    options.others = others
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    module.run(options)


def own_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command in ``OWN``."""
    module = import_module(f"awac_pl.commands.{name}")
    parser = Parser(f"awac {name}", **help_from(module))
    module.add_arguments(parser)
    return parser
