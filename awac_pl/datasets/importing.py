"""Import recorded episodes from files of other programs as Minari datasets; see ``formats``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from awac_pl.datasets.catalog import check_free
from awac_pl.datasets.formats import Reading, choose_format, read_recordings
from awac_pl.datasets.minari_io import count_successes, save_dataset
from awac_pl.datasets.relabelling import RawEpisode, relabel_episode
from awac_pl.datasets.untrusted import to_float32
from awac_pl.envs.observations import describe_layout
from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, uses_binary_reward
from awac_pl.episode import Episode
from awac_pl.errors import DatasetError
from awac_pl.files import file_digest

#: Where an episode's success comes from if the file has no column of it: rewards above 0, or its last step.
SuccessFrom = Literal["reward", "end"]


def import_dataset(
    file: Path,
    target: str,
    task: Task,
    *,
    form: str | None = None,
    how: Reading | None = None,
    success_from: SuccessFrom | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Read a file's episodes, check and relabel them, and store them as a Minari dataset, completely or not at all.

    See ``relabel_episode`` for what becomes of an episode. If it has as many observations as actions, the outcome of its
    last action is unknown, and this action is left out; unless the action terminates the episode, or is its only success:
    then the last observation stands for the outcome.

    Args:
        file: to read, or the folder of a dataset.
        target: Minari id to write.
        task: of the episodes; defines success and reward.
        form: a name of ``FORMATS``; None chooses it.
        how: what the file leaves open; its ``horizon`` is the task's.
        success_from: where success comes from if the file has none.
        licence: text for the metadata.
        overwrite: replace a dataset of this id.
        progress: show a progress bar.

    Returns:
        See ``_Counts.report``; with ``observation_keys``, and what the file says of itself.

    Raises:
        DatasetError: the file cannot be read, would run code, is ambiguous, or does not fit the task; names the place.
    """
    check_free(target, overwrite)
    form = choose_format(file, form)
    spaces = inspect_spaces(task)
    how = (how or Reading()).of_task(spaces)
    recordings = read_recordings(file, form, how)
    recordings = tqdm(recordings, desc=f"reading {file.name}", disable=not progress or None, leave=False, delay=1)
    episodes, report = _relabel(recordings, str(file), task, spaces, how, success_from)
    origin = {"file": file.name, "format": form, "sha256": _digest(file), **report}
    metadata: dict[str, Any] = {"description": f"{len(episodes)} episodes imported from {file.name}", "origin": origin}
    if layout := report.pop("observation_layout", None):
        metadata["observation_layout"] = layout
        report["observation_keys"] = _keys(layout, spaces, how)
    save_dataset(target, episodes, task, spaces, metadata | ({"licence": licence} if licence else {}), overwrite=overwrite)
    return report


def _keys(layout: list[dict[str, Any]], spaces: Spaces, how: Reading) -> str:
    """The keys for the summary, and how they were chosen.

    Raises:
        DatasetError: the parts of the environment's observations have other sizes, or other names that nobody chose.
    """
    keys, wanted = ", ".join(part["key"] for part in layout), spaces.observation_layout
    sizes = [[part["size"] for part in parts] for parts in (layout, wanted)]
    if wanted and (sizes[0] != sizes[1] or (how.keys is None and layout != wanted)):
        raise DatasetError(
            f"its observations are {describe_layout(layout)}, the task has {describe_layout(wanted)}; choose with --keys"
        )
    return keys + (" (sorted; for another order: --keys)" if len(layout) > 1 and how.keys is None and not wanted else "")


