"""Options of ``awac data inspect`` and ``awac data import``: what a file leaves open."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from awac_pl.datasets.formats.columns import Reading

FORMATS = ("lerobot", "minari", "robomimic", "d4rl", "dapg", "rlkit", "npz")


def add_reading_arguments(add: Callable[..., None]) -> None:
    """Add them."""
    both = "inspect import"
    add(both, "--format", choices=FORMATS, help="of a file (default: by what it holds and its suffix)")
    add(both, "--keys", metavar="A,B", help="named observations to use, in this order (default: all vectors, sorted)")
    add(both, "--demos", metavar="NAME", help="only the demonstrations of robomimic's filter key mask/NAME")
    add(both, "--dones", choices=["terminated", "truncated"], help="what 'dones' are (needed for the environment's reward)")
    episode_steps = "cut a flat file into episodes of N steps; 0: cut only where it says so (default: the time limit)"
    add(both, "--episode_steps", type=int, metavar="N", help=episode_steps)
    inner_ends = "rows behind an end in the middle of an episode: nothing, another episode, or the same one"
    add(both, "--inner_ends", choices=["drop", "split", "keep"], help=inner_ends)
    success_from = "if the file has no success: steps with a reward above 0, or the last step of each episode"
    add("import", "--success_from", choices=["reward", "end"], help=success_from)


def reading_of(options: argparse.Namespace) -> Reading:
    """The options as ``Reading``.

    Raises:
        DatasetError: the number of steps is negative.
    """
    from awac_pl.datasets.formats.columns import Reading
    from awac_pl.errors import DatasetError

    if options.episode_steps is not None and options.episode_steps < 0:
        raise DatasetError(f"--episode_steps is {options.episode_steps}; it must be at least 0")
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
