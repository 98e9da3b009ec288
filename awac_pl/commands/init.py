"""``awac init``: an editable ``conf/`` with every task and preset."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from awac_pl.commands.presets import shipped
from awac_pl.errors import AwacError

EXAMPLES = """\
examples:
  awac init              conf/ in this folder
  awac init my_hand      my_hand/conf/
"""


def run(arguments: list[str]) -> None:
    """Run ``awac init``.

    Raises:
        AwacError: there is a ``conf`` already, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(
        "awac init", description="Write conf/ with every task and preset, to be edited. awac fit reads it from there.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where (default: this folder)")
    target = parser.parse_args(arguments).folder / "conf"
    if target.exists() or target.is_symlink():
        raise AwacError(f"{target}: exists already; nothing is overwritten")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(shipped(), target, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise AwacError(f"{target}: cannot be written ({error.strerror})") from error
    tasks, presets = (", ".join(sorted(path.stem for path in (target / kind).glob("*.yaml"))) for kind in ("task", "preset"))
    print(f"{target}: base.yaml explains every setting; tasks {tasks}; presets {presets}")
    print("next:")
    if target.parent != Path():
        print(f"  cd {target.parent}")
    print("  awac fit --task pen --preset quick")
