"""``awac fit --resume``: a run goes on in its folder, with the configuration that it has."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from awac_pl.errors import AwacError
from awac_pl.runs.folder import last_checkpoint
from awac_pl.runs.manifest import LENGTH, WORKING, flatten, read_config

log = logging.getLogger("awac_pl")

#: Beginnings of settings that a resumed run may change: how long it goes on, where and how fast it runs, what it shows.
FREE = (
    *WORKING, *LENGTH, "trainer.devices", "trainer.strategy", "trainer.num_nodes", "trainer.default_root_dir",
    "trainer.callbacks", "trainer.plugins", "data.evaluation_episodes", "data.milestone_episodes", "video.", "checkpoint.",
    "interaction.synchronous", "mlflow_", "group", "preset", "run_dir", "ckpt_path", "resume", "weights_only", "config",
)  # fmt: skip


def with_run(folder: Path, arguments: list[str]) -> list[str]:
    """Arguments of ``fit`` that resume the run of a folder with its own configuration; ``arguments`` come after that.

    Raises:
        AwacError: there is nothing to resume.
    """
    if not last_checkpoint(folder).is_file() or not (folder / "config.yaml").is_file():
        raise AwacError(f"there is nothing to resume: {folder} has no config.yaml with checkpoints/last.ckpt beside it")
    run = [f"--config={folder / 'config.yaml'}", f"--run_dir={folder}", f"--ckpt_path={last_checkpoint(folder)}"]
    return [run[0], *arguments, *run[1:]]


def check_configuration(folder: Path, config: Mapping[str, Any], *, meant: bool) -> None:
    """Compare the configuration of a run with the one that it is resumed with.

    Args:
        folder: of the run.
        config: the new configuration, nested.
        meant: whether differences are meant; then they are logged.

    Raises:
        AwacError: there are differences that are not meant.
    """
    before, after = (flatten(json.loads(json.dumps(one, default=str))) for one in (read_config(folder), config))
    changed = {
        key: f"{key} {before[key]} -> {value}"
        for key, value in after.items()
        if key in before and before[key] != value and not key.startswith(FREE)
    }
    if not changed:
        return
    if meant:
        log.warning("%s goes on with other settings: %s", folder, ", ".join(changed.values()))
        return
    raise AwacError(
        f"{folder} has other settings than this command: {', '.join(changed.values())}. To go on with its own: "
        f"awac fit --resume {shlex.quote(str(folder))}; to change a setting, name it there: --{next(iter(changed))}=…"
    )
