"""A run goes on in its folder, with its own configuration; and no password is written anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from tensordict import TensorDict

from awac_pl.algorithms.awac import AWAC
from awac_pl.commands.main import main
from awac_pl.commands.resuming import check_configuration
from awac_pl.errors import AwacError, without_credentials
from awac_pl.runs.metrics import read_metrics
from awac_pl.tracking.destination import Destination, find_destination
from tests.conftest import REACH, ROOT, WIDE_CONFIG


@pytest.fixture
def fit(tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch):
    """``awac fit`` of a small configuration, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("awac_pl.callbacks.run_writer.write_report", lambda *args, **kwargs: None)
    config = WIDE_CONFIG.replace("tests.toy:Wide-v0", REACH).replace("toy/wide-v0", reach_dataset)
    (tmp_path / "small.yaml").write_text(config.replace("run_dir: runs/wide\n", ""))
    base = [f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--video.episodes=0"]
    return lambda *arguments: main(["fit", *base, "--interaction.env_steps_per_epoch=10", *arguments])


def test_resume_takes_the_runs_own_configuration(fit, capsys: pytest.CaptureFixture, caplog) -> None:
    assert fit("--run_dir=here", "--model.temperature=2") == 0
    assert main(["fit", "--resume", "here", "--trainer.max_epochs=3"]) == 0
    config = yaml.safe_load(Path("here/config.yaml").read_text())
    assert (config["model"]["temperature"], config["trainer"]["max_epochs"]) == (2, 3)
    assert (config["ckpt_path"], config["resume"]) == (None, None)  # the file can start a new run
    assert [row["epoch"] for row in read_metrics(Path("here/metrics.csv"))] == [0, 1, 2]
    commands = json.loads(Path("here/manifest.json").read_text())["commands"]
    assert len(commands) == 2
    capsys.readouterr()

    assert fit("--run_dir=here", "--ckpt_path=last", "--trainer.max_epochs=4") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("awac: error: ")]
    assert "here has other settings than this command: model.temperature 2.0 -> 0.5. To go on with its own: " in line
    assert "awac fit --resume here; to change a setting, name it there: --model.temperature=…" in line
    assert yaml.safe_load(Path("here/config.yaml").read_text()) == config  # nothing was touched
    assert main(["fit", "--resume", "here", "--trainer.max_epochs=4", "--model.temperature=0.5"]) == 0
    assert "here goes on with other settings: model.temperature 2.0 -> 0.5" in caplog.text


