"""Draw the figures of docs/algorithm.md: ``python docs/tools/draw.py`` from the repository, in .venv."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from awac_pl.algorithms.losses import advantage_weights
from awac_pl.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "awac_pl"}


def draw_weights() -> None:
    """Weight against advantage, for the temperature and clip of each preset."""
    advantage = torch.linspace(-20, 20, 401)
    batch = 8 * torch.randn(1024, generator=torch.Generator().manual_seed(0)) - 2
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for name, temperature, clip in (("default", 0.5, 0.5), ("quick and plus", 3.0, 9.0), ("no clip", 3.0, None)):
        weights = [advantage_weights(torch.cat([value[None], batch]), temperature, clip=clip)[0] for value in advantage]
        axes.plot(
            advantage,
            torch.stack(weights),
            label=f"{name}: temperature {temperature:g}" + ("" if clip is None else f", clip {clip:g}"),
        )
    axes.set(xlabel="advantage (units of return)", ylabel="weight in the batch (mean 1)", yscale="log", ylim=(1e-3, 1e2))
    axes.legend(frameon=False)
    figure.savefig(ROOT / "docs/assets/weights.svg", metadata={"Date": None})


def draw_door() -> None:
    """Success at the human door with normalised observations, from the metrics kept in results/."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for seed in (32, 33):
        _plot(axes, f"door-normalized-seed{seed}", label=f"normalised, seed {seed}")
    axes.plot([0], [0], "x", color="black", label="as they are, seeds 32 and 33, after pretraining", clip_on=False)
    axes.set(xlabel="environment steps (thousands)", ylabel="success rate (any step)", ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(ROOT / "docs/assets/door-normalized.svg", metadata={"Date": None})


def draw_critics() -> None:
    """Success at the human door, by how far the critics' observations are normalised."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.0), layout="constrained", sharey=True)
    for axes, seed in zip(panels, (31, 102, 113), strict=True):
        for name, value, colour in (("one", "1", "#999999"), ("half", "0.5", "#0072b2"), ("zero", "0", "#d55e00")):
            if (ROOT / f"results/choosing/critics-{name}-door-{seed}.csv").exists():
                _plot(axes, f"critics-{name}-door-{seed}", label=value, color=colour)
        axes.set(title=f"seed {seed}", xlabel="environment steps (thousands)", ylim=(0, 1.02))
    panels[0].set_ylabel("success rate (any step)")
    panels[1].legend(title="normalize_critics", frameon=False, loc="lower right")
    figure.savefig(ROOT / "docs/assets/door-critics.svg", metadata={"Date": None})


def _plot(axes: Axes, name: str, **style: str) -> None:
    """The evaluations of a run that is kept in results/, from the end of pretraining on."""
    rows = [row for row in read_metrics(ROOT / f"results/choosing/{name}.csv") if "eval/success_rate" in row]
    online = [row for row in rows if row["updates"] >= 5000]
    axes.plot([row["env_steps"] / 1000 for row in online], [row["eval/success_rate"] for row in online], "o-", **style)


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        draw_weights()
        draw_door()
        draw_critics()
