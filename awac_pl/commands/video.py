"""Render episodes of a checkpoint's policy as a video. Without a display MuJoCo renders in software through EGL
(Debian: apt install libegl1 libgl1-mesa-dri).

awac video --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt
awac video --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --before --episodes 8
awac video --ckpt_path runs/pen-quick-seed0/checkpoints/best.ckpt --seeds 7,8,9 --stochastic --to best.mp4
awac video --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --single --every 1 --size 640x480 --to films
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awac_pl.commands.arguments import number
from awac_pl.errors import AwacError
from awac_pl.settings import Count, Episodes, Workers

if TYPE_CHECKING:
    from awac_pl.envs.rendering import Clip
    from awac_pl.envs.tasks import Task
    from awac_pl.policies.policy import Policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac video``."""
    parser.add_argument(
        "--ckpt_path", type=Path, required=True, help="of a fit; its run folder, or else the checkpoint, names the task"
    )
    parser.add_argument("--to", type=Path, help="a .mp4 or .gif file, or a folder for both (default: the run's videos/)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--episodes", type=number(Episodes), default=4, help="first evaluation seeds (default: %(default)s)")
    which.add_argument("--seeds", type=_seeds, help="episodes by seed, such as 1,2,3")
    parser.add_argument("--before", action="store_true", help="put the cloned policy above it, in the same seeds")
    parser.add_argument("--stochastic", action="store_true", help="sample actions (default: act with the mean)")
    parser.add_argument(
        "--every", type=number(Count), default=4, help="environment steps between pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=_size, default="256", help="pixels of a picture, 256 or 640x480 (default: %(default)s)"
    )
    parser.add_argument("--workers", type=number(Workers), default=2, help="processes that render (default: %(default)s)")
    parser.add_argument("--single", action="store_true", help="write a video of each episode (default: all in one grid)")


def run(options: argparse.Namespace) -> None:
    """Run ``awac video``."""
    from awac_pl.runs.folder import run_of

    checkpoint: Path = options.ckpt_path
    folder = run_of(checkpoint)
    targets = _targets(options.to or (folder or checkpoint.absolute().parent) / "videos", checkpoint.stem)

    from awac_pl.algorithms.checkpoints import load_module, read_checkpoint
    from awac_pl.callbacks.video_recorder import learned_policy
    from awac_pl.envs.rendering import render_clips
    from awac_pl.envs.seeds import EVALUATION_SEEDS

    state = read_checkpoint(checkpoint)
    task, datasets = _in_run(folder) if folder else _alone(checkpoint, state)
    seeds = options.seeds or range(EVALUATION_SEEDS, EVALUATION_SEEDS + options.episodes)
    policies = learned_policy(load_module(checkpoint, state), not options.stochastic)
    if options.before:
        policies = _cloned(datasets, not options.stochastic) | policies
    clips = render_clips(task, policies, seeds, size=options.size, every=options.every, num_workers=options.workers)
    _write(clips, targets, single=options.single)
    _print_successes(clips, task)


def _in_run(folder: Path) -> tuple[Task, list[dict[str, Any]]]:
    """The task of a run, and what its manifest says of its datasets."""
    from awac_pl.envs.tasks import recorded_task
    from awac_pl.runs.reading import read_run

    run = read_run(folder)
    data = run.config.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("task"), str):
        raise AwacError(f"{folder / 'config.yaml'}: names no data.task; it is no run's configuration")
    return recorded_task(data), run.manifest["datasets"]


def _alone(checkpoint: Path, state: dict[str, Any]) -> tuple[Task, list[dict[str, Any]]]:
    """The same of a checkpoint outside a run folder."""
    from awac_pl.algorithms.checkpoints import data_of
    from awac_pl.datasets.cloned import cloned_id
    from awac_pl.envs.tasks import recorded_task

    if (data := data_of(state)) is None:
        raise AwacError(f"{checkpoint}: lies in no run folder (RUN/checkpoints), and does not name its task (it is of an "
                        "earlier version)")  # fmt: skip
    normalize = bool(state["datamodule_hyper_parameters"].get("normalize_observations"))
    ids = [cloned_id(name, data["num_demonstrations"], data["clip_actions"], normalize) for name in data["datasets"]]
    digests = state["ReplayDataModule"].get("digests", [])
    return recorded_task(data), [{"id": name, "sha256": digest} for name, digest in zip(ids, digests, strict=False)]


def _cloned(datasets: list[dict[str, Any]], deterministic: bool) -> dict[str, Policy]:
    """The cloned policy of a run; prints a line where there is none, or where the dataset was made anew since."""
    from awac_pl.callbacks.video_recorder import policy_before
    from awac_pl.datasets.catalog import data_file
    from awac_pl.files import file_digest

    digests = {str(dataset.get("id")): dataset.get("sha256") for dataset in datasets}
    for name, digest in digests.items():
        if policy := policy_before([name], deterministic):
            if file_digest(data_file(name)) != digest:
                print(f"{name} has been made anew since: 'cloned' is its policy, not the one that this run began with")
            return policy
    print(f"no cloned policy is kept with {', '.join(digests)} (awac data clone keeps one): the checkpoint's policy alone")
    return {}


def _size(text: str) -> tuple[int, int]:
    from awac_pl.envs.video import check_size

    width, _, height = text.partition("x")
    if not (width.isdigit() and (height or width).isdigit()):
        raise AwacError(f"--size {text} is no size; write 256 or 640x480")
    size = int(width), int(height or width)
    check_size(size, "--size")
    return size


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise AwacError(f"--seeds {text} are no seeds; write whole numbers with commas between, such as 1,2,3")
    return list(dict.fromkeys(map(int, parts)))


def _targets(target: Path, name: str) -> list[Path]:
    """The files to write, in both formats where ``target`` is a folder."""
    from awac_pl.callbacks.video_recorder import formats
    from awac_pl.envs.video import check_ffmpeg

    if target.suffix == ".mp4":
        check_ffmpeg()
    elif target.suffix not in ("", ".gif"):
        raise AwacError(f"--to {target}: write to a .mp4 or a .gif file, or to a folder")
    return [target] if target.suffix else [target / f"{name}{suffix}" for suffix in formats()]


def _write(clips: dict[str, list[Clip]], targets: list[Path], *, single: bool) -> None:
    from awac_pl.envs.video import draw_labels, make_grid, write_video

    all_clips = [clip for row in clips.values() for clip in row]
    singles = {f"-{clip.label}-{clip.episode.seed}": draw_labels(clip) for clip in all_clips} if single else {}
    for ending, frames in (singles or {"": make_grid(clips)}).items():
        for target in targets:
            path = target.with_stem(f"{target.stem}{ending}")
            write_video(path, frames)
            print(f"{path}  {len(frames)} frames, {path.stat().st_size / 1e6:.2f} MB")


def _print_successes(clips: dict[str, list[Clip]], task: Task) -> None:
    """Count the episodes that succeed; they are too few to measure the policy."""
    from awac_pl.envs.video import first_success

    for label, row in clips.items():
        if row[0].episode.success is None:
            print(f"  {label:<12} success unavailable: {task.env_id} reports none")
        else:
            print(f"  {label:<12} {sum(first_success(clip) is not None for clip in row)} of {len(row)} episodes succeed")
