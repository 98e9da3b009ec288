"""Every option of Lightning's Trainer: it works, or it is refused in one line before anything starts."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning
import pytest
from jsonargparse import Namespace
from lightning.pytorch import callbacks

from awac_pl.algorithms.trainer_flags import Clipping
from awac_pl.commands import main as command_line
from awac_pl.commands.main import main
from awac_pl.commands.trainer_options import check_callbacks, check_options, logged_metrics
from awac_pl.errors import AwacError
from awac_pl.runs.metrics import read_metrics
from tests.test_cli import fit, refused, workplace  # noqa: F401
from tests.test_module import make_module

#: Values that are taken, and values that are refused with a part of what is said.
FLAGS: dict[str, tuple[list[Any], dict[Any, str]]] = {
    "accelerator": (["auto", "cpu"], {"gpu": "No supported gpu backend found", "quantum": "accelerator='quantum'"}),
    "strategy": (["auto"], {"ddp_foo": "invalid strategy name: `strategy='ddp_foo'`", "fsdp": "CUDA"}),
    "devices": ([1, "auto"], {0: "devices=0", -1: "should be an int > 0", "many": "should be an int"}),
    "num_nodes": ([1], {0: "`num_nodes` must be a positive integer", -1: "`num_nodes` must be a positive integer"}),
    "precision": (
        ["32-true", "64-true", "bf16-mixed", 32, 64, "bf16", None],
        {"bf16-true": "trainer.precision is bf16-true; use 32-true", "16-true": "float16 needs a loss scale", "9": "9"},
    ),
    "logger": ([None, True, False], {}),
    "callbacks": ([None, []], {}),
    "fast_dev_run": ([False, True, 3], {-1: "fast_dev_run"}),
    "max_epochs": ([1, -1], {0: "trainer.max_epochs is 0; nothing would be trained", -5: "`max_epochs`"}),
    "min_epochs": ([None, 1], {}),
    "max_steps": ([-1, 15], {0: "trainer.max_steps is 0; nothing would be trained", -3: "`max_steps`"}),
    "min_steps": ([None, 1], {}),
    "max_time": (["00:00:00:01", None], {"soon": "Timer(duration='soon')"}),
    "limit_train_batches": ([None, 2, 0.5], {0: "trainer.limit_train_batches is 0", 1.5: "limit_train_batches", -1: "1"}),
    "limit_val_batches": ([None, 1, 0], {1.5: "limit_val_batches", -1: "limit_val_batches"}),
    "limit_test_batches": ([None, 1], {1.5: "limit_test_batches"}),
    "limit_predict_batches": ([None], {1.5: "limit_predict_batches"}),
    "overfit_batches": ([0.0, 1], {-1: "overfit_batches"}),
    "val_check_interval": (
        [None, 0.5, 7],
        {1.5: "val_check_interval", "soon": "soon", 0: "trainer.val_check_interval is 0"},
    ),
    "check_val_every_n_epoch": (
        [1, 5],
        {0: "trainer.check_val_every_n_epoch is 0; it must be above 0", -1: "above 0"},
    ),
    "num_sanity_val_steps": ([0, 2, -1], {}),
    "log_every_n_steps": ([1, 50], {}),
    "enable_checkpointing": ([None, True], {False: "trainer.enable_checkpointing=false switches off checkpoints"}),
    "enable_progress_bar": ([None, True, False], {}),
    "enable_model_summary": ([None, True, False], {}),
    "accumulate_grad_batches": ([1], {4: "trainer.accumulate_grad_batches is 4; every batch", 0: "is 0; every batch"}),
    "gradient_clip_val": ([None, 0, 0.5, 1], {-1: "trainer.gradient_clip_val is -1", "big": "should be an int or a float"}),
    "gradient_clip_algorithm": ([None, "norm", "value"], {"size": "`gradient_clip_algorithm` size is invalid"}),
    "deterministic": ([None, True, "warn"], {}),
    "benchmark": ([None, True], {}),
    "inference_mode": ([True, False], {}),
    "use_distributed_sampler": ([True, False], {}),
    "profiler": ([None, "simple", "advanced"], {"foo": "it can only be one of ['simple', 'advanced', 'pytorch', 'xla']"}),
    "detect_anomaly": ([False, True], {}),
    "barebones": ([False], {True: "trainer.barebones=true switches off checkpoints"}),
    "plugins": ([None], {"foo": "invalid type for plugin"}),
    "sync_batchnorm": ([False, True], {}),
    "reload_dataloaders_every_n_epochs": ([0, 1], {-1: "`reload_dataloaders_every_n_epochs` should be an int >= 0"}),
    "default_root_dir": ([None], {}),
    "enable_autolog_hparams": ([True, False], {}),
    "model_registry": ([None], {}),
}
DEFAULTS = {name: one.default for name, one in inspect.signature(lightning.Trainer).parameters.items()}


def what_is_said(**flags: Any) -> str | None:
    """The line that refuses options of the Trainer; None if they are taken."""
    try:
        check_options(Namespace(**(DEFAULTS | flags)))
        trainer = lightning.Trainer(**({"accelerator": "cpu", "logger": False, "enable_model_summary": False} | flags))
        Clipping().take(trainer)
    except Exception as error:
        return command_line._one_line(error) or f"a traceback: {error!r}"
    return None


def test_every_flag_is_looked_at() -> None:
    assert set(FLAGS) == set(DEFAULTS)


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_a_flag_is_taken_or_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken, wrong = FLAGS[name]
    for value in taken:
        assert what_is_said(**{name: value}) is None, value
    for value, message in wrong.items():
        line = what_is_said(**{name: value}) or "nothing"
        assert message in line, value
        assert "a traceback" not in line
        assert "\n" not in line


def test_a_run_without_evaluations_gets_a_line(caplog: pytest.LogCaptureFixture) -> None:
    check_options(Namespace(**DEFAULTS))
    assert not caplog.text
    check_options(Namespace(**(DEFAULTS | {"limit_val_batches": 0})))
    assert "trainer.limit_val_batches is 0: no evaluation, and no best.ckpt" in caplog.text


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            callbacks.EarlyStopping("eval/success"),
            "EarlyStopping.monitor is 'eval/success', which nothing logs.",
        ),
        (
            callbacks.ModelCheckpoint(monitor="train/los"),
            "checkpoint.monitor is 'train/los', which nothing logs.",
        ),
        (callbacks.LearningRateMonitor(), "LearningRateMonitor has no logger to write to: leave out mlflow_uri=none, or"),
        (callbacks.DeviceStatsMonitor(), "DeviceStatsMonitor has no logger"),
        (callbacks.GradientAccumulationScheduler({0: 2}), "every batch is an update of its own; raise data.batch_size"),
    ],
)
def test_a_callback_that_would_fail_later_is_refused(callback: callbacks.Callback, message: str) -> None:
    trainer = lightning.Trainer(callbacks=[callback], logger=False, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(AwacError) as refusal:
        check_callbacks(trainer, make_module())
    assert message in str(refusal.value)


def test_who_may_log_anything_may_be_monitored() -> None:
    class Mine(callbacks.Callback):
        pass

    both = [callbacks.EarlyStopping("mine/value"), Mine()]
    check_callbacks(lightning.Trainer(callbacks=both, logger=False, accelerator="cpu"), make_module())


def test_callbacks_and_profilers_beside_ours(workplace: Path, capsys: pytest.CaptureFixture, caplog) -> None:  # noqa: F811
    """A progress bar instead of ours, one more checkpoint callback, a profiler; and what a run logs may be monitored."""
    (workplace / "callbacks.yaml").write_text(
        "trainer:\n  callbacks:\n    - class_path: TQDMProgressBar\n    - class_path: ModelCheckpoint\n"
        "      init_args: {every_n_epochs: 1, save_top_k: -1}\n"
        "    - class_path: Timer\n"  # one of its defaults is an Enum
    )
    assert fit("--config=callbacks.yaml", "--trainer.profiler=simple", "--mlflow_uri=none", "--run_dir=here") == 0
    names = {path.name for path in (workplace / "here/checkpoints").iterdir()}
    assert {"best.ckpt", "last.ckpt", "epoch=0-step=2.ckpt", "epoch=2-step=6.ckpt"} <= names
    assert "Profiler Report" in caplog.text
    measured = {name for row in read_metrics(workplace / "here/metrics.csv") for name in row if "/" in name}
    assert measured == logged_metrics(make_module())
    assert "interval: step" in (workplace / "here/config.yaml").read_text()


def test_a_refusal_of_lightning_gets_one_line_and_a_traceback_on_demand(workplace: Path, capsys) -> None:  # noqa: F811
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=tb"]
    base = ["fit", "--config=small.yaml", f"--config={Path(__file__).parents[1] / 'conf/base.yaml'}", "--config=small.yaml"]
    line = refused(capsys, *base, *logger)
    assert "Lightning: Neither `tensorboard` nor `tensorboardX` is available." in line
    assert line.endswith("(--debug shows where)")
    assert not (workplace / "runs").exists() or not any((workplace / "runs").iterdir())
    assert main([*base, *logger, "--debug"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert "awac: error: Lightning: Neither" in printed
