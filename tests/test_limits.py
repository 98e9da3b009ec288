"""A run that a limit ends has whole epochs, a last evaluation, a checkpoint and a report, and goes on to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer

from awac_pl.callbacks.checkpointing import DurableCheckpointIO
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.run_writer import RunWriter
from awac_pl.callbacks.stopping import Limits, Stopping, whole_epochs
from awac_pl.runs.metrics import read_metrics
from tests.test_training import fit, make_data, make_module


class AskInTheMiddle(Callback):
    """Asks to stop at the second of four chunks."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        trainer.should_stop |= batch_idx == 1


@pytest.fixture
def run(tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch):
    """A fit with the callbacks of ``awac fit``, evaluated every 3 epochs of 4 chunks; goes on if the folder has a run."""
    monkeypatch.setattr("awac_pl.callbacks.run_writer.write_report", lambda *args, **kwargs: None)

    def run(name: str, *callbacks: Callback, timer: Timer | None = None, **options):
        folder = tmp_path / name
        last = folder / "checkpoints" / "last.ckpt"
        data = make_data(reach_dataset, workers=1, seed=4)
        module = make_module(data)
        all_callbacks = [
            Stopping(),
            *callbacks,
            Limits(timer),
            RunWriter({}),
            EnvironmentInteraction(env_steps_per_epoch=20),
            ModelCheckpoint(last.parent, filename="last", enable_version_counter=False, every_n_epochs=3,
                            save_on_train_epoch_end=True),
        ]  # fmt: skip
        defaults = {"max_epochs": 5, "check_val_every_n_epoch": 3, "plugins": [DurableCheckpointIO()]}
        fit(folder, data, *all_callbacks, module=module, ckpt_path=last if last.exists() else None, **defaults | options)
        rows = read_metrics(folder / "metrics.csv")
        for row in rows:
            del row["seconds"]
            row.pop("rollout/env_steps_per_s", None)
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
        return rows, module.state_dict(), data.replay.buffer[:]

    return run


def test_limits_end_after_whole_epochs_and_go_on_to_the_bit(run, caplog: pytest.LogCaptureFixture) -> None:
    straight, weights, buffer = run("straight")
    assert [row["updates"] for row in straight] == [20, 40, 60, 80, 100]
    assert [row.get("eval/episodes") for row in straight] == [None, None, 4, None, 8]  # the end of a run is evaluated

    caplog.set_level("INFO")
    rows, _, _ = run("cut", timer=Timer({"seconds": 0}))
    assert [row["updates"] for row in rows] == [20]
    assert rows[-1]["eval/episodes"] == 8
    assert "ended after epoch 1 of 5: trainer.max_time is over" in caplog.text
    rows, _, _ = run("cut", timer=Timer({"seconds": 0}))  # the time counts from each start
    assert [row["updates"] for row in rows] == [20, 40]
    rows, _, _ = run("cut", AskInTheMiddle())
    assert [(row["updates"], row.get("eval/episodes")) for row in rows[2:]] == [(60, 8)]
    assert "ended after epoch 3 of 5: a callback has asked for it" in caplog.text
    rows, _, _ = run("cut", max_epochs=4)  # and the policy of the next block is kept
    assert [(row["updates"], row.get("eval/episodes")) for row in rows[3:]] == [(80, 8)]

    caplog.clear()
    rows, resumed_weights, resumed_buffer = run("cut")
    assert "ended after" not in caplog.text
    without_evaluation = [
        [{key: value for key, value in row.items() if not key.startswith("eval/")} for row in rows]
        for rows in (rows, straight)
    ]
    assert without_evaluation[0] == without_evaluation[1]
    torch.testing.assert_close(resumed_weights, weights, rtol=0, atol=0)
    torch.testing.assert_close(resumed_buffer.to_dict(), buffer.to_dict(), rtol=0, atol=0)

    run("cut")
    assert "nothing to train: the run has had 5 of 5 epochs" in caplog.text


def test_early_stopping_is_evaluated_at_its_end_and_obeys_a_new_patience(run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    def stop(patience: int) -> EarlyStopping:
        return EarlyStopping("eval/episode_length", patience=patience)  # which is always 10

    rows, _, _ = run("stopped", stop(1), max_epochs=9)
    assert [row.get("eval/episodes") for row in rows] == [None, None, 4, None, None, 8]
    assert "ended after epoch 6 of 9: Monitored metric eval/episode_length did not improve" in caplog.text
    caplog.clear()
    rows, _, _ = run("stopped", stop(9), max_epochs=7)
    assert "ended after" not in caplog.text
    assert len(rows) == 7


@pytest.mark.parametrize(
    ("steps", "epochs", "limit", "whole"),
    [(-1, 7, None, 7), (20, 7, None, 5), (21, 7, None, 6), (90, 7, None, 7), (21, -1, 3, 7), (21, None, 0.5, 11)],
)
def test_steps_are_rounded_up_to_epochs(steps: int, epochs: int | None, limit: float | None, whole: int) -> None:
    trainer = SimpleNamespace(max_steps=steps, max_epochs=epochs, limit_train_batches=limit)
    assert whole_epochs(trainer, SimpleNamespace(updates_per_epoch=20, chunk_size=5)) == whole
