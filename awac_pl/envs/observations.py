"""Named observations as one flat vector: which keys, in which order. A robot reads this file: it imports little."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from awac_pl.errors import AwacError, DatasetError, nearest

if TYPE_CHECKING:
    import gymnasium


def flatten(named: Mapping[str, Any], keys: Sequence[str] | None = None) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Join named observations of T rows into vectors.

    The default order is that of Gymnasium's ``FlattenObservation`` for a ``Dict`` space: sorted keys, level by level. An
    array ``[T, 2, 3]`` becomes 6 values in C order; ``[T]`` becomes one.

    Args:
        named: arrays ``[T, ...]`` by name; a nested dict has names such as ``hand/position``, the parts of a tuple are
            ``_index_0``, ``_index_1``, …, as in Minari.
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


def describe_layout(layout: Sequence[Mapping[str, Any]]) -> str:
    """``arm (3), target (2)``: the parts with their sizes, for messages."""
    return ", ".join(f"{part['key']} ({part['size']})" for part in layout) or "without names"


def layout_of(space: gymnasium.Space) -> list[dict[str, Any]]:
    """The layout, as of ``flatten``, that Gymnasium's ``FlattenObservation`` gives a space; empty for a Box.

    It is in the order of the space, which is sorted unless its author chose another one.

    Raises:
        AwacError: the space, or a part of it, is no Box, or is a picture.
    """
    from gymnasium.spaces import Box

    layout = list(_layout(space, ""))
    return [] if isinstance(space, Box) else layout


def _layout(space: gymnasium.Space, name: str) -> Iterator[dict[str, Any]]:
    from gymnasium.spaces import Box, Dict, Tuple

    if isinstance(space, Dict | Tuple):
        parts = space.items() if isinstance(space, Dict) else ((f"_index_{i}", part) for i, part in enumerate(space))
        for key, part in parts:
            yield from _layout(part, f"{name}/{key}" if name else str(key))
        return
    what = f"its observation '{name}'" if name else "its observation space"
    if not isinstance(space, Box):
        raise AwacError(f"{what} is {type(space).__name__}; AWAC needs numbers: a Box, or a Dict or Tuple of Boxes")
    if space.dtype == np.uint8 and len(space.shape) > 1:
        raise AwacError(f"{what} is a picture {list(space.shape)}; AWAC needs a state")
    yield {"key": name, "size": int(np.prod(space.shape))}


def environment_layout(environment: gymnasium.Env) -> list[dict[str, Any]]:
    """The layout of an environment's observations, also behind a ``FlattenObservation``; empty if they have no names."""
    import gymnasium

    layer = environment
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.FlattenObservation):
            with contextlib.suppress(AwacError):  # it also flattens what has no layout here
                layout = layout_of(layer.env.observation_space)
                if environment.observation_space.shape == (sum(part["size"] for part in layout),):
                    return layout
            return []
        layer = layer.env
    return layout_of(environment.observation_space)


def as_vector(observation: Any, layout: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """One observation as ``[O]``: a dict or a tuple by the layout, anything else as the array that it is.

    Raises:
        DatasetError: it lacks a key, or a part has another size than in the layout.
    """
    of_tuple = bool(layout) and layout[0]["key"].startswith("_index_")
    if not layout or not isinstance(observation, Mapping | tuple if of_tuple else Mapping):
        return np.asarray(observation)
    keys = [part["key"] for part in layout]
    vectors, found = flatten(_as_rows(observation), keys)
    for part, wanted in zip(found, layout, strict=True):
        if part["size"] != wanted["size"]:
            raise DatasetError(f"observation key '{part['key']}' has {part['size']} values, not {wanted['size']}")
    return vectors[0]


def _as_rows(part: Any) -> Any:
    """A nested observation with one row in each of its arrays."""
    if isinstance(part, tuple):
        part = {f"_index_{index}": value for index, value in enumerate(part)}
    return {key: _as_rows(value) for key, value in part.items()} if isinstance(part, Mapping) else np.asarray(part)[None]


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
