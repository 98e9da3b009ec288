"""Columns of recorded steps under the names that people use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.envs.observations import flatten
from awac_pl.envs.tasks import Spaces
from awac_pl.errors import DatasetError

#: Usual names of each column. ``dones`` are ends of unknown kind: by the dynamics or by the time limit.
NAMES = {
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action", "acts"),
    "rewards": ("rewards", "reward"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "terminals": ("terminals", "terminal", "terminated", "terminations", "termination", "is_terminal"),
    "timeouts": ("timeouts", "timeout", "truncated", "truncations", "truncation"),
    "dones": ("dones", "done"),
    "success": ("success", "successes", "is_success"),
    "seed": ("reset_seed", "seed"),
    "ends": ("episode_terminals", "is_last"),
    "episode": ("episode_index", "episode_indices", "episode_id", "episode_ids"),
    "episode_ends": ("episode_ends",),
}
PLAIN = {name: column for column, names in NAMES.items() for name in names}
#: Columns that end an episode at a step.
FLAGS = ("terminals", "timeouts", "dones")
#: Columns that say where episodes end, and not why.
MARKS = ("ends", "episode", "episode_ends")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a file may leave open.

    Args:
        horizon: the task's time limit in steps.
        keys: of named observations, in their order; None takes all vectors, sorted.
        names: of the parts of the environment's observations, in their order: the default for a file that has them.
        dones: what a step with ``done`` alone is.
        episode_steps: cut a flat file's episodes after this number of steps; 0 never cuts by a time limit. None cuts by
            the task's time limit where no end is marked.
        inner_ends: what the steps behind an end within an episode are: no steps (``drop``), another episode
            (``split``), or more steps of the same one (``keep``).
        demos: name of the list of episodes to read, as robomimic's ``mask/train``.
        success_key: the environment's, of a file that has infos.
        finite: refuse NaN and infinity; false for those who list them.
    """

    horizon: int | None = None
    keys: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    dones: Literal["terminated", "truncated"] | None = None
    episode_steps: int | None = None
    inner_ends: Literal["drop", "split", "keep"] | None = None
    demos: str | None = None
    success_key: str | None = None
    finite: bool = True

    def of_task(self, spaces: Spaces) -> Reading:
        """The same with what a task's environment tells of its recordings."""
        names = tuple(part["key"] for part in spaces.observation_layout)
        return replace(self, horizon=spaces.horizon, names=names, success_key=spaces.success_key)


def plain_columns(named: Mapping[str, Any]) -> dict[str, Any]:
    """The known columns of a file under one name each.

    Raises:
        DatasetError: two names of one column hold different values.
    """
    columns: dict[str, Any] = {}
    for name, value in named.items():
        column = PLAIN.get(name)
        if column in columns and not np.array_equal(columns[column], value):
            names = " and ".join(f"'{other}'" for other in NAMES[column] if other in named)
            raise DatasetError(f"{names} mean the same and differ; leave one of them out")
        if column is not None:
            columns[column] = value
    return columns


def one_episode(
    columns: Mapping[str, Any], how: Reading, where: str, facts: Mapping[str, Any] | None = None
) -> Iterator[RawEpisode]:
    """The episode of these columns; several if ends within it split it.

    A single flag says how the whole episode ends.

    Raises:
        DatasetError: columns are missing, or an end lies within the episode and ``inner_ends`` does not say what follows.
    """
    if not {"observations", "actions"} <= set(columns):
        raise DatasetError(f"{where.removesuffix(': ') or 'it'} has no 'observations' and 'actions'")
    observations, layout = read_observations(columns["observations"], how)
    actions = np.asarray(columns["actions"])
    steps = len(actions) if actions.ndim else 0
    flags = {name: flags_of(columns[name], steps) for name in FLAGS if columns.get(name) is not None}
    inner = {name: np.flatnonzero(flag[: steps - 1]) for name, flag in flags.items()}
    inner |= {name: ends[ends < steps - 1] for name, ends in marked_ends(columns, steps).items()}
    raw = RawEpisode(
        observations=observations,
        actions=actions,
        rewards=_optional(columns, "rewards"),
        terminations=flags.get("terminals"),
        truncations=flags.get("timeouts"),
        dones=flags.get("dones"),
        success=_optional(columns, "success"),
        next_observations=following_of(columns, how),
        seed=_seed(columns.get("seed")),
        facts={**(facts or {}), **({"observation_layout": layout} if layout else {})},
    )
    if how.inner_ends == "keep" or not any(map(len, inner.values())):
        yield with_last_observation(raw)
        return
    name, first = min(((name, int(ends[0])) for name, ends in inner.items() if len(ends)), key=lambda pair: pair[1])
    if how.inner_ends is None:
        raise DatasetError(
            f"{where}'{name}' ends it at step {first + 1} of {steps}; say what the steps behind it are: "
            "--inner_ends drop (nothing), split (another episode) or keep (the same episode)"
        )
    ends = sorted({steps - 1, *(int(end) for ends in inner.values() for end in ends)})
    for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
        part = part_of(raw, start, end + 1)
        if how.inner_ends == "split" and end < steps - 1:  # what follows is where the next episode begins
            part = replace(part, observations=part.observations[: len(part.actions)])
        yield with_last_observation(part)
        if how.inner_ends == "drop":
            return


