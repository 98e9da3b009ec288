"""Checkpoints of this version and of older ones."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from awac_pl import AWAC
from awac_pl.algorithms.checkpoints import load_module, read_checkpoint
from awac_pl.callbacks.checkpointing import DurableCheckpointIO, monitor_what_is_known
from awac_pl.commands.main import main
from awac_pl.datasets.from_runs import record_replay
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.errors import AwacError, DatasetError
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


def test_rewards_of_several_steps_become_no_dataset(datasets_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those of a run that learned from ``success - 1``, where the environment's are asked for."""
    state, task = torch.load(OLD, weights_only=True), find_task(REACH, reward="environment")
    monkeypatch.setattr("awac_pl.datasets.from_runs.read_checkpoint", lambda path: state)
    with pytest.raises(DatasetError, match="its run learned from success - 1 and has not kept the environment's rewards"):
        record_replay(OLD, "toy/old-v0", task)
    state["hyper_parameters"]["return_range"] = None
    assert record_replay(OLD, "toy/old-v0", task)["episodes"] == 4
    state["ReplayDataModule"]["replay"][0]["online"]["discount"][3] **= 5
    with pytest.raises(DatasetError, match=r"rewards of several steps \(data.n_step\), and the environment's are not kept"):
        record_replay(OLD, "toy/other-v0", task)


def test_a_checkpoint_names_its_learner(tmp_path: Path) -> None:
    state = torch.load(OLD, weights_only=True)
    torch.save(state | {"algorithm": "AWAC"}, tmp_path / "new.ckpt")
    assert type(load_module(tmp_path / "new.ckpt")) is AWAC
    torch.save(state | {"algorithm": "Mine"}, tmp_path / "other.ckpt")
    with pytest.raises(AwacError, match=r"other\.ckpt: is of the algorithm 'Mine'; this version has AWAC, IQL, RLPD, BC"):
        load_module(tmp_path / "other.ckpt")


SCORES = {"episodes": 4.0, "episode_return": -1.0, "episode_length": 10.0}


