"""Options of ``awac data`` that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from awac_pl.commands.arguments import number
from awac_pl.settings import Count, CountOrZero, Episodes, RunSeed, Workers

if TYPE_CHECKING:
    from awac_pl.datasets.formats.columns import Reading

FORMATS = ("lerobot", "minari", "robomimic", "d4rl", "dapg", "rlkit", "npz")


def add_reading_arguments(add: Callable[..., None]) -> None:
    """Those of ``inspect`` and ``import``: what a file leaves open."""
    both = "inspect import"
    add(both, "--format", choices=FORMATS, help="of a file (default: by what it holds and its suffix)")
    add(both, "--keys", metavar="A,B", help="named observations to use, in this order (default: all vectors, sorted)")
    add(both, "--demos", metavar="NAME", help="only the demonstrations of robomimic's filter key mask/NAME")
    add(both, "--dones", choices=["terminated", "truncated"], help="what 'dones' are (needed for the environment's reward)")
    episode_steps = "cut a flat file into episodes of N steps; 0: cut only where it says so (default: the time limit)"
    add(both, "--episode_steps", type=number(CountOrZero), metavar="N", help=episode_steps)
    inner_ends = "rows behind an end in the middle of an episode: nothing, another episode, or the same one"
    add(both, "--inner_ends", choices=["drop", "split", "keep"], help=inner_ends)
    success_from = "if the file has no success: steps with a reward above 0, or the last step of each episode"
    add("import", "--success_from", choices=["reward", "end"], help=success_from)


def add_rollout_arguments(add: Callable[..., None]) -> None:
    """Those of the commands that run episodes."""
    add("record", "--replay", action="store_true", help="store the replay buffer's online episodes")
    add("record", "--deterministic", action="store_true", help="act with the mean (default: sample)")
    add("record", "--episodes", type=number(Episodes), default=100, help="episodes to roll out (default: %(default)s)")
    add("clone", "--episodes", type=number(Episodes), default=500, help="episodes to store (default: %(default)s)")
    add("clone", "--num_demonstrations", type=number(Count), help="use the first N episodes (default: all)", metavar="N")
    add("clone", "--normalize_observations", action="store_true", help="fit to observations of mean 0, deviation 1")
    add("clone", "--sampled_actions", action="store_true", help="keep actions as they are sampled, not clipped")
    add("record clone", "--workers", type=number(Workers), default=2, help="rollout processes (default: %(default)s)")
    add("record clone", "--seed", type=number(RunSeed), default=0, help="of the episodes (default: %(default)s)")


def reading_of(options: argparse.Namespace) -> Reading:
    """The options as ``Reading``."""
    from awac_pl.datasets.formats.columns import Reading

    keys = None if options.keys is None else tuple(key.strip() for key in options.keys.split(",") if key.strip())
    return Reading(
        keys=keys,
        dones=options.dones,
        episode_steps=options.episode_steps,
        inner_ends=options.inner_ends,
        demos=options.demos,
    )


def source_of(source: str) -> Path | str:
    """A path, or a dataset id: what looks like an id and is no file, or is the id of a local dataset."""
    from awac_pl.datasets.catalog import find_dataset, is_id

    if is_id(source) and (not Path(source).exists() or find_dataset(source) is not None):
        return source
    return Path(source)
