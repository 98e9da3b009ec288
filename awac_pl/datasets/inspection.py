"""The doctor: what a dataset or a file holds, what is wrong with it, and which command mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from awac_pl.datasets.catalog import data_file, environment_mismatch, read_metadata, recorded_environment, reward_mismatch
from awac_pl.datasets.importing import Format, RawEpisode, choose_format, read_recordings
from awac_pl.datasets.safe_hdf5 import read_array, read_group, reading
from awac_pl.envs.tasks import Spaces, Task, inspect_spaces, unscale_action
from awac_pl.errors import DatasetError

#: So many findings of one kind are listed.
LISTED = 5


def inspect_dataset(source: str | Path, task: Task, form: Format | None = None, *, progress: bool = False) -> dict[str, Any]:
    """Look at every episode.

    Args:
        source: a dataset id, or a file in one of the formats of ``importing``.
        task: whose sizes, action bounds and success to hold it against.
        form: of a file; by its suffix where None.
        progress: show a progress bar.

    Returns:
        A report of plain values: ``episodes``, ``steps``, ``lengths``, ``observation_dim``, ``action_dim``, ``dtypes``,
        ``not_finite``, ``actions``, ``ends``, ``success``, ``rewards``, ``constant_features``, ``duplicates``,
        ``next_observations``, ``environment``, and ``findings``: what is wrong, each with a remedy. With it come per-episode
        ``returns``, ``episode_lengths`` and ``episode_success`` under ``curves``.

    Raises:
        DatasetError: it cannot be read at all.
    """
    if isinstance(source, Path):
        stream, metadata = read_recordings(source, choose_format(source, form)), {}
    else:
        stream, metadata = _stored(source), read_metadata(source)
    recordings = list(tqdm(stream, desc="reading", unit="episode", disable=not progress, leave=False, delay=1))
    if not recordings:
        raise DatasetError(f"{source}: has no episodes")
    spaces = inspect_spaces(task)
    report = _describe(recordings, task, spaces)
    report["environment"] = {
        "recorded": recorded_environment(metadata),
        "task": task.env_id,
        "mismatch": environment_mismatch(metadata, task) or reward_mismatch(metadata, task, spaces),
    }
    report["findings"] = _findings(report, source, task)
    return report


def _stored(dataset_id: str) -> Iterator[RawEpisode]:
    """The episodes of a Minari dataset, with whatever is wrong with them."""
    path = data_file(dataset_id)
    with reading(path), h5py.File(path, "r") as file:
        for name in sorted((name for name in file if name.startswith("episode_")), key=lambda name: int(name[8:])):
            where, group = f"{path}: {name}", read_group(file, name, str(path))
            columns = {
                key: read_array(group, key, where, finite=False)
                for key in ("observations", "actions", "rewards", "terminations", "truncations")
                if key in group
            }
            if "observations" not in columns or "actions" not in columns:
                raise DatasetError(f"{where}: no observations and actions; it is not a Minari episode")
            infos = read_group(group, "infos", where) if "infos" in group else {}
            yield RawEpisode(
                observations=columns["observations"],
                actions=columns["actions"],
                rewards=columns.get("rewards"),
                terminated=columns.get("terminations"),
                truncated=columns.get("truncations"),
                success=read_array(infos, "success", where, finite=False) if "success" in infos else None,
            )


def _describe(recordings: Sequence[RawEpisode], task: Task, spaces: Spaces) -> dict[str, Any]:
    lengths = [len(recording.actions) for recording in recordings]
    width = {recording.observations.shape[-1] for recording in recordings}
    report: dict[str, Any] = {
        "episodes": len(recordings),
        "steps": sum(lengths),
        "lengths": {"least": min(lengths), "median": float(np.median(lengths)), "most": max(lengths)},
        "observation_dim": sorted(int(size) for size in width),
        "action_dim": sorted({int(recording.actions.shape[-1]) for recording in recordings}),
        "expected": {"observation_dim": spaces.observation_dim, "action_dim": spaces.action_dim, "horizon": spaces.horizon},
        "rows_per_episode": sorted({len(recording.observations) - len(recording.actions) for recording in recordings}),
        "dtypes": {
            key: sorted({str(getattr(recording, key).dtype) for recording in recordings})
            for key in ("observations", "actions")
        },
        "not_finite": _not_finite(recordings),
    }
    fits = report["observation_dim"] == [spaces.observation_dim] and report["action_dim"] == [spaces.action_dim]
    report["fits"] = fits
    actions = np.concatenate([recording.actions for recording in recordings]) if len(report["action_dim"]) == 1 else None
    if actions is not None and actions.dtype.kind in "biuf":
        scaled = unscale_action(actions, spaces.action_low, spaces.action_high) if fits else actions
        outside = np.abs(scaled) > 1 + 1e-6
        report["actions"] = {
            "least": float(np.nanmin(actions)), "most": float(np.nanmax(actions)), "outside_share": float(outside.mean())
        }  # fmt: skip
    ends = [tuple(column is not None and bool(np.any(column)) for column in (r.terminated, r.truncated)) for r in recordings]
    report["ends"] = {
        "terminated": sum(terminated for terminated, _ in ends),
        "truncated": sum(truncated for _, truncated in ends),
        "neither": sum(not any(pair) for pair in ends),
    }
    stored = [bool(np.any(r.success)) for r in recordings if r.success is not None]
    judged = [task.success(r.observations) for r in recordings] if fits and task.success is not None else []
    recomputed = [bool(np.any(success[1:])) for success in judged]
    report["success"] = {
        "stored": sum(stored) if len(stored) == len(recordings) else None,
        "recomputed": sum(recomputed) if judged else None,
    }
    report["rewards"] = _rewards(recordings, judged)
    if len(width) == 1:
        everything = np.concatenate([recording.observations for recording in recordings])
        report["constant_features"] = np.flatnonzero(np.ptp(np.nan_to_num(everything), axis=0) == 0).tolist()
    seen: dict[bytes, int] = {}
    report["duplicates"] = [
        [first, index]
        for index, recording in enumerate(recordings)
        if (first := seen.setdefault(recording.actions.tobytes(), index)) != index
    ]
    following = [
        float(np.abs(r.next_observations[:-1] - r.observations[1 : len(r.next_observations)]).max())
        for r in recordings
        if r.next_observations is not None and len(r.next_observations) > 1
    ]
    report["next_observations"] = {"largest_difference": max(following) if following else None}
    report["curves"] = {
        "returns": [None if r.rewards is None else float(np.nansum(r.rewards)) for r in recordings],
        "episode_lengths": lengths,
        "episode_success": recomputed or (stored if len(stored) == len(recordings) else []),
    }
    return report


def _not_finite(recordings: Sequence[RawEpisode]) -> list[dict[str, Any]]:
    found = []
    for index, recording in enumerate(recordings):
        for key in ("observations", "actions", "rewards"):
            value = getattr(recording, key)
            if value is None or value.dtype.kind != "f" or np.isfinite(value).all():
                continue
            first = np.argwhere(~np.isfinite(value))[0]
            found.append({
                "episode": index, "column": key, "step": int(first[0]), "count": int((~np.isfinite(value)).sum()),
                "feature": int(first[1]) if len(first) > 1 else None,
            })  # fmt: skip
    return found


def _rewards(recordings: Sequence[RawEpisode], judged: Sequence[np.ndarray]) -> dict[str, Any]:
    stored = [recording.rewards.reshape(-1) for recording in recordings if recording.rewards is not None]
    if len(stored) != len(recordings):
        return {"kind": "none"}
    everything = np.concatenate(stored)
    values = np.unique(everything[np.isfinite(everything)])
    report: dict[str, Any] = {
        "kind": "binary" if set(values.tolist()) <= {-1.0, 0.0} else "sparse" if len(values) <= 3 else "dense",
        "least": float(values.min()), "most": float(values.max()), "distinct": len(values),
    }  # fmt: skip
    if judged:
        pairs = [(rewards[:n], success[1 : n + 1]) for rewards, success in zip(stored, judged, strict=True)
                 if (n := min(len(rewards), len(success) - 1)) > 0]  # fmt: skip
        agreeing = sum(int((rewards == success - 1.0).sum()) for rewards, success in pairs)
        report["agreement_with_success"] = agreeing / sum(len(rewards) for rewards, _ in pairs)
    return report


def _findings(report: dict[str, Any], source: str | Path, task: Task) -> list[dict[str, str]]:
    """What is wrong, in the order in which it should be mended."""
    imported = f"awac data import {source} --task {task.name} --to mine/name-v0"
    relabel = imported if isinstance(source, Path) else f"awac data relabel {source} --task {task.name} --to mine/name-v0"
    found: list[dict[str, str]] = []

    def say(what: str, remedy: str) -> None:
        found.append({"finding": what, "remedy": remedy})

    expected = report["expected"]
    if not report["fits"]:
        got = f"observations of {report['observation_dim']}, actions of {report['action_dim']}"
        need = f"{expected['observation_dim']} and {expected['action_dim']}"
        say(f"{got}; {task.env_id} needs {need}", "name the right --task, or record it anew")
    for case in report["not_finite"][:LISTED]:
        say(
            f"episode {case['episode']}, step {case['step']}: {case['count']} values of {case['column']} are not finite",
            "leave the episode out, or mend the recording",
        )
    if report["rows_per_episode"] == [0]:
        say("as many observations as actions: what the last action led to is unknown", imported)
    elif report["rows_per_episode"] != [1]:
        say(
            f"observations less actions are {report['rows_per_episode']} rows, not 1",
            "record T + 1 observations for T actions",
        )
    if report.get("actions", {}).get("outside_share"):
        say(
            f"{100 * report['actions']['outside_share']:.1f} % of the action values lie outside the bounds",
            relabel,
        )
    if report["rewards"]["kind"] == "dense":
        hint = " (AdroitHand*-v1 pay them with a flipped sign)" if "Adroit" in task.env_id else ""
        say(f"dense rewards{hint}", relabel)
    elif report["rewards"].get("agreement_with_success", 1.0) < 0.999:
        share = 100 * report["rewards"]["agreement_with_success"]
        say(
            f"stored rewards agree with the success of the next observation in {share:.0f} % of the steps",
            relabel,
        )
    success = report["success"]
    if success["stored"] is not None and success["recomputed"] is not None and success["stored"] != success["recomputed"]:
        say(
            f"{success['stored']} episodes are stored as successes, {success['recomputed']} are",
            relabel,
        )
    if success["recomputed"] == 0:
        say("no episode succeeds", "clone and pretrain on something that does")
    if report["duplicates"]:
        pairs = ", ".join(f"{second} of {first}" for first, second in report["duplicates"][:LISTED])
        say(f"{len(report['duplicates'])} episodes repeat another one's actions ({pairs})", "leave them out")
    if (difference := report["next_observations"]["largest_difference"]) and difference > 1e-4:
        say(f"next observation t differs from observation t + 1 by up to {difference:.3g}", "episodes were joined wrongly")
    if mismatch := report["environment"]["mismatch"]:
        say(mismatch, f"name the right --task; if you know that it fits: {relabel}")
    return found
