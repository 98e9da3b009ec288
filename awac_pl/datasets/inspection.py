"""The inspection: what a dataset or a file holds, what is wrong with it, and which command repairs it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from awac_pl.datasets.catalog import (
    data_file,
    environment_mismatch,
    missing_episodes,
    read_metadata,
    recorded_environment,
    reward_mismatch,
)  # fmt: skip
from awac_pl.datasets.formats import Reading, choose_format, read_recordings
from awac_pl.datasets.minari_io import read_observations, stored_episodes
from awac_pl.datasets.relabelling import RawEpisode, check_numbers
from awac_pl.datasets.safe_hdf5 import read_array, read_group
from awac_pl.datasets.suitability import expectations, suitability_findings, training_facts
from awac_pl.envs.faults import LARGEST_VALUE
from awac_pl.envs.goals import goal_success
from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, recorded_success_key, unscale_action
from awac_pl.errors import DatasetError
from awac_pl.files import replacing

#: Largest number of findings of one kind that are listed.
LISTED = 5


def inspect_dataset(
    source: str | Path, task: Task, form: str | None = None, how: Reading | None = None, *, progress: bool = False
) -> dict[str, Any]:
    """Inspect every episode of a dataset.

    Args:
        source: a dataset id, or a file in one of ``formats``.
        task: the dataset is compared with its sizes, action bounds and success.
        form: of a file; None chooses it by its structure and suffix.
        how: what a file leaves open.
        progress: show a progress bar.

    Returns:
        A report of plain values: ``episodes``, ``steps``, ``lengths``, ``observation_dim``, ``action_dim``, ``dtypes``,
        ``not_finite``, ``too_large``, ``actions``, ``ends``, ``success``, ``rewards``, ``constant_features``,
        ``duplicates``, ``next_observations``, ``training`` (see ``suitability``), ``expect``, ``environment``, and
        ``findings``: what is wrong, each with a remedy. ``curves`` has ``returns``, ``episode_lengths`` and
        ``episode_success`` of each episode.

    Raises:
        DatasetError: the source cannot be read, or has no episodes.
    """
    spaces = inspect_spaces(task)
    if isinstance(source, Path):
        how = replace((how or Reading()).of_task(spaces), finite=False)
        stream, metadata = read_recordings(source, choose_format(source, form), how), {}
    else:
        stored = stored_episodes(data_file(source), partial(_read_all, spaces=spaces))
        stream, metadata = (raw for raw, _ in stored), read_metadata(source)
    recordings = list(tqdm(stream, desc="reading", unit="episode", disable=not progress or None, leave=False, delay=1))
    if not recordings:
        raise DatasetError(f"{source}: has no episodes")
    for index, recording in enumerate(recordings):
        check_numbers(recording, f"{source}: episode {index}")
    report = _sizes(recordings, spaces) | {"not_finite": _not_finite(recordings), "too_large": _too_large(recordings)}
    with np.errstate(over="ignore", invalid="ignore"):  # of absurd values, which are a finding
        report |= _contents(recordings, task, spaces, report)
    report["training"] = training_facts(recordings, report.pop("successes"), spaces.horizon, metadata)
    report["expect"] = list(expectations(report["training"], report["episodes"])) if report["fits"] else []
    facts = dict(recordings[0].facts)
    if layout := facts.pop("observation_layout", None):
        report["observation_keys"] = [f"{part['key']} ({part['size']})" for part in layout]
    report |= facts
    report["environment"] = {
        "recorded": recorded_environment(metadata),
        "task": task.env_id,
        "mismatch": environment_mismatch(metadata, task) or reward_mismatch(metadata, task, spaces),
    }
    report["findings"] = [{"finding": what, "remedy": remedy} for what, remedy in _findings(report, source, task)]
    return report


def _read_all(group: h5py.Group, where: str, spaces: Spaces) -> RawEpisode:
    """The columns of a stored episode, with all their faults."""
    if not {"observations", "actions"} <= set(group):
        raise DatasetError(f"{where}: no observations and actions; it is not a Minari episode")
    keys = [key for key in ("actions", "rewards", "terminations", "truncations") if key in group]
    columns: dict[str, Any] = {key: read_array(group, key, where, finite=False) for key in keys}
    columns["observations"] = read_observations(group, where, spaces, finite=False)
    infos = read_group(group, "infos", where) if "infos" in group else {}
    reported = recorded_success_key(infos, spaces.success_key)
    success = None if reported is None else read_array(infos, reported, where, finite=False)
    return RawEpisode(**columns, success=success)


def _sizes(recordings: Sequence[RawEpisode], spaces: Spaces) -> dict[str, Any]:
    lengths = [len(recording.actions) for recording in recordings]
    return {
        "episodes": len(recordings),
        "steps": sum(lengths),
        "lengths": {"least": min(lengths), "median": float(np.median(lengths)), "most": max(lengths)},
        "observation_dim": sorted({int(recording.observations.shape[-1]) for recording in recordings}),
        "action_dim": sorted({int(recording.actions.shape[-1]) for recording in recordings}),
        "expected": {"observation_dim": spaces.observation_dim, "action_dim": spaces.action_dim, "horizon": spaces.horizon},
        "rows_per_episode": sorted({len(recording.observations) - len(recording.actions) for recording in recordings}),
        "dtypes": {
            key: sorted({str(getattr(recording, key).dtype) for recording in recordings})
            for key in ("observations", "actions")
        },
    }


def _not_finite(recordings: Sequence[RawEpisode]) -> list[dict[str, Any]]:
    cases = []
    for index, recording in enumerate(recordings):
        for column in ("observations", "actions", "rewards"):
            value = getattr(recording, column)
            bad = np.argwhere(~np.isfinite(np.zeros(0) if value is None else value))
            if len(bad):
                step, feature = [*bad[0].tolist(), None][:2]
                cases.append({"episode": index, "column": column, "step": step, "count": len(bad), "feature": feature})
    return cases


def _too_large(recordings: Sequence[RawEpisode]) -> list[dict[str, Any]]:
    """The largest absurd value of each column of each episode."""
    cases = []
    for index, recording in enumerate(recordings):
        for column in ("observations", "actions", "rewards"):
            value = getattr(recording, column)
            if value is not None and value.dtype.kind in "iuf":
                largest = float(np.abs(value, where=np.isfinite(value), out=np.zeros(value.shape)).max(initial=0))
                cases += [{"episode": index, "column": column, "largest": largest}] if largest > LARGEST_VALUE else []
    return cases


def _contents(recordings: Sequence[RawEpisode], task: Task, spaces: Spaces, sizes: dict[str, Any]) -> dict[str, Any]:
    """What the columns hold, as far as their sizes allow to tell."""
    fits = sizes["observation_dim"] == [spaces.observation_dim] and sizes["action_dim"] == [spaces.action_dim]
    report: dict[str, Any] = {"fits": fits}
    actions = np.concatenate([recording.actions for recording in recordings]) if len(sizes["action_dim"]) == 1 else None
    if actions is not None and np.isfinite(actions).any():
        scaled = unscale_action(actions, spaces.action_low, spaces.action_high) if fits else actions
        report["actions"] = {
            "least": float(np.nanmin(actions)),
            "most": float(np.nanmax(actions)),
            "outside_share": float((np.abs(scaled) > 1 + 1e-6).mean()),
        }
    ends = [
        tuple(column is not None and bool(np.any(column)) for column in (r.terminations, r.truncations)) for r in recordings
    ]
    report["ends"] = {
        "terminated": sum(terminated for terminated, _ in ends),
        "truncated": sum(truncated for _, truncated in ends),
        "neither": sum(not any(pair) for pair in ends),
    }
    stored_steps = [r.success for r in recordings if r.success is not None]
    if len(stored_steps) < len(recordings):
        stored_steps = []
    stored = [bool(np.any(success)) for success in stored_steps]
    judged = [task.success(r.observations) for r in recordings] if fits and task.success is not None else []
    if fits and not judged and not stored_steps:  # by the goals, where there are some
        of_goals = [goal_success(task, spaces, r.observations) for r in recordings]
        judged = [success for success in of_goals if success is not None]
    recomputed = [bool(np.any(success[1:])) for success in judged]
    report["success"] = {
        "stored": sum(stored) if stored else None,
        "recomputed": sum(recomputed) if judged else None,
    }
    report["successes"] = [success[1:] for success in judged] or [np.atleast_1d(success) for success in stored_steps]
    report["rewards"] = _rewards(recordings, judged)
    if len(sizes["observation_dim"]) == 1:
        everything = np.concatenate([recording.observations for recording in recordings])
        report["constant_features"] = np.flatnonzero(np.ptp(np.nan_to_num(everything), axis=0) == 0).tolist()
    report["duplicates"] = _duplicates(recordings)
    report["next_observations"] = {"largest_difference": _largest_difference(recordings)}
    report["curves"] = {
        "returns": [_return(recording) for recording in recordings],
        "episode_lengths": [len(recording.actions) for recording in recordings],
        "episode_success": recomputed or stored,
    }
    return report


def _return(recording: RawEpisode) -> float | None:
    """Sum of the stored rewards; None where there are none, or it is beyond all numbers."""
    total = np.nan if recording.rewards is None else float(np.nansum(recording.rewards))
    return total if np.isfinite(total) else None


def _rewards(recordings: Sequence[RawEpisode], judged: Sequence[np.ndarray]) -> dict[str, Any]:
    """Kind and range of the stored rewards, and how far they agree with the judged success."""
    stored = [recording.rewards.reshape(-1) for recording in recordings if recording.rewards is not None]
    everything = np.concatenate(stored) if len(stored) == len(recordings) else np.empty(0)
    values = np.unique(everything[np.isfinite(everything)])
    if not len(values):
        return {"kind": "none"}
    report: dict[str, Any] = {
        "kind": "binary" if set(values.tolist()) <= {-1.0, 0.0} else "sparse" if len(values) <= 3 else "dense",
        "least": float(values.min()), "most": float(values.max()), "distinct": len(values),
    }  # fmt: skip
    if judged:
        pairs = [(rewards[:n], success[1 : n + 1]) for rewards, success in zip(stored, judged, strict=True)
                 if (n := min(len(rewards), len(success) - 1)) > 0]  # fmt: skip
        agreeing = sum(int((rewards == success - 1.0).sum()) for rewards, success in pairs)
        if steps := sum(len(rewards) for rewards, _ in pairs):
            report["agreement_with_success"] = agreeing / steps
    return report


def _duplicates(recordings: Sequence[RawEpisode]) -> list[list[int]]:
    """Pairs of episodes with the same actions."""
    seen: dict[bytes, int] = {}
    firsts = [seen.setdefault(recording.actions.tobytes(), index) for index, recording in enumerate(recordings)]
    return [[first, index] for index, first in enumerate(firsts) if first != index]


def _largest_difference(recordings: Sequence[RawEpisode]) -> float | None:
    """Between next observation t and observation t + 1, if the recordings have both."""
    differences = [
        float(np.abs(r.next_observations[:-1] - r.observations[1 : len(r.next_observations)]).max())
        for r in recordings
        if r.next_observations is not None and len(r.next_observations) > 1
    ]
    return max(differences, default=None)


def _findings(report: dict[str, Any], source: str | Path, task: Task) -> Iterator[tuple[str, str]]:
    """What is wrong, each with a remedy, in the order in which to repair it."""
    options = f"{shlex.quote(str(source))} {task.options} --to mine/name-v0"
    relabel = f"awac data {'import' if isinstance(source, Path) else 'relabel'} {options}"
    if not report["fits"]:
        sizes = f"observations of {report['observation_dim']}, actions of {report['action_dim']}"
        expected = f"{report['expected']['observation_dim']} and {report['expected']['action_dim']}"
        yield f"{sizes}; {task.env_id} needs {expected}", "name the right --task, or record it anew"
    for case in report["not_finite"][:LISTED]:
        what = f"{case['count']} values of {case['column']} are not finite"
        yield f"episode {case['episode']}, step {case['step']}: {what}", "leave the episode out, or correct the recording"
    for case in report["too_large"][:LISTED]:
        what = f"{case['column']} reach {case['largest']:.3g}, more than {LARGEST_VALUE:g}"
        yield f"episode {case['episode']}: {what}; a loss would overflow", "correct the recording, or use other units"
    if report["rows_per_episode"] == [0]:
        yield "as many observations as actions: the outcome of the last action is unknown", f"awac data import {options}"
    elif report["rows_per_episode"] != [1]:
        rows = report["rows_per_episode"]
        yield f"observations less actions are {rows} rows, not 1", "record T + 1 observations for T actions"
    if outside := report.get("actions", {}).get("outside_share"):
        yield f"{100 * outside:.1f} % of the action values lie outside the bounds", relabel
    agreement = report["rewards"].get("agreement_with_success", 1.0)
    if report["rewards"]["kind"] == "dense":
        yield f"dense rewards{' (AdroitHand*-v1 pay them with a flipped sign)' if 'Adroit' in task.env_id else ''}", relabel
    elif agreement < 0.999:
        yield (
            f"stored rewards agree with the success of the next observation in {100 * agreement:.0f} % of the steps",
            relabel,
        )
    stored, recomputed = report["success"]["stored"], report["success"]["recomputed"]
    if stored is not None and recomputed is not None and stored != recomputed:
        yield f"{stored} episodes are stored as successes, {recomputed} are successes", relabel
    yield from suitability_findings(report, source)
    if recomputed == 0:
        yield "no episode succeeds", "clone and pretrain on episodes that succeed"
    if duplicates := report["duplicates"]:
        pairs = ", ".join(f"{second} of {first}" for first, second in duplicates[:LISTED])
        yield f"{len(duplicates)} episodes repeat another one's actions ({pairs})", "leave them out"
    if (difference := report["next_observations"]["largest_difference"]) and difference > 1e-4:
        yield f"next observation t differs from observation t + 1 by up to {difference:.3g}", "episodes were joined wrongly"
    if isinstance(source, str) and (missing := missing_episodes(source)):
        yield f"{missing} of the episodes that its metadata count are missing", "copy the dataset anew"
    if mismatch := report["environment"]["mismatch"]:
        yield mismatch, f"name the right --task; if you know that it fits: {relabel}"


def draw_curves(curves: dict[str, list], title: str, path: Path) -> None:
    """Draw the stored return and the length of each episode, by the ``curves`` of ``inspect_dataset``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    lengths = curves["episode_lengths"]
    succeeded = curves["episode_success"] or [None] * len(lengths)
    colours = [{True: "tab:green", False: "tab:red", None: "tab:gray"}[success] for success in succeeded]
    returns = [float("nan") if value is None else value for value in curves["returns"]]
    for axis, values, label in ((axes[0], returns, "stored return"), (axes[1], lengths, "steps")):
        axis.bar(range(len(lengths)), values, color=colours, width=0.8)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("episode (green: succeeds, red: does not, gray: unknown)")
    axes[0].set_title(title)
    with replacing(path) as new:
        figure.savefig(new, dpi=120)