def marked_ends(columns: Mapping[str, Any], steps: int) -> dict[str, np.ndarray]:
    """The last steps of episodes by each of ``MARKS`` that there is; a single value marks nothing within.

    Raises:
        DatasetError: a column has another length, or is no such mark.
    """
    ends: dict[str, np.ndarray] = {}
    for name in (name for name in MARKS if columns.get(name) is not None):
        column = np.asarray(columns[name])
        if name == "episode_ends":
            if (
                column.dtype.kind not in "iu"
                or column.ndim != 1
                or (np.diff(column, prepend=0) <= 0).any()
                or column.max(initial=0) > steps
            ):
                raise DatasetError(f"'episode_ends' must be growing numbers of rows, {steps} at most")
            ends[name] = column - 1
        elif column.ndim:
            if len(column) != steps:
                raise DatasetError(f"'{name}' is {list(column.shape)}, expected [{steps}]")
            changes = (column[1:] != column[:-1]).reshape(max(0, steps - 1), -1)
            ends[name] = np.flatnonzero(flags_of(column, steps) if name == "ends" else changes.any(axis=1))
    return ends


def _optional(columns: Mapping[str, Any], name: str) -> np.ndarray | None:
    return None if columns.get(name) is None else np.asarray(columns[name])


def _seed(seed: Any) -> int | None:
    value = np.asarray(seed)
    return int(value) if value.ndim == 0 and value.dtype.kind in "iu" else None


def flags_of(column: Any, steps: int) -> np.ndarray:
    """``[T]`` bool; a single flag is that of the last step."""
    flags = np.asarray(column)
    if flags.dtype.kind not in "biuf":
        raise DatasetError(f"flags of {flags.dtype}; expected booleans or numbers")
    return (np.arange(steps) == steps - 1) & bool(flags) if flags.ndim == 0 else flags.reshape(-1) > 0


def read_observations(rows: Any, how: Reading) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """``[T, O]`` and its layout, from vectors (whose layout is empty) or named parts: a dict of arrays, or a dict per row.

    The default are the parts that the task names, if all are there. Else all parts of a dict of arrays, and of dicts per row
    rlkit's ``state_observation``, or ``observation``.

    Raises:
        DatasetError: the names are unknown, or there are keys but no names.
    """
    keys: Sequence[str] | None = how.keys
    if not isinstance(rows, Mapping) and len(rows) and isinstance(rows[0], Mapping):
        known = [[key] for key in ("state_observation", "observation") if key in rows[0]]
        known = [list(how.names)] if how.names and set(how.names) <= set(rows[0]) else known
        if keys is None and not known:
            names = ", ".join(sorted(map(str, rows[0])))
            raise DatasetError(f"observations are dicts of {names}; none is known; choose with --keys")
        chosen = known[0] if keys is None else keys
        if missing := [key for key in chosen if any(key not in row for row in rows)]:
            raise DatasetError(f"no observation key '{missing[0]}' in every row; there is: {', '.join(map(str, rows[0]))}")
        rows = {key: np.asarray([row[key] for row in rows]) for key in chosen}
    if isinstance(rows, Mapping):
        default = how.names if how.names and all(name in rows for name in how.names) else None
        return flatten(rows, default if keys is None else keys)
    if keys is not None:
        raise DatasetError("its observations have no names; leave --keys out")
    return np.asarray(rows), []


def following_of(columns: Mapping[str, Any], how: Reading) -> np.ndarray | None:
    """``[T, O]`` of the next observations; None if there are none."""
    rows = columns.get("next_observations")
    return None if rows is None else read_observations(rows, how)[0]


def with_last_observation(raw: RawEpisode) -> RawEpisode:
    """Append the last next observation where an episode has as many observations as actions."""
    following = raw.next_observations
    if following is None or not len(following) or len(raw.observations) != len(raw.actions):
        return raw
    return replace(raw, observations=np.concatenate([raw.observations, following[-1:]]))


def part_of(raw: RawEpisode, start: int, stop: int, end: str | None = None) -> RawEpisode:
    """Steps ``start`` to ``stop`` of a longer recording."""
    names = ("actions", "rewards", "terminations", "truncations", "dones", "success", "next_observations")
    present = {name: column for name in names if (column := getattr(raw, name)) is not None}
    columns: dict[str, Any] = {name: column[start:stop] for name, column in present.items()}
    further = int(len(raw.observations) > len(raw.actions))  # the observation behind the last action is there
    return replace(raw, observations=raw.observations[start : stop + further], end=end, **columns)
