"""HDF5 files: plain arrays of untrusted ones, without links to elsewhere or more data than a file can hold; and new ones."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from awac_pl.errors import DatasetError, first_line

#: gzip compresses by a factor of at most 1,032. An array that declares more is damaged, or made to harm.
LARGEST_RATIO = 1100
#: Recordings compress by a factor of at most 20, so arrays above ``LARGE`` bytes have this stricter limit.
LARGEST_RATIO_OF_LARGE = 100
LARGE = 64 << 20


def too_large(size: int, stored: int) -> bool:
    """Whether ``stored`` bytes of a recording cannot unpack to ``size`` bytes."""
    return size > stored * (LARGEST_RATIO if size <= LARGE else LARGEST_RATIO_OF_LARGE)


@contextmanager
def writing(path: Path, **options: Any) -> Iterator[h5py.File]:
    """Yield a new HDF5 file in memory, and write it to ``path`` at the end.

    On a full disk the HDF5 library, writing by itself, would crash the process. The cost is memory of the file's size.

    Raises:
        OSError: it cannot be written.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", **options) as file:
        yield file
    path.write_bytes(image.getbuffer())


@contextmanager
def reading(path: Path, form: str = "HDF5") -> Iterator[None]:
    """Turn every error from an untrusted file into one line that names the file.

    It catches every kind of error: readers of damaged files raise more kinds than a list could name.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        yield
    except DatasetError as error:
        message = str(error)
        raise DatasetError(message if str(path) in message else f"{path}: {message}") from error
    except Exception as error:
        raise _unreadable(path, error, form) from error


def _unreadable(path: Path, error: Exception, form: str) -> DatasetError:
    """Names the cause where it is known: often another file was saved under this name."""
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(100).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return DatasetError(f"{path}: is a Git LFS pointer, not the file; fetch it with: git lfs pull")
    if start.startswith((b"<!doctype", b"<html")):
        return DatasetError(f"{path}: is a web page, not the file; download it anew")
    return DatasetError(f"{path}: cannot be read as {form} ({first_line(error)}); is it the right file, and complete?")


def read_group(parent: h5py.Group, name: str, where: str) -> h5py.Group:
    """A group of the file. Links are refused: they could show any file of this machine.

    Raises:
        DatasetError: it is a link, or no group.
    """
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink) or not isinstance(parent[name], h5py.Group):
        raise DatasetError(f"{where}: '{name}' is a link to elsewhere or no group; refused")
    return parent[name]


def read_array(
    group: h5py.Group,
    key: str,
    where: str,
    rows: tuple[int, ...] | None = None,
    *,
    finite: bool = True,
    integers: bool = True,
    exact: bool = False,
) -> np.ndarray:
    """An array of the file, as float32.

    Args:
        group: of the file.
        key: of the array.
        where: file and episode, for errors.
        rows: allowed lengths of an array ``[rows]``; None for any shape.
        finite: refuse NaN and infinity.
        integers: accept integers and flags, too.
        exact: return integers as they are.

    Raises:
        DatasetError: the array is missing, stored elsewhere, larger than its bytes allow, or not of finite numbers.
    """
    link = group.get(key, getlink=True)
    if link is None:
        raise DatasetError(f"{where}: no '{key}'; it is not a Minari episode")
    if not isinstance(link, h5py.HardLink):
        raise DatasetError(f"{where}: '{key}' is a link to elsewhere; refused")
    dataset = group[key]
    if isinstance(dataset, h5py.Group):
        parts = ", ".join(sorted(dataset)) or "nothing"
        raise DatasetError(f"{where}: '{key}' is a dict of {parts}, not one array of numbers")
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf" or dataset.ndim == 0:
        raise DatasetError(f"{where}: '{key}' is no array of numbers; flatten it first")
    if dataset.is_virtual or dataset.external:
        raise DatasetError(f"{where}: '{key}' is stored in another file; refused")
    if rows is not None and dataset.shape not in [(count,) for count in rows]:
        raise DatasetError(f"{where}: '{key}' is {list(dataset.shape)}, expected [{rows[0]}]")
    stored = dataset.id.get_storage_size()
    if too_large(dataset.nbytes, stored):
        raise DatasetError(f"{where}: '{key}' declares {dataset.nbytes} bytes and holds {stored}; damaged, or made to harm")
    array = dataset[()]
    return (
        array
        if exact and array.dtype.kind in "biu"
        else to_float32(array, f"{where}: '{key}'", finite=finite, integers=integers)
    )


def read_tree(parent: h5py.Group, name: str, where: str, keys: Sequence[str] | None = None, *, finite: bool = True) -> Any:
    """An array, or a group's arrays by name, with a dict for each group within. Images are left out: see ``image_names``.

    Raises:
        DatasetError: an array cannot be read, or ``keys`` name an image.
    """
    if isinstance(parent.get(name), h5py.Dataset):
        return read_array(parent, name, where, finite=finite)
    group = read_group(parent, name, where)
    images = image_names(group)
    if named := sorted(set(images) & set(keys or ())):
        raise DatasetError(f"{where}: '{named[0]}' is an image; AWAC needs vectors, choose others with --keys")
    return {part: read_tree(group, part, where, keys, finite=finite) for part in group if part not in images}


def image_names(group: h5py.Group) -> list[str]:
    """Names of the parts of a group that are images or videos: ``[T, H, W, C]``, or ``[T, H, W]`` from 16 x 16 on."""
    shapes = {name: part.shape for name in group if isinstance(part := group.get(name), h5py.Dataset)}
    return [name for name, shape in shapes.items() if len(shape) > 3 or (len(shape) == 3 and min(shape[1:]) >= 16)]


def to_float32(array: np.ndarray, name: str, *, finite: bool = True, integers: bool = True) -> np.ndarray:
    """An array of numbers as float32; see ``read_array``.

    Raises:
        DatasetError: the values are no numbers, not finite, or integers although floats are needed.
    """
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{name}: no array of numbers (ragged, or {array.dtype})")
    if not integers and array.dtype.kind != "f":
        raise DatasetError(f"{name} are {array.dtype}; AWAC needs continuous ones, stored as floats")
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite, which is refused
        array = array.astype(np.float32)
    bad = ~np.isfinite(array)
    if finite and bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise DatasetError(f"{name}: {int(bad.sum())} values are not finite (first at {first}); correct the file")
    return array
