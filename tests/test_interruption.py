"""Signals end a run at once, and what they leave goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tensordict import TensorDict

from awac_pl.callbacks.checkpointing import DurableCheckpointIO
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.run_writer import RunWriter
from awac_pl.callbacks.stopping import Stopping
from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.runs.metrics import read_metrics
from awac_pl.tracking.destination import Destination
from awac_pl.tracking.logger import RunFolderLogger, Sender
from tests.conftest import ROOT
from tests.test_training import fit, make_data, make_module


class SignalAt(Callback):
    """Sends this process a signal while a chunk is trained on."""

    def __init__(self, epoch: int, chunk: int) -> None:
        self.at = epoch, chunk

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def signal_in_rollout(data: ReplayDataModule, number: int) -> None:
    """Send the signal when the workers are asked for episodes for that time."""
    rollout, calls = data.workers.rollout, iter(range(1000))

    def interrupted(*args, **kwargs):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return rollout(*args, **kwargs)

    data.workers.rollout = interrupted  # type: ignore[method-assign]


def toy_run(
    folder: Path,
    dataset: str,
    workers: int,
    every: int,
    *,
    after: Callback | None = None,
    rollout: int | None = None,
    resume: bool = False,
) -> tuple[dict, TensorDict, list[dict[str, float]]]:
    """Six epochs of the toy task, evaluated ``every`` epochs; the weights, the buffer and the metrics at the end."""
    data = make_data(dataset, workers=workers, seed=4, milestone_episodes=12, evaluation_episodes=4)
    if rollout is not None:
        signal_in_rollout(data, rollout)
    module = make_module(data)
    callbacks = [
        Stopping(),
        RunWriter({}),
        *([after] if after else []),
        EnvironmentInteraction(env_steps_per_epoch=20, synchronous=False),
        ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False, every_n_epochs=every,
                        save_on_train_epoch_end=True),
    ]  # fmt: skip
    last = folder / "checkpoints" / "last.ckpt" if resume else None
    with interruption.handled():
        fit(folder, data, *callbacks, module=module, max_epochs=6, check_val_every_n_epoch=every, ckpt_path=last,
            plugins=[DurableCheckpointIO()])  # fmt: skip
    rows = read_metrics(folder / "metrics.csv")
    for row in rows:
        del row["seconds"]
        row.pop("rollout/env_steps_per_s", None)
    return module.state_dict(), data.replay.buffer[:], rows


CHUNKS = [{"after": SignalAt(*at)} for at in ((0, 0), (1, 2), (3, 0), (3, 3), (4, 3), (5, 1))]


@pytest.mark.parametrize(
    ("workers", "every", "moments"),
    [
        (0, 1, [CHUNKS[1], CHUNKS[3], {"rollout": 3}, {"rollout": 6}]),
        (0, 2, [CHUNKS[3], {"rollout": 2}]),
        (1, 1, [CHUNKS[2]]),  # the next block is collected meanwhile
        pytest.param(0, 1, [*CHUNKS, *({"rollout": number} for number in range(10))], marks=pytest.mark.faults),
        pytest.param(0, 2, [*CHUNKS, *({"rollout": number} for number in range(6))], marks=pytest.mark.faults),
        pytest.param(1, 1, [*CHUNKS, *({"rollout": number} for number in range(10))], marks=pytest.mark.faults),
    ],
)
def test_a_run_ended_by_a_signal_goes_on_to_the_bit(
    tmp_path: Path, reach_dataset: str, workers: int, every: int, moments: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "awac_pl.callbacks.run_writer.write_report", lambda *args, **kwargs: None
    )  # it takes most of the time

    def run(folder: Path, **options):
        return toy_run(folder, reach_dataset, workers, every, **options)

    straight = run(tmp_path / "straight")
    for index, moment in enumerate(moments):
        folder = tmp_path / f"cut-{index}"
        with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped:
            run(folder, **moment)
        assert stopped.value.code == 143
        torch.manual_seed(99)
        resumed = run(folder, resume=(folder / "checkpoints" / "last.ckpt").exists())
        assert resumed[2] == straight[2], moment
        torch.testing.assert_close(resumed[0], straight[0], rtol=0, atol=0)
        torch.testing.assert_close(resumed[1].to_dict(), straight[1].to_dict(), rtol=0, atol=0)


#: The main thread gets no signal, as where it waits in C; below it is a process that has stopped.
STUCK = """
import os, signal, subprocess, time
from awac_pl.parallel import interruption
interruption.PATIENCE = 2.0
with interruption.handled():
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGSTOP)
    other = subprocess.Popen(["sh", "-c", "trap 'echo told; exit' USR2; echo ready; while :; do sleep 0.05; done"])
    interruption.relay_to(lambda: [other.pid])
    signal.pthread_sigmask(signal.SIG_BLOCK, interruption.SIGNALS)
    os.write(1, f"{child.pid}\\n".encode())  # one write: the other process writes to the same pipe
    time.sleep(60)