def _relabel(
    recordings: Iterable[RawEpisode], source: str, task: Task, spaces: Spaces, how: Reading, success_from: SuccessFrom | None
) -> tuple[list[Episode], dict[str, Any]]:
    """Checked episodes in the task's terms, and the report of ``import_dataset``."""
    binary = uses_binary_reward(task, spaces)
    episodes, counts = [], _Counts()
    facts: dict[str, Any] = {}
    for index, recording in enumerate(recordings):
        where = f"{source}: episode {index}"
        facts = facts or dict(recording.facts)
        layout, first = (known.get("observation_layout", []) for known in (recording.facts, facts))
        if layout != first:
            own, wanted = describe_layout(layout), describe_layout(first)
            raise DatasetError(f"{where}: its observations are {own}, those of the first episode {wanted}")
        raw = _check(_with_success(recording, task, success_from), where, binary and task.success is None, binary, how)
        counts.add_recording(recording, raw)
        if not len(raw.actions):
            continue  # one step whose outcome is unknown; it is counted
        episode, clipped = relabel_episode(raw, where, task, spaces)
        episodes.append(episode)
        counts.add_episode(raw, episode, clipped)
    if not episodes:
        raise DatasetError(f"{source}: has no episodes")
    return episodes, counts.report(episodes) | facts


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the digests of its files."""
    if path.is_file():
        return file_digest(path)
    files = [*path.rglob("*.parquet"), *path.rglob("*.arrow")]
    parts = [f"{file.relative_to(path)} {file_digest(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _with_success(recording: RawEpisode, task: Task, success_from: SuccessFrom | None) -> RawEpisode:
    """Success by ``success_from``, where neither the task nor the file knows it."""
    steps = len(recording.actions)
    if task.success is not None or recording.success is not None or success_from is None or steps == 0:
        return recording
    if success_from == "end":
        return replace(recording, success=np.arange(steps) == steps - 1)
    return recording if recording.rewards is None else replace(recording, success=recording.rewards.reshape(-1)[:steps] > 0)


def _check(recording: RawEpisode, where: str, stored_success: bool, binary: bool, how: Reading) -> RawEpisode:
    """Finite float32 columns of equal length, without a last action whose outcome is unknown."""
    observations = to_float32(recording.observations, f"{where}: observations")
    actions = to_float32(recording.actions, f"{where}: actions", integers=False)
    if actions.ndim != 2:
        raise DatasetError(f"{where}: actions are {list(actions.shape)}; expected [T, A]")
    steps = len(actions)
    rewards = _column(recording, "rewards", steps, where)
    if rewards is not None and not binary:  # else the task makes its own
        rewards = to_float32(rewards, f"{where}: rewards")
    success = _column(recording, "success", steps, where, from_states=True)
    success = None if success is None else success > 0
    terminations = _terminations(recording, steps, where, binary, how)
    if len(observations) == steps > 0:
        only_success = stored_success and success is not None and success[-1] and not success[:-1].any()
        if only_success or (terminations[-1] and not binary):
            observations = np.concatenate([observations, observations[-1:]])
        else:
            steps -= 1
    return replace(
        recording,
        observations=observations,
        actions=actions[:steps],
        rewards=None if rewards is None else rewards[:steps].astype(np.float32),
        terminations=terminations[:steps],
        success=None if success is None else success[:steps],
    )


def _column(recording: RawEpisode, name: str, steps: int, where: str, from_states: bool = False) -> np.ndarray | None:
    """A column of one value per action. One more is that of the state before the first, or behind the last, action."""
    column = getattr(recording, name)
    if column is None:
        return None
    column = np.asarray(column)
    if column.dtype.kind not in "biuf":
        raise DatasetError(f"{where}: {name} are no array of numbers (ragged, or {column.dtype})")
    column = column.reshape(-1)
    if len(column) not in (steps, steps + 1):
        raise DatasetError(f"{where}: {len(column)} {name} for {steps} actions; correct the file")
    return column[-steps:] if from_states and steps else column[:steps]


def _terminations(recording: RawEpisode, steps: int, where: str, binary: bool, how: Reading) -> np.ndarray:
    """``[T]`` bool. With a binary reward only success can terminate, so the file's own do not matter."""
    terminations = _column(recording, "terminations", steps, where)
    if terminations is not None:
        return terminations > 0
    dones, truncations = _column(recording, "dones", steps, where), _column(recording, "truncations", steps, where)
    if dones is None or binary or not (dones > 0).any() or how.dones == "truncated":
        return np.zeros(steps, dtype=bool)
    if truncations is None and how.dones is None:
        raise DatasetError(
            f"{where}: 'dones' do not say whether the task ended or time ran out, and its rewards need that; pass "
            "--dones terminated or --dones truncated"
        )
    return (dones > 0) & (True if truncations is None else truncations <= 0)


def _agreement(raw: RawEpisode, episode: Episode) -> tuple[int, int]:
    """How many of the stored rewards equal ``success - 1``, and how many could be compared."""
    if raw.rewards is None or episode.success is None:
        return 0, 0
    return int((raw.rewards == episode.success.astype(np.float32) - 1).sum()), len(raw.rewards)


class _Counts:
    """What the summary of an import counts."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, float, int, int]] = []
        self.ends: Counter[str] = Counter()
        self.left_out_actions = 0

    def add_recording(self, recording: RawEpisode, raw: RawEpisode) -> None:
        """Count an episode's end, and its last action if that is left out."""
        self.left_out_actions += len(recording.actions) - len(raw.actions)
        marks = {"terminated": recording.terminations, "timeout": recording.truncations, "done": recording.dones}
        marked = [word for word, flags in marks.items() if flags is not None and np.any(flags[-1:])]
        self.ends[recording.end or (marked[0] if marked else "file")] += 1

    def add_episode(self, raw: RawEpisode, episode: Episode, clipped: int) -> None:
        """Count an episode's values."""
        self.rows.append((clipped, raw.actions.size, float(np.abs(raw.actions).max()), *_agreement(raw, episode)))

    def report(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """All counts, by name.

        ``successes`` is None if they are unknown. ``clipped_share`` and ``largest_action`` are those of the action values,
        before clipping. ``reward_agreement`` is the share of the stored rewards that equal ``success - 1``, or None.
        ``ends`` says how many episodes end how, ``left_out_actions`` counts last actions whose outcome is unknown.
        """
        clipped, values, largest, agreeing, compared = zip(*self.rows, strict=True)
        return {
            "episodes": len(episodes),
            "steps": sum(map(len, episodes)),
            "successes": count_successes(episodes),
            "clipped_share": sum(clipped) / sum(values),
            "largest_action": max(largest),
            "reward_agreement": sum(agreeing) / sum(compared) if any(compared) else None,
            "ends": dict(self.ends),
            "left_out_actions": self.left_out_actions,
        }
