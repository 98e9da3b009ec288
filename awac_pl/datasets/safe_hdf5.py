"""HDF5 files: plain arrays of untrusted ones, without links to elsewhere or more data than a file can hold; and new ones."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from awac_pl.datasets.untrusted import to_float32, too_large
from awac_pl.errors import DatasetError


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
        raise DatasetError(f"{where}: no '{key}'")
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
