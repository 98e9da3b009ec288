"""Tables of the origin of runs: commits, datasets, settings in which they differ, versions."""

from __future__ import annotations

from collections.abc import Sequence

from awac_pl.report.tables import NOTHING, Table
from awac_pl.runs.grouping import SeedGroup, differences
from awac_pl.runs.reading import Run, gather


def origin_tables(runs: Sequence[Run], groups: Sequence[SeedGroup]) -> list[Table]:
    """How the runs were made."""
    differing = [_difference_table(groups)] if len(runs) > 1 else []
    table = Table.of(
        "Runs",
        map(_run_row, runs),
        "The same seed gives the same numbers on the same processor with the same versions. Another processor rounds "
        "otherwise, and the run takes another course. Pen with preset quick and seed 0 ended at 0.90, 0.93 and 0.95 on "
        "three processors, which is as far apart as seeds are.",
    )
    return [table, _dataset_table(runs), *differing, _version_table(runs)]


def _run_row(run: Run) -> dict[str, str]:
    return {
        "run": run.name,
        **{name: getattr(run, name) for name in ("task", "preset", "seed", "status")},
        "started": str(run.manifest.get("started", NOTHING))[:16].replace("T", " "),
        **{name: str(run.manifest.get(name, NOTHING)) for name in ("device", "processor")},
        "commit": str(run.manifest["tags"].get("commit", NOTHING)),
    }


def _dataset_table(runs: Sequence[Run]) -> Table:
    names = ["id", "episodes", "transitions", "clipped_action_values", "weight", "sha256"]
    datasets = [(run.name, dataset) for run in runs for dataset in run.manifest["datasets"]]
    if not any("weight" in dataset for _, dataset in datasets):
        names.remove("weight")
    users = gather((tuple(str(dataset.get(name, NOTHING)) for name in names), user) for user, dataset in datasets)
    return Table(
        title="Datasets",
        columns=["dataset", *(name.replace("_", " ") for name in names[1:]), "runs"],
        rows=[[*cells, "all" if len(used_by) == len(runs) else ", ".join(used_by)] for cells, used_by in users.items()],
    )


def _difference_table(groups: Sequence[SeedGroup]) -> Table:
    groups = [group for group in groups if group.runs[0].config] or groups  # what was not kept differs in nothing
    runs = [(index, run) for index, group in enumerate(groups) for run in group.runs]
    rows = []
    for name, values in differences([run for _, run in runs]).items():
        texts = [NOTHING if value is None else str(value) for value in values]
        by_group = gather((index, text) for (index, _), text in zip(runs, texts, strict=True))
        rows.append([name, *("; ".join(dict.fromkeys(cell)) for cell in by_group.values())])
    return Table(
        title="Differences in configuration",
        columns=["setting", *(f"{group.task}, {group.label}" for group in groups)],
        rows=rows,
        note="" if rows else "None except the seeds.",
    )


def _version_table(runs: Sequence[Run]) -> Table:
    rows = []
    for package in dict.fromkeys(package for run in runs for package in run.manifest["versions"]):
        users = gather((str(run.manifest["versions"].get(package, NOTHING)), run.name) for run in runs)
        several = "; ".join(f"{version} ({', '.join(names)})" for version, names in users.items())
        rows.append([package, next(iter(users)) if len(users) == 1 else several])
    return Table(title="Versions", columns=["package", "version"], rows=rows)
