"""The page of a report: figures, tables, videos and configurations of runs, in one HTML file without external parts."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from awac_pl.files import replacing
from awac_pl.report.origin import origin_tables
from awac_pl.report.tables import Table, result_tables
from awac_pl.runs.grouping import SeedGroup, group_runs
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import Run, gather, read_runs

#: Files in ``<run>/videos`` that a browser shows, with their media types.
MEDIA_TYPES = {".gif": "image/gif", ".png": "image/png", ".mp4": "video/mp4", ".webm": "video/webm"}
#: Names of the videos that come first.
FIRST = ("before", "after", "last", "best")
#: Bytes of videos on one page; a video that does not fit is only named.
VIDEO_BYTES = 64_000_000
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(
    folders: Sequence[Path], target: Path, *, figures: Path | None = None, compare: bool = False
) -> list[Table]:
    """Write the page, atomically.

    Args:
        folders: run folders, or folders that contain run folders.
        target: the page's path.
        figures: folder for the figures as PNG and SVG; None for none.
        compare: also draw published curves, where the task has any.

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
    noted = gather((note, run.name) for run in runs for note in run.notes)
    notes = [f"left out: {line}" for line in left_out] + [f"{', '.join(names)}: {note}" for note, names in noted.items()]
    examples = [group.runs[0] for group in groups if group.runs[0].config]
    page = TEMPLATES.get_template("page.html.j2").render(
        title=f"{_listed(run.algorithm.upper() for run in runs)} on {_listed(group.task for group in groups)}",
        groups=groups,
        runs=runs,
        notes=notes + [note for group in groups for note in group.notes],
        figures=_draw_figures(groups, figures, compare),
        results=results,
        origin=origin,
        videos=_embed_videos(runs),
        configs={run.name: yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) for run in examples},
        commands={run.name: shown_command(run.manifest["command"]) for run in runs},
        command=shown_command(command),
    )
    with replacing(target) as new:
        new.write_text(page, encoding="utf-8", errors="replace")
    return [*results, *origin]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _draw_figures(groups: Sequence[SeedGroup], folder: Path | None, compare: bool) -> list[dict[str, str]]:
    """SVG and caption of each task's figures; also written into the folder, if there is one."""
    from awac_pl.report.figures import LABELS, draw, explain, inline_svg, save

    drawn = []
    labels = sorted({group.label for group in groups})
    for task in dict.fromkeys(group.task for group in groups):
        shown = [group for group in groups if group.task == task and any(run.evaluations for run in group.runs)]
        for measure, label in LABELS.items():
            rows = [row for group in shown for run in group.runs for row in run.evaluations]
            if all(math.isnan(row.get(f"eval/{measure}", math.nan)) for row in rows):
                continue
            figure = draw(shown, measure, compare=compare, labels=labels)
            text = f"{task}: {label} against environment steps. {explain(shown, measure, compare)}"
            drawn.append({"svg": Markup(inline_svg(figure, f"{task}: {label}")), "caption": text})
            if folder is not None:
                for form in ("png", "svg"):
                    save(figure, folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', task)}-{measure}.{form}")
    return drawn


def _embed_videos(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The videos of each run by name: data URIs of images and films, and the reasons why a file is missing."""
    videos: list[dict[str, Any]] = []
    room = VIDEO_BYTES
    for run in runs:
        by_name: dict[str, dict[str, Any]] = {}
        shown = [path for path in (run.folder / "videos").glob("*") if path.suffix.lower() in MEDIA_TYPES]
        for path in sorted(shown, key=_place):
            media_type = MEDIA_TYPES[path.suffix.lower()]
            empty = {"run": run.name, "name": path.stem, "image": [], "video": [], "missing": []}
            video = by_name.setdefault(path.stem, empty)
            if path.is_symlink() or not path.is_file():
                video["missing"].append(f"{path.name} is no file of the run's own")
            elif (size := path.stat().st_size) > room:
                video["missing"].append(f"{path.name} is left out: {VIDEO_BYTES // 1_000_000} MB of videos fit on a page")
            else:
                room -= size
                uri = f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
                video[media_type.partition("/")[0]].append(uri)
        videos += by_name.values()
    return videos


def _place(path: Path) -> tuple:
    """Sorting key of a video: names in ``FIRST``, then shorter names, so that 500 updates come before 10,000."""
    rank = FIRST.index(path.stem) if path.stem in FIRST else len(FIRST)
    return rank, len(path.stem), path.stem, list(MEDIA_TYPES).index(path.suffix.lower())
