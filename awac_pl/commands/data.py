"""``awac data``: look at datasets, bring in others' files, mend, choose, join, split, hand on."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awac_pl.envs.tasks import Spaces, Task
    from awac_pl.episode import Episode

EXAMPLES = {
    "list": "  awac data list",
    "inspect": "  awac data inspect awac/pen/expert-v0 --task pen\n"
    "  awac data inspect door-v0_demos.pickle --task door --figure door.png\n"
    "  awac data inspect mine/pen-v0 --task pen --json",
    "import": "  awac data import pen2_sparse.npy --task pen --to mine/pen-human-v0\n"
    "  awac data import door-v0_demos.pickle --format dapg --task door --to mine/door-human-v0 --licence Apache-2.0",
    "relabel": "  awac data relabel D4RL/pen/human-v2 --task pen --to mine/pen-v0",
    "subsample": "  awac data subsample mine/pen-v0 --task pen --to mine/pen-10-v0 --episodes 10 --random 0\n"
    "  awac data subsample mine/pen-v0 --task pen --to mine/pen-good-v0 --successful --cut",
    "combine": "  awac data combine mine/pen-v0 awac/pen/expert-v0 --task pen --to mine/pen-all-v0",
    "split": "  awac data split mine/pen-v0 --task pen --share 0.9 --to mine/pen-train-v0 mine/pen-test-v0",
    "export": "  awac data export mine/pen-v0 --task pen --to pen.npz\n"
    "  awac data export mine/pen-v0 --task pen --to pen.hdf5",
    "record": "  awac data record runs/pen-quick-seed0/checkpoints/last.ckpt --task pen --to mine/pen-tuned-v0\n"
    "  awac data record runs/pen-quick-seed0/checkpoints/last.ckpt --task pen --to mine/pen-replay-v0 --replay",
    "clone": "  awac data clone pen\n  awac data clone relocate --num_demonstrations 10\n"
    "  awac data clone pen --from D4RL/pen/human-v2 --to mine/pen-cloned-v0",
}
HELP = {
    "list": "the datasets that are here",
    "inspect": "what a dataset or a file holds, what is wrong with it, and which command mends it",
    "import": "DAPG pickles, rlkit's .npy, D4RL's HDF5 or arrays into a checked dataset; no file's code is run",
    "relabel": "success recomputed, rewards success - 1, actions clipped",
    "subsample": "some of the episodes",
    "combine": "several datasets into one",
    "split": "one dataset into two",
    "export": "a dataset as arrays (.npz) or D4RL's flat columns (.hdf5)",
    "record": "episodes of a checkpoint's policy, or of its replay buffer, so that one run's experience starts the next",
    "clone": "fit a policy by maximum likelihood, roll it out, store its episodes",
}


def run(arguments: list[str]) -> None:
    """Run ``awac data …``.

    Raises:
        AwacError: what was asked for cannot be had.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    {
        "list": _list, "inspect": _inspect, "import": _import, "relabel": _relabel, "subsample": _subsample,
        "combine": _combine, "split": _split, "export": _export, "record": _record, "clone": _clone,
    }[options.command](options)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("awac data", description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    made = {}
    for name, text in HELP.items():
        description, epilog = f"{text[0].upper()}{text[1:]}.", f"examples:\n{EXAMPLES[name]}"
        made[name] = commands.add_parser(name, help=text, description=description, epilog=epilog, formatter_class=plain)
    for name in ("inspect", "import", "relabel", "subsample", "combine", "split", "export", "record"):
        what = "checkpoint" if name == "record" else "file" if name == "import" else "dataset id"
        what += ", or a file" if name == "inspect" else ""
        made[name].add_argument("source", nargs="+" if name == "combine" else None, help=what)
        made[name].add_argument("--task", required=True, help="pen, door, relocate, hammer, or a Gymnasium environment id")
    for name in HELP:
        if name != "list":
            made[name].add_argument(
                "--reward", choices=["auto", "binary", "environment"], default="auto",
                help="auto (the default) is success - 1 where success is known, else the environment's own",
            )  # fmt: skip
    for name in ("import", "relabel", "subsample", "combine", "record"):
        made[name].add_argument("--to", required=True, help="id of the dataset to write")
    for name in HELP:
        if name not in ("list", "inspect"):
            made[name].add_argument("--overwrite", action="store_true", help="replace what is there under that name")
    for name in ("inspect", "import"):
        made[name].add_argument(
            "--format", choices=["dapg", "rlkit", "d4rl", "npz"], help="of a file (default: by its suffix)"
        )
    made["inspect"].add_argument("--json", action="store_true", help="print the whole report as JSON")
    made["inspect"].add_argument("--figure", type=Path, help="draw returns, lengths and success per episode")
    made["import"].add_argument("--licence", help="text for the metadata")
    made["subsample"].add_argument("--episodes", type=int, help="how many (default: all)")
    made["subsample"].add_argument("--random", type=int, metavar="SEED", help="choose at random (default: the first ones)")
    made["subsample"].add_argument("--successful", action="store_true", help="only episodes that succeed")
    made["subsample"].add_argument("--cut", action="store_true", help="end each episode at its last success")
    made["split"].add_argument("--share", type=float, default=0.9, help="of the first part (default: %(default)s)")
    made["split"].add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    made["split"].add_argument("--to", nargs=2, required=True, help="ids of the two datasets to write")
    made["export"].add_argument("--to", type=Path, required=True, help="file to write, .npz or .hdf5")
    made["record"].add_argument("--replay", action="store_true", help="store the replay buffer's online episodes")
    made["record"].add_argument("--episodes", type=int, default=100, help="to roll out (default: %(default)s)")
    made["record"].add_argument("--deterministic", action="store_true", help="act with the mean (default: sample)")
    for name in ("record", "clone"):
        made[name].add_argument("--workers", type=int, default=2, help="rollout processes (default: %(default)s)")
        made[name].add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    clone = made["clone"]
    clone.add_argument("task", help="pen, door, relocate, hammer, or a Gymnasium environment id")
    clone.add_argument("--from", dest="source", help="dataset of demonstrations (default: awac/TASK/expert-v0)")
    clone.add_argument("--to", dest="target", help="dataset to write (default: the one a run looks for)")
    clone.add_argument("--num_demonstrations", type=int, help="use the first so many episodes (default: all)")
    clone.add_argument("--normalize_observations", action="store_true", help="fit to observations of mean 0, deviation 1")
    clone.add_argument("--sampled_actions", action="store_true", help="keep actions as they are sampled, not clipped")
    clone.add_argument("--episodes", type=int, default=500, help="episodes to store (default: %(default)s)")
    return parser


def _task(options: argparse.Namespace, clip_actions: bool = True) -> Task:
    from awac_pl.envs.tasks import find_task

    return find_task(options.task, reward=options.reward, clip_actions=clip_actions)


def _load(
    options: argparse.Namespace, *sources: str, any_environment: bool = False
) -> tuple[list[Episode], Task, Spaces, Any]:
    """The episodes of some datasets, downloaded where they are remote, and what ``editing.store`` wants to know."""
    from awac_pl.datasets.catalog import check_free
    from awac_pl.datasets.downloading import fetch_dataset
    from awac_pl.datasets.editing import load_all

    task = _task(options)
    if options.command != "export":
        for target in options.to if isinstance(options.to, list) else [options.to]:
            check_free(target, options.overwrite)  # before the work
    for source in sources:
        fetch_dataset(source)
    episodes, spaces, facts = load_all(sources, task, any_environment=any_environment)
    return episodes, task, spaces, facts


def _list(options: argparse.Namespace) -> None:
    from awac_pl.datasets.catalog import data_file, dataset_ids, local_root, read_metadata, recorded_environment
    from awac_pl.errors import DatasetError

    rows: list[tuple[str, ...]] = [("dataset", "environment", "episodes", "steps", "succeed", "MB")]
    for name in dataset_ids():
        size = f"{data_file(name).stat().st_size / 1e6:.1f}"
        try:
            metadata = read_metadata(name)
        except DatasetError:
            rows.append((name, "damaged", "", "", "", size))
            continue
        facts = (metadata.get("total_episodes"), metadata.get("total_steps"), metadata.get("successes"))
        texts = ["unknown" if fact is None else str(fact) for fact in facts]
        rows.append((name, recorded_environment(metadata) or "unknown", *texts, size))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, environment, *numbers in rows:
        right = (text.rjust(width) for text, width in zip(numbers, widths[2:], strict=True))
        print(name.ljust(widths[0]), environment.ljust(widths[1]), *right, sep="  ")
    print(f"local datasets: {local_root()}")


def _inspect(options: argparse.Namespace) -> None:
    from awac_pl.datasets.downloading import fetch_dataset
    from awac_pl.datasets.inspection import inspect_dataset

    is_file = Path(options.source).suffix != "" and not options.source.rsplit("-v", 1)[-1].isdigit()
    source = Path(options.source) if is_file else options.source
    if not is_file:
        fetch_dataset(options.source)
    report = inspect_dataset(source, _task(options), options.format, progress=True)
    if options.figure:
        _draw(report["curves"], options.source, options.figure)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        if name not in ("curves", "findings", "fits"):
            print(f"{name:<20} {_plain(value)}")
    print()
    for finding in report["findings"]:
        print(f"! {finding['finding']}\n    {finding['remedy']}")
    number = len(report["findings"])
    print(f"verdict: {number} finding{'s' if number > 1 else ''}" if number else "verdict: nothing is wrong")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value[:8])) + (f" and {len(value) - 8} more" if len(value) > 8 else "") or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(curves: dict[str, list], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(7, 4.5), sharex=True, layout="constrained")
    episodes = range(len(curves["episode_lengths"]))
    succeeded = curves["episode_success"] or [None] * len(episodes)
    colours = [{True: "tab:green", False: "tab:red", None: "tab:gray"}[success] for success in succeeded]
    returns = [float("nan") if value is None else value for value in curves["returns"]]
    for axis, values, label in ((axes[0], returns, "stored return"), (axes[1], curves["episode_lengths"], "steps")):
        axis.bar(episodes, values, color=colours, width=0.8)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("episode (green: succeeds, red: does not, gray: unknown)")
    axes[0].set_title(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _import(options: argparse.Namespace) -> None:
    from awac_pl.datasets.importing import import_dataset

    report = import_dataset(
        Path(options.source), options.to, _task(options),
        form=options.format, licence=options.licence, overwrite=options.overwrite,
    )  # fmt: skip
    _say({"dataset": options.to, **report})


def _store(options: argparse.Namespace, target: str, *content: Any) -> None:
    """Write a dataset and say what it holds; ``content`` is what ``editing.store`` takes behind the id."""
    from awac_pl.datasets.editing import store

    _say(store(target, *content, overwrite=options.overwrite))


def _relabel(options: argparse.Namespace) -> None:
    episodes, *rest = _load(options, options.source, any_environment=True)
    _store(options, options.to, episodes, *rest, f"{options.source}, relabelled for {options.task}")


def _subsample(options: argparse.Namespace) -> None:
    from awac_pl.datasets.editing import choose

    episodes, *rest = _load(options, options.source)
    chosen = choose(
        episodes, options.episodes, random_seed=options.random, successful=options.successful, cut_after_success=options.cut
    )
    _store(options, options.to, chosen, *rest, f"{len(chosen)} of the {len(episodes)} episodes of {options.source}")


def _combine(options: argparse.Namespace) -> None:
    _store(options, options.to, *_load(options, *options.source), " + ".join(options.source))


def _split(options: argparse.Namespace) -> None:
    from awac_pl.datasets.editing import split

    episodes, *rest = _load(options, options.source)
    for target, part in zip(options.to, split(episodes, options.share, options.seed), strict=True):
        _store(options, target, part, *rest, f"{len(part)} of the {len(episodes)} episodes of {options.source}")


def _export(options: argparse.Namespace) -> None:
    from awac_pl.datasets.editing import export
    from awac_pl.errors import DatasetError

    form = {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl"}.get(options.to.suffix)
    if form is None:
        raise DatasetError(f"{options.to}: write to a .npz or a .hdf5 file")
    episodes, _, spaces, _ = _load(options, options.source)
    export(episodes, spaces, options.to, form, overwrite=options.overwrite)  # type: ignore[arg-type]
    _say({"file": str(options.to), "episodes": len(episodes), "steps": sum(map(len, episodes))})


def _record(options: argparse.Namespace) -> None:
    from awac_pl.datasets.from_runs import record_policy, record_replay

    checkpoint, task = Path(options.source), _task(options, clip_actions=not options.replay)  # a replay is kept as it is
    if options.replay:
        scores = record_replay(checkpoint, options.to, task, overwrite=options.overwrite)
    else:
        scores = record_policy(
            checkpoint,
            options.to,
            task,
            num_episodes=options.episodes,
            deterministic=options.deterministic,
            num_workers=options.workers,
            seed=options.seed,
            overwrite=options.overwrite,
        )
    _say({"dataset": options.to, **scores})


def _clone(options: argparse.Namespace) -> None:
    from awac_pl.datasets.cloned import clone_dataset, cloned_id
    from awac_pl.datasets.downloading import fetch_dataset

    source = options.source or f"awac/{options.task}/expert-v0"
    kept = {"clip_actions": not options.sampled_actions, "normalize_observations": options.normalize_observations}
    target = options.target or cloned_id(f"awac/{options.task}/cloned-v0", options.num_demonstrations, **kept)
    fetch_dataset(source)
    result = clone_dataset(
        source,
        target,
        _task(options, kept["clip_actions"]),
        num_demonstrations=options.num_demonstrations,
        num_episodes=options.episodes,
        num_workers=options.workers,
        seed=options.seed,
        normalize_observations=options.normalize_observations,
        overwrite=options.overwrite,
    )
    print(f"{target}: {options.episodes} episodes of a policy cloned from {source}")
    _say(result)


def _say(report: dict[str, Any]) -> None:
    for name, value in report.items():
        print(f"  {name:<22} {'unknown' if value is None else _plain(value)}")
