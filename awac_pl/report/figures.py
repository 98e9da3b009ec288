"""Curves of runs: success rate and average return against environment steps; pretraining has negative steps.

Figures do not use pyplot, so that the user's open figures and settings stay as they are. Equal input gives equal bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from awac_pl.files import replacing
from awac_pl.report import published
from awac_pl.report.statistics import FEWEST_SEEDS, bootstrap_interval, wilson_interval
from awac_pl.runs.grouping import SeedGroup
from awac_pl.runs.reading import Run, clip, gather, number_of

Measure = Literal["success_rate", "episode_return"]

LABELS: dict[Measure, str] = {"success_rate": "success rate (any step)", "episode_return": "average return of an episode"}
INK = "#1b1e23"
GRAY = "#808080"
#: Okabe and Ito's colours, then three of Tol's, for colour-blind readers; lines and marks are distinct without colour.
STYLES = (
    ("#0072b2", "-", "o"), ("#d55e00", (0, (5, 1.5)), "s"), ("#009e73", (0, (4, 1.2, 1, 1.2)), "^"),
    ("#cc79a7", (0, (1.2, 1)), "D"), ("#e69f00", (0, (7, 1.5, 1, 1.5, 1, 1.5)), "v"), ("#56b4e9", (0, (2.5, 1)), "P"),
    ("#882255", (0, (6, 1, 1, 1)), "X"), ("#999933", (0, (3, 0.8)), "p"), ("#332288", (0, (1, 0.5, 3, 0.5)), "*"),
)  # fmt: skip
#: Line style of the cloned policy.
CLONED: Any = (0, (3, 3))
_SETTINGS: Any = {
    "figure.facecolor": "white", "axes.facecolor": "none", "savefig.facecolor": "auto", "font.size": 10.5,
    "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False,
    "svg.hashsalt": "awac_pl", "svg.fonttype": "path", "savefig.dpi": 150, "axes.titlesize": 11,
}  # fmt: skip


def curve(runs: Sequence[Run], measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """The evaluations of runs, aligned by epoch.

    Returns:
        Places on the axis ``[E]`` and the measure ``[S, E]``, NaN where a run lacks it. A place is the mean over the runs,
        whose episodes end at slightly different steps.
    """
    epochs = sorted({row["epoch"] for run in runs for row in run.evaluations})
    places, values = np.full((2, len(runs), len(epochs)), math.nan)
    for index, run in enumerate(runs):
        for row in run.evaluations:
            column = epochs.index(row["epoch"])
            places[index, column], values[index, column] = run.axis(row), row.get(f"eval/{measure}", math.nan)
    return np.nanmean(places, axis=0), values


def mean_curve(values: np.ndarray) -> np.ndarray:
    """The mean over the seeds ``[E]`` of a curve's values ``[S, E]``.

    It is of the seeds that came so far. NaN where these are half of those with any value or fewer, or where one has none.
    """
    known = np.isfinite(values)
    going = np.logical_or.accumulate(known[:, ::-1], axis=1)[:, ::-1]
    there = (known == going).all(axis=0) & (2 * going.sum(axis=0) > going[:, :1].sum())
    mean = np.full(values.shape[1], math.nan)
    mean[there] = np.nanmean(values[:, there], axis=0)
    return mean


def band(runs: Sequence[Run], values: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray] | None:
    """The 95 % band around the mean of a curve's values ``[S, E]``.

    Where the mean is of ``FEWEST_SEEDS`` seeds or more, the bootstrap interval of their mean. For one seed's success rate,
    Wilson's interval of its episodes.

    Returns:
        Lower and upper end ``[E]``, or None where neither interval applies.
    """
    low, high = np.full(values.shape[1], math.nan), np.full(values.shape[1], math.nan)
    known = np.isfinite(values) & np.isfinite(mean_curve(values))
    if len(values) == 1 and measure == "success_rate":
        for column, row in enumerate(runs[0].evaluations):
            if known[0, column] and row["eval/episodes"] > 0:
                episodes = row["eval/episodes"]
                low[column], high[column] = wilson_interval(values[0, column] * episodes, episodes)
        return low, high
    for seeds in {tuple(column) for column in known.T if column.sum() >= FEWEST_SEEDS}:
        here = (known == np.array(seeds)[:, None]).all(axis=0)
        low[here], high[here] = bootstrap_interval([values[np.ix_(seeds, here)]])  # type: ignore[misc]
    return None if np.isnan(low).all() else (low, high)


def explain(groups: Sequence[SeedGroup], measure: Measure, compare: bool = False) -> str:
    """A sentence that explains the lines, bands and marks of a figure."""
    sizes = _evaluation_sizes(run for group in groups for run in group.runs)
    seeds = {len(group.runs) for group in groups}
    parts = ["Thin lines: seeds; thick line: their mean, as far as more than half of them came"] if max(seeds) > 1 else []
    if max(seeds) >= FEWEST_SEEDS:
        parts.append("band: 95 % bootstrap interval of the mean over seeds")
    if 1 in seeds and measure == "success_rate":
        parts.append("band of a single seed: Wilson's 95 % interval of its episodes")
    if 1 in seeds and measure == "episode_return":
        parts.append("a single seed has no band")
    if 2 in seeds:
        parts.append("two seeds have no band")
    if len(sizes) == 1:
        parts.append(f"evaluations of {sizes[0]:.0f} episodes")
    elif sizes:
        parts.append(f"large marks: evaluations of {sizes[-1]:.0f} episodes; small marks: of {_span(sizes[:-1])}")
    if any(run.pretraining_updates for group in groups for run in group.runs):
        parts.append("gray: pretraining, before the first environment step; there the axis counts thousands of updates")
    if compare and measure == "success_rate" and groups[0].task in published.SUCCESS:
        parts.append(published.SOURCE)
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def draw(
    groups: Sequence[SeedGroup],
    measure: Measure,
    *,
    compare: bool = False,
    labels: Sequence[str] = (),
) -> Figure:
    """Draw the curves of one task.

    Args:
        groups: the groups of the task, at least one.
        measure: what to draw.
        compare: also draw the published curves of the task.
        labels: of the groups of all figures beside this one, so that a label looks the same in each; none: of these groups.
    """
    own = [group.label for group in groups]
    labels = list(dict.fromkeys([*labels, *own]))
    labels = own if len(labels) > len(STYLES) else labels
    with rc_context(_SETTINGS):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        lines: list[Any] = []
        largest = max(_evaluation_sizes(run for group in groups for run in group.runs), default=0.0)
        styles = [STYLES[labels.index(group.label) % len(STYLES)] for group in groups]
        for group, style in zip(groups, styles, strict=True):
            lines += _draw_group(axes, group, measure, style, largest, alone=len(groups) == 1)
        others = _draw_published(axes, groups[0].task) if compare and measure == "success_rate" else []
        _mark_phases(axes, groups)
        axes.set_xlabel("environment steps (thousands)")
        axes.set_ylabel(LABELS[measure])
        if measure == "success_rate":
            axes.set_ylim(-0.02, 1.02)
        axes.grid(axis="y", color=GRAY, alpha=0.25, linewidth=0.6)
        figure.suptitle(clip(groups[0].title if len(groups) == 1 else groups[0].task, 90), fontsize=10)
        banded = bool(axes.collections or axes.containers)  # one of the groups has a band, or one interval
        handles = [*lines, *_marks(groups, measure, banded, styles[0][0] if len(groups) == 1 else GRAY), *others]
        columns = 1 if any(len(handle.get_label()) > 44 for handle in handles) else 2
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        figure.set_size_inches(6.4, 3.7 + 0.2 * math.ceil(len(handles) / columns))
        return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure on white, atomically; ``path`` ends in ``.png`` or ``.svg``."""
    with replacing(path) as new:
        new.write_bytes(_render(figure, path.suffix[1:]))


