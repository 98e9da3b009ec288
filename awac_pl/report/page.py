"""The page of a report: figures, tables, videos and facts of some runs, in one file that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from awac_pl.errors import AwacError
from awac_pl.files import replacing
from awac_pl.report.tables import Table, origin_tables, result_tables
from awac_pl.runs.grouping import SeedGroup, group_runs
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import Run, read_runs

#: Kinds of files in ``<run>/videos`` that a browser shows.
KINDS = {".gif": "image/gif", ".png": "image/png", ".mp4": "video/mp4", ".webm": "video/webm"}
#: Names of videos that come first, in this order.
FIRST = ("before", "after", "last", "best")
#: Bytes of videos on one page; what does not fit is named instead.
VIDEO_BYTES = 64_000_000


def write_report(
    folders: Sequence[Path], target: Path, *, figures: Path | None = None, compare: bool = False
) -> list[Table]:
    """Write the page, atomically.

    Args:
        folders: run folders, or folders that hold some.
        target: the page.
        figures: folder for the figures as PNG and SVG; None for none.
        compare: draw published curves where there are any for the task.

    Returns:
        The tables of the page.

    Raises:
        AwacError: a folder cannot be read or holds no run, or the page cannot be written.
    """
    runs, left_out = read_runs(folders)
    groups = group_runs(runs)
    results, origin = result_tables(runs, groups), origin_tables(runs, groups)
    command = ["awac", "report", *map(str, folders), "--to", str(target)]
    command += ["--figures", str(figures)] if figures else []
    command += ["--published"] if compare else []
    told: dict[str, list[str]] = {}
    for name, note in ((each.name, note) for each in runs for note in each.notes):
        told.setdefault(note, []).append(name)
    notes = [f"left out: {line}" for line in left_out] + [f"{', '.join(names)}: {note}" for note, names in told.items()]
    page = _template().render(
        title=f"AWAC on {', '.join(dict.fromkeys(group.task for group in groups))}",
        groups=groups,
        runs=runs,
        notes=notes + [note for group in groups for note in group.notes],
        figures=_draw_figures(groups, figures, compare),
        results=results,
        origin=origin,
        videos=_embed_videos(runs),
        configs={run.name: yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) for run in _one_of_each(groups)},
        commands={run.name: shown_command(run.manifest.get("command") or []) for run in runs},
        command=shown_command(command),
    )
    try:
        with replacing(target) as staging:
            staging.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise AwacError(f"cannot write {target}: {error.strerror}") from error
    return [*results, *origin]


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2")


def _draw_figures(groups: Sequence[SeedGroup], folder: Path | None, compare: bool) -> list[dict[str, str]]:
    """SVG and caption of each task's figures; written into a folder, too, where one is given."""
    from awac_pl.report.figures import LABELS, draw, explain, inline_svg, save

    made = []
    for task in dict.fromkeys(group.task for group in groups):
        shown = [group for group in groups if group.task == task and any(run.evaluations for run in group.runs)]
        for measure, label in LABELS.items():
            if not any(_known(run, measure) for group in shown for run in group.runs):
                continue
            figure = draw(shown, measure, compare=compare)
            text = f"{task}: {label} against environment steps. {explain(shown, measure, compare)}"
            made.append({"svg": Markup(inline_svg(figure, f"{task}: {label}")), "caption": text})
            if folder is not None:
                for form in ("png", "svg"):
                    save(figure, folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', task)}-{measure}.{form}")
    return made


def _known(run: Run, measure: str) -> bool:
    values = [row.get(f"eval/{measure}") for row in run.evaluations]
    return any(value is not None and value == value for value in values)


def _embed_videos(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The videos of each run as data URIs, by name: moving pictures, films, and why a file is not there."""
    made: list[dict[str, Any]] = []
    room = VIDEO_BYTES
    for run in runs:
        names: dict[str, dict[str, Any]] = {}
        for path in sorted((run.folder / "videos").glob("*"), key=_place):
            kind = KINDS.get(path.suffix.lower())
            if kind is None:
                continue
            video = names.setdefault(
                path.stem, {"run": run.name, "name": path.stem, "image": [], "video": [], "missing": []}
            )
            if path.is_symlink() or not path.is_file():
                video["missing"].append(f"{path.name} is no file of the run's own")
            elif (size := path.stat().st_size) > room:
                video["missing"].append(f"{path.name} is left out: {VIDEO_BYTES // 1_000_000} MB of videos fit on a page")
            else:
                room -= size
                uri = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
                video[kind.partition("/")[0]].append(uri)
        made += names.values()
    return made


def _place(path: Path) -> tuple:
    """Where a video comes: the named ones, then the shorter names, so that 500 updates come before 10,000."""
    rank = FIRST.index(path.stem) if path.stem in FIRST else len(FIRST)
    return rank, len(path.stem), path.stem, list(KINDS).index(path.suffix.lower()) if path.suffix.lower() in KINDS else -1


def _one_of_each(groups: Sequence[SeedGroup]) -> list[Run]:
    return [group.runs[0] for group in groups if group.runs[0].config]
