"""Who gets which run folder."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from awac_pl.commands.main import main
from awac_pl.errors import AwacError
from awac_pl.files import lock
from awac_pl.runs.folder import RunFolder, run_of, take_run_folder
from awac_pl.runs.metrics import read_metrics
from awac_pl.tracking.destination import find_destination
from tests.conftest import ROOT, WIDE_CONFIG
from tests.mutations import outcome


def take(default: Path, barrier, ending, answers) -> None:
    barrier.wait()
    try:
        folder = take_run_folder(None, default, resume=False)
        answers.put(folder.path.name)
    except BaseException as error:
        answers.put(repr(error))
        raise
    ending.wait()


def test_runs_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(10):
        barrier, ending, answers = context.Barrier(6), context.Barrier(7), context.Queue()
        default = tmp_path / str(attempt) / "run"
        processes = [context.Process(target=take, args=(default, barrier, ending, answers)) for _ in range(6)]
        for process in processes:
            process.start()
        names = [answers.get(timeout=20) for _ in processes]
        ending.wait()
        for process in processes:
            process.join()
        assert len(set(names)) == 6
        assert all(name == "run" or name.startswith("run-") for name in names), names


def test_a_refused_run_cannot_take_the_folder_of_another_with_it(tmp_path: Path) -> None:
    """Its lock file is removed while the other one opens it: that lock counts for nothing."""
    refused, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    refused.take()
    assert not other.take_if_free()
    refused.release()
    assert not (tmp_path / "run").exists()
    assert other.take_if_free()
    (tmp_path / "run/.lock").unlink()
    third = RunFolder(tmp_path / "run")
    assert third.take_if_free()  # holds the file that has the name
    assert third.busy
    third.release()
    with contextlib.suppress(OSError):
        other.release()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"manifest.json": '{"status": "finished"}'}, "holds a finished run; pass another"),
        ({"manifest.json": '{"status": "running"}', "metrics.csv": ""}, None),  # killed before its first checkpoint
        ({"config.yaml": "mine"}, "holds a file config.yaml that is not of a run; move it, or pass another"),
        ({"metrics.csv": "mine"}, "holds a file metrics.csv that is not of a run"),
        ({"report.html": "mine"}, "holds a file report.html that is not of a run"),
        ({"notes.txt": "mine"}, None),
    ],
)
def test_no_run_overwrites_what_is_of_worth(files: dict[str, str], message: str | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    if message is None:
        take_run_folder(tmp_path, tmp_path, resume=False).release()
        return
    with pytest.raises(AwacError, match=message):
        take_run_folder(tmp_path, tmp_path, resume=False)
    assert not RunFolder(tmp_path).busy
    take_run_folder(tmp_path, tmp_path, resume=True).release()


def test_last_is_the_last_one_and_a_busy_one_is_refused(tmp_path: Path) -> None:
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    folder = take_run_folder(None, tmp_path / "run", resume=True)
    assert folder.path.name == "run-2"
    with pytest.raises(AwacError, match="run-2 is in use by another run"):
        take_run_folder(None, tmp_path / "run", resume=True)
    third = take_run_folder(None, tmp_path / "run", resume=False)
    new = take_run_folder(None, tmp_path / "new", resume=True)
    assert (third.path.name, new.path.name) == ("run-3", "new")
    for one in (folder, third, new):
        one.release()


def test_a_try_keeps_no_folder(
    tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = WIDE_CONFIG.replace("toy/wide-v0", reach_dataset).replace("Wide-v0", "Reach-v0")
    (tmp_path / "small.yaml").write_text(config)
    before = {path.name for path in tmp_path.iterdir()}
    for folder in ("--run_dir=null", "--run_dir=runs/mine"):
        arguments = [f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--trainer.fast_dev_run=true", folder]
        assert main(["fit", *arguments]) == 0
    assert {path.name for path in tmp_path.iterdir()} == before
    assert "keeps nothing, not even a run folder" in caplog.text


def test_pipes_in_a_run_folder_are_not_waited_for(wide_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(wide_run, run)
    for name in (".lock", "metrics.csv", "mlflow.json"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    assert read_metrics(run / "metrics.csv") == []
    assert find_destination(run, "http://robots:5000").run_id is None
    result = outcome(["fit", "--resume", str(run)], tmp_path / "log", patience=30)
    assert (result.status, result.fault) == (2, None)
    assert "/.lock is no file; remove it" in result.output


def test_whoever_only_looks_does_not_refuse_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").touch()
    looking = lock(tmp_path / ".lock", "r", shared=True)  # as ``busy`` does it
    monkeypatch.setattr("awac_pl.runs.folder.time.sleep", lambda seconds: looking.close())
    folder = RunFolder(tmp_path)
    folder.take()
    assert folder.busy
    folder.release()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "made"):
        folder = RunFolder(tmp_path / name)
        folder.take()
        folder.release()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("lacks", ["config.yaml", "manifest.json", None])
def test_the_run_of_a_checkpoint(tmp_path: Path, lacks: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"config.yaml", "manifest.json"} - {lacks}:
        (tmp_path / name).touch()
    assert run_of(tmp_path / "checkpoints/last.ckpt") == (None if lacks else tmp_path)
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert run_of("last") is run_of(None) is None
