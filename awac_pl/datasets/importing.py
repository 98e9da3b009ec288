"""Import recorded episodes from files of other programs as Minari datasets. Code in a file is never run.

Formats: ``dapg`` (a pickled list of dicts of arrays), ``rlkit`` (an object array of such dicts in a ``.npy`` file), ``d4rl``
(HDF5 of flat columns), ``npz`` (arrays with one row per episode).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import h5py
import numpy as np
from tqdm import tqdm

from awac_pl.datasets.catalog import check_free
from awac_pl.datasets.minari_io import count_successes, save_dataset
from awac_pl.datasets.relabelling import RawEpisode, relabel_episode
from awac_pl.datasets.safe_hdf5 import read_array, reading, to_float32, too_large
from awac_pl.envs.tasks import Task, inspect_spaces
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError
from awac_pl.files import file_digest

Format = Literal["dapg", "rlkit", "d4rl", "npz"]
SUFFIXES: dict[str, Format] = {
    ".pickle": "dapg", ".pkl": "dapg", ".npy": "rlkit", ".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz",
}  # fmt: skip
#: All names that a pickle may use: numpy arrays, and how Python 2 wrote their bytes.
_HARMLESS = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")} | {
    (module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("_reconstruct", "scalar")
}


class HarmlessUnpickler(pickle.Unpickler):
    """Builds only numpy arrays and plain containers; refuses every other name in a pickle."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a harmless class or function.

        Raises:
            DatasetError: the pickle names another one.
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
    """Read a file's episodes, check and relabel them, and store them as a Minari dataset, completely or not at all.

    See ``relabel_episode`` for what becomes of an episode. If it has as many observations as actions, the outcome of its
    last action is unknown, and this action is left out.

    Args:
        file: to read.
        target: Minari id to write.
        task: of the episodes; defines success and reward.
        form: of the file; None chooses it by the suffix.
        licence: text for the metadata.
        overwrite: replace a dataset of this id.
        progress: show a progress bar.

    Returns:
        ``episodes``, ``steps``, ``successes`` (None if unknown), ``clipped_share`` and ``largest_action`` (of the action
        values, before clipping), ``reward_agreement`` (share of the stored rewards that equal ``success - 1``, or None).

    Raises:
        DatasetError: the file cannot be read, would run code, or does not fit the task; names file, episode and key.
    """
    check_free(target, overwrite)
    form = choose_format(file, form)
    spaces = inspect_spaces(task)
    episodes, counts = [], []
    recordings = tqdm(read_recordings(file, form), desc=f"reading {file.name}", disable=not progress, leave=False, delay=1)
    for index, recording in enumerate(recordings):
        raw = _check(recording, where := f"{file}: episode {index}")
        episode, clipped = relabel_episode(raw, where, task, spaces)
        episodes.append(episode)
        counts.append((clipped, raw.actions.size, float(np.abs(raw.actions).max()), *_agreement(raw, episode)))
    if not episodes:
        raise DatasetError(f"{file}: has no episodes")
    report = _report(episodes, counts)
    origin = {"file": file.name, "format": form, "sha256": file_digest(file), **report}
    metadata = {"description": f"{len(episodes)} episodes imported from {file.name}", "origin": origin}
    save_dataset(target, episodes, task, spaces, metadata | ({"licence": licence} if licence else {}), overwrite=overwrite)
    return report


def _check(recording: RawEpisode, where: str) -> RawEpisode:
    """Finite float32 columns of equal length, without a last action whose outcome is unknown."""
    observations = to_float32(recording.observations, f"{where}: observations")
    actions = to_float32(recording.actions, f"{where}: actions", integers=False)
    steps = len(actions) - 1 if len(observations) == len(actions) else len(actions)
    rewards, terminations, success = recording.rewards, recording.terminations, recording.success
    return replace(
        recording,
        observations=observations,
        actions=actions[:steps],
        rewards=None if rewards is None else to_float32(rewards, f"{where}: rewards").reshape(-1)[:steps],
        terminations=np.zeros(steps, dtype=bool) if terminations is None else terminations[:steps] > 0,
        success=None if success is None else np.asarray(success)[:steps] > 0,
    )