def inline_svg(figure: Figure, description: str) -> str:
    """The figure as an SVG element for HTML: transparent, in the page's text colour, as wide as the page allows.

    Args:
        figure: as ``draw`` returns it.
        description: for readers who cannot see the figure; escaped here.
    """
    text = _render(figure, "svg", transparent=True).decode()
    head, _, rest = text[text.index("<svg") :].replace(INK, "currentColor").partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the view box keeps the aspect ratio
    return f'{head} role="img" aria-label="{html.escape(description)}">{rest}'


def _render(figure: Figure, form: str, transparent: bool = False) -> bytes:
    without_metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None, "Format": None, "Type": None}}
    buffer = io.BytesIO()
    with rc_context(_SETTINGS):
        figure.savefig(buffer, format=form, metadata=without_metadata[form], transparent=transparent)
    figure.set_layout_engine(None)  # laid out: again, for each file, it would take as long as to draw
    return buffer.getvalue()


def _draw_group(axes: Axes, group: SeedGroup, measure: Measure, style: tuple, largest: float, *, alone: bool) -> list[Any]:
    """Draw seeds, mean, band and cloned policy of one group. Returns the legend entry of the mean.

    Evaluations of ``largest`` episodes have large marks.
    """
    colour, line, mark = style
    if len(group.runs) > 1:
        for run in group.runs:
            places, values = curve([run], measure)
            axes.plot(places / 1000, values[0], color=colour, alpha=0.55, linewidth=0.9, marker=mark, markersize=2.5)
    places, values = curve(group.runs, measure)
    mean = mean_curve(values)
    if not (drawn := np.isfinite(mean)).any():
        return []
    x, mean, seeds = places[drawn] / 1000, mean[drawn], np.isfinite(values[:, drawn]).sum(axis=0)
    number = f"{seeds.min()} to {seeds.max()} seeds" if seeds.min() < seeds.max() else number_of(seeds.max(), "seed")
    name = "" if alone else f"{clip(group.label, 70)}, "
    label = f"{name}mean of {number}" if len(values) > 1 else f"{name}seed {group.runs[0].seed}"
    axes.plot(x, mean, color=colour, linestyle=line, linewidth=2.4)
    large = (_largest_evaluations(group.runs) == largest)[drawn]
    axes.plot(x[large], mean[large], mark, color=colour, markersize=7)
    axes.plot(x[~large], mean[~large], mark, color=colour, markersize=4)
    if (ends := band(group.runs, values, measure)) is not None:
        low, high = (end[drawn] for end in ends)
        if len(x) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        else:
            lengths = np.maximum([mean - low, high - mean], 0)  # equal seeds: the bootstrap's mean is rounded, too
            axes.errorbar(x, mean, lengths, color=colour, capsize=3)
    if measure == "success_rate" and (clones := [run.cloned[0] for run in group.runs if run.cloned]):
        axes.axhline(float(np.mean(clones)), color=colour, linestyle=CLONED, linewidth=1.1)
    return axes.plot([], [], color=colour, linestyle=line, linewidth=2.4, marker=mark, markersize=4, label=label)


