"""Recorded episodes in other people's files, turned into Minari datasets once; no file's code ever runs.

Formats: ``dapg`` (a pickled list of dicts of arrays), ``rlkit`` (an object array of such dicts in a ``.npy`` file), ``d4rl``
(HDF5 of flat columns), ``npz`` (arrays with one row per episode).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import h5py
import numpy as np
from tqdm import tqdm

from awac_pl.datasets.catalog import check_free
from awac_pl.datasets.minari_io import count_successes, save_dataset
from awac_pl.datasets.relabelling import relabel_episode
from awac_pl.datasets.safe_hdf5 import read_array, reading, too_large
from awac_pl.envs.tasks import Task, inspect_spaces
from awac_pl.errors import DatasetError
from awac_pl.files import file_digest

Format = Literal["dapg", "rlkit", "d4rl", "npz"]
SUFFIXES: dict[str, Format] = {
    ".pickle": "dapg", ".pkl": "dapg", ".npy": "rlkit", ".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz",
}  # fmt: skip
#: All that a pickle may name: numpy arrays, and how Python 2 wrote their bytes.
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


@dataclass(frozen=True, kw_only=True)
class RawEpisode:
    """One episode as a file holds it; see ``relabel_episode`` for the shapes."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None
    truncated: np.ndarray | None = None
    success: np.ndarray | None = None
    next_observations: np.ndarray | None = None
    seed: int | None = None


class HarmlessUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers, and refuses everything else a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        """The harmless ones.

        Raises:
            DatasetError: the pickle names something else.
        """
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise DatasetError(f"the file asks for {module}.{name}, which is no array; it may run code and was refused")


