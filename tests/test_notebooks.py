"""Notebooks run from their first cell to their last, and their kept outputs are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from awac_pl.datasets.catalog import data_file
from awac_pl.datasets.cloned import clone_dataset
from awac_pl.envs.tasks import find_task
from awac_pl.files import file_digest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUN = """
import sys, warnings, nbclient, nbformat
from nbformat.v4 import new_code_cell, new_notebook
warnings.simplefilter("ignore")
folder, *paths = sys.argv[1:]
notebooks = [nbformat.read(path, 4) for path in paths]
forget = "for _ in get_ipython().run_line_magic('who_ls', ''): del globals()[_]"
together = new_notebook(cells=[cell for one in notebooks for cell in (new_code_cell(forget), *one.cells)])
nbclient.NotebookClient(together, timeout=300, resources={"metadata": {"path": folder}}).execute()
for notebook, path in zip(notebooks, paths):
    nbformat.write(notebook, path)
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


@pytest.mark.usefixtures("short_cloning")
def test_notebooks_run(tmp_path: Path) -> None:
    """On a small budget, in copies, in one kernel that sees this source tree; each notebook begins without names."""
    options = {"num_demonstrations": 3, "num_episodes": 4, "evaluation_episodes": 1, "num_workers": 0}
    clone_dataset("awac/pen/expert-v0", "awac/pen/cloned-3-v0", find_task("pen"), progress=False, **options)
    digest = file_digest(clone := data_file("awac/pen/cloned-3-v0"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    copies = [shutil.copy(path, tmp_path / "notebooks") for path in NOTEBOOKS]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AWAC_NOTEBOOK_BUDGET": "small", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(tmp_path / "notebooks"), *copies]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert digest == file_digest(clone)  # the quick start has taken the clone that is there
    for path, copy in zip(NOTEBOOKS, copies, strict=True):
        shown = [[one.output_type for one in outputs(which) if one.output_type != "stream"] for which in (path, Path(copy))]
        assert shown[0] == shown[1]
