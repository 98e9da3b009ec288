"""robomimic's HDF5: a group ``data/demo_0`` per demonstration, with observations by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from awac_pl.datasets.formats.columns import Reading, one_episode
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.safe_hdf5 import image_names, read_array, read_group, read_tree
from awac_pl.errors import DatasetError, nearest


def recognise(file: Path) -> bool:
    """Whether a file has robomimic's groups."""
    with h5py.File(file, "r") as source:
        data = source.get("data", getlink=True) and source["data"]
        return isinstance(data, h5py.Group) and any(re.fullmatch(r"demo_\d+", name) for name in data)


def read(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """The demonstrations in the order of their numbers, all or those of a filter key (``mask/train``).

    Rewards of 0 and 1 alone are robomimic's signs of success.
    """
    with h5py.File(file, "r") as source:
        data = read_group(source, "data", str(file))
        names = sorted(_names(source, data, how.demos), key=lambda name: int(name[5:]))
        facts = _environment(data) | ({"filter": how.demos} if how.demos else {})
        for name in names:
            where = f"{file}: {name}"
            yield from _demonstration(read_group(data, name, str(file)), where, how, facts)


def _demonstration(demo: h5py.Group, where: str, how: Reading, facts: dict[str, Any]) -> Iterator[RawEpisode]:
    if "obs" not in demo:
        raise DatasetError(
            f"{where}: no 'obs', only states of the simulator; extract them with robomimic's dataset_states_to_obs"
        )
    named = {name: read_tree(demo, name, where, how.keys, finite=how.finite) for name in ("obs", "next_obs") if name in demo}
    actions = read_array(demo, "actions", where, finite=how.finite, integers=False)
    columns: dict[str, Any] = {"observations": named["obs"], "actions": actions}
    columns |= {"next_observations": named["next_obs"]} if "next_obs" in named else {}
    columns |= {name: read_array(demo, name, where, finite=how.finite) for name in ("rewards", "dones") if name in demo}
    if "rewards" in columns and np.isin(columns["rewards"], (0, 1)).all():
        columns["success"] = columns["rewards"] > 0
    images = image_names(demo["obs"])
    told = facts | ({"not_read": [f"obs/{name} (image)" for name in images]} if images else {})
    # robomimic marks each success with a done, and goes on
    yield from one_episode(columns, replace(how, inner_ends=how.inner_ends or "keep"), f"{where}: ", told)


def _names(source: h5py.File, data: h5py.Group, demos: str | None) -> list[str]:
    """Names of the demonstrations, of a filter key if one is given."""
    present = [name for name in data if re.fullmatch(r"demo_\d+", name)]
    if demos is None:
        return present
    mask: Any = read_group(source, "mask", source.filename) if "mask" in source else {}
    if demos not in mask:
        raise DatasetError(f"no filter key '{demos}'.{nearest(demos, mask)}" if len(mask) else "it has no filter keys")
    stored = mask[demos] if isinstance(mask.get(demos, getlink=True), h5py.HardLink) else None
    if not isinstance(stored, h5py.Dataset) or stored.is_virtual or stored.external or stored.dtype.kind not in "SO":
        raise DatasetError(f"mask/{demos} is no list of names")
    listed = [name.decode() if isinstance(name, bytes) else str(name) for name in stored[()].reshape(-1)]
    if missing := sorted(set(listed) - set(present)):
        raise DatasetError(f"mask/{demos} names {missing[0]}, which is not in the file")
    return sorted(set(listed))


def _environment(data: h5py.Group) -> dict[str, Any]:
    """The environment that the file says it is of."""
    try:
        arguments = json.loads(data.attrs["env_args"])
        return {"recorded_in": str(arguments["env_name"])[:200]}
    except (KeyError, TypeError, ValueError, RecursionError, OSError):
        return {}
