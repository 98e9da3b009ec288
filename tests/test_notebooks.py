"""Notebooks run from their first cell to their last, and their kept outputs are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUN = """
import sys, warnings, nbclient, nbformat
warnings.simplefilter("ignore")
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


def outputs(path: Path) -> list[dict]:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_clean(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(path))
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs(path))
    assert "/home/" not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    """On a small budget, in a copy, each in a process of its own with a kernel that sees this source tree."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    copy = shutil.copy(path, tmp_path / "notebooks")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AWAC_NOTEBOOK_BUDGET": "small", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, copy, str(tmp_path / "notebooks")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = [
        [output.output_type for output in outputs(which) if output.output_type != "stream"] for which in (path, Path(copy))
    ]
    assert shown[0] == shown[1]
