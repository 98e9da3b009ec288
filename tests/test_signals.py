"""Signals to a real run, of one process and of two: to rank 0, to rank 1, to all at once, in every phase."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from awac_pl.tracking.client import make_store
from tests.conftest import ROOT
from tests.test_cli import SMALL
from tests.test_distributed import free_port

#: Seconds in which a signal ends a run, on a machine that has time for it.
LIMIT = 10.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
PHASES = ("cloning", "pretraining", "online", "evaluation", "report")


@dataclass
class RealRun:
    """``awac fit`` in a process group of its own. Its processes are known by a mark in their environment."""

    folder: Path
    ranks: int
    arguments: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        (self.folder / "signals.yaml").write_text("trainer:\n  callbacks:\n    - class_path: tests.callbacks.Announce\n")
        (self.folder / "small.yaml").write_text(SMALL)
        (self.folder / "phase").unlink(missing_ok=True)
        command = [sys.executable, "-m", "awac_pl", "fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml"]
        if self.ranks > 1:
            command += [f"--trainer.devices={self.ranks}", "--trainer.strategy=ddp"]
        self.log = (self.folder / "log.txt").open("w+")
        more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": free_port(), "MARK": self.mark}
        self.process = subprocess.Popen(
            [*command, "--config=signals.yaml", "--video.episodes=0", "--run_dir=run", *self.arguments],
            cwd=self.folder, stdout=self.log, stderr=self.log, start_new_session=True, env=os.environ | more,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def output(self) -> str:
        return (self.folder / "log.txt").read_text()

    def processes(self) -> dict[int, str]:
        """Every process that the run has started and that is still there: its number, its command."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"MARK={self.mark}".encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found

    def rank(self, number: int) -> int:
        if number == 0:
            return self.process.pid
        others = [pid for pid, command in self.processes().items() if " fit " in command and pid != self.process.pid]
        return min(others)  # a child of either looks like its parent until it has its own program

    def reach(self, phase: str) -> None:
        deadline = time.monotonic() + 240
        while self._phase() != phase:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.01)

    def _phase(self) -> str:
        path = self.folder / "phase"
        return path.read_text() if path.exists() else "cloning" if "making awac/" in self.output() else ""

    def wait(self) -> tuple[int, float]:
        """Exit status, and seconds until it and all of its processes had ended. Kills what is left."""
        begun = time.monotonic()
        try:
            while (left := self.processes()) and time.monotonic() < begun + 60:
                self.process.poll()
                time.sleep(0.05)
            seconds = time.monotonic() - begun
            assert not left, f"still there: {left}\n{self.output()}"
            return self.process.wait(), seconds
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            self.log.close()


def start(folder: Path, phase: str, ranks: int, uri: str = "none") -> RealRun:
    more = {
        "cloning": ["--data.datasets=[toy/reach-v0, awac/reach/cloned-v0]"],
        "pretraining": ["--data.offline_epochs=1000", "--trainer.max_epochs=2000", "--trainer.check_val_every_n_epoch=500"],
        "online": ["--interaction.env_steps_per_epoch=20000"],
        "evaluation": ["--data.milestone_episodes=20000"],
        "report": [],
    }[phase]
    return RealRun(folder, ranks, (f"--mlflow_uri={uri}", *more))


def send(run: RealRun, signum: int, target: str) -> None:
    if target == "group":
        os.killpg(run.process.pid, signum)
    else:
        os.kill(run.rank(int(target)), signum)


@pytest.mark.faults
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("target", ["0", "1", "group"])
@pytest.mark.parametrize(("signum", "ranks"), [(signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_ends_a_run(tmp_path: Path, reach_dataset: str, phase: str, target: str, signum: int, ranks: int) -> None:
    if ranks == 1 and target == "1":
        pytest.skip("there is no such rank")
    check_signal(tmp_path, phase, target, signum, ranks)


def check_signal(folder: Path, phase: str, target: str, signum: int, ranks: int) -> float:
    uri = f"sqlite:///{folder}/mlflow.db" if phase in ("pretraining", "report") else "none"
    if uri != "none":
        make_store(folder / "mlflow.db")  # takes seconds, which runs of other lengths have
    run = start(folder, phase, ranks, uri)
    run.reach(phase)
    if phase == "pretraining":
        time.sleep(0.5)
    send(run, signum, target)
    status, seconds = run.wait()
    output = run.output()
    expected = {128 + signum} | ({143} if target == "1" else set())  # rank 0 may not learn which one it was
    late = phase == "report" and target != "group" and status == 0  # rank 1 has ended, or it was too late
    assert status in expected or late, (status, output)
    assert "Traceback" not in output, output
    assert seconds < LIMIT, (seconds, output)
    if phase != "cloning":
        manifest = json.loads((folder / "run/manifest.json").read_text())
        assert manifest["status"] in (("interrupted", "finished") if phase == "report" else ("interrupted",))
        torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    left = [path.name for path in folder.rglob(".*") if path.name not in (".lock",)]
    assert not left
    if uri != "none":
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("awac")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        assert "RUNNING" not in [one.info.status for one in runs]
    return seconds


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", ["pretraining", "evaluation"])
def test_a_killed_rank_ends_the_other(tmp_path: Path, reach_dataset: str, rank: int, phase: str) -> None:
    run = start(tmp_path, phase, 2)
    run.reach(phase)
    os.kill(run.rank(rank), signal.SIGKILL)
    status, seconds = run.wait()
    assert status not in (0, None)
    assert seconds < LIMIT + 5, (seconds, run.output())  # Lightning looks every 5 seconds
    assert f'File "{ROOT}/awac_pl' not in run.output(), run.output()  # a worker that was just starting may have its own


@pytest.mark.faults
def test_a_stopped_rank_does_not_hold_up_the_end(tmp_path: Path, reach_dataset: str) -> None:
    run = start(tmp_path, "pretraining", 2)
    run.reach("pretraining")
    time.sleep(1)
    os.kill(run.rank(1), signal.SIGSTOP)
    time.sleep(1)
    send(run, signal.SIGTERM, "0")
    status, seconds = run.wait()
    assert (status, seconds < LIMIT) == (143, True), (seconds, run.output())
    assert "nothing answers for" in run.output()


@pytest.mark.faults
def test_a_stopped_worker_does_not_hold_up_the_end(tmp_path: Path, reach_dataset: str) -> None:
    run = start(tmp_path, "evaluation", 1)
    run.reach("evaluation")
    time.sleep(1)
    for pid, command in run.processes().items():
        if "spawn_main" in command:
            os.kill(pid, signal.SIGSTOP)
    send(run, signal.SIGTERM, "0")
    status, seconds = run.wait()
    assert (status, seconds < LIMIT) == (143, True), (seconds, run.output())


@pytest.mark.faults
def test_the_second_signal_ends_at_once(tmp_path: Path, reach_dataset: str) -> None:
    run = start(tmp_path, "pretraining", 2)
    run.reach("pretraining")
    os.kill(run.rank(1), signal.SIGSTOP)
    time.sleep(1)
    send(run, signal.SIGINT, "0")
    time.sleep(1)
    send(run, signal.SIGINT, "0")
    status, seconds = run.wait()
    assert (status, seconds < 2) == (130, True), (seconds, run.output())
