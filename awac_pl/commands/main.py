"""The ``awac`` command. Light: what a command needs is imported when it runs, so ``awac --help`` answers at once."""

from __future__ import annotations

import argparse
import errno
import sys
from importlib import import_module
from pathlib import Path

from awac_pl import __version__
from awac_pl.errors import AwacError
from awac_pl.parallel import interruption

#: Commands of Lightning's own command line, which ``fit.py`` extends.
LIGHTNING = ("fit", "validate", "test")
#: Every other command, and the file that runs it. ``record`` is the old name of ``video``.
OWN = {name: name for name in ("init", "sync", "data", "video", "export", "deploy", "report")} | {"record": "video"}
#: A full disk, a quota, a file too large, a read-only disk or folder.
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)

DESCRIPTION = """\
Offline-to-online reinforcement learning with AWAC.

commands:
  fit        pretrain on datasets, then go on improving in the environment
  validate   evaluate a checkpoint
  test       evaluate a checkpoint on 100 episodes
  init       write an editable conf/ with every task and preset
  sync       send runs to MLflow that it could not be told of at the time
  data       list, inspect, import, mend, choose, join, split, export and clone datasets
  video      render episodes of a checkpoint's policy as a video
  export     a checkpoint's policy as ONNX, safetensors and an MLflow model, with a contract
  deploy     act with an exported policy, without torch
  report     figures, tables and videos of runs on one page

examples:
  awac fit --task pen --preset quick
  awac fit --config conf/base.yaml --config mine.yaml
  awac fit … --model.temperature=0.3 --trainer.max_epochs=40
  awac fit … --ckpt_path last
  awac test --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt
  awac sync runs/pen-quick-seed0
  awac data inspect my_demonstrations.npz --task pen
  awac video --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --before
  awac export --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --to exported/pen
  awac report runs/pen-quick-seed0
  awac fit --help     every argument of the model, the data and the trainer
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 2 for a mistake of the user, told in one line; 128 + its number after a signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # so that my_robot:Push-v0 is found in my_robot.py here, behind everything else
    parser = argparse.ArgumentParser("awac", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"awac_pl {__version__}")
    parser.add_argument("command", choices=[*LIGHTNING, *OWN], metavar="command")
    command = parser.parse_args(arguments[:1]).command
    try:
        with interruption.handled():
            if command in LIGHTNING:
                from awac_pl.commands.fit import run

                run(arguments)
            else:
                import_module(f"awac_pl.commands.{OWN[command]}").run(arguments[1:])
    except AwacError as error:
        print(f"awac: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        print(f"awac: error: {error.filename or 'a file'} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    except interruption.Interrupted as error:
        print(f"awac: {error}", file=sys.stderr)
        return int(error.code or 0)
    return 0