def _marks(groups: Sequence[SeedGroup], measure: Measure, banded: bool, colour: str) -> list[Any]:
    """Legend entries of those among thin lines, bands, dashes and large marks that the figure has."""
    runs = [run for group in groups for run in group.runs]
    handles: list[Any] = []
    if max(len(group.runs) for group in groups) > 1:
        handles.append(Line2D([], [], color=colour, alpha=0.6, linewidth=0.9, label="one seed"))
    if banded:
        handles.append(Patch(color=colour, alpha=0.18, linewidth=0, label="95 % interval"))
    if measure == "success_rate" and any(run.cloned for run in runs):
        handles.append(Line2D([], [], color=colour, linestyle=CLONED, linewidth=1.1, label="cloned policy"))
    sizes = _evaluation_sizes(runs)
    if len(sizes) > 1:
        label = f"{sizes[-1]:.0f} episodes (small: {_span(sizes[:-1])})"
        handles.append(Line2D([], [], color=colour, linestyle="", marker="o", markersize=7, label=label))
    return handles


def _evaluation_sizes(runs: Iterable[Run]) -> list[float]:
    """The numbers of episodes that evaluations had, without repetition, in ascending order."""
    return sorted({row["eval/episodes"] for run in runs for row in run.evaluations})


def _span(sizes: Sequence[float]) -> str:
    """``20``, or ``4 to 20`` of several sizes in ascending order."""
    return f"{sizes[0]:.0f}" + (f" to {sizes[-1]:.0f}" if len(sizes) > 1 else "")


def _largest_evaluations(runs: Sequence[Run]) -> np.ndarray:
    """Episodes of the largest evaluation of each epoch ``[E]``, in the order of ``curve``."""
    sizes = gather((row["epoch"], row["eval/episodes"]) for run in runs for row in run.evaluations)
    return np.array([max(sizes[epoch]) for epoch in sorted(sizes)])


def _draw_published(axes: Axes, task: str) -> list[Any]:
    lines: list[Any] = []
    marks = (("-", "x"), ("--", "+"), ("-.", "1"), (":", "2"))
    for (method, rates), (line, mark) in zip(published.SUCCESS.get(task, {}).items(), marks, strict=False):
        x = [step / 1000 for step in published.ENV_STEPS]
        lines += axes.plot(x, rates, color=GRAY, linestyle=line, marker=mark, linewidth=1, label=f"{method} (published)")
    return lines


def _mark_phases(axes: Axes, groups: Sequence[SeedGroup]) -> None:
    """Shade pretraining, and draw a line at the first environment step."""
    updates = max(run.pretraining_updates for group in groups for run in group.runs)
    if not updates:
        return
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, -updates / 1000), max(right, 0))  # runs that end within pretraining, too
    axes.axvspan(axes.get_xlim()[0], 0, color=GRAY, alpha=0.12, linewidth=0)
    axes.axvline(0, color=GRAY, linewidth=1)
    axes.annotate(
        "pretraining", (0, 0), xycoords=("data", "axes fraction"), xytext=(-4, 6),
        textcoords="offset points", rotation=90, ha="right", va="bottom", fontsize=8.5, color=GRAY,
    )  # fmt: skip
