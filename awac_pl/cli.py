"""The ``awac`` command. Light: what a command needs is imported when it runs, so ``awac --help`` answers at once."""

from __future__ import annotations

import argparse
import logging
import sys

from awac_pl import __version__
from awac_pl.errors import AwacError

DESCRIPTION = """\
Offline-to-online reinforcement learning with AWAC.

commands:
  fit        pretrain on datasets, then go on improving in the environment
  validate   evaluate a checkpoint
  test       evaluate a checkpoint on 100 episodes
  clone      make the cloned dataset: demonstrations -> policy -> episodes
  datasets   list the datasets that are here

examples:
  awac fit --config conf/base.yaml --config conf/task/pen.yaml --config conf/preset/quick.yaml
  awac fit … --model.temperature=0.3 --trainer.max_epochs=40
  awac fit … --ckpt_path last
  awac test --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt
  awac clone pen
  awac fit --help     every argument of the model, the data and the trainer
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 2 for a mistake of the user, told in one line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser("awac", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"awac_pl {__version__}")
    parser.add_argument("command", choices=["fit", "validate", "test", "clone", "datasets"], metavar="command")
    command = parser.parse_args(arguments[:1]).command
    try:
        if command == "clone":
            _clone(arguments[1:])
        elif command == "datasets":
            _datasets()
        else:
            from awac_pl.lightning_cli import run

            run(arguments)
    except AwacError as error:
        print(f"awac: error: {error}", file=sys.stderr)
        return 2
    return 0


def _clone(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "awac clone",
        description="Fit a policy to demonstrations by maximum likelihood, roll it out, store the episodes.",
        epilog="examples:\n  awac clone pen\n"
        "  awac clone relocate --num_demonstrations 10 --to awac/relocate/cloned-10-v0\n"
        "  awac clone pen --from D4RL/pen/human-v2 --to mine/pen-cloned-v0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", help="pen, door, relocate, hammer, or a Gymnasium environment id")
    parser.add_argument("--from", dest="source", help="dataset of demonstrations (default: awac/TASK/expert-v0)")
    parser.add_argument("--to", dest="target", help="dataset to write (default: awac/TASK/cloned-v0)")
    parser.add_argument("--num_demonstrations", type=int, help="use the first so many episodes (default: all)")
    parser.add_argument("--episodes", type=int, default=500, help="episodes to store (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="rollout processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the fit and the episodes (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    from awac_pl.cloning import clone_dataset
    from awac_pl.downloads import fetch_dataset
    from awac_pl.tasks import find_task

    task = find_task(options.task)
    source = options.source or f"awac/{options.task}/expert-v0"
    target = options.target or f"awac/{options.task}/cloned-v0"
    fetch_dataset(source)
    result = clone_dataset(
        source,
        target,
        task,
        num_demonstrations=options.num_demonstrations,
        num_episodes=options.episodes,
        num_workers=options.workers,
        seed=options.seed,
    )
    print(f"{target}: {options.episodes} episodes of a policy cloned from {source}")
    for name, value in result.items():
        print(f"  {name:<22} {value:.4g}")


def _datasets() -> None:
    from awac_pl.datasets import dataset_ids, local_root, read_metadata

    for name in dataset_ids():
        metadata = read_metadata(name)
        print(f"{name:<36} {metadata.get('total_episodes', '?'):>5} episodes {metadata.get('total_steps', '?'):>8} steps")
    print(f"local datasets: {local_root()}")
