"""Named observations as one flat vector: which keys, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from awac_pl.errors import DatasetError, nearest


def flatten(named: Mapping[str, Any], keys: Sequence[str] | None = None) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Join named observations of T rows into vectors.

    The default order is that of Gymnasium's ``FlattenObservation`` for a ``Dict`` space: sorted keys, level by level. An
    array ``[T, 2, 3]`` becomes 6 values in C order; ``[T]`` becomes one.

    Args:
        named: arrays ``[T, ...]`` by name; a nested dict has names such as ``hand/position``.
        keys: which, in this order; the name of a nested dict stands for all its parts. None takes all.

    Returns:
        ``[T, O]``, of the arrays' common dtype, and the layout: ``{"key": name, "size": values}`` for each array, in order.

    Raises:
        DatasetError: no such key, a key given twice, rows of different number, or values that are no numbers.
    """
    arrays = _named_arrays(named)
    chosen = list(arrays) if keys is None else [name for key in keys for name in _parts_of(key, arrays)]
    if not chosen:
        raise DatasetError("there are no observations to flatten")
    if repeated := [name for name in chosen if chosen.count(name) > 1]:
        raise DatasetError(f"observation key '{repeated[0]}' is named twice")
    for name in chosen:
        if arrays[name].dtype.kind not in "biuf" or arrays[name].ndim == 0:
            raise DatasetError(f"observation key '{name}' is no array of numbers ({arrays[name].dtype})")
        if len(arrays[name]) != len(arrays[chosen[0]]):
            lengths = f"{len(arrays[name])} rows, '{chosen[0]}' has {len(arrays[chosen[0]])}"
            raise DatasetError(f"observation key '{name}' has {lengths}")
    rows = len(arrays[chosen[0]])
    parts = [arrays[name].reshape(rows, int(np.prod(arrays[name].shape[1:]))) for name in chosen]
    layout = [{"key": name, "size": part.shape[1]} for name, part in zip(chosen, parts, strict=True)]
    return np.concatenate(parts, axis=1), layout


def value_names(layout: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each of the O values of a layout: ``eef_pos_0``, ``eef_pos_1``, …; a single value has its key alone."""
    return [
        part["key"] if part["size"] == 1 else f"{part['key']}_{index}" for part in layout for index in range(part["size"])
    ]


def _named_arrays(named: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a nested dict by their full names, sorted at each level."""
    arrays: dict[str, np.ndarray] = {}
    for key in sorted(named):
        part = named[key]
        arrays |= (
            _named_arrays(part, f"{prefix}{key}/") if isinstance(part, Mapping) else {f"{prefix}{key}": np.asarray(part)}
        )
    return arrays


def _parts_of(key: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The full names that a key stands for."""
    if names := [name for name in arrays if name == key or name.startswith(f"{key}/")]:
        return names
    raise DatasetError(f"no observation key '{key}'.{nearest(key, arrays)}")
