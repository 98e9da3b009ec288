"""A run goes on in its folder, with its own configuration; and no password is written anywhere."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from tensordict import TensorDict

from awac_pl.algorithms.awac import AWAC
from awac_pl.commands.main import main
from awac_pl.errors import without_credentials
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
