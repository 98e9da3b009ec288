"""What every reader of somebody else's file checks: errors of one line, sizes that can be, finite numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def to_float32(array: np.ndarray, name: str, *, finite: bool = True, integers: bool = True) -> np.ndarray:
    """An array of numbers as float32; see ``safe_hdf5.read_array``.

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
