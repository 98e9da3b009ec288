"""Checkpoints of this version and of older ones."""

from __future__ import annotations

import os
import resource
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from awac_pl import AWAC
from awac_pl.algorithms.checkpoints import load_module
from awac_pl.callbacks.checkpointing import DurableCheckpointIO, monitor_what_is_known
from awac_pl.commands.main import main
from awac_pl.datasets.from_runs import record_replay
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.errors import AwacError
from awac_pl.runs.metrics import read_metrics
from tests.conftest import REACH, ROOT, WIDE_CONFIG

OLD = Path(__file__).parent / "data/checkpoint-0.1.0.ckpt"


def test_a_checkpoint_of_version_0_1_acts_as_it_did_there() -> None:
    module = load_module(OLD)
    assert (type(module), int(module.updates), int(module.env_steps)) == (AWAC, 60, 40)
    policy, rng = module.policy(deterministic=True), np.random.default_rng(0)
    observations = np.array([[0.5, -0.5], [-1, 1], [0.2, 0.3]], np.float32)
    actions = [policy.act(observation, rng).item() for observation in observations]
    np.testing.assert_allclose(actions, [0.12600406, 0.10586806, 0.09062473], atol=1e-6)  # of commit b58df3d
    assert sum(weight.abs().sum() for weight in module.critics.weights[:1]).item() == pytest.approx(31.055658, rel=1e-6)


def test_its_replay_buffer_becomes_a_dataset(datasets_root: Path) -> None:
    assert record_replay(OLD, "toy/old-v0", find_task(REACH))["episodes"] == 4


def test_a_checkpoint_names_its_learner(tmp_path: Path) -> None:
    state = torch.load(OLD, weights_only=True)
    torch.save(state | {"algorithm": "AWAC"}, tmp_path / "new.ckpt")
    assert type(load_module(tmp_path / "new.ckpt")) is AWAC
    torch.save(state | {"algorithm": "Mine"}, tmp_path / "other.ckpt")
    with pytest.raises(AwacError, match=r"other\.ckpt: is of the algorithm 'Mine'; this version has AWAC"):
        load_module(tmp_path / "other.ckpt")


SCORES = {"episodes": 4.0, "episode_return": -1.0, "episode_length": 10.0}


def test_the_best_checkpoint_stays_the_best_one_when_a_run_is_resumed(
    tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([0.2, 1.0, 0.5, 0.5])
    monkeypatch.setattr("awac_pl.algorithms.base.score_episodes", lambda _: SCORES | {"success_rate": next(rates)})
    monkeypatch.setattr("awac_pl.callbacks.run_writer.write_report", lambda *args, **kwargs: None)
    config = WIDE_CONFIG.replace("tests.toy:Wide-v0", REACH).replace("toy/wide-v0", reach_dataset)
    (tmp_path / "small.yaml").write_text(config)
    arguments = ["fit", f"--config={ROOT / 'conf/base.yaml'}", f"--config={tmp_path / 'small.yaml'}", "--video.episodes=0"]
    arguments += ["--interaction.env_steps_per_epoch=10", f"--run_dir={tmp_path / 'run'}"]
    assert main([*arguments, "--trainer.max_epochs=3"]) == 0
    assert main([*arguments, "--trainer.max_epochs=4", "--ckpt_path=last"]) == 0
    assert next(rates, None) is None
    checkpoints = tmp_path / "run/checkpoints"
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["epoch"] == 3
    assert torch.load(checkpoints / "last.previous.ckpt", weights_only=True)["epoch"] == 2


def test_a_disk_that_is_full_leaves_the_checkpoint_that_was_there(tmp_path: Path) -> None:
    target, size = tmp_path / "last.ckpt", 1 << 20
    DurableCheckpointIO().save_checkpoint({"weights": torch.zeros(10)}, target)
    kept = target.read_bytes()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            DurableCheckpointIO().save_checkpoint({"weights": torch.zeros(size)}, target)
        except AwacError as error:
            expected = f"{target}: cannot be written (File too large); nothing was changed"
            os._exit(0 if str(error) == expected else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert target.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    data = bytearray(OLD.read_bytes())
    with zipfile.ZipFile(OLD) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    header = largest.header_offset
    names = sum(int.from_bytes(data[header + at : header + at + 2], "little") for at in (26, 28))  # its name, and padding
    data[header + 30 + names + largest.file_size // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(data)
    with pytest.raises(AwacError, match=r"flipped.ckpt: cannot be read as a checkpoint \(.* is damaged\)"):
        load_module(tmp_path / "flipped.ckpt")


def test_best_is_chosen_by_the_return_where_success_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    """Its rate would be NaN, and the first checkpoint the best one for ever."""
    for name, monitor, chosen in (
        ("Wide", "eval/success_rate", "eval/episode_return"),
        ("Wide", "eval/episode_length", "eval/episode_length"),
        ("Reach", "eval/success_rate", "eval/success_rate"),
    ):
        task, checkpoint = find_task(f"tests.toy:{name}-v0"), ModelCheckpoint(monitor=monitor, mode="max")
        monitor_what_is_known(checkpoint, task, inspect_spaces(task))
        assert checkpoint.monitor == chosen
    assert len(caplog.messages) == 1
    assert "reports no success: best.ckpt is the one of the highest eval/episode_return" in caplog.messages[0]


def test_a_run_without_success_keeps_its_best_checkpoint(wide_run: Path) -> None:
    rows = read_metrics(wide_run / "metrics.csv")
    best = max(rows, key=lambda row: row["eval/episode_return"])
    state = torch.load(wide_run / "checkpoints/best.ckpt", weights_only=True)
    assert state["epoch"] == best["epoch"]
    assert any("eval/episode_return" in key for key in state["callbacks"])
