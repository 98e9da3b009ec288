"""Where the episodes of a flat file end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from awac_pl.datasets.formats.columns import (
    FLAGS,
    Reading,
    flags_of,
    following_of,
    marked_ends,
    part_of,
    read_observations,
    with_last_observation,
)
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.errors import DatasetError


def cut(columns: Mapping[str, Any], how: Reading, facts: Mapping[str, Any] | None = None) -> Iterator[RawEpisode]:
    """Cut flat columns ``[N, ...]`` into episodes.

    An episode ends where a column says so, where the next observation is not the following row's observation, and,
    where no column says anything, by the time limit.

    Raises:
        DatasetError: lengths differ, rows are shuffled, or it is ambiguous where episodes end.
    """
    observations, layout = read_observations(columns["observations"], how)
    steps, following = len(columns["actions"]), following_of(columns, how)
    if len(observations) != steps:
        raise DatasetError(f"{len(observations)} observations and {steps} actions")
    rows = {name: np.asarray(columns[name]) for name in columns if name not in ("observations", "next_observations", "seed")}
    for name, column in rows.items():
        if name != "episode_ends" and len(column) != steps:
            raise DatasetError(f"'{name}' is {list(column.shape)}, expected [{steps}]")
    if steps == 0:
        return
    flags = {name: flags_of(rows[name], steps) for name in FLAGS if name in rows}
    ends = find_ends(flags, rows, _jumps(observations, following), how, steps)
    whole = RawEpisode(
        observations=observations,
        actions=rows["actions"],
        rewards=rows.get("rewards"),
        terminations=flags.get("terminals"),
        truncations=flags.get("timeouts"),
        dones=flags.get("dones"),
        success=rows.get("success"),
        next_observations=following,
        facts={**(facts or {}), **({"observation_layout": layout} if layout else {})},
    )
    start = 0
    for end in sorted(ends):
        yield with_last_observation(part_of(whole, start, end + 1, ends[end]))
        start = end + 1


def find_ends(
    flags: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], jumps: np.ndarray, how: Reading, steps: int
) -> dict[int, str]:
    """The last row of each episode, and how it was found; see ``cut``."""
    ends: dict[int, str] = dict.fromkeys(jumps.tolist(), "jump")
    for marked in marked_ends(rows, steps).values():
        ends |= dict.fromkeys(marked.tolist(), "marked")
    for name, word in (("dones", "done"), ("timeouts", "timeout"), ("terminals", "terminated")):
        ends |= dict.fromkeys(np.flatnonzero(flags[name]).tolist() if name in flags else [], word)
    known = bool(set(ends.values()) & {"jump", "marked", "timeout"})
    ends.setdefault(steps - 1, "file")
    limit = (0 if known else how.horizon or 0) if how.episode_steps is None else how.episode_steps
    start = 0
    for end in sorted(ends) if limit else ():
        length = end + 1 - start
        if length > limit and length % limit and how.episode_steps is None:
            raise DatasetError(
                f"rows {start} to {end} have no end that is marked, and {length} steps are no multiple of the time limit of "
                f"{limit}; add a column 'timeouts', or pass --episode_steps N (0: it is one episode)"
            )
        ends |= dict.fromkeys(range(start + limit - 1, end, limit), "time limit")
        start = end + 1
    return ends


def _jumps(observations: np.ndarray, following: np.ndarray | None) -> np.ndarray:
    """Rows whose next observation is not the observation of the following row.

    Raises:
        DatasetError: that are more than half of the rows.
    """
    if following is None:
        return np.array([], dtype=int)
    if following.shape != observations.shape:
        raise DatasetError(f"next observations are {list(following.shape)}, observations {list(observations.shape)}")
    after = observations[1:].reshape(len(observations) - 1, -1)
    differs = ~np.isclose(following[:-1].reshape(after.shape), after, rtol=1e-4, atol=1e-4, equal_nan=True).all(axis=1)
    if len(after) > 1 and 2 * differs.sum() > len(after):
        share = f"{int(differs.sum())} of {len(after)} rows"
        raise DatasetError(f"the next observation of {share} is not the following row's observation; the rows are shuffled")
    return np.flatnonzero(differs)
