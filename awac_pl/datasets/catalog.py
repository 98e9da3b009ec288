"""Where datasets lie, what their ids are, and what their metadata say; nothing that a file names is ever run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import h5py

from awac_pl.datasets.safe_hdf5 import unreadable
from awac_pl.envs.tasks import Spaces, Task, uses_binary_reward
from awac_pl.errors import DatasetError, first_line, nearest

#: Beside a dataset's ``data``: the policy that acted in it.
POLICY_FILE = "policy.safetensors"
BUILT_IN_ROOT = Path(__file__).parent / "demonstrations"
_ID = re.compile(r"(?:[A-Za-z0-9_][\w-]*/)*[A-Za-z0-9_][\w-]*-v\d+")


def local_root() -> Path:
    """Where Minari keeps datasets: ``$MINARI_DATASETS_PATH``, or ``~/.minari/datasets``."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def dataset_ids() -> list[str]:
    """Ids of all local and built-in datasets."""
    found = set()
    for root in (local_root(), BUILT_IN_ROOT):
        found |= {path.parents[1].relative_to(root).as_posix() for path in root.glob("**/data/main_data.hdf5")}
    return sorted(name for name in found if _ID.fullmatch(name))  # not one that is being written


def check_dataset_id(dataset_id: str) -> None:
    """Refuse an id that is not of the form ``namespace/name-v0``.

    Raises:
        DatasetError: it is not.
    """
    if not _ID.fullmatch(dataset_id):
        raise DatasetError(f"'{dataset_id}' is no dataset id; it must look like namespace/name-v0")


def check_free(dataset_id: str, overwrite: bool) -> None:
    """Refuse to write a dataset over another one, unless that is meant.

    Raises:
        DatasetError: there is one of that id, or the id is not of its form.
    """
    if find_dataset(dataset_id) is not None and not overwrite:
        raise DatasetError(f"there is a dataset '{dataset_id}'; choose another id, or pass --overwrite to replace it")


def find_dataset(dataset_id: str) -> Path | None:
    """The ``data`` folder of a local or built-in dataset; None where there is none.

    Raises:
        DatasetError: the id is not of the form ``namespace/name-v0``.
    """
    check_dataset_id(dataset_id)
    folders = (root / dataset_id / "data" for root in (local_root(), BUILT_IN_ROOT))
    return next((folder for folder in folders if (folder / "main_data.hdf5").exists()), None)


def read_metadata(dataset_id: str) -> dict[str, Any]:
    """Minari metadata of a dataset that is here; before Minari 0.5 they were attributes of the data file.

    Raises:
        DatasetError: it is not here, or its metadata are damaged.
    """
    path = data_file(dataset_id)
    beside = path.with_name("metadata.json")
    try:
        if beside.exists():
            metadata = json.loads(beside.read_text())
            if not isinstance(metadata, dict):
                raise ValueError("a list, or a single value")
            return metadata
        with h5py.File(path, "r") as file:
            return {key: value.item() if hasattr(value, "item") else value for key, value in file.attrs.items()}
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{beside}: not the JSON of a dataset ({first_line(error)}); make or download the dataset anew"
        ) from error
    except Exception as error:
        raise unreadable(path, error) from error


def recorded_environment(metadata: dict[str, Any]) -> str | None:
    """Id of the environment that a dataset was recorded in, as its metadata say; None where they do not."""
    try:
        named = json.loads(metadata["env_spec"])["id"]
    except (KeyError, TypeError, ValueError, RecursionError):
        recipe = metadata.get("recipe")
        named = metadata.get("env_id") or (recipe.get("env_id") if isinstance(recipe, dict) else None)
    return named if isinstance(named, str) else None


def check_environment(dataset_id: str, task: Task, spaces: Spaces, *, any_environment: bool = False) -> None:
    """Refuse a dataset of another environment, of another version of it, or with rewards of another kind.

    Args:
        dataset_id: of a dataset that is here.
        task: to hold it against.
        spaces: of the task's environment.
        any_environment: look at the rewards alone.

    Raises:
        DatasetError: it is one.
    """
    metadata = read_metadata(dataset_id)
    if not any_environment and (mismatch := environment_mismatch(metadata, task)):
        raise DatasetError(
            f"dataset '{dataset_id}' {mismatch}; if you know that it fits: "
            f"awac data relabel {dataset_id} --task {task.name} --to mine/name-v0"
        )
    if mismatch := reward_mismatch(metadata, task, spaces):
        raise DatasetError(f"dataset '{dataset_id}' {mismatch}; use reward: binary, or a dataset with those rewards")


def environment_mismatch(metadata: dict[str, Any], task: Task) -> str | None:
    """How the environment that a dataset was recorded in differs from the task's; None where it does not, or nobody knows.

    ``AdroitHandPen-v1`` and ``AdroitHandPenSparse-v1`` differ in their rewards alone.
    """
    recorded = recorded_environment(metadata)
    if recorded is None:
        return None
    (name, version), (wanted, wanted_version) = _parts(recorded), _parts(task.env_id)
    if name.removesuffix("Sparse") != wanted.removesuffix("Sparse"):
        return f"was recorded in {recorded}, the task is {task.env_id}"
    return None if version == wanted_version else f"was recorded in {recorded}, another version than {task.env_id}"


def reward_mismatch(metadata: dict[str, Any], task: Task, spaces: Spaces) -> str | None:
    """What rewards a dataset holds instead of the environment's own that the task asks for; None where all is well."""
    if uses_binary_reward(task, spaces):
        return None  # made anew
    recorded = recorded_environment(metadata)
    if metadata.get("reward") == "binary":
        return f"holds success - 1, not the rewards of {task.env_id}"
    if recorded is not None and _parts(recorded)[0] != _parts(task.env_id)[0]:
        return f"holds the rewards of {recorded}, not those of {task.env_id}"
    return None


def _parts(env_id: str) -> tuple[str, str]:
    """``module:Name-v1`` is (``Name``, ``1``)."""
    name, _, version = env_id.split(":")[-1].rpartition("-v")
    return (name, version) if name else (version, "")


def data_file(dataset_id: str) -> Path:
    """The HDF5 file of a dataset that is here.

    Raises:
        DatasetError: it is not here.
    """
    folder = find_dataset(dataset_id)
    if folder is None:
        raise DatasetError(f"dataset '{dataset_id}' is not here.{nearest(dataset_id, dataset_ids())}")
    return folder / "main_data.hdf5"