"""


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]])
def test_a_process_that_waits_for_another_one_ends_all_the_same(signals: list[int]) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = {process.stdout.readline().strip() for _ in range(2)}
    (child,) = first - {"ready"}
    for signum in signals:
        process.send_signal(signum)
        time.sleep(0.3)
    output, error = process.communicate(timeout=20)
    assert process.returncode == 128 + signals[-1]
    assert ("SIGTERM: nothing answers for 2 s; ended without a new checkpoint" in error) == (len(signals) == 1)
    assert output == "told\n"
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_signal_shortens_the_wait_for_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    monkeypatch.setattr(Sender, "join", lambda self, timeout: begun.set() or threading.Event().wait(timeout))

    class Stuck:
        destination, sent = Destination("http://nobody:5000"), False

        def update(self) -> None:
            if begun.wait() and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)

        def missing_rows(self) -> int:
            return 0

        def missing_files(self) -> list[Path]:
            return []

    monkeypatch.setattr("awac_pl.tracking.logger.HURRY_SECONDS", 0.2)
    logger = RunFolderLogger(tmp_path, Stuck.destination)
    with interruption.handled():
        began = time.monotonic()
        logger._sender = Sender(Stuck())  # type: ignore[arg-type]
        logger._sender.start()
        with pytest.raises(Interrupted):
            logger.finalize()
    assert time.monotonic() - began < 4


ENDING = """
import os, signal
from awac_pl.parallel import interruption
with interruption.handled(last=True):
    pass
for signum in (*interruption.SIGNALS, interruption.RELAYED):
    os.kill(os.getpid(), signum)
print("still here", flush=True)
interruption.ended(7)
os.kill(os.getpid(), signal.SIGTERM)
print("not any more", flush=True)
"""


def test_after_the_work_a_signal_changes_no_exit_status() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "still here\n", "")


#: A thread that does not keep the process alive, as the one that makes MLflow's file.
STAGING = """
import threading, time
from pathlib import Path
from awac_pl.files import staging
def work():
    with staging(Path(".")) as folder:
        (folder / "half").touch()
        ready.set()
        time.sleep(60)
ready = threading.Event()
threading.Thread(target=work, daemon=True).start()
ready.wait()
"""


def test_the_end_of_a_process_removes_what_its_threads_had_begun(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", STAGING], cwd=tmp_path, env=environment, check=True)
    assert not list(tmp_path.iterdir())


def test_a_signal_that_somebody_else_handles_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGCHLD of torch's DataLoader, SIGALRM of an environment: they come through the same pipe."""
    ended: list[int] = []
    monkeypatch.setattr(interruption, "_end_now", lambda signum, message="": ended.append(signum))
    monkeypatch.setattr(interruption._State, "patience", -1.0)
    monkeypatch.setattr(interruption._State, "answered", False)
    for number, expected in ((signal.SIGCHLD, []), (signal.SIGALRM, []), (signal.SIGTERM, [signal.SIGTERM])):
        reading, writing = os.pipe()
        watch = threading.Thread(target=interruption._watch, args=(reading,))
        watch.start()
        os.write(writing, bytes([number]))
        watch.join(0.5)
        os.close(writing)
        watch.join()
        os.close(reading)
        assert ended[:1] == expected


def test_handlers_are_taken_over_only_while_signals_are_handled() -> None:
    before = signal.getsignal(signal.SIGHUP)
    interruption.take_over()
    assert signal.getsignal(signal.SIGHUP) is before
    with interruption.handled():
        ours = signal.getsignal(signal.SIGHUP)
        assert ours is not before
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        interruption.take_over()
        assert signal.getsignal(signal.SIGHUP) is ours
    assert signal.getsignal(signal.SIGHUP) is before