def import_dataset(
    file: Path,
    target: str,
    task: Task,
    *,
    form: Format | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Read a file's episodes, check and relabel them, and store them as a Minari dataset, whole or not at all.

    Actions are clipped to the environment's bounds, success is recomputed from the observations where the task can, the
    reward is the task's, and the last step of each episode is a time limit. Where a file holds as many observations as
    actions, what the last action led to is unknown and that action is left out.

    Args:
        file: to read.
        target: Minari id to write.
        task: whose environment the episodes come from.
        form: of the file; by its suffix where None.
        licence: text for the metadata.
        overwrite: replace a dataset of that id.
        progress: show a progress bar.

    Returns:
        ``episodes``, ``steps``, ``successes`` (None where unknown), ``clipped_share`` and ``largest_action`` (of the action
        values, before clipping), ``reward_agreement`` (share of stored rewards that equal ``success - 1``; None without).

    Raises:
        DatasetError: the file cannot be read, would run code, or does not fit the task; names file, episode and key.
    """
    check_free(target, overwrite)
    form = choose_format(file, form)
    spaces = inspect_spaces(task)
    episodes, clipped, values, largest, agreeing, compared = [], 0, 0, 0.0, 0, 0
    for index, recording in enumerate(
        tqdm(read_recordings(file, form), desc=f"reading {file.name}", disable=not progress, leave=False, delay=1)
    ):
        where = f"{file}: episode {index}"
        observations = _numbers(recording.observations, f"{where}: observations")
        actions = _numbers(recording.actions, f"{where}: actions", whole=False)
        if len(observations) == len(actions):
            actions = actions[:-1]
        steps = len(actions)
        rewards = None if recording.rewards is None else _numbers(recording.rewards, f"{where}: rewards").reshape(-1)[:steps]
        terminated = np.zeros(steps, dtype=bool) if recording.terminated is None else recording.terminated[:steps] > 0
        success = None if recording.success is None else np.asarray(recording.success)[:steps] > 0
        episode, outside = relabel_episode(
            observations, actions, where, task, spaces, success, rewards, terminated, recording.seed
        )
        if rewards is not None and episode.success is not None:
            agreeing += int((rewards == episode.success.astype(np.float32) - 1).sum())
            compared += len(rewards)
        episodes.append(episode)
        clipped, values, largest = clipped + outside, values + actions.size, max(largest, float(np.abs(actions).max()))
    if not episodes:
        raise DatasetError(f"{file}: has no episodes")
    report = {
        "episodes": len(episodes),
        "steps": sum(len(episode) for episode in episodes),
        "successes": count_successes(episodes),
        "clipped_share": clipped / values,
        "largest_action": largest,
        "reward_agreement": agreeing / compared if compared else None,
    }
    origin = {"file": file.name, "format": form, "sha256": file_digest(file), **report}
    metadata = {"description": f"{len(episodes)} episodes imported from {file.name}", "origin": origin}
    save_dataset(target, episodes, task, spaces, metadata | ({"licence": licence} if licence else {}), overwrite=overwrite)
    return report


def choose_format(file: Path, asked: Format | None) -> Format:
    """The one asked for, else by the file's suffix.

    Raises:
        DatasetError: there is no such file, or its suffix tells nothing.
    """
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    form = asked or SUFFIXES.get(file.suffix.lower())
    if form is None:
        raise DatasetError(f"{file}: its suffix tells no format; pass --format, one of {', '.join(READERS)}")
    return form


def read_recordings(file: Path, form: Format) -> Iterator[RawEpisode]:
    """The episodes of a file, as they are.

    Raises:
        DatasetError: the file cannot be read as that format, or asks for more than arrays.
    """
    with reading(file, form):
        yield from READERS[form](file)


def _read_dapg(file: Path) -> Iterator[RawEpisode]:
    with file.open("rb") as stream:
        yield from _paths(_unpickle(stream))


def _read_rlkit(file: Path) -> Iterator[RawEpisode]:
    with file.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = header(stream)[2]
        if not dtype.hasobject:
            raise DatasetError(f"holds one array of {dtype}, not an object array of episodes")
        yield from _paths(_unpickle(stream))


def _unpickle(stream: IO[bytes]) -> Any:
    return HarmlessUnpickler(stream, encoding="latin1").load()


def _paths(paths: Any) -> Iterator[RawEpisode]:
    """Episodes as DAPG and rlkit hold them: dicts of lists or arrays, one entry per step."""
    if not isinstance(paths, Sequence | np.ndarray):
        raise DatasetError(f"holds a {type(paths).__name__}, not a list of episodes")
    for index, path in enumerate(paths):
        if not isinstance(path, Mapping) or "observations" not in path or "actions" not in path:
            raise DatasetError(f"episode {index} has no 'observations' and 'actions'")
        observations, following = _observations(path["observations"]), None
        if "next_observations" in path:
            following = _observations(path["next_observations"])
            observations = np.concatenate([observations, following[-1:]])
        terminated = path.get("terminals")
        yield RawEpisode(
            observations=observations,
            actions=np.asarray(path["actions"]),
            rewards=None if "rewards" not in path else np.asarray(path["rewards"]),
            terminated=None if terminated is None else np.asarray(terminated).reshape(-1),
            next_observations=following,
        )


def _observations(rows: Any) -> np.ndarray:
    """``[T, O]``, of arrays or of dicts with ``state_observation`` or ``observation``."""
    if len(rows) and isinstance(rows[0], Mapping):
        key = next((key for key in ("state_observation", "observation") if key in rows[0]), None)
        if key is None:
            raise DatasetError(f"observations are dicts of {', '.join(sorted(map(str, rows[0])))}; none is known")
        rows = [row[key] for row in rows]
    return np.asarray(rows)


def _read_d4rl(file: Path) -> Iterator[RawEpisode]:
    with h5py.File(file, "r") as source:
        where = str(file)
        observations, actions = (
            read_array(source, key, where, whole=key != "actions") for key in ("observations", "actions")
        )
        rewards, terminals = (read_array(source, key, where, rows=(len(actions),)) for key in ("rewards", "terminals"))
        timeouts = (
            read_array(source, "timeouts", where, rows=(len(actions),)) if "timeouts" in source else np.zeros_like(terminals)
        )
        following = read_array(source, "next_observations", where) if "next_observations" in source else None
    if len(observations) != len(actions):
        raise DatasetError(f"{len(observations)} observations and {len(actions)} actions")
    ends = np.flatnonzero((terminals > 0) | (timeouts > 0))
    first = 0
    for end in [*ends, *([len(actions) - 1] if not len(ends) or ends[-1] != len(actions) - 1 else [])]:
        rows = slice(first, end + 1)
        after = [] if following is None else [following[end : end + 1]]
        if after or end > first:  # a single step whose outcome is unknown tells nothing
            yield RawEpisode(
                observations=np.concatenate([observations[rows], *after]),
                actions=actions[rows],
                rewards=rewards[rows],
                terminated=terminals[rows] > 0,
                truncated=timeouts[rows] > 0,
            )
        first = end + 1


def _read_npz(file: Path) -> Iterator[RawEpisode]:
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if too_large(part.file_size, part.compress_size):
                sizes = f"declares {part.file_size} bytes and holds {part.compress_size}"
                raise DatasetError(f"'{part.filename}' {sizes}; damaged, or made to harm")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as source:
        missing = {"observations", "actions"} - set(source.files)
        if missing:
            raise DatasetError(f"no array '{min(missing)}'; it has {', '.join(source.files)}")
        observations, actions = source["observations"], source["actions"]
        rewards = source.get("rewards")
        success, seeds = source.get("success"), source.get("reset_seed")
    if observations.ndim != 3 or actions.ndim != 3 or len(observations) != len(actions):
        shapes = f"{list(observations.shape)} and {list(actions.shape)}"
        raise DatasetError(f"observations and actions are {shapes}; expected [N, T + 1, O] and [N, T, A]")
    for index in range(len(actions)):
        yield RawEpisode(
            observations=observations[index],
            actions=actions[index],
            rewards=None if rewards is None else rewards[index],
            success=None if success is None else success[index],
            seed=None if seeds is None else int(seeds[index]),
        )


READERS: dict[Format, Callable[[Path], Iterator[RawEpisode]]] = {
    "dapg": _read_dapg, "rlkit": _read_rlkit, "d4rl": _read_d4rl, "npz": _read_npz,
}  # fmt: skip


def _numbers(value: np.ndarray, where: str, whole: bool = True) -> np.ndarray:
    """Float32 and finite; ``whole``: integers are taken, too."""
    if value.dtype.kind not in "biuf":
        raise DatasetError(f"{where}: no array of numbers (ragged, or {value.dtype})")
    if not whole and value.dtype.kind != "f":
        raise DatasetError(f"{where}: are {value.dtype}; AWAC needs continuous ones, stored as floats")
    value = value.astype(np.float32)
    bad = ~np.isfinite(value)
    if bad.any():
        raise DatasetError(f"{where}: {int(bad.sum())} values are not finite (first at {np.argwhere(bad)[0].tolist()})")
    return value
