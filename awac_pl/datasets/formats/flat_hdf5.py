"""D4RL's HDF5 of flat columns, and own files like it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from awac_pl.datasets.formats.arrays import read_arrays
from awac_pl.datasets.formats.columns import PLAIN, Reading
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.safe_hdf5 import read_array, read_tree
from awac_pl.errors import DatasetError


def read(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """The episodes of the columns at the top of a file; observations may be a group of named parts."""
    with h5py.File(file, "r") as source:
        columns: dict[str, Any] = {}
        for name in source:
            column = PLAIN.get(name)
            if column in ("observations", "next_observations") and isinstance(source.get(name), h5py.Group):
                columns[name] = read_tree(source, name, str(file), how.keys, finite=how.finite)
            elif column is not None:
                integers = column in ("episode", "episode_ends", "seed")
                array = read_array(source, name, str(file), finite=how.finite, integers=column != "actions", exact=integers)
                columns[name] = (
                    array if column in ("observations", "next_observations", "actions") or integers else _row(array, name)
                )
            else:
                columns[name] = None  # named in the summary, not read
    if not {"observations", "actions"} <= {PLAIN.get(name) for name in columns}:
        found = ", ".join(columns) or "nothing"
        raise DatasetError(f"no 'observations' and 'actions' at its top; it has {found}")
    yield from read_arrays(columns, how)


def _row(array: Any, name: str) -> Any:
    """One value per step; a trailing 1 goes."""
    if array.ndim > 1 and array.size != len(array):
        raise DatasetError(f"'{name}' is {list(array.shape)}, expected [{len(array)}]")
    return array.reshape(-1)
