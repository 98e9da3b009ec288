"""Imports point from a folder to those below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import awac_pl

HOUSE = Path(awac_pl.__file__).parent
#: Folders, and files of the root, from below; those of one line do not know each other.
LAYERS = [
    ["__init__", "errors"],
    ["files", "episode"],
    ["parallel", "policies", "runs"],
    ["envs", "algorithms", "tracking", "report"],
    ["datasets", "deploy"],
    ["replay"],
    ["callbacks"],
    ["commands"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(HOUSE.rglob("*.py"))


def room(path: Path) -> str:
    """The folder of a file, or its own name where it lies in the root."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Rooms of this package that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "awac_pl":
            names |= {alias.name if (HOUSE / alias.name).is_dir() else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("awac_pl."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("awac_pl.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 360


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "envs.rollouts",
        "envs.rendering",
        "policies.numpy_policy",
        "envs.tasks",
        "runs.scores",
        "deploy.runner",
        "export_cli",
    ],
)
def test_light_modules_stay_light(module: str) -> None:
    """Workers and ``awac --help`` must not pay for torch."""
    heavy = ("torch", "lightning", "mlflow", "minari")
    code = f"import sys, awac_pl.{module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
