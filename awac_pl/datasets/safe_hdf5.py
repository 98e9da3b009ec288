"""Plain arrays out of a stranger's HDF5 file: nothing that lives elsewhere, nothing larger than the file can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from awac_pl.errors import DatasetError, first_line

#: gzip shrinks by a factor of 1,032 at most; what declares more than its bytes can unpack to is no data.
LARGEST_RATIO = 1100
#: Recordings shrink by a factor of 20 at most; what is larger than ``LARGE`` bytes and shrinks by more than this is no data.
LARGEST_RATIO_OF_LARGE = 100
LARGE = 64 << 20


def too_large(size: int, stored: int) -> bool:
    """Whether ``size`` bytes out of ``stored`` ones are more than recordings can unpack to."""
    return size > stored * (LARGEST_RATIO if size <= LARGE else LARGEST_RATIO_OF_LARGE)


@contextmanager
def reading(path: Path, form: str = "HDF5") -> Iterator[None]:
    """Whatever goes wrong while a stranger's file is read is one line about that file.

    Readers of damaged files raise errors of every kind; a list of them would always miss one.

    Raises:
        DatasetError: names the file.
    """
    try:
        yield
    except DatasetError as error:
        message = str(error)
        raise DatasetError(message if str(path) in message else f"{path}: {message}") from error
    except Exception as error:
        raise unreadable(path, error, form) from error


def unreadable(path: Path, error: Exception, form: str = "HDF5") -> DatasetError:
    """What to say of a file that cannot be read: often it is a stand-in that was saved under its name."""
    with path.open("rb") as file:
        start = file.read(100).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return DatasetError(f"{path}: is a Git LFS pointer, not the file; fetch it with: git lfs pull")
    if start.startswith((b"<!doctype", b"<html")):
        return DatasetError(f"{path}: is a web page, not the file; download it anew")
    return DatasetError(f"{path}: cannot be read as {form} ({first_line(error)}); is it the file it seems to be, and whole?")


def read_group(parent: h5py.Group, name: str, where: str) -> h5py.Group:
    """A group of this very file; a link to elsewhere could show any file of this machine.

    Raises:
        DatasetError: it is a link, or no group.
    """
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink) or not isinstance(parent[name], h5py.Group):
        raise DatasetError(f"{where}: '{name}' is a link to elsewhere or no group; refused")
    return parent[name]


def read_array(
    group: h5py.Group, key: str, where: str, rows: tuple[int, ...] | None = None, *, finite: bool = True, whole: bool = True
) -> np.ndarray:
    """A plain finite array as float32.

    Args:
        group: of the file.
        key: of the array.
        where: file and episode, for errors.
        rows: allowed lengths of an array ``[rows]``; None for any shape.
        finite: refuse values that are not; False where they are to be looked at.
        whole: take integers and flags, too.

    Raises:
        DatasetError: it is missing, lives elsewhere, is larger than its bytes, or is not an array of finite numbers.
    """
    link = group.get(key, getlink=True)
    if link is None:
        raise DatasetError(f"{where}: no '{key}'; it is not a Minari episode")
    if not isinstance(link, h5py.HardLink):
        raise DatasetError(f"{where}: '{key}' is a link to elsewhere; refused")
    dataset = group[key]
    if isinstance(dataset, h5py.Group):
        parts = ", ".join(sorted(dataset)) or "nothing"
        raise DatasetError(f"{where}: '{key}' is a dict of {parts}; record it anew with Gymnasium's FlattenObservation")
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf" or dataset.ndim == 0:
        raise DatasetError(f"{where}: '{key}' is no array of numbers; flatten it first")
    if not whole and dataset.dtype.kind != "f":
        raise DatasetError(f"{where}: '{key}' are {dataset.dtype}; AWAC needs continuous ones, stored as floats")
    if dataset.is_virtual or dataset.external:
        raise DatasetError(f"{where}: '{key}' is stored in another file; refused")
    if rows is not None and dataset.shape not in [(count,) for count in rows]:
        raise DatasetError(f"{where}: '{key}' is {list(dataset.shape)}, expected [{rows[0]}]")
    stored = dataset.id.get_storage_size()
    if too_large(dataset.nbytes, stored):
        raise DatasetError(f"{where}: '{key}' declares {dataset.nbytes} bytes and holds {stored}; damaged, or made to harm")
    array = dataset[()].astype(np.float32)
    bad = ~np.isfinite(array)
    if finite and bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise DatasetError(f"{where}: '{key}' has {int(bad.sum())} values that are not finite (first at {first}); mend it")
    return array
