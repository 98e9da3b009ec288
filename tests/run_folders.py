"""Run folders as a fit leaves them, with numbers that a test can redo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from awac_pl.runs.metrics import write_metrics


def evaluation(success: float, episodes: int = 10, episode_return: float = -50.0, std: float = 10.0) -> dict[str, float]:
    """The columns of one evaluation."""
    return {
        "eval/success_rate": success,
        "eval/episode_return": episode_return,
        "eval/episode_return_std": std,
        "eval/episode_length": 200.0,
        "eval/episodes": float(episodes),
    }


def make_rows(rates: list[float], env_steps: int = 10_000, pretraining: int = 1) -> list[dict[str, float]]:
    """An evaluated epoch of 1,000 updates for each rate, the first ones without environment steps."""
    rows = []
    for epoch, rate in enumerate(rates):
        online = max(0, epoch + 1 - pretraining)
        row = {"epoch": epoch, "updates": 1000 * (epoch + 1), "env_steps": env_steps * online, "seconds": 20.0 * (epoch + 1)}
        row |= evaluation(rate) | ({"rollout/regret": 0.25, "rollout/env_steps_per_s": 700.0} if online else {})
        rows.append(row)
    return rows


def make_run(
    folder: Path, rows: list[dict[str, float]], *, seed: int = 0, config: dict | None = None, **changes: Any
) -> Path:
    """Write a finished run of the pen task with preset ``quick``; ``changes`` are those of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": 1,
        "status": "finished",
        "tags": {"task": "pen", "preset": "quick", "seed": str(seed), "commit": "0123abc"},
        "command": ["/somewhere/bin/awac", "fit", "--config", "conf/base.yaml", "--data.task=pen"],
        "started": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "versions": {"awac_pl": "0.1.0", "torch": "2.13.0"},
        "datasets": [
            {"id": "awac/pen/expert-v0", "sha256": "ab" * 32, "episodes": 25, "transitions": 872, "clipped_action_values": 3}
        ],
        "cloning": {"success_deterministic": 0.4, "success_stochastic": 0.3, "evaluation_episodes": 100.0},
        "seconds": 100.0,
        **changes,
    }
    settings = {"seed_everything": seed, "run_dir": str(folder), "model": {"temperature": 0.5}, "trainer": {"max_epochs": 3}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings if config is None else config))
    if rows:
        write_metrics(folder / "metrics.csv", rows)
    return folder
