"""What a run was made with: its command, its commit, its flat configuration."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Settings that say which repetition a run is and where it lies.
REPETITION = (
    "seed_everything", "data.clone_seed", "run_dir", "ckpt_path", "trainer.default_root_dir", "checkpoint.dirpath",
)  # fmt: skip


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"data.task": ...}``; a mapping whose keys are data (``{mine/pen-v0: 2.0}``) is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value and all(str(key).isidentifier() for key in value)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def shown_command(command: Sequence[Any]) -> str:
    """A recorded ``sys.argv`` as one types it: the program without its folder, ``python -m awac_pl`` as ``awac``."""
    words = [str(word) for word in command]
    if not words:
        return ""
    program = Path(words[0]).name
    return shlex.join(["awac" if program == "__main__.py" else program, *words[1:]])


def git_commit() -> str:
    """Commit of this source tree, with ``+changes`` where it differs from it; ``unknown`` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        tracked = git("ls-files", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "") if tracked else "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
