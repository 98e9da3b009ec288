"""Keep runs as results, and draw the figures from what is kept.

    python results/keep.py                                                          # every figure, every table
    python results/keep.py runs/results/pen-quick-seed* --to quick/pen-quick        # first copies these runs there
    python results/keep.py runs/door-plus-seed1 --to methods --cut_off              # a run that has not reached its end

A run is kept as its configuration, manifest and metrics, in a folder that ``awac report`` reads like any other run.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
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
    config = (folder / "config.yaml").read_text()
    there, here = str(yaml.safe_load(config)["run_dir"]), f"runs/{folder.name}"
    command = [word.replace(there, here) for word in shlex.split(shown_command(run.manifest["command"]))]
    manifest = {**run.manifest, "command": command}
    manifest["datasets"] = [{key: value for key, value in facts.items() if key != "path"} for facts in manifest["datasets"]]
    manifest.pop("commands", None)
    if commit is not None:
        manifest["tags"] = {**manifest["tags"], "commit": commit}
    target.mkdir(parents=True, exist_ok=True)
    (target / "metrics.csv").write_bytes((folder / "metrics.csv").read_bytes())
    (target / "config.yaml").write_text(config.replace(there, here))
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def sets() -> Iterator[Path]:
    """The folders whose folders are runs."""
    yield from sorted({path.parents[1] for path in RESULTS.rglob("manifest.json")})


def main() -> None:
    """Keep, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, one per seed")
    parser.add_argument("--to", help="folder of results to keep them in")
    parser.add_argument("--cut_off", action="store_true", help="keep runs that have not reached their end, too")
    parser.add_argument("--commit", help="of runs that were made from a copy without git")
    options = parser.parse_args()
    if bool(options.runs) != bool(options.to):
        parser.error("runs and --to go together")
    for folder in options.runs:
        keep(folder, RESULTS / options.to / folder.name, options.cut_off, options.commit)
    for folder in sets():
        if options.to is not None and folder != RESULTS / options.to:
            continue
        groups = group_runs(runs := read_runs([folder])[0])
        labels = list(dict.fromkeys(group.label for group in groups))
        for task in dict.fromkeys(group.task for group in groups):
            own = [group for group in groups if group.task == task]
            alone = len(own) == len(groups)
            path = folder.with_suffix(".png") if alone else folder / f"{task}.png"
            save(draw(own, "success_rate", compare=not alone, labels=() if alone else labels), path)
        print(f"\n## {folder.relative_to(RESULTS)}\n")
        print("\n".join(table.markdown() for table in result_tables(runs, groups)))


if __name__ == "__main__":
    main()
