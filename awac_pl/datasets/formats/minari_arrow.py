"""Minari datasets in its formats ``arrow`` and ``parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from awac_pl.datasets.formats.columns import Reading, one_episode
from awac_pl.datasets.formats.tables import read_parquet, to_numpy
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.untrusted import too_large
from awac_pl.envs.tasks import recorded_success_key
from awac_pl.errors import DatasetError


def recognise(path: Path) -> bool:
    """Whether it is the folder of such a dataset."""
    return any((path / "data").glob("[0-9]*/*.arrow")) or any((path / "data").glob("[0-9]*/*.parquet"))


def read(path: Path, how: Reading) -> Iterator[RawEpisode]:
    """The episodes of a dataset's folder, in the order of their numbers.

    Minari fills all columns but observations and infos with a last row that means nothing.
    """
    folders = sorted((part for part in (path / "data").iterdir() if part.name.isdigit()), key=lambda part: int(part.name))
    for folder in folders:
        where = f"{path}: episode {folder.name}: "
        columns = _read_folder(folder)
        if "observations" not in columns or "actions" not in columns:
            raise DatasetError(f"{where}no observations and actions; it is not a Minari episode")
        infos = columns.pop("infos", {})
        columns |= {
            name: columns[name][:-1] for name in ("actions", "rewards", "terminations", "truncations") if name in columns
        }
        if isinstance(infos, dict) and (key := recorded_success_key(infos, how.success_key)) is not None:
            columns["success"] = infos[key].reshape(-1)[-len(columns["actions"]) :]
        columns["seed"] = _seed(folder / "metadata.json")
        yield from one_episode(_named(columns), how, where)


def _named(columns: dict[str, Any]) -> dict[str, Any]:
    names = {"terminations": "terminals", "truncations": "timeouts"}
    return {names.get(name, name): column for name, column in columns.items()}


def _read_folder(folder: Path) -> dict[str, Any]:
    """All columns of an episode's files."""
    import pyarrow.dataset

    if files := sorted(folder.glob("*.arrow")):
        table = pyarrow.dataset.dataset([str(file) for file in files], format="arrow").to_table(use_threads=False)
    else:
        files = sorted(folder.glob("*.parquet"))
        table = pyarrow.concat_tables([read_parquet(file) for file in files], promote_options="permissive")
    if too_large(table.nbytes, held := sum(file.stat().st_size for file in files)):
        raise DatasetError(f"{folder}: unpacks to {table.nbytes} bytes and holds {held}; damaged, or made to harm")
    return {name: to_numpy(table.column(name), name) for name in table.column_names}


def _seed(path: Path) -> Any:
    try:
        seed = json.loads(path.read_text()).get("seed")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None
