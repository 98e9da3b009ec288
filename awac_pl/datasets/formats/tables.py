"""Columns of an Arrow table as arrays, with limits on what they may unpack to. pyarrow is slow to import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from awac_pl.datasets.untrusted import too_large
from awac_pl.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow


def to_numpy(column: pyarrow.Array | pyarrow.ChunkedArray, name: str) -> Any:
    """``[T]`` of numbers or flags, ``[T, ...]`` of lists of one length, or a dict of these for a struct.

    Raises:
        DatasetError: the column has gaps, lists of different length, or holds something else.
    """
    import pyarrow
    import pyarrow.compute

    types = pyarrow.types
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pyarrow.ChunkedArray):  # no rows, or too many for one array
        column = pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)
    if column.null_count:
        raise DatasetError(f"'{name}' has {column.null_count} gaps")
    if types.is_struct(column.type):
        return {field.name: to_numpy(column.field(field.name), f"{name}/{field.name}") for field in column.type}
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        lengths = pyarrow.compute.list_value_length(column).unique().to_pylist()
        if len(lengths) > 1:
            raise DatasetError(f"'{name}' has lists of different lengths")
        values = to_numpy(column.flatten(), name)
        return values.reshape(len(column), *(lengths or [0]), *values.shape[1:])
    if types.is_boolean(column.type) or types.is_integer(column.type) or types.is_floating(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    raise DatasetError(f"'{name}' is {column.type}, no array of numbers")


def is_vector(kind: pyarrow.DataType) -> bool:
    """Whether a column holds a number, or lists of numbers, in each row."""
    import pyarrow

    types = pyarrow.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return is_vector(kind.value_type)
    return types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)


def read_parquet(file: Path, columns: list[str] | None = None) -> pyarrow.Table:
    """Columns of a Parquet file; None for all.

    Raises:
        DatasetError: they would unpack to far more than the file holds.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as source:
        groups = [source.metadata.row_group(index) for index in range(source.metadata.num_row_groups)]
        parts = [group.column(index) for group in groups for index in range(group.num_columns)]
        names = [""] if columns is None else [f"{name}." for name in columns]
        size = sum(8 * part.num_values for part in parts if f"{part.path_in_schema}.".startswith(tuple(names)))
        if too_large(size, file.stat().st_size):
            raise DatasetError(f"declares {size} bytes and holds {file.stat().st_size}; damaged, or made to harm")
        return source.read(columns=columns, use_threads=False)
