"""Plain containers and arrays: DAPG's pickled list of episodes, rlkit's object array in a ``.npy`` file, and ``.npz``.

Code in a file is never run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from awac_pl.datasets.formats.arrays import read_arrays
from awac_pl.datasets.formats.columns import Reading, one_episode, plain_columns
from awac_pl.datasets.formats.unpickling import unpickle
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.untrusted import too_large
from awac_pl.errors import DatasetError


def read_array(stream: IO[bytes], size: int) -> np.ndarray:
    """One array in numpy's format, ``size`` bytes long; objects in it are plain containers and arrays."""
    start = stream.tell()
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if header(stream)[2].hasobject:
        return np.asarray(unpickle(stream, size), dtype=object)
    stream.seek(start)
    return np.lib.format.read_array(stream, allow_pickle=False)


def read_pickle(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """A pickled list of episodes."""
    with file.open("rb") as stream:
        yield from read_container(unpickle(stream, file.stat().st_size), how)


def read_npy(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """An object array of episodes, or of one dict of arrays."""
    with file.open("rb") as stream:
        array = read_array(stream, file.stat().st_size)
    if not array.dtype.hasobject:
        raise DatasetError(f"holds one array of {array.dtype}, not an object array of episodes")
    yield from read_container(array, how)


def read_npz(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """Named arrays; see ``read_arrays``."""
    named = {}
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if too_large(part.file_size, part.compress_size):
                sizes = f"declares {part.file_size} bytes and holds {part.compress_size}"
                raise DatasetError(f"'{part.filename}' {sizes}; damaged, or made to harm")
        for part in archive.infolist():
            with archive.open(part) as stream:
                named[part.filename.removesuffix(".npy")] = read_array(stream, part.file_size)
    yield from read_container(next(iter(named.values())) if list(named) == ["arr_0"] else named, how)


def read_container(value: Any, how: Reading) -> Iterator[RawEpisode]:
    """The episodes of a list of dicts, as DAPG and rlkit store them, or of one dict of arrays."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Mapping):
        lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], Mapping)]
        if len(lists) == 1 and not {"observations", "actions"} & set(plain_columns(value)):
            value = lists[0]  # such as {"demos": [...], "env": "Reach-v0"}
        else:
            yield from read_arrays(value, how)
            return
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        raise DatasetError(f"holds a {type(value).__name__}, not a list of episodes")
    for index, path in enumerate(value):
        if not isinstance(path, Mapping):
            raise DatasetError(f"episode {index} has no 'observations' and 'actions'")
        yield from one_episode(plain_columns(path), how, f"episode {index}: ")