def test_a_new_learning_rate_is_used(fit) -> None:
    assert fit("--run_dir=here", "--model.actor_weight_decay=0.5") == 0
    settings = ["--model.learning_rate=0.002", "--model.actor_weight_decay=0.25"]
    assert main(["fit", "--resume=here", "--trainer.max_epochs=3", *settings]) == 0
    (optimizer,) = torch.load("here/checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer["param_groups"]] == [(0.002, 0.25), (0.002, 0)]


def test_every_setting_of_the_optimizer_is_the_new_one(fit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit("--run_dir=here") == 0
    configure = AWAC.configure_optimizers

    def changed(self):
        optimizer = configure(self)
        for group in optimizer.param_groups:
            group.update(betas=(0.5, 0.75), eps=1e-3)
        return optimizer

    monkeypatch.setattr(AWAC, "configure_optimizers", changed)
    assert main(["fit", "--resume=here", "--trainer.max_epochs=3"]) == 0
    (optimizer,) = torch.load("here/checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    assert [(group["betas"], group["eps"]) for group in optimizer["param_groups"]] == [((0.5, 0.75), 1e-3)] * 2


def test_resume_refuses_what_it_cannot_do(fit, capsys: pytest.CaptureFixture) -> None:
    Path("empty").mkdir()
    for arguments, message in (
        (["--resume", "gone"], "there is nothing to resume: gone has no config.yaml with checkpoints/last.ckpt beside it"),
        (["--resume", "empty"], "there is nothing to resume: empty has"),
    ):
        assert main(["fit", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert fit("--run_dir=here") == 0
    assert main(["fit", "--resume", "here", "--task", "pen"]) == 2
    assert "--resume here takes the run's own configuration and folder; leave out --task" in capsys.readouterr().err


def test_a_checkpoint_from_elsewhere_touches_no_other_run(fit, capsys: pytest.CaptureFixture) -> None:
    assert fit("--trainer.max_epochs=1") == 0
    (folder,) = Path("runs").iterdir()
    shutil.copy(folder / "checkpoints/last.ckpt", "alone.ckpt")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert fit("--ckpt_path=alone.ckpt", "--trainer.max_epochs=2") == 0  # a run of its own
    assert sorted(path.name for path in Path("runs").iterdir()) == [folder.name, f"{folder.name}-2"]
    capsys.readouterr()
    assert fit("--ckpt_path=alone.ckpt", f"--run_dir={folder}", "--trainer.max_epochs=2") == 2
    assert f"run folder {folder} holds a run; go on with --resume {folder}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_resumption_that_is_refused_changes_nothing(fit, capsys: pytest.CaptureFixture) -> None:
    """Or the next one would take the settings that did not fit."""
    assert fit("--run_dir=here", "--trainer.max_epochs=3") == 0
    rows = Path("here/metrics.csv").read_bytes()
    for arguments, content, message in (
        (["--model.actor_hidden_sizes=[8,8]"], rows, "the checkpoint does not fit this run (Error(s) in loading state_dict"),
        (
            ["--trainer.max_epochs=1"],
            rows,
            "the checkpoint does not fit this run (You restored a checkpoint with current_ep",
        ),
        ([], b"epoch,updates,env_steps\n0,abc,0\n", "metrics.csv is no table of numbers: could not convert string to float"),
        ([], b"epoch,updates,env_steps\n0,1,2,3\n", "metrics.csv is no table of numbers: float() argument"),
        ([], b"", "metrics.csv is empty, after 300 updates; restore it, or remove it to go on without it"),
        ([], b"epoch\n0\n", "metrics.csv: line 2 has no 'updates'; it is no run's table of metrics"),
        ([], b"\xe9poch\n0\n", "metrics.csv is no table of numbers: 'utf-8' codec"),
    ):
        Path("here/metrics.csv").write_bytes(content)
        before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
        capsys.readouterr()
        assert main(["fit", "--resume=here", "--trainer.max_epochs=4", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()} == before
    Path("here/metrics.csv").write_bytes(rows)
    assert main(["fit", "--resume=here", "--trainer.max_epochs=4"]) == 0


def test_auto_starts_a_run_and_goes_on_with_it(fit) -> None:
    """What a scheduler needs that starts the same command again, whatever became of the last time."""
    assert fit("--run_dir=here", "--resume=auto", "--trainer.max_epochs=1") == 0
    assert fit("--run_dir=here", "--resume=auto", "--trainer.max_epochs=2") == 0
    assert [row["epoch"] for row in read_metrics(Path("here/metrics.csv"))] == [0, 1]
    assert fit("--run_dir=here", "--resume=auto", "--model.temperature=2") == 2  # which nobody has meant
    (checkpoint,) = Path("here/checkpoints").glob("last.ckpt")
    for path in Path("here/checkpoints").iterdir():
        path.unlink()
    assert not checkpoint.exists()  # as if it was killed before the first one
    manifest = Path("here/manifest.json")
    manifest.write_text(manifest.read_text().replace('"status": "finished"', '"status": "running"'))
    assert fit("--run_dir=here", "--trainer.max_epochs=1") == 0
    assert [row["epoch"] for row in read_metrics(Path("here/metrics.csv"))] == [0]


def test_metrics_of_an_unfinished_epoch_follow_the_module_to_its_device() -> None:
    """Lightning restores a module before it goes to the device of the training; ``meta`` stands for a GPU."""
    module = AWAC(observation_dim=2, action_dim=1, actor_hidden_sizes=(8,), critic_hidden_sizes=(8,))
    logged: dict = {}
    module.log_epoch = logged.update  # type: ignore[method-assign]
    module.on_load_checkpoint({"random_state": [], "chunk_metrics": [[{"train/loss": torch.tensor(1.0)}]]})
    module.to("meta")
    module.chunk_metrics.append(TensorDict({"train/loss": torch.tensor(2.0, device="meta")}))
    module.log_chunks()
    assert logged["train/loss"].device.type == "meta"


def test_credentials_are_cut_out_by_hand() -> None:
    assert without_credentials("to http://robot:s3cret@host:5000/x, not a@b") == "to http://host:5000/x, not a@b"
    assert without_credentials('["--mlflow_uri=https://robot:s@host"]') == '["--mlflow_uri=https://host"]'
    assert without_credentials("postgresql://user@host/db") == "postgresql://host/db"
    assert without_credentials("postgresql://mlflow:aB/3+x@db/mlflow") == "postgresql://db/mlflow"
    assert (
        without_credentials("http://robot:it's@h:5000") == without_credentials("http://robot:p@ss@h:5000") == "http://h:5000"
    )
    for address in ("http://h:5000/x@y", "http://[::1]:5000/x@y", "sqlite:////home/a:b@c/x.db", "s3://bucket/x@y"):
        assert without_credentials(address) == address


def test_a_password_in_the_tracking_uri_is_written_nowhere(
    fit, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "http://robot:s3cr3tpass@127.0.0.1:9"  # nobody listens there
    monkeypatch.setattr("awac_pl.tracking.logger.PATIENCE_SECONDS", 0.5)
    assert fit("--run_dir=here", f"--mlflow_uri={uri}") == 0
    written = subprocess.run(["grep", "-rl", "s3cr3tpass", "here"], capture_output=True, text=True)
    assert written.stdout == ""
    assert "s3cr3tpass" not in "".join(capfd.readouterr())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # the stored address gets its credentials from here
    assert find_destination(tmp_path / "here", None).uri == uri
    assert Destination(uri).shown_uri == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("key", "free"),
    [
        *[
            (f"trainer.{name}", True)
            for name in ("max_epochs", "max_steps", "max_time", "min_epochs", "devices", "strategy")
        ],
        *[(f"trainer.{name}", True) for name in ("accelerator", "enable_progress_bar", "logger", "profiler", "callbacks")],
        *[(f"data.{name}", True) for name in ("workers", "executor", "device", "storage", "evaluation_episodes")],
        *[(key, True) for key in ("model.compile", "model.matmul_engine", "video.every", "checkpoint.save_top_k")],
        *[
            (key, True)
            for key in ("interaction.synchronous", "mlflow_uri", "mlflow_experiment", "group", "preset", "run_dir")
        ],
        *[(f"trainer.{name}", False) for name in ("precision", "check_val_every_n_epoch", "limit_train_batches")],
        *[(f"data.{name}", False) for name in ("task", "n_step", "batch_size", "offline_epochs", "capacity", "seed")],
        *[(key, False) for key in ("model.discount", "interaction.env_steps_per_epoch", "seed_everything", "algorithm")],
    ],
)
def test_settings_that_a_resumed_run_may_change(key: str, free: bool, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    before, after = ({section: {name: value}} if section else {name: value} for value in (1, 2))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(before))
    check_configuration(tmp_path, before, meant=False)
    if free:
        check_configuration(tmp_path, after, meant=False)
    else:
        with pytest.raises(AwacError, match=f"{key} 1 -> 2. .* name it there: --{key}=…$"):
            check_configuration(tmp_path, after, meant=False)


def test_a_setting_that_a_run_of_an_earlier_version_lacks_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {discount: 0.9}\n")
    check_configuration(tmp_path, {"model": {"discount": 0.9, "actor_average": 0.5}}, meant=False)
