"""Write conf/ with every task and preset, to be edited. awac fit reads it from there.

awac init              conf/ in this folder
awac init my_hand      my_hand/conf/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from awac_pl.errors import AwacError
from awac_pl.files import replacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac init``."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where (default: this folder)")


def run(options: argparse.Namespace) -> None:
    """Run ``awac init``."""
    import shlex
    import shutil

    from awac_pl.settings_files import shipped

    target = options.folder / "conf"
    if target.exists() or target.is_symlink():
        raise AwacError(f"{target}: exists already; nothing is overwritten")
    with replacing(target) as new:
        shutil.copytree(shipped(), new, ignore=shutil.ignore_patterns("__pycache__"))
    tasks, presets = (", ".join(sorted(path.stem for path in (target / kind).glob("*.yaml"))) for kind in ("task", "preset"))
    print(f"{target}: base.yaml and algorithm/ explain every setting; tasks {tasks}; presets {presets}")
    print("next:")
    if target.parent != Path():
        print(f"  cd {shlex.quote(str(target.parent))}")
    print("  awac fit --task pen --preset quick")
