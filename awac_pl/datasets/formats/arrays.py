"""Named arrays: those of a ``.npz`` file, or a dict of arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

from awac_pl.datasets.formats.columns import MARKS, PLAIN, Reading, one_episode, plain_columns
from awac_pl.datasets.formats.ends import cut
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.errors import DatasetError


def read_arrays(named: Mapping[str, Any], how: Reading) -> Iterator[RawEpisode]:
    """The episodes of named arrays: one row per episode, ``observations_0``, ``observations_1``, …, or flat columns.

    Raises:
        DatasetError: there are no observations and actions, or the arrays have other sizes.
    """
    columns = plain_columns(named)
    numbered = _numbered_columns(named)
    if numbered and "actions" not in columns:
        for index in sorted(numbered):
            yield from one_episode(numbered[index], how, f"episode {index}: ")
        return
    if not {"observations", "actions"} <= set(columns):
        missing = min({"observations", "actions"} - set(columns))
        raise DatasetError(f"no array '{missing}'; it has {', '.join(map(str, named)) or 'nothing'}")
    columns = {name: value if isinstance(value, Mapping) else np.asarray(value) for name, value in columns.items()}
    actions = columns["actions"]
    _check_dimensions(columns["observations"], actions)
    if actions.dtype.kind == "O" or actions.ndim == 3:
        unread = {name for name in columns if name in MARKS and not _marks_steps(columns[name], len(actions))}
        rows, facts = {name: column for name, column in columns.items() if name not in unread}, _facts(named, unread)
        for name, column in rows.items():
            if not isinstance(column, Mapping) and len(column) != len(actions):
                shapes = f"'{name}' is {list(column.shape)}, 'actions' is {list(actions.shape)}"
                raise DatasetError(f"{shapes}; expected a row for each of N episodes: [N, …] and [N, T, A]")
        for index in range(len(actions)):
            row = {name: _row(column, index) for name, column in rows.items()}
            yield from one_episode(row, how, f"episode {index}: ", facts)
    elif len(actions) + 1 == len(_any_array(columns["observations"])):
        yield from one_episode(columns, how, "", _facts(named))
    else:
        yield from cut(columns, how, _facts(named))


def _check_dimensions(observations: Any, actions: np.ndarray) -> None:
    """Refuse ``[N, T]`` and ``[T]`` actions, which could be many things; ragged ones are judged episode by episode."""
    numbers = not isinstance(observations, Mapping) and observations.dtype.kind != "O" != actions.dtype.kind
    if numbers and not (actions.ndim in (2, 3) and observations.ndim == actions.ndim):
        raise DatasetError(
            f"'actions' is {list(actions.shape)}, 'observations' is {list(observations.shape)}; expected [N, T, A] and "
            "[N, T + 1, O] for N episodes, or [T, A] and [T + 1, O] for one; one action value has A = 1"
        )


def _marks_steps(column: Any, episodes: int) -> bool:
    """Whether marks are there for the steps of each episode, not one for each."""
    return column.ndim > 0 and len(column) == episodes and (column.ndim > 1 or column.dtype.kind == "O")


def _row(column: Any, index: int) -> Any:
    return {key: _row(part, index) for key, part in column.items()} if isinstance(column, Mapping) else column[index]


def _any_array(column: Any) -> np.ndarray:
    return _any_array(next(iter(column.values()))) if isinstance(column, Mapping) and column else np.asarray(column)


def _facts(named: Mapping[str, Any], unread: Set[str] = frozenset()) -> dict[str, Any]:
    """What the file has and nobody reads: unknown names, and the columns ``unread``."""
    unknown = sorted(str(name) for name in named if PLAIN.get(name) in {None, *unread})
    return {"not_read": unknown} if unknown else {}


def _numbered_columns(named: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Columns such as ``actions_7`` by the number of their episode."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in named.items():
        if (match := re.fullmatch(r"(\w+?)_(\d{1,9})", str(name))) and match[1] in PLAIN:
            found.setdefault(int(match[2]), {})[match[1]] = value
    return {index: plain_columns(columns) for index, columns in found.items()}
