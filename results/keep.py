"""Keep runs as results, and draw the figures from what is kept.

    python results/keep.py                                              # every figure, every table
    python results/keep.py runs/methods/* --to methods                  # first copies these runs there
    python results/keep.py runs/methods/* --to methods --cut_off        # those that have not reached their end, too

A run is kept as its configuration, manifest and metrics, in a folder that ``awac report`` reads like any other run.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from awac_pl.errors import AwacError
from awac_pl.report.figures import draw, save
from awac_pl.report.tables import result_tables
from awac_pl.runs.grouping import group_runs
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import read_run, read_runs

RESULTS = Path(__file__).parent


def keep(folder: Path, target: Path, cut_off: bool, commit: str | None) -> None:
    """Copy what a result needs of a run, without the paths of the machine that it ran on."""
    run = read_run(folder)
    if not run.finished and not cut_off:
        raise AwacError(f"{folder} is no result: {run.status}; --cut_off keeps it, and the report says so")
    if not run.config or not run.rows:
        raise AwacError(f"{folder} is no result: no config.yaml, or no epoch in metrics.csv")
    place = f"runs/{target.name}"
    config = {**run.config, "run_dir": place}
    config["trainer"] = {**config.get("trainer", {}), "default_root_dir": place}
    config["checkpoint"] = {**config.get("checkpoint", {}), "dirpath": f"{place}/checkpoints"}
    manifest = {**run.manifest, "command": anonymous(run.manifest["command"], place)}
    if "commands" in manifest:
        manifest["commands"] = [anonymous(command, place) for command in manifest["commands"]]
    manifest["datasets"] = [{key: value for key, value in facts.items() if key != "path"} for facts in manifest["datasets"]]
    if commit is not None:
        manifest["tags"] = {**manifest["tags"], "commit": commit}
    target.mkdir(parents=True, exist_ok=True)
    (target / "metrics.csv").write_bytes((folder / "metrics.csv").read_bytes())
    (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def anonymous(command: Sequence[str], place: str) -> list[str]:
    """A recorded command with another run folder, and without the folder of its program."""
    words = shlex.split(shown_command(command))
    for index, word in enumerate(words):
        name, equals, value = word.partition("=") if word.startswith("--") else (words[index - 1], "", word)
        if name in ("--run_dir", "--resume") and value not in ("", "auto"):
            words[index] = f"{name}={place}" if equals else place
    return words


def sets() -> Iterator[Path]:
    """The folders whose folders are runs."""
    yield from sorted({path.parents[1] for path in RESULTS.rglob("manifest.json")})


def main() -> None:
    """Keep, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, one per seed")
    parser.add_argument("--to", help="folder within results/ to keep them in")
    parser.add_argument("--cut_off", action="store_true", help="keep runs that have not reached their end, too")
    parser.add_argument("--commit", help="of runs that were made from a copy without git")
    options = parser.parse_args()
    if bool(options.runs) != bool(options.to):
        parser.error("runs and --to go together")
    names = [folder.resolve().name for folder in options.runs]
    if len(set(names)) < len(names):
        parser.error("two run folders have the same name")
    try:
        for folder, name in zip(options.runs, names, strict=True):
            keep(folder, RESULTS / options.to / name, options.cut_off, options.commit)
    except AwacError as error:
        parser.error(str(error))
    for folder in sets():
        if options.to is not None and folder != RESULTS / options.to:
            continue
        groups = group_runs(runs := read_runs([folder])[0])
        labels = list(dict.fromkeys(group.label for group in groups))
        for task in dict.fromkeys(group.task for group in groups):
            own = [group for group in groups if group.task == task]
            alone = len(own) == len(groups)
            path = folder.with_name(f"{folder.name}.png") if alone else folder / f"{task}.png"
            save(draw(own, "success_rate", compare=not alone, labels=() if alone else labels), path)
        print(f"\n## {folder.relative_to(RESULTS)}\n")
        print("\n".join(table.markdown() for table in result_tables(runs, groups)))


if __name__ == "__main__":
    main()
