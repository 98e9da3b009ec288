"""Full disks and killed processes: nothing is lost, nothing is left, one line says what is wrong."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from awac_pl.algorithms.checkpoints import read_checkpoint
from awac_pl.commands.main import main
from awac_pl.datasets import cloned
from awac_pl.datasets.editing import export
from awac_pl.datasets.minari_io import data_file, dataset_bytes, save_dataset
from awac_pl.datasets.safe_hdf5 import writing
from awac_pl.envs.video import write_video
from awac_pl.errors import WriteError
from awac_pl.files import append_text, check_room, remove_leftovers, replacing, staging, write_text
from awac_pl.replay.buffer import Replay
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.metrics import NewLines, append_logged, append_metrics, parse_logged, read_metrics, write_metrics
from tests.conftest import ROOT, WIDE_CONFIG
from tests.toy import reach_episodes

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
NOT_ALLOWED = 77


def in_a_child(function: Callable[[], None]) -> None:
    """Run a function in a forked process, which may limit or kill itself."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == NOT_ALLOWED:
        pytest.skip("this machine lets nobody mount a small disk")
    assert code == 0


def mount(folder: Path, kib: int) -> None:
    """A disk of this size that only this process sees."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        os._exit(NOT_ALLOWED)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]):
        if subprocess.run(["mount", *command], capture_output=True).returncode:
            os._exit(NOT_ALLOWED)


def on_a_small_disk(folder: Path, kib: int, function: Callable[[], None]) -> None:
    """Run a function in a forked process, in a folder on a disk of this size."""

    def run() -> None:
        mount(folder, kib)
        os.chdir(folder)
        function()

    in_a_child(run)


@pytest.mark.parametrize("kib", [40, pytest.param(4, marks=pytest.mark.faults)])
def test_nothing_dies_on_a_full_disk_and_nothing_is_left(tmp_path: Path, reach, monkeypatch, kib: int) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    (task, spaces), episodes = reach, reach_episodes(200)
    noise = np.random.default_rng(0).integers(0, 255, (4, 256, 256, 3), dtype=np.uint8)
    data = [episodes[0].observations.repeat(10_000, axis=0)]

    def plain_hdf5() -> None:
        with replacing(Path("plain.hdf5")) as new, writing(new) as file:
            file["observations"] = data[0]

    def buffer() -> None:
        with staging(Path("run")) as scratch:
            Replay(100_000, scratch=str(scratch)).add_offline(episodes)

    def writes() -> None:
        for write, message in {
            lambda: save_dataset("toy/full-v0", episodes, task, spaces, {}): "full-v0: cannot be written (No space left",
            lambda: check_room(Path("toy/x-v0"), dataset_bytes(200, spaces)): "toy/x-v0: needs 1.1 MB there (No space left",
            lambda: export(episodes * 50, spaces, Path("x.npz"), "npz"): "x.npz: cannot be written (No space left",
            lambda: write_video(Path("x.mp4"), noise): "x.mp4: cannot be written (No space left",
            lambda: write_video(Path("x.gif"), noise): "x.gif: cannot be written (No space left",
            plain_hdf5: "plain.hdf5: cannot be written (No space left",
            buffer: "data.storage memmap: no room for 100000 transitions, 3.9 MB, in run (No space left",
        }.items():
            with pytest.raises(WriteError) as error:
                write()
            assert message in str(error.value)
        assert list(Path().iterdir()) == []

    on_a_small_disk(tmp_path, kib, writes)


def small_run(name: str, datasets: Path) -> list[str]:
    Path("small.yaml").write_text(WIDE_CONFIG.replace("runs/wide", name))
    os.environ["MINARI_DATASETS_PATH"] = str(datasets)
    return [
        "fit",
        f"--config={ROOT / 'conf/base.yaml'}",
        "--config=small.yaml",
        "--video.episodes=0",
        "--trainer.enable_progress_bar=false",
    ]


def free_all_but(kib: int) -> None:
    """Fill the disk with a file, up to this."""
    free = shutil.disk_usage(".").free
    with contextlib.suppress(OSError):
        Path("filling").write_bytes(bytes(max(0, free - 1024 * kib)))


@pytest.mark.parametrize(
    "kibs",
    [
        (8, 100),  # room for metrics.csv, and for one checkpoint
        pytest.param(range(0, 360, 20), marks=pytest.mark.faults),
    ],
)
def test_a_run_on_a_full_disk_fails_in_one_line_and_keeps_its_checkpoint(
    tmp_path: Path, wide_run: Path, capfd: pytest.CaptureFixture, kibs: tuple[int, ...]
) -> None:
    failed = []
    (tmp_path / "disk").mkdir()
    for kib in kibs:

        def run(kib: int = kib) -> None:
            arguments = small_run("run", wide_run.parents[1] / "datasets")
            free_all_but(kib)
            status = main(arguments)
            assert not list(Path().rglob(".awac-*"))
            if Path("run/manifest.json").exists():
                assert json.loads(Path("run/manifest.json").read_text())["status"] == ("failed" if status else "finished")
            for checkpoint in Path("run").rglob("*.ckpt"):
                read_checkpoint(checkpoint)
            if Path("run/metrics.csv").exists():
                assert Path("run/metrics.csv").read_text().endswith("\n")
                read_metrics(Path("run/metrics.csv"))
            assert status in (0, 2)

        on_a_small_disk(tmp_path / "disk", 1024, run)
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("awac: error")]
        failed += lines
        assert all("cannot be written (No space left on device); nothing was changed" in line for line in lines), lines
    assert len({line.split(":")[2].rpartition("/")[2] for line in failed}) >= 2, failed


def hold_staging(folder: Path, meanwhile: Callable[[Path], None]) -> tuple[int, Path]:
    """A process that writes for ever into a temporary folder in ``folder``; its number, and that folder."""
    reading, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        with staging(folder) as temporary:
            meanwhile(temporary)
            os.write(writing_end, str(temporary).encode())
            signal.pause()
    os.close(writing_end)
    temporary = Path(os.read(reading, 1000).decode())
    os.close(reading)
    return child, temporary


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    child, temporary = hold_staging(tmp_path, lambda folder: (folder / "half").write_text("half"))
    write_text(tmp_path / "other", "other")
    remove_leftovers(tmp_path)
    assert (temporary / "half").exists()
    kill(child)
    (tmp_path / ".awac-link").symlink_to(tmp_path / "elsewhere")  # not one of ours
    (tmp_path / "elsewhere").mkdir()
    write_text(tmp_path / "other", "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".awac-link", "elsewhere", "other"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_dataset_that_was_moved_aside_by_a_killed_process_comes_back(reach, reach_dataset: str) -> None:
    folder = data_file(reach_dataset).parents[1]
    before = data_file(reach_dataset).read_bytes()

    def move_aside(temporary: Path) -> None:
        (temporary / "aside").mkdir()
        folder.rename(temporary / "aside" / folder.name)

    child, _ = hold_staging(folder.parent, move_aside)
    assert not folder.exists()
    kill(child)
    save_dataset("toy/other-v0", reach_episodes(2), *reach, {})
    assert data_file(reach_dataset).read_bytes() == before
    assert not list(folder.parent.glob(".awac-*"))


def test_an_error_leaves_a_folder_that_was_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/old").touch()

    def interrupted(*_args: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(SystemExit), replacing(tmp_path / "data") as new:
        new.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "old"]


def test_the_next_start_of_a_run_removes_what_was_left_everywhere_in_its_folder(tmp_path: Path) -> None:
    held = [hold_staging(tmp_path / part, lambda _: None) for part in ("", "checkpoints", "videos")]
    for child, _ in held:
        kill(child)
    assert all(temporary.exists() for _, temporary in held)
    run = RunFolder(tmp_path)
    run.take()
    assert not any(temporary.exists() for _, temporary in held)
    run.release()


ROWS = [{"epoch": 0.0, "loss": 0.5}, {"epoch": 1.0, "loss": 0.25, "eval/success_rate": 1.0}, {"epoch": 2.0, "loss": 0.125}]


def test_metrics_are_appended_to_and_are_those_of_a_whole_file(tmp_path: Path) -> None:
    path, files = tmp_path / "metrics.csv", []
    for number in (1, 2, 3):
        append_metrics(path, ROWS[:number])
        files.append(path.stat().st_ino)
    write_metrics(tmp_path / "whole.csv", ROWS)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert read_metrics(path) == ROWS
    assert (files[0] == files[1], files[1] == files[2]) == (False, True)  # a new column makes a new file
    append_metrics(path, [{"epoch": 0.0}])  # a new run in the place of one that was killed before its first checkpoint
    assert read_metrics(path) == [{"epoch": 0.0}]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_last_line_that_was_cut_off_is_left_out_and_then_repaired(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.csv"
    write_metrics(path, ROWS)
    os.truncate(path, path.stat().st_size - cut)
    assert read_metrics(path) == ROWS[:2]
    append_metrics(path, ROWS)
    assert read_metrics(path) == ROWS
    append_logged(tmp_path / "logged.jsonl", 1, 2, {"x": 3.0})
    with (tmp_path / "logged.jsonl").open("a") as file:
        file.write("[1, 2, {"[:cut])
    append_logged(tmp_path / "logged.jsonl", 4, 5, {"x": 6.0})
    assert parse_logged(NewLines(tmp_path / "logged.jsonl")) == [(1, 2, {"x": 3.0}), (4, 5, {"x": 6.0})]


def test_of_lines_that_do_not_fit_none_is_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("a\n")

    def append() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        with pytest.raises(WriteError, match=r"metrics.csv: cannot be written \(File too large\); nothing was changed"):
            append_text(path, "a line of more than ten bytes\n")
        assert path.read_text() == "a\n"

    in_a_child(append)


def test_a_manifest_is_written_in_its_place_if_the_disk_is_full(tmp_path: Path) -> None:
    def write() -> None:
        Path("manifest.json").write_text("running" * 10)
        free_all_but(0)
        with pytest.raises(WriteError):
            write_text(Path("manifest.json"), "failed")
        write_text(Path("manifest.json"), "failed", full_disk=True)
        assert Path("manifest.json").read_text() == "failed"
        with pytest.raises(WriteError):
            write_text(Path("manifest.json"), "x" * 5000, full_disk=True)
        assert Path("manifest.json").read_text() == "failed"

    on_a_small_disk(tmp_path, 64, write)


@pytest.mark.parametrize("available", [True, False])
def test_a_clone_that_would_not_fit_is_refused_before_it_is_fitted(reach, reach_dataset, monkeypatch, available) -> None:
    calls = itertools.count()
    monkeypatch.setattr(cloned, "fit_clone", lambda *_args, **_keywords: next(calls))
    if available:
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        monkeypatch.delattr(os, "posix_fallocate")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(WriteError, match=r"toy/cloned-v0: needs 2.6 MB there \(No space left on device\); nothing was done"):
        cloned.clone_dataset(reach_dataset, "toy/cloned-v0", reach[0], num_episodes=500)
    assert next(calls) == 0


def test_the_size_of_a_dataset_is_known_before_from_above(reach, reach_dataset: str) -> None:
    size = data_file(reach_dataset).stat().st_size
    assert size <= dataset_bytes(20, reach[1]) <= 1.3 * size
