"""Imports inside the package point down a fixed list."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import awac_pl

LAYERS = [
    ["__init__", "errors", "schema", "serving"],
    [
        "losses",
        "scores",
        "tasks",
        "policy",
        "distributed",
        "compiling",
        "hdf5",
        "files",
        "published",
        "contract",
        "products",
    ],
    ["networks", "rollouts", "episodes", "replay", "streams", "run_folder", "dataset_folders"],
    ["datasets", "runs", "runner", "graph", "rendering", "facts", "places", "parents", "fast_update"],
    ["cloning", "downloads", "importing", "editing", "groups", "video", "tracking", "registry"],
    ["inspection", "figures", "tables", "run_logger"],
    ["data", "module", "report"],
    ["interaction", "progress", "records", "checkpoints", "video_recorder"],
    ["recording", "export"],
    ["lightning_cli", "data_cli", "export_cli", "record_cli", "sync_cli"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(Path(awac_pl.__file__).parent.glob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Modules of this package that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "awac_pl":
            names |= {alias.name if alias.name in LEVEL else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("awac_pl."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("awac_pl.")}
    return names


def test_every_file_has_a_layer() -> None:
    assert {path.stem for path in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_point_down(path: Path) -> None:
    for name in imported(ast.parse(path.read_text())):
        assert LEVEL[name] < LEVEL[path.stem], f"{path.stem} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 360


@pytest.mark.parametrize("module", ["cli", "rollouts", "rendering", "policy", "tasks", "scores", "runner", "export_cli"])
def test_light_modules_stay_light(module: str) -> None:
    """Workers and ``awac --help`` must not pay for torch."""
    heavy = ("torch", "lightning", "mlflow", "minari")
    code = f"import sys, awac_pl.{module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