def test_the_best_checkpoint_stays_the_best_one_when_a_run_is_resumed(
    tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([0.2, 1.0, 0.5, 0.5])
    monkeypatch.setattr("awac_pl.algorithms.evaluating.score_episodes", lambda _: SCORES | {"success_rate": next(rates)})
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


def test_a_run_folder_that_was_moved_keeps_its_best_checkpoint(wide_run: Path, tmp_path: Path) -> None:
    """Lightning forgets the best score when the folder has another name, and the next checkpoint would replace the best."""
    moved = tmp_path / "moved"
    shutil.copytree(wide_run, moved)
    before, after = (DurableCheckpointIO().load_checkpoint(run / "checkpoints/last.ckpt") for run in (wide_run, moved))
    names = [name for name, state in after["callbacks"].items() if "best_k_models" in state]
    assert len(names) == 2  # best.ckpt and last.ckpt
    for name in names:
        best = ModelCheckpoint(dirpath=moved / "checkpoints", monitor="eval/episode_return")
        best.load_state_dict(after["callbacks"][name])  # it would warn
        assert best.best_model_score == before["callbacks"][name]["best_model_score"]
        assert Path(best.best_model_path).parent == (moved / "checkpoints").resolve()
        assert all(Path(path).exists() for path in best.best_k_models)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(OLD, tmp_path / "locked.ckpt")
    monkeypatch.setattr("os.access", lambda *arguments: False)  # root may read everything
    with pytest.raises(AwacError, match=r"locked.ckpt: cannot be read \(Permission denied\)"):
        read_checkpoint(tmp_path / "locked.ckpt")


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


def test_without_links_the_checkpoint_before_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    for number in range(3):
        DurableCheckpointIO().save_checkpoint({"number": number}, tmp_path / "last.ckpt")
    kept = {path.name: torch.load(path)["number"] for path in tmp_path.iterdir()}
    assert kept == {"last.ckpt": 2, "last.previous.ckpt": 1}


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


class Trap:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("trapped",)


def changed(**entries: Any) -> Callable[[Path], object]:
    """Writes the old checkpoint with other entries; None removes one."""

    def write(path: Path) -> object:
        state = {**torch.load(OLD, weights_only=True), **{key.replace("__", "-"): value for key, value in entries.items()}}
        return torch.save({key: value for key, value in state.items() if value is not None}, path)

    return write


#: Files that are no whole checkpoint: how to write one, what reading says, and what resuming says if that is something else.
BROKEN: dict[str, tuple[Callable[[Path], object], str | None, str]] = {
    "cut": (lambda path: path.write_bytes(OLD.read_bytes()[:-100]), "is no checkpoint, or is cut off", ""),
    "empty": (lambda path: path.touch(), "is no checkpoint, or is cut off", ""),
    "text": (lambda path: path.write_text("weights"), "is no checkpoint, or is cut off", ""),
    "a folder": (lambda path: path.mkdir(), "is a folder, not a checkpoint", ""),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Trap())), "is no checkpoint, or is cut off", ""),
    "a hostile one": (lambda path: torch.save({"state_dict": Trap()}, path), "cannot be read as a checkpoint ", ""),
    "another zip": (lambda path: zipfile.ZipFile(path, "w").close(), "cannot be read as a checkpoint ", ""),
    "other weights": (lambda path: torch.save({"layer.weight": torch.zeros(3)}, path), "is no checkpoint of a fit", ""),
    "a list": (lambda path: torch.save([1, 2], path), "is no checkpoint of a fit", ""),
    "no version": (changed(**{"pytorch__lightning_version": None}), "has no pytorch-lightning_version; it is no whole ", ""),
    "no state": (changed(state_dict=None), "has no state_dict; it is no whole checkpoint of a fit", ""),
    "no arguments": (changed(hyper_parameters=[1]), "has no hyper_parameters; ", ""),
    "no data": (changed(ReplayDataModule=None), "has no ReplayDataModule; ", ""),
    "no buffer": (changed(ReplayDataModule={"digests": []}), "has no replay buffer; ", ""),
    "a strange buffer": (changed(ReplayDataModule={"replay": [{"online": {"reward": 1}}]}), "has no replay buffer; ", ""),
    "no optimizer": (changed(optimizer_states=None), None, "has no optimizer_states; it cannot be resumed"),
    "an empty optimizer": (changed(optimizer_states=[]), None, "has no optimizer_states; it cannot be resumed"),
    "no random state": (changed(random_state=None), None, "has no random_state; it cannot be resumed"),
    "no loops": (changed(loops=None), None, "has no loops; it cannot be resumed"),
    "no loops, no callbacks": (changed(loops=[], callbacks=None), None, "has no loops, callbacks; it cannot be resumed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_checkpoint(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, reading, resuming = BROKEN[kind]
    path = Path("broken.ckpt")
    write(path)
    for to_resume, message in ((False, reading), (True, resuming or reading)):
        if message is not None:
            with pytest.raises(AwacError) as refused:
                read_checkpoint(path, to_resume=to_resume)
            assert str(refused.value).startswith(f"broken.ckpt: {message}")
            assert "\n" not in str(refused.value)
    if reading is None:
        assert type(load_module(path)) is AWAC  # enough to act
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"critic_hidden_sizes": [40_000, 40_000]}, "critics.biases.0 is (2, 1, 16), by its arguments (2, 1, 40000)"),
        ({"critic_hidden_sizes": [10**6, 10**6]}, "model.critic_hidden_sizes [1000000, 1000000] needs "),
        ({"num_critics": 3}, "critics.biases.0 is (2, 1, 16), by its arguments (3, 1, 16)"),
        ({"temperature": -1}, "model.temperature is -1; it must be a number above 0"),
        ({"warmth": 1}, "Learner.__init__() got an unexpected keyword argument 'warmth'"),
    ],
)
def test_weights_that_do_not_fit_the_arguments(arguments: dict, message: str, tmp_path: Path, monkeypatch) -> None:
    """Compared before memory is taken: 40,000 by 40,000 weights of two critics are 12 GiB, and their targets as many."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=1 << 40))
    state = torch.load(OLD, weights_only=True)
    state["hyper_parameters"] |= arguments
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(AwacError) as refused:
        load_module(tmp_path / "other.ckpt")
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'other.ckpt'}: holds no module of this version (")


def one_line(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line.removeprefix("awac: error: ")


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_every_command_refuses_them_in_one_line(wide_run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(wide_run.parents[1] / "datasets"))
    run = tmp_path / "run"
    shutil.copytree(wide_run, run)
    last = run / "checkpoints/last.ckpt"
    state = torch.load(last, weights_only=True)
    last.write_bytes(last.read_bytes()[:-100])
    cut = f"{last}: is no checkpoint, or is cut off"
    assert one_line(capsys, "fit", "--resume", str(run)) == cut
    assert one_line(capsys, "test", "--ckpt_path", str(last)) == cut
    assert one_line(capsys, "video", "--ckpt_path", str(last)) == cut
    assert one_line(capsys, "export", "--ckpt_path", str(last), "--to", "exported") == cut
    assert one_line(capsys, "data", "record", str(last), "--task", "tests.toy:Wide-v0", "--to", "a/b-v0") == cut
    state["hyper_parameters"]["critic_hidden_sizes"] = [40_000, 40_000]
    torch.save(state, last)
    for command in ("validate", "test"):
        line = one_line(capsys, command, "--ckpt_path", str(last))
        assert line.startswith(f"{last}: holds no module of this version (")
    state["loops"]["fit_loop"] = {"strange": 1}
    torch.save(state, last)
    assert one_line(capsys, "fit", "--resume", str(run), "--trainer.max_epochs=3") == (
        f"{last}: has no loops; it cannot be resumed"
    )
    assert not Path("exported").exists()


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
