"""What a run and a test print."""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path

from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.messages import duration, introduction, measures
from awac_pl.callbacks.progress import AwacProgressBar
from awac_pl.callbacks.run_writer import RunWriter
from awac_pl.callbacks.stopping import Limits
from tests.test_training import make_data, make_module, make_trainer


def train(folder: Path, dataset: str, bar: AwacProgressBar, *callbacks: Callback, **options) -> None:
    data = make_data(dataset)
    trainer = make_trainer(folder, EnvironmentInteraction(20), *callbacks, **{"max_epochs": 4, **options})
    trainer.callbacks.insert(0, bar)  # type: ignore[attr-defined]
    trainer.fit(make_module(data), datamodule=data)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_there_are_lines(tmp_path: Path, reach_dataset: str, caplog, capfd) -> None:
    caplog.set_level(logging.INFO, "awac_pl")
    train(tmp_path, reach_dataset, AwacProgressBar(seconds=0), RunWriter({}))
    assert "\r" not in (printed := capfd.readouterr()).err + printed.out
    assert "torchrl" not in printed.err + printed.out
    lines = [record.getMessage() for record in caplog.records]
    (first,) = [line for line in lines if line.startswith("run folder")]
    assert first.splitlines()[1].startswith("task        tests.toy:Reach-v0, 10 steps an episode")
    assert first.splitlines()[2] == "data        toy/reach-v0: 20 episodes, 200 steps, 20 succeed"
    assert "pretraining: 2 epochs of 20 updates\n            fine-tuning: 2 epochs of 20 updates and 20 env" in first
    shown = [line for line in lines if " left, " in line]
    assert shown[0].startswith("epoch 1 of 4, over 00:00 left, offline, ")
    assert shown[-1].startswith("epoch 4 of 4, 00:00 left, online, success ")
    assert "training success" in shown[-1]
    assert len(shown) == 4 * 4  # chunks


def test_the_bar_has_80_columns_and_messages_above_it(tmp_path: Path, reach_dataset: str, monkeypatch) -> None:
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (80, 24))
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    handler, root = logging.StreamHandler(terminal), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("awac_pl"), "level", logging.INFO)
    train(tmp_path, reach_dataset, AwacProgressBar(), RunWriter({}))
    frames = terminal.getvalue().replace("\n", "\r").split("\r")
    assert [frame for frame in frames if "|" in frame and len(frame) > 80] == []
    assert any(frame.startswith("epoch 4 of 4 100%|") for frame in frames)
    assert any(" left, evaluating" in frame for frame in frames)
    evaluations = [frame for frame in frames if "env steps: success" in frame]
    assert [frame[:8] for frame in evaluations] == ["epoch 1,", "epoch 2,", "epoch 3,", "epoch 4,"]
    assert root.handlers == [handler]


def test_a_run_that_ends_early_says_why(tmp_path: Path, reach_dataset: str, caplog) -> None:
    caplog.set_level(logging.INFO, "awac_pl")
    stop = EarlyStopping("eval/success_rate", mode="max", stopping_threshold=-1.0)
    train(tmp_path, reach_dataset, AwacProgressBar(), stop, Limits())
    train(tmp_path, reach_dataset, AwacProgressBar(), Limits(Timer({"seconds": 0})))
    train(tmp_path, reach_dataset, AwacProgressBar(), Limits())
    ends = [text for record in caplog.records if (text := record.getMessage()).startswith("ended")]
    assert len(ends) == 2
    assert ends[0].startswith("ended after epoch 1 of 4: Stopping threshold reached")
    assert ends[1] == "ended after epoch 1 of 4: trainer.max_time is over"


def test_weights_and_parts_of_a_dataset_are_said(tmp_path: Path, reach_dataset: str) -> None:
    data = make_data(reach_dataset, datasets={reach_dataset: 20.0}, num_demonstrations=5)
    trainer = make_trainer(tmp_path, max_epochs=-1)
    trainer.fit_loop.max_epochs = 0
    trainer.fit(make_module(data), datamodule=data)
    trainer.fit_loop.max_epochs = -1
    manifest = {"device": "cpu", "processor": "p", "compile": "off", "matmul_engine": "native", "datasets": data.datasets}
    text = introduction(trainer, data, manifest)  # type: ignore[arg-type]
    assert "toy/reach-v0: 5 episodes, 50 steps, 20 of all 20 succeed weighted 20 times" in text
    assert "fine-tuning: endless epochs" in text


def test_what_a_test_prints_by_hand() -> None:
    metrics = {"eval/success_rate": 0.8999999761581421, "eval/episode_return": -83.06, "eval/episode_return_std": 20.5,
               "eval/episodes": 100.0, "eval/environment_return": math.nan, "other": 1.0}  # fmt: skip
    assert measures(metrics).splitlines() == [
        "eval/success_rate          0.90   95 % interval 0.83 to 0.94, 100 episodes",
        "eval/episode_return        -83.06   standard deviation 20.50 over the episodes",
        "eval/environment_return    unavailable",
    ]
    assert [duration(seconds) for seconds in (40.2, 720, 12_600)] == ["40 s", "12 min", "3.5 h"]
