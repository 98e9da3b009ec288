"""List, inspect, import, repair, choose, join, split and export datasets.

awac data list
awac data inspect my_demonstrations.npz --task pen
awac data clone --help
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awac_pl.commands.arguments import help_from, number
from awac_pl.commands.data_options import add_reading_arguments, add_rollout_arguments, reading_of, source_of
from awac_pl.settings import Count, Horizon, OpenShare, Seed

if TYPE_CHECKING:
    from awac_pl.envs.tasks import Spaces, Task
    from awac_pl.episode import Episode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands of ``awac data``, the functions below, with their arguments."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    parsers = {}
    for function in (_list, _inspect, _import, _relabel, _subsample, _combine, _split, _export, _record, _clone):
        name, texts = function.__name__[1:], help_from(function)
        parsers[name] = commands.add_parser(name, help=texts["description"], **texts)
        parsers[name].set_defaults(function=function)

    def add(names: str, *flags: str, **options: Any) -> None:
        for name in names.split():
            parsers[name].add_argument(*flags, **options)

    add("inspect", "source", help="dataset id, or a file or folder")
    add("import", "source", type=Path, help="file, or the folder of a LeRobot dataset")
    add("relabel subsample split export", "source", help="dataset id")
    add("combine", "source", nargs="+", help="dataset id")
    add("record", "source", type=Path, help="checkpoint")
    from_source = "inspect import relabel subsample combine split export record"
    task_help = "pen, door, relocate, hammer, or a Gymnasium environment id"
    add(from_source, "--task", required=True, help=task_help)
    add("clone", "task", help=task_help)
    reward: dict[str, Any] = {"choices": ["auto", "binary", "environment"], "default": "auto"}
    reward["help"] = "auto (the default) is success - 1 where success is known, else the environment's own"
    add(f"{from_source} clone", "--reward", **reward)
    horizon_help = "time limit of an episode in steps (default: the environment's)"
    add(f"{from_source} clone", "--horizon", type=number(Horizon), metavar="N", help=horizon_help)
    key_help = "key of info that says whether a step succeeded (default: success, else is_success)"
    add(f"{from_source} clone", "--success_key", metavar="KEY", help=key_help)
    add("clone", "--from", dest="source", help="dataset of demonstrations (default: awac/TASK/expert-v0)")
    add("import relabel subsample combine record", "--to", required=True, help="id of the dataset to write")
    add("split", "--to", nargs=2, required=True, help="ids of the two datasets to write")
    add("export", "--to", type=Path, required=True, help="file to write, .npz or .hdf5")
    add("clone", "--to", help="dataset to write (default: the one that a run looks for)")
    writing = "import relabel subsample combine split export record clone"
    add(writing, "--overwrite", action="store_true", help="replace what has that name")
    add_reading_arguments(add)
    add("inspect", "--json", action="store_true", help="print the whole report as JSON")
    add("inspect", "--figure", type=Path, help="draw returns, lengths and success of each episode")
    add("import", "--licence", help="licence to note in the metadata")
    add("subsample", "--episodes", type=number(Count), help="how many (default: all)")
    add("subsample", "--random", type=number(Seed), metavar="SEED", help="choose at random (default: the first ones)")
    add("subsample", "--successful", action="store_true", help="only episodes that succeed")
    add("subsample", "--cut", action="store_true", help="end each episode at its last success")
    add("split", "--share", type=number(OpenShare), default=0.9, help="of the first part (default: %(default)s)")
    add("split", "--seed", type=number(Seed), default=0, help="of the choice (default: %(default)s)")
    add_rollout_arguments(add)


def run(options: argparse.Namespace) -> None:
    """Run ``awac data``."""
    options.function(options)


def _task(options: argparse.Namespace, clip_actions: bool = True) -> Task:
    from awac_pl.envs.tasks import find_task

    chosen = {name: getattr(options, name) for name in ("horizon", "success_key", "reward")}
    return find_task(options.task, clip_actions=clip_actions, **chosen)


def _load(options: argparse.Namespace) -> tuple[list[Episode], Spaces, Callable[[str, Sequence[Episode], str], None]]:
    """Load the source datasets, downloaded where they are remote; with a function that stores what becomes of them."""
    from awac_pl.datasets.catalog import check_free
    from awac_pl.datasets.downloading import fetch_dataset
    from awac_pl.datasets.editing import load_all, store

    task, sources = _task(options), options.source if isinstance(options.source, list) else [options.source]
    if options.command != "export":
        for target in options.to if isinstance(options.to, list) else [options.to]:
            check_free(target, options.overwrite)  # before the work
    for source in sources:
        fetch_dataset(source)
    episodes, spaces, origin = load_all(sources, task, any_environment=options.command == "relabel")

    def save(target: str, chosen: Sequence[Episode], description: str) -> None:
        _print(store(target, chosen, task, spaces, origin, description, overwrite=options.overwrite))

    return episodes, spaces, save


def _list(options: argparse.Namespace) -> None:
    """List the datasets on this machine.

    awac data list
    """
    from awac_pl.datasets import catalog
    from awac_pl.errors import DatasetError

    rows: list[tuple[str, ...]] = [("dataset", "environment", "episodes", "steps", "succeed", "MB")]
    for name in catalog.dataset_ids("metadata.json"):
        if form := catalog.other_storage(name):
            rows.append((name, f"({form[:20]}: awac data import)", "", "", "", ""))
    for name in catalog.dataset_ids():
        size = f"{catalog.data_file(name).stat().st_size / 1e6:.1f}"
        try:
            metadata = catalog.read_metadata(name)
        except DatasetError:
            rows.append((name, "damaged", "", "", "", size))
            continue
        facts = [catalog.recorded_environment(metadata), *map(metadata.get, ("total_episodes", "total_steps", "successes"))]
        rows.append((name, *("unknown" if fact is None else str(fact)[:60] for fact in facts), size))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, environment, *numbers in rows:
        right = (text.rjust(width) for text, width in zip(numbers, widths[2:], strict=True))
        print(name.ljust(widths[0]), environment.ljust(widths[1]), *right, sep="  ")
    print(f"local datasets: {catalog.local_root()}")


def _inspect(options: argparse.Namespace) -> None:
    """Show what a dataset or a file holds, what is wrong with it, and which command repairs it.

    awac data inspect awac/pen/expert-v0 --task pen
    awac data inspect door-v0_demos.pickle --task door --figure door.png
    awac data inspect mine/pen-v0 --task pen --json
    """
    import json

    from awac_pl.datasets.downloading import fetch_dataset
    from awac_pl.datasets.inspection import draw_curves, inspect_dataset

    source = source_of(options.source)
    if isinstance(source, str):
        fetch_dataset(source)
    report = inspect_dataset(source, _task(options), options.format, reading_of(options), progress=True)
    if options.figure:
        draw_curves(report["curves"], options.source, options.figure)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        if name not in ("curves", "findings", "fits", "expect"):
            print(f"{name:<20} {_plain(value)}")
    print()
    for finding in report["findings"]:
        print(f"! {finding['finding']}\n    {finding['remedy']}")
    number = len(report["findings"])
    for sentence in report["expect"]:
        print(f"> {sentence}")
    print(f"verdict: {number} finding{'s' if number > 1 else ''}" if number else "verdict: nothing is wrong")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value[:8])) + (f" and {len(value) - 8} more" if len(value) > 8 else "") or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _import(options: argparse.Namespace) -> None:
    """Import robomimic, LeRobot, D4RL, DAPG and rlkit files, or arrays, as a checked dataset; no code in a file is run.

    awac data import pen2_sparse.npy --task pen --to mine/pen-human-v0
    awac data import low_dim.hdf5 --task my_robot:Lift-v0 --keys robot0_eef_pos,object --to mine/lift-v0
    awac data import door-v0_demos.pickle --format dapg --task door --to mine/door-human-v0 --licence Apache-2.0
    """
    from awac_pl.datasets.importing import import_dataset

    report = import_dataset(
        options.source, options.to, _task(options),
        form=options.format, how=reading_of(options), success_from=options.success_from, licence=options.licence,
        overwrite=options.overwrite,
    )  # fmt: skip
    _print({"dataset": options.to, **report})


def _relabel(options: argparse.Namespace) -> None:
    """Compute success anew, set rewards to success - 1, and clip actions.

    awac data relabel D4RL/pen/human-v2 --task pen --to mine/pen-v0
    """
    episodes, _, save = _load(options)
    save(options.to, episodes, f"{options.source}, relabelled for {options.task}")


def _subsample(options: argparse.Namespace) -> None:
    """Choose some of the episodes.

    awac data subsample mine/pen-v0 --task pen --to mine/pen-10-v0 --episodes 10 --random 0
    awac data subsample mine/pen-v0 --task pen --to mine/pen-good-v0 --successful --cut
    """
    from awac_pl.datasets.editing import choose

    episodes, _, save = _load(options)
    chosen = choose(
        episodes, options.episodes, random_seed=options.random, successful=options.successful, cut_after_success=options.cut
    )
    save(options.to, chosen, f"{len(chosen)} of the {len(episodes)} episodes of {options.source}")


def _combine(options: argparse.Namespace) -> None:
    """Join several datasets.

    awac data combine mine/pen-v0 awac/pen/expert-v0 --task pen --to mine/pen-all-v0
    """
    episodes, _, save = _load(options)
    save(options.to, episodes, " + ".join(options.source))


def _split(options: argparse.Namespace) -> None:
    """Split one dataset into two.

    awac data split mine/pen-v0 --task pen --share 0.9 --to mine/pen-train-v0 mine/pen-test-v0
    """
    from awac_pl.datasets.editing import split
    from awac_pl.errors import DatasetError

    if options.to[0] == options.to[1]:
        raise DatasetError(f"--to {' '.join(options.to)}: the two parts need two ids")
    episodes, _, save = _load(options)
    for target, part in zip(options.to, split(episodes, options.share, options.seed), strict=True):
        save(target, part, f"{len(part)} of the {len(episodes)} episodes of {options.source}")


def _export(options: argparse.Namespace) -> None:
    """Write a dataset as arrays (.npz) or as D4RL's flat columns (.hdf5).

    awac data export mine/pen-v0 --task pen --to pen.npz
    awac data export mine/pen-v0 --task pen --to pen.hdf5
    """
    from awac_pl.datasets.editing import export
    from awac_pl.errors import DatasetError

    form = {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl"}.get(options.to.suffix)
    if form is None:
        raise DatasetError(f"{options.to}: write to a .npz or a .hdf5 file")
    episodes, spaces, _ = _load(options)
    export(episodes, spaces, options.to, form, overwrite=options.overwrite)  # type: ignore[arg-type]
    _print({"file": str(options.to), "episodes": len(episodes), "steps": sum(map(len, episodes))})


def _record(options: argparse.Namespace) -> None:
    """Store episodes of a checkpoint's policy or of its replay buffer, so that one run's experience starts the next.

    awac data record runs/pen-quick-seed0/checkpoints/last.ckpt --task pen --to mine/pen-tuned-v0
    awac data record runs/pen-quick-seed0/checkpoints/last.ckpt --task pen --to mine/pen-replay-v0 --replay
    """
    from awac_pl.datasets.from_runs import record_policy, record_replay

    task = _task(options, clip_actions=not options.replay)  # a replay buffer's actions are stored as they are
    if options.replay:
        scores = record_replay(options.source, options.to, task, overwrite=options.overwrite)
    else:
        how = {"deterministic": options.deterministic, "num_workers": options.workers, "seed": options.seed}
        how["overwrite"] = options.overwrite
        scores = record_policy(options.source, options.to, task, num_episodes=options.episodes, **how)
    _print({"dataset": options.to, **scores})


def _clone(options: argparse.Namespace) -> None:
    """Fit a policy by maximum likelihood, roll it out, and store its episodes.

    awac data clone pen
    awac data clone relocate --num_demonstrations 10
    awac data clone pen --from D4RL/pen/human-v2 --to mine/pen-cloned-v0
    """
    from awac_pl.datasets.cloned import clone_dataset, cloned_id
    from awac_pl.datasets.downloading import fetch_dataset

    demonstrations, clip, normalize = options.num_demonstrations, not options.sampled_actions, options.normalize_observations
    source = options.source or f"awac/{options.task}/expert-v0"
    target = options.to or cloned_id(f"awac/{options.task}/cloned-v0", demonstrations, clip, normalize)
    fetch_dataset(source)
    recipe = {"num_demonstrations": demonstrations, "num_episodes": options.episodes, "normalize_observations": normalize}
    how = {"num_workers": options.workers, "seed": options.seed, "overwrite": options.overwrite}
    result = clone_dataset(source, target, _task(options, clip), **recipe, **how)
    print(f"{target}: {options.episodes} episodes of a policy cloned from {source}")
    _print(result)


def _print(report: dict[str, Any]) -> None:
    for name, value in report.items():
        print(f"  {name:<22} {'unknown' if value is None else _plain(value)}")
