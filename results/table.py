"""Tables and figure of the README from finished runs.

    python results/table.py runs/results/pen-quick-seed* [--to results/pen-quick]

Prints success after cloning, pretraining and fine-tuning, pooled over the seeds with Wilson intervals; with ``--to`` it also
copies each run's metrics and what its manifest says there, and draws the curve.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np

from awac_pl.run_folder import read_metrics
from awac_pl.scores import score_run, wilson_interval

matplotlib.use("Agg")


def stages(folder: Path) -> dict[str, tuple[float, float]]:
    """(success rate, episodes) of each stage of one run."""
    cloning = json.loads((folder / "manifest.json").read_text())["cloning"]
    rows = [row for row in read_metrics(folder / "metrics.csv") if "eval/success_rate" in row]
    pretrained = [row for row in rows if row["env_steps"] == 0][-1]
    return {
        "cloned": (cloning["success_deterministic"], cloning["evaluation_episodes"]),
        "pretrained": (pretrained["eval/success_rate"], pretrained["eval/episodes"]),
        "fine-tuned": (rows[-1]["eval/success_rate"], rows[-1]["eval/episodes"]),
    }


def draw(folders: list[Path], path: Path) -> None:
    """Success against environment steps: each seed, their mean, and the policy that was cloned."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    curves, lowest = [], 1.0
    for folder in folders:
        rows = [row for row in read_metrics(folder / "metrics.csv") if "eval/success_rate" in row]
        x = [row["env_steps"] / 1000 for row in rows]
        y = [row["eval/success_rate"] for row in rows]
        curves.append((x, y))
        lowest = min(lowest, *y)
        first = folder == folders[0]
        axes.plot(x, y, color="tab:blue", alpha=0.35, linewidth=1, label="one seed" if first else None)
        long = [(step, rate) for step, rate, row in zip(x, y, rows, strict=True) if row["eval/episodes"] >= 100]
        axes.plot(*zip(*long, strict=True), "o", color="tab:blue", alpha=0.5, markersize=5,
                  label="100 episodes (else 20)" if first else None)  # fmt: skip
    grid = curves[0][0]
    mean = np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)
    axes.plot(grid, mean, color="tab:blue", linewidth=2.5, label="mean")
    cloned = np.mean([stages(folder)["cloned"][0] for folder in folders])
    axes.axhline(cloned, color="tab:gray", linestyle="--", linewidth=1, label="cloned policy, mean")
    bottom = max(0.0, np.floor(10 * min(lowest, cloned) - 0.5) / 10)
    axes.set(xlabel="thousand environment steps (0: pretrained)", ylabel="success rate (any step)", ylim=(bottom, 1.02))
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(path.stem)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Print the table, and keep its sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, one per seed")
    parser.add_argument("--to", type=Path, help="folder to copy metrics and manifests to; the figure lands beside it")
    options = parser.parse_args()
    found = [stages(folder) for folder in options.runs]
    commits = {json.loads((folder / "manifest.json").read_text())["tags"]["commit"][:9] for folder in options.runs}
    print(f"{len(found)} seeds, commit {', '.join(sorted(commits))}")
    for name in ("cloned", "pretrained", "fine-tuned"):
        successes = sum(rate * episodes for rate, episodes in (run[name] for run in found))
        episodes = sum(run[name][1] for run in found)
        low, high = wilson_interval(successes, episodes)
        each = ", ".join(f"{run[name][0]:.2f}" for run in found)
        print(
            f"{name:<11} {successes / episodes:.3f}   95 % {low:.3f} to {high:.3f}   {episodes:.0f} episodes   seeds {each}"
        )
    for folder in options.runs:
        scores = score_run(read_metrics(folder / "metrics.csv"))
        manifest = json.loads((folder / "manifest.json").read_text())
        print(f"{folder.name}: " + ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
              + f", {manifest['seconds'] / 60:.1f} min")  # fmt: skip
    if options.to:
        options.to.mkdir(parents=True, exist_ok=True)
        for folder in options.runs:
            shutil.copy(folder / "metrics.csv", options.to / f"{folder.name}-metrics.csv")
            manifest = json.loads((folder / "manifest.json").read_text())
            kept = {name: manifest[name] for name in ("tags", "versions", "datasets", "cloning", "scores", "seconds")}
            (options.to / f"{folder.name}.json").write_text(json.dumps(kept, indent=2) + "\n")
        draw(options.runs, options.to.with_suffix(".png"))


if __name__ == "__main__":
    main()
