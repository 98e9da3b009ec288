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
    ["files", "settings_files", "episode", "settings"],
    ["parallel", "policies", "runs"],
    ["envs", "algorithms", "tracking", "report"],
    ["datasets", "deploy"],
    ["replay"],
    ["callbacks", "sweeps"],
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


def test_every_room_has_a_layer() -> None:
    assert {room(path) for path in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: str(path.relative_to(HOUSE)))  # without __init__
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for name in imported(ast.parse(path.read_text())) - {here}:
        assert LEVEL[name] < LEVEL[here], f"{path.relative_to(HOUSE)} imports {name}, which is not below {here}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.body[0].lineno + 1  # without the list of arguments
            assert length <= 50, f"{node.name} has {length} lines"


@pytest.mark.parametrize(
    "module",
    [
        "commands.main", "commands.data", "commands.deploy", "commands.export", "commands.init", "commands.report",
        "commands.serve", "commands.sweep", "commands.sync", "commands.video", "deploy.http_server", "deploy.runner",
        "envs.rollouts", "envs.rendering", "envs.tasks", "episode", "policies.numpy_policy", "runs.summary",
    ],
)  # fmt: skip
def test_light_modules_stay_light(module: str) -> None:
    """Workers, a robot and the help of the commands must not pay for torch."""
    heavy = ("torch", "lightning", "mlflow", "minari", "jsonargparse")
    code = f"import sys, awac_pl.{module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_gives_its_classes_at_first_use() -> None:
    code = (
        "import sys, awac_pl; assert 'torch' not in sys.modules; assert set(awac_pl.__all__) <= set(dir(awac_pl));"
        "from awac_pl import AWAC, ReplayDataModule, EnvironmentInteraction, PolicyRunner; print(AWAC.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "awac_pl.algorithms.awac\n"
    assert (HOUSE / "py.typed").exists()
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        awac_pl.Nothing  # noqa: B018
