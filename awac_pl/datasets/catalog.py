"""Where datasets are stored, what their ids are, and what their metadata say. Code that a file names is never run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, TypeGuard

import h5py

from awac_pl.datasets.untrusted import reading
from awac_pl.envs.observations import describe_layout
from awac_pl.envs.tasks import Spaces, Task, uses_binary_reward
from awac_pl.errors import DatasetError, first_line, nearest
from awac_pl.files import read_text

#: The policy that acted in a dataset, in the folder of the dataset.
POLICY_FILE = "policy.safetensors"
BUILT_IN_ROOT = Path(__file__).parent / "demonstrations"
_ID = re.compile(r"(?:[A-Za-z0-9_][\w-]*/)*[A-Za-z0-9_][\w-]*-v\d+")


def local_root() -> Path:
    """Minari's folder of datasets: ``$MINARI_DATASETS_PATH``, or ``~/.minari/datasets``.

    Raises:
        DatasetError: a file lies there.
    """
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is no folder; set MINARI_DATASETS_PATH to a folder for datasets")
    return root


def dataset_ids(pattern: str = "main_data.hdf5") -> list[str]:
    """Ids of all local and built-in datasets; those of every format have the file ``metadata.json``."""
    names = set()
    for root in (local_root(), BUILT_IN_ROOT):
        names |= {path.parents[1].relative_to(root).as_posix() for path in root.glob(f"**/data/{pattern}")}
    return sorted(name for name in names if is_id(name))  # a dataset that is still being written has no valid id


def is_id(text: str) -> bool:
    """Whether it looks like ``namespace/name-v0``."""
    return _ID.fullmatch(text) is not None


def is_own(dataset_id: str) -> bool:
    """Whether only this package makes datasets of such an id: it has written others with the same first part."""
    namespace = f"{dataset_id.split('/')[0]}/"
    if namespace in ("awac/", "mine/"):  # the built-in ones, and those of the documentation
        return True
    for other in dataset_ids():
        if other.startswith(namespace):
            with contextlib.suppress(DatasetError):
                if "awac_pl_version" in read_metadata(other):
                    return True
    return False


def check_free(dataset_id: str, overwrite: bool) -> None:
    """Refuse an id that already has a dataset, unless ``overwrite`` is set, and any id where nothing can be written.

    Raises:
        DatasetError: the dataset exists, the id does not look like ``namespace/name-v0``, its folder holds other files, or
            the folder is read-only.
    """
    folder = local_root() / dataset_id
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise DatasetError(f"{place} cannot be written; set MINARI_DATASETS_PATH to a folder for datasets that can")
    if find_dataset(dataset_id) is not None and not overwrite:
        raise DatasetError(f"there is a dataset '{dataset_id}'; choose another id, or pass --overwrite to replace it")
    check_storage(dataset_id)
    own = folder / "data" / "main_data.hdf5"
    others = [path for path in folder.glob("**/main_data.hdf5") if path != own]
    if not own.exists() and folder.is_dir():
        others += folder.iterdir()
    if others:
        name = others[0].relative_to(folder)
        raise DatasetError(f"{folder} holds other files ({name}), which would be lost; choose another id, or move them")


def find_dataset(dataset_id: str) -> Path | None:
    """The ``data`` folder of a local or built-in dataset; None if there is no such dataset.

    Raises:
        DatasetError: the id does not look like ``namespace/name-v0``.
    """
    if not is_id(dataset_id):
        raise DatasetError(f"'{dataset_id}' is no dataset id; it must look like namespace/name-v0")
    folders = (root / dataset_id / "data" for root in (local_root(), BUILT_IN_ROOT))
    return next((folder for folder in folders if (folder / "main_data.hdf5").is_file()), None)


def other_storage(dataset_id: str) -> str | None:
    """Minari's name of the format of a local dataset that is not HDF5; None if there is none."""
    try:
        form = json.loads(read_text(local_root() / dataset_id / "data" / "metadata.json"))["data_format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return form if isinstance(form, str) and form != "hdf5" else None


def check_storage(dataset_id: str) -> None:
    """Refuse a local dataset that Minari did not store as HDF5.

    Raises:
        DatasetError: it is stored in another format; names the command that imports it.
    """
    if find_dataset(dataset_id) is None and (form := other_storage(dataset_id)):
        folder = local_root() / dataset_id
        raise DatasetError(
            f"dataset '{dataset_id}' is stored as {form[:20]}, not as HDF5; import it: "
            f"awac data import {shlex.quote(str(folder))} --task TASK --to mine/name-v0"
        )


def data_file(dataset_id: str) -> Path:
    """The HDF5 file of a local or built-in dataset.

    Raises:
        DatasetError: there is no such dataset.
    """
    folder = find_dataset(dataset_id)
    if folder is None:
        check_storage(dataset_id)
        raise DatasetError(f"dataset '{dataset_id}' is not here.{nearest(dataset_id, dataset_ids())}")
    return folder / "main_data.hdf5"


def read_metadata(dataset_id: str) -> dict[str, Any]:
    """Minari metadata of a local or built-in dataset.

    Raises:
        DatasetError: there is no such dataset, or its metadata are damaged.
    """
    data = data_file(dataset_id)
    beside = data.with_name("metadata.json")
    path = beside if beside.exists() else data  # before Minari 0.5, metadata were attributes of the data file
    state = path.stat()
    return dict(_parse_metadata(path, state.st_ino, state.st_mtime_ns, state.st_size))


def missing_episodes(dataset_id: str) -> int:
    """How many episodes that its metadata count a dataset's file lacks."""
    counted, path = read_metadata(dataset_id).get("total_episodes"), data_file(dataset_id)
    with reading(path), h5py.File(path, "r") as file:
        present = sum(name.startswith("episode_") for name in file)
    return counted - present if isinstance(counted, int) and counted > present else 0


def check_whole(dataset_id: str) -> None:
    """Refuse a dataset whose file lacks episodes, for example because it was not copied to its end.

    Raises:
        DatasetError: the metadata count more episodes.
    """
    if missing := missing_episodes(dataset_id):
        raise DatasetError(
            f"dataset '{dataset_id}' lacks {missing} of the episodes that its metadata count; copy it anew, or correct "
            f"total_episodes in {data_file(dataset_id).with_name('metadata.json')}"
        )


@functools.lru_cache(maxsize=256)
def _parse_metadata(path: Path, *_state: int) -> dict[str, Any]:
    """Opens the file only if it is new or has changed: a start of ``awac fit`` needs the same metadata many times."""
    with reading(path):
        if path.suffix != ".json":
            with h5py.File(path, "r") as file:
                return {key: value.item() if hasattr(value, "item") else value for key, value in file.attrs.items()}
        try:
            metadata = json.loads(read_text(path))
            if not isinstance(metadata, dict):
                raise ValueError("a list, or a single value")
        except (ValueError, RecursionError) as error:
            raise DatasetError(
                f"{path}: not the JSON of a dataset ({first_line(error)}); make or download the dataset anew"
            ) from error
        return metadata


def recorded_layout(*dataset_ids: str) -> list[dict[str, Any]]:
    """The names and sizes of the parts of datasets' observations; empty if they have no names.

    Raises:
        DatasetError: a dataset is missing, or two of them have other parts, or another order of them.
    """
    layouts = {name: read_metadata(name).get("observation_layout") for name in dataset_ids}
    known: dict[str, list[dict[str, Any]]] = {name: layout for name, layout in layouts.items() if _is_layout(layout)}
    first = next(iter(known), "")
    for name, layout in known.items():
        if layout != known[first]:
            parts = [describe_layout(known[other]) for other in (first, name)]
            raise DatasetError(
                f"dataset '{first}' holds observations of {parts[0]}, '{name}' of {parts[1]}; import one anew"
            )
    return known.get(first, [])


def _is_layout(layout: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Metadata may hold anything under this name."""
    parts = layout if isinstance(layout, list) else []
    return bool(parts) and all(
        isinstance(part, dict) and isinstance(part.get("key"), str) and isinstance(part.get("size"), int) for part in parts
    )


def recorded_environment(metadata: dict[str, Any]) -> str | None:
    """Id of the environment in which a dataset was recorded; None if the metadata do not name it."""
    try:
        env_id = json.loads(metadata["env_spec"])["id"]
    except (KeyError, TypeError, ValueError, RecursionError):
        recipe = metadata.get("recipe")
        env_id = metadata.get("env_id") or (recipe.get("env_id") if isinstance(recipe, dict) else None)
    return env_id if isinstance(env_id, str) else None


def check_environment(dataset_id: str, task: Task, spaces: Spaces, *, any_environment: bool = False) -> None:
    """Refuse a dataset with another environment, version or kind of reward than the task's.

    ``any_environment`` checks only the kind of reward.

    Raises:
        DatasetError: the dataset is missing, damaged, or does not fit.
    """
    metadata = read_metadata(dataset_id)
    if not any_environment and (mismatch := environment_mismatch(metadata, task) or layout_mismatch(metadata, spaces)):
        raise DatasetError(
            f"dataset '{dataset_id}' {mismatch}; if you know that it fits: "
            f"awac data relabel {dataset_id} {task.options} --to mine/name-v0"
        )
    if mismatch := reward_mismatch(metadata, task, spaces):
        raise DatasetError(f"dataset '{dataset_id}' {mismatch}; use reward: binary, or a dataset with those rewards")


def environment_mismatch(metadata: dict[str, Any], task: Task) -> str | None:
    """How a dataset's environment differs from the task's; None if it does not differ, or is unknown.

    ``AdroitHandPen-v1`` and ``AdroitHandPenSparse-v1`` differ only in their rewards.
    """
    recorded = recorded_environment(metadata)
    if recorded is None:
        return None
    (name, version), (wanted, wanted_version) = _parts(recorded), _parts(task.env_id)
    if name.removesuffix("Sparse") != wanted.removesuffix("Sparse"):
        return f"was recorded in {recorded}, the task is {task.env_id}"
    return None if version == wanted_version else f"was recorded in {recorded}, another version than {task.env_id}"


def layout_mismatch(metadata: dict[str, Any], spaces: Spaces) -> str | None:
    """How the parts of a dataset's observations differ from the task's, if both have names; else None."""
    stored, wanted = metadata.get("observation_layout"), spaces.observation_layout
    if not isinstance(stored, list) or not stored or not wanted or stored == wanted:
        return None
    parts = [", ".join(f"{part.get('key')} ({part.get('size')})" for part in layout if isinstance(part, dict))
             for layout in (stored, wanted)]  # fmt: skip
    return f"holds observations of {parts[0]}, the task has {parts[1]}"


def reward_mismatch(metadata: dict[str, Any], task: Task, spaces: Spaces) -> str | None:
    """Which rewards a dataset holds, if they are not the environment's rewards that the task needs; else None."""
    if uses_binary_reward(task, spaces):
        return None  # these are computed anew
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
