"""Keep runs as results, and draw the figures from what is kept.

    python results/keep.py                             # every figure, every table, and the tables of results/README.md
    python results/keep.py runs/methods/* --to methods                # first copies these runs there
    python results/keep.py runs/methods/* --to methods --cut_off      # those that have not reached their end, too

A run is kept as its configuration, manifest and metrics, in a folder that ``awac report`` reads like any other run.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import yaml

from awac_pl.errors import AwacError
from awac_pl.report.figures import draw, save
from awac_pl.report.tables import Table, result_tables
from awac_pl.runs.grouping import group_runs
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import Run, read_run, read_runs
from awac_pl.runs.summary import evaluation_at

RESULTS = Path(__file__).parent
README = RESULTS / "README.md"


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
    if manifest["status"] == "running":  # it was, when it was cut off
        manifest["status"] = "interrupted"
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


#: The tables of results/README.md, by their marks: folder, how its runs' names begin, and the columns' thousands of steps.
COLUMNS = {
    "methods": ("methods", "", (0, 25, 50, 75, 100)),
    "by-success": ("plus-by-success", "", (0, 10, 25, 50, 75, 100)),
    "longer": ("methods", "plus-", (0, 25, 50, 100, 150, 200, 250, 300)),
    "plus-before": ("plus-before", "", (0, 50, 100, 150, 200, 250, 300)),
    "replication": ("replication", "", (0, 25, 50, 100, 200, 300, 400, 500)),
}
#: How far the figures go that compare methods, in thousands of environment steps; ``plus`` alone has figures of its own.
COMPARED = 150
#: Tables of the report on a folder that the page shows as well, by their marks.
SHOWN = {
    "methods": {"intervals": "Success at each stage", "pairs": "One method against another"},
    "replication": {"returns": "Returns of all evaluations", "last": "The last evaluation"},
}
TASKS = {"door": "human door", "pen": "human pen", "relocate": "relocate"}
METHODS = {"plus": "**`plus`**", "awac": "AWAC", "iql": "IQL", "rlpd": "RLPD", "bc": "BC"}
METHODS |= {preset: f"`{preset}`" for preset in ("default", "rlkit", "paper")}


def success_by_steps(runs: Sequence[Run], columns: Sequence[int]) -> str:
    """A table in Markdown: a row per task and method, and in its cells one number per seed.

    The runs are named METHOD-TASK-SEED, as ``compare.sh`` does it. An evaluation counts for a column if it came at its steps
    or up to a tenth later; those of 100 episodes are bold.
    """
    heads = ["", "seeds", "clone", *(f"{thousands}k" if thousands else "0" for thousands in columns), "last, at"]
    rows = []
    for task, method in product(TASKS, METHODS):
        own = sorted((run for run in runs if run.name.startswith(f"{method}-{task}-")), key=lambda run: int(run.seed))
        if not own:
            continue
        cells = [[_short(run.cloned[0]) if run.cloned else "" for run in own]]
        cells += [[_at(run, 1000 * thousands) for run in own] for thousands in columns]
        cells += [[_last(run.evaluations[-1]) for run in own]]
        texts = [", ".join(cell or "-" for cell in row) if any(row) else "" for row in cells]
        rows.append([f"{TASKS[task]}: {METHODS[method]}", ", ".join(run.seed for run in own), *texts])
    return Table(title="", columns=heads, rows=rows).bare_markdown()


def _at(run: Run, steps: int) -> str:
    row = evaluation_at([row for row in run.evaluations if run.axis(row) >= 0], steps)  # at 0: after all of pretraining
    return _success(row) if row else ""


def _last(row: Mapping[str, float]) -> str:
    return _success(row) + (f" {row['env_steps'] / 1000:.0f}k" if row["env_steps"] else "")


def _success(row: Mapping[str, float]) -> str:
    success = _short(row["eval/success_rate"])
    return f"**{success}**" if row["eval/episodes"] >= 100 else success


def _short(rate: float) -> str:
    return f"{rate:.2f}".removeprefix("0").replace("1.00", "1.0")


def fill(page: str, folder: str, table: str) -> str:
    """The page with another table between the marks of that folder."""
    start, end = f"<!-- {folder}: made by keep.py -->\n", f"\n<!-- end of {folder} -->"
    before, rest = page.split(start)
    return before + start + table + end + rest.split(end)[1]


def with_tables(page: str, folder: str, runs: Sequence[Run], tables: Sequence[Table]) -> str:
    """The page with the tables that it shows of a folder's runs, and of the report on them."""
    for mark, (source, beginning, columns) in COLUMNS.items():
        if source == folder:
            page = fill(page, mark, success_by_steps([run for run in runs if run.name.startswith(beginning)], columns))
    for mark, title in SHOWN.get(folder, {}).items():
        (table,) = (table for table in tables if table.title == title)
        page = fill(page, mark, table.bare_markdown())
    return page


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
            figure = draw(own, "success_rate", compare=not alone, labels=() if alone else labels)
            if folder.name == "methods":
                figure.axes[0].set_xlim(right=COMPARED)
                if plus := [group for group in own if all(run.name.startswith("plus-") for run in group.runs)]:
                    save(draw(plus, "success_rate", compare=True, labels=labels), folder / f"{task}-plus.png")
            save(figure, path)
            if folder.name == "replication":
                save(draw(own, "episode_return", labels=labels), folder / f"{task}-return.png")
        tables = result_tables(runs, groups)
        README.write_text(with_tables(README.read_text(), folder.name, runs, tables))
        print(f"\n## {folder.relative_to(RESULTS)}\n")
        print("\n".join(table.markdown() for table in tables))


if __name__ == "__main__":
    main()
