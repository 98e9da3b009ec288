"""LeRobot datasets, version 2 (a Parquet file per episode) and 3 (many episodes per file)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from awac_pl.datasets.formats.columns import Reading, one_episode
from awac_pl.datasets.formats.tables import is_vector, read_parquet, to_numpy
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.untrusted import reading
from awac_pl.errors import DatasetError, first_line, nearest

#: LeRobot's columns, by our names.
COLUMNS = {"action": "actions", "next.reward": "rewards", "next.done": "dones", "next.success": "success"}
PREFIX = "observation."


def find_root(path: Path) -> Path | None:
    """The dataset's folder, the one with ``meta/info.json``, of itself or of one of its files."""
    folders = [path, *path.resolve().parents[:4]]
    return next((folder for folder in folders if (folder / "meta" / "info.json").is_file()), None)


def recognise(path: Path) -> bool:
    """Whether it is a LeRobot dataset, or a file of one."""
    return find_root(path) is not None


def read(path: Path, how: Reading) -> Iterator[RawEpisode]:
    """The episodes of a dataset's folder, in the order of their numbers, or of one of its files.

    Observations are the vectors ``observation.*``, sorted, or those of ``how.keys`` in their order. Images and videos are
    left out. The outcome of an episode's last action is not recorded.

    Raises:
        DatasetError: the version is unknown, files or frames are missing, or a key is no vector.
    """
    root = find_root(path)
    info = _info(root) if root else {}
    files = [path] if path.is_file() else sorted((path / "data").rglob("*.parquet"))
    if not files:
        raise DatasetError(f"{path}: no Parquet files in its folder 'data'; download it whole")
    number = 0
    for file in files:
        for index, raw in _episodes_of(file, info, how):
            if path.is_dir() and index != number:
                raise DatasetError(f"{file}: has episode {index}, expected {number}; download the dataset whole")
            number += 1
            yield raw
    if path.is_dir() and number < (declared := info.get("total_episodes", 0)):
        raise DatasetError(
            f"{path}: meta/info.json says {declared} episodes, {number} are here; download it whole, or import single files"
        )


def _info(root: Path) -> dict[str, Any]:
    """Contents of ``meta/info.json``."""
    path = root / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = str(info.get("codebase_version"))
        total = info.get("total_episodes", 0)
        features = info.get("features", {})
        if not isinstance(total, int) or not isinstance(features, dict):
            raise ValueError("'total_episodes' or 'features' is of another type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{path}: not the JSON of a LeRobot dataset ({first_line(error)})") from error
    if not version.startswith(("v2.", "v3.")):
        raise DatasetError(f"{path}: is of version {version}; convert it to v2.1 or v3.0 with LeRobot's own scripts")
    return info


def _episodes_of(file: Path, info: dict[str, Any], how: Reading) -> Iterator[tuple[int, RawEpisode]]:
    """Number and columns of each episode in a Parquet file."""
    import pyarrow.parquet

    with reading(file, "Parquet"):
        schema = pyarrow.parquet.read_schema(file)
    keys, left_out = _observation_keys(schema, info, how.keys)
    present = [name for name in (*COLUMNS, "episode_index", "frame_index") if name in schema.names]
    if missing := {"action", "episode_index", "frame_index"} - set(present):
        raise DatasetError(f"{file}: no column '{min(missing)}'; is it a data file of a LeRobot dataset?")
    table = read_parquet(file, [*keys, *present])
    columns = {name: to_numpy(table.column(name), name) for name in table.column_names}
    facts = _facts(info) | ({"not_read": left_out} if left_out else {})
    numbers = columns["episode_index"]
    for index in np.unique(numbers).tolist():
        rows = np.flatnonzero(numbers == index)
        rows = rows[np.argsort(columns["frame_index"][rows], kind="stable")]
        where = f"{file}: episode {index}: "
        if not np.array_equal(columns["frame_index"][rows], np.arange(len(rows))):
            raise DatasetError(
                f"{where}{len(rows)} frames are not numbered from 0 to {len(rows) - 1}; download the file anew"
            )
        episode = {
            name: columns[name][rows].reshape(-1) for name in present if name in ("next.reward", "next.done", "next.success")
        }
        plain: dict[str, Any] = {COLUMNS[name]: column for name, column in episode.items()}
        plain |= {"actions": columns["action"][rows], "observations": {key: columns[key][rows] for key in keys}}
        yield index, next(one_episode(plain, replace(how, keys=tuple(keys), inner_ends="keep"), where, facts))


def _observation_keys(schema: Any, info: dict[str, Any], chosen: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The keys to read, and what is left out."""
    named = sorted({*schema.names, *info.get("features", {})})
    observations = [name for name in named if name.startswith(PREFIX)]
    vectors = [name for name in schema.names if name.startswith(PREFIX) and is_vector(schema.field(name).type)]
    for key in chosen or ():
        if key in observations and key not in vectors:
            raise DatasetError(f"'{key}' is an image or a video; AWAC needs vectors, choose others with --keys")
        if key not in vectors:
            raise DatasetError(f"no observation key '{key}'.{nearest(key, vectors)}")
    keys = sorted(vectors) if chosen is None else list(chosen)
    if not keys:
        raise DatasetError(f"it has no observations that are vectors; it has {', '.join(observations) or 'none at all'}")
    return keys, [name for name in observations if name not in keys]


def _facts(info: dict[str, Any]) -> dict[str, Any]:
    """What the dataset says of itself."""
    told = {"lerobot": info.get("codebase_version"), "robot": info.get("robot_type"), "fps": info.get("fps")}
    return {key: value for key, value in told.items() if isinstance(value, str | int | float)}
