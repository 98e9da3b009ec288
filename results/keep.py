"""Keep finished runs as results, and draw the README's figures from what is kept.

    python results/keep.py                                                    # every figure, every table
    python results/keep.py runs/results/pen-quick-seed* --to pen-quick        # first copies these runs to results/pen-quick

A run is kept as its configuration, manifest and metrics, in a folder that ``awac report`` reads like any other run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path

from awac_pl.errors import AwacError
from awac_pl.report.figures import draw, save
from awac_pl.report.tables import result_tables
from awac_pl.runs.grouping import group_runs
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import read_run, read_runs

RESULTS = Path(__file__).parent


def keep(folder: Path, target: Path) -> None:
    """Copy what a result needs of a finished run."""
    run = read_run(folder)
    if not run.finished:
        raise AwacError(f"{folder} is no result: {run.status}")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.csv", "config.yaml"):
        shutil.copy(folder / name, target / name)
    command = run.manifest["command"]
    manifest = {**run.manifest, "command": shlex.split(shown_command(command))}
    manifest["datasets"] = [{key: value for key, value in facts.items() if key != "path"} for facts in manifest["datasets"]]
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def main() -> None:
    """Keep, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, one per seed")
    parser.add_argument("--to", help="name of the result")
    options = parser.parse_args()
    if bool(options.runs) != bool(options.to):
        parser.error("runs and --to go together")
    for folder in options.runs:
        keep(folder, RESULTS / options.to / folder.name)
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir() and options.to in (None, path.name)):
        runs, _ = read_runs([folder])
        groups = group_runs(runs)
        save(draw(groups, "success_rate"), folder.with_suffix(".png"))
        print(f"\n## {folder.name}\n")
        print("\n".join(table.markdown() for table in result_tables(runs, groups)))


if __name__ == "__main__":
    main()
