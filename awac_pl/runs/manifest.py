"""``manifest.json`` and ``config.yaml`` of a run folder: what made the run, and how it ended."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from awac_pl.errors import AwacError
from awac_pl.runs.folder import run_of
from awac_pl.settings_files import read_table

#: Format of the manifests that this version reads; a manifest without the entry has format 1.
FORMAT = 1
#: Settings that name a repetition of a run, or its place.
REPETITION = (
    "seed_everything", "data.clone_seed", "run_dir", "ckpt_path", "trainer.default_root_dir", "checkpoint.dirpath",
)  # fmt: skip
#: Beginnings of settings that decide where and how fast a run works and what it shows, and nothing of what it learns.
WORKING = (
    "trainer.accelerator", "trainer.enable_", "trainer.log_every_n_steps", "trainer.logger", "trainer.profiler",
    "data.device", "data.episode_timeout", "data.executor", "data.progress", "data.storage",
    "data.workers", "model.compile", "model.matmul_",
)  # fmt: skip
#: Beginnings of settings that decide how long a run goes on.
LENGTH = ("trainer.max_", "trainer.min_")


class Manifest(TypedDict, total=False):
    """The entries of ``manifest.json``. A moment is an ISO 8601 string; older versions wrote fewer entries."""

    format: int
    status: str  # running, finished, interrupted or failed
    error: str  # of a failed run
    tags: dict[str, str]  # task, preset, seed, commit
    command: list[str]
    commands: list[list[str]]  # of the start and of every resumption
    started: str
    finished: str
    seconds_count_from: str  # the moment at which the column "seconds" of metrics.csv is 0
    seconds: float
    offline_updates: int
    device: str
    processor: str
    compile: str
    matmul_engine: str
    versions: dict[str, str]
    datasets: list[dict[str, Any]]
    cloning: dict[str, Any]
    trainer_peak_memory_mib: int
    scores: dict[str, float]


#: Entries that readers rely on. ``read_manifest`` fills the absent ones, except the tags.
_KINDS: dict[str, type] = {"tags": dict, "versions": dict, "datasets": list, "command": list, "cloning": dict}


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``.

    Raises:
        AwacError: the folder is no run folder, or its manifest is damaged or has another format.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise AwacError(f"no folder {folder}")
    if not path.is_file():
        lack = "it has no manifest.json" if any(folder.iterdir()) else "it is empty"
        raise AwacError(f"{folder} is no run folder: {lack}")
    manifest = read_table(path)
    for name, kind in _KINDS.items():
        if name != "tags" and manifest.get(name) is None:
            manifest[name] = kind()
        if name in manifest and not isinstance(manifest[name], kind):
            raise AwacError(f"{path}: '{name}' is no {'table' if kind is dict else 'list'}; it is no run's manifest")
    if not all(isinstance(dataset, dict) for dataset in manifest["datasets"]):
        raise AwacError(f"{path}: an entry of 'datasets' is no table; it is no run's manifest")
    if not isinstance(manifest.get("offline_updates", 0), int):
        raise AwacError(f"{path}: 'offline_updates' is no whole number; it is no run's manifest")
    if manifest.get("format", FORMAT) != FORMAT:
        maker = manifest["versions"].get("awac_pl", "another version")
        raise AwacError(f"{path} has format {manifest['format']}, not {FORMAT}; use awac_pl {maker}")
    return cast(Manifest, manifest)


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.yaml``; empty where there is none.

    Raises:
        AwacError: it is damaged.
    """
    path = folder / "config.yaml"
    return read_table(path) if path.is_file() else {}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"data.task": ...}``. A mapping whose keys are no names (``{mine/pen-v0: 2.0}``) is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value and all(str(key).isidentifier() for key in value)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def shown_command(command: Sequence[Any]) -> str:
    """A recorded ``sys.argv`` as a user types it: the program without its folder, ``python -m awac_pl`` as ``awac``."""
    words = [str(word) for word in command]
    if not words:
        return ""
    program = Path(words[0]).name
    return shlex.join(["awac" if program == "__main__.py" else program, *words[1:]])


def git_commit() -> str:
    """Commit of this source tree, with ``+changes`` if files were changed since; ``unknown`` outside a checkout."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # fails where the checkout is that of another project
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def layout_of_run(checkpoint: Path) -> list[dict[str, Any]]:
    """The names of the observations of the datasets that a checkpoint's run learned from, by its manifest."""
    folder = run_of(checkpoint)
    entries = [] if folder is None else read_manifest(folder).get("datasets", [])
    return next((entry["observation_layout"] for entry in entries if entry.get("observation_layout")), [])