def _agreement(raw: RawEpisode, episode: Episode) -> tuple[int, int]:
    """How many of the stored rewards equal ``success - 1``, and how many could be compared."""
    if raw.rewards is None or episode.success is None:
        return 0, 0
    return int((raw.rewards == episode.success.astype(np.float32) - 1).sum()), len(raw.rewards)


def _report(episodes: Sequence[Episode], counts: Sequence[tuple[int, int, float, int, int]]) -> dict[str, Any]:
    clipped, values, largest, agreeing, compared = zip(*counts, strict=True)
    return {
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
        "successes": count_successes(episodes),
        "clipped_share": sum(clipped) / sum(values),
        "largest_action": max(largest),
        "reward_agreement": sum(agreeing) / sum(compared) if any(compared) else None,
    }


def choose_format(file: Path, form: Format | None) -> Format:
    """The given format, else the one of the file's suffix.

    Raises:
        DatasetError: the file does not exist, or its suffix is unknown.
    """
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    form = form or SUFFIXES.get(file.suffix.lower())
    if form is None:
        raise DatasetError(f"{file}: its suffix tells no format; pass --format, one of {', '.join(READERS)}")
    return form


def read_recordings(file: Path, form: Format) -> Iterator[RawEpisode]:
    """The episodes of a file, unchanged.

    Raises:
        DatasetError: the file cannot be read in this format, or holds more than arrays.
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
    """Episodes as DAPG and rlkit store them: dicts of lists or arrays, with one entry per step."""
    if not isinstance(paths, Sequence | np.ndarray):
        raise DatasetError(f"holds a {type(paths).__name__}, not a list of episodes")
    for index, path in enumerate(paths):
        if not isinstance(path, Mapping) or "observations" not in path or "actions" not in path:
            raise DatasetError(f"episode {index} has no 'observations' and 'actions'")
        observations, next_observations = _observations(path["observations"]), None
        if "next_observations" in path:
            next_observations = _observations(path["next_observations"])
            observations = np.concatenate([observations, next_observations[-1:]])
        rewards, terminals = path.get("rewards"), path.get("terminals")
        yield RawEpisode(
            observations=observations,
            actions=np.asarray(path["actions"]),
            rewards=None if rewards is None else np.asarray(rewards),
            terminations=None if terminals is None else np.asarray(terminals).reshape(-1),
            next_observations=next_observations,
        )


def _observations(rows: Any) -> np.ndarray:
    """``[T, O]``, from arrays or from dicts with ``state_observation`` or ``observation``."""
    if len(rows) and isinstance(rows[0], Mapping):
        key = next((key for key in ("state_observation", "observation") if key in rows[0]), None)
        if key is None:
            raise DatasetError(f"observations are dicts of {', '.join(sorted(map(str, rows[0])))}; none is known")
        rows = [row[key] for row in rows]
    return np.asarray(rows)


def _read_d4rl(file: Path) -> Iterator[RawEpisode]:
    with h5py.File(file, "r") as source:
        observations = read_array(source, "observations", str(file))
        actions = read_array(source, "actions", str(file), integers=False)
        steps = len(actions)
        rewards, terminals = (read_array(source, key, str(file), rows=(steps,)) for key in ("rewards", "terminals"))
        timeouts = np.zeros(steps)
        if "timeouts" in source:
            timeouts = read_array(source, "timeouts", str(file), rows=(steps,))
        next_observations = None
        if "next_observations" in source:
            next_observations = read_array(source, "next_observations", str(file))
    if len(observations) != steps:
        raise DatasetError(f"{len(observations)} observations and {steps} actions")
    ends = [*np.flatnonzero((terminals > 0) | (timeouts > 0))]
    if not ends or ends[-1] != steps - 1:
        ends.append(steps - 1)
    for first, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
        rows = slice(first, end + 1)
        last = [] if next_observations is None else [next_observations[end : end + 1]]
        if last or end > first:  # a single step with an unknown outcome tells nothing
            yield RawEpisode(
                observations=np.concatenate([observations[rows], *last]),
                actions=actions[rows],
                rewards=rewards[rows],
                terminations=terminals[rows] > 0,
                truncations=timeouts[rows] > 0,
            )


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
        rewards, success, seeds = (source.get(key) for key in ("rewards", "success", "reset_seed"))
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
