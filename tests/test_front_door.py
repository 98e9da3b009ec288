"""Mistakes of a first hour, each with the line that answers it; and commands that need less than they asked for."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from awac_pl.algorithms.checkpoints import data_of, read_checkpoint
from awac_pl.commands.main import main
from awac_pl.commands.presets import expand
from awac_pl.datasets import from_runs
from awac_pl.datasets.catalog import recorded_layout
from awac_pl.datasets.editing import store
from awac_pl.datasets.formats import choose_format
from awac_pl.datasets.inspection import inspect_dataset
from awac_pl.envs.faults import described, is_fault
from awac_pl.envs.tasks import find_task
from awac_pl.errors import AwacError
from awac_pl.tracking.destination import checked_uri
from tests.conftest import REACH, ROOT, WIDE
from tests.toy import reach_episodes


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that answers a mistake."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("awac: error: ")


def test_an_evaluation_needs_no_dataset_and_no_run_folder(
    wide_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # datasets are looked for in tmp_path, where there are none
    shutil.copy(wide_run / "checkpoints/last.ckpt", "alone.ckpt")
    assert main(["test", "--ckpt_path", str(wide_run / "checkpoints/last.ckpt")]) == 0
    in_run = capsys.readouterr().out
    elsewhere = ["--data.device=cuda:7", "--data.storage=memory"]  # of the training's machine
    assert main(["validate", "--ckpt_path=alone.ckpt", *elsewhere]) == 0
    assert capsys.readouterr().out == in_run
    assert [path.name for path in Path().iterdir()] == ["alone.ckpt"]
    assert main(["test", "--ckpt_path", "alone.ckpt", "--data.milestone_episodes=2"]) == 0
    assert "standard deviation 0.00" in in_run  # of one episode
    assert "standard deviation 0.00" not in capsys.readouterr().out
    assert main(["export", "--ckpt_path", "alone.ckpt", "--to", "exported"]) == 0
    assert json.loads(Path("exported/contract.json").read_text())["task"] == WIDE


def test_a_checkpoint_holds_the_section_data_of_its_run(wide_run: Path) -> None:
    data = data_of(read_checkpoint(wide_run / "checkpoints/last.ckpt"))
    assert data is not None
    assert (data["task"], data["datasets"], data["updates_per_epoch"]) == (WIDE, ["toy/wide-v0"], 100)
    assert not {"discount", "seed", "normalize_observations", "_instantiator"} & set(data)
    assert data_of({"state_dict": {}}) is None


def test_an_old_checkpoint_alone_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.ckpt").touch()
    monkeypatch.setattr("awac_pl.algorithms.checkpoints.read_checkpoint", lambda path: {})
    with pytest.raises(AwacError, match=r"old.ckpt: lies in no run folder, and does not name its task .*with --config"):
        expand(["test", "--ckpt_path", f"{tmp_path}/old.ckpt"])
    arguments = ["test", "--ckpt_path", f"{tmp_path}/old.ckpt", "--data.task=pen"]
    assert expand(arguments) == arguments


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--trainer.callbacks=EarlyStop", "trainer.callbacks: there is no class 'EarlyStop'. Did you mean 'EarlyStopping'?"),
        ("--trainer.logger=CSVLoger", "trainer.logger: there is no class 'CSVLoger'. Did you mean 'CSVLogger'?"),
        ("--trainer.plugins=NoPlug", "trainer.plugins: there is no class 'NoPlug'."),
        ("--trainer.callbacks+=no.Nope", "trainer.callbacks: there is no class 'no.Nope' (No module named 'no')."),
        ("--trainer.callbacks+=torch.nn.Linear", "trainer.callbacks: torch.nn.Linear is no Callback"),
        ("--optimizer=SGD", "unknown key 'optimizer': a learner has its own optimizer; set model.learning_rate"),
        ("--data.horizon=1000000000", "data.horizon is 1000000000; it must be a whole number in [1, 1000000] or null"),
    ],
)  # fmt: skip
def test_a_class_that_is_not_there(argument: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "fit", "--task=pen", "--preset=quick", argument) == line


def test_arguments_of_a_class_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    for arguments, line in (
        ("{class_path: NoLogger}", "there is no class 'NoLogger'. Did you mean 'Logger'?"),
        ("{class_path: CSVLogger, init_args: {save_dri: x}}", "Option 'save_dri' is not accepted"),
    ):
        file.write_text(f"trainer:\n  logger: {arguments}\n")
        assert refused(capsys, "fit", "--task=pen", "--preset=quick", f"--config={file}") == f"trainer.logger: {line}"


def test_own_tasks_and_presets_are_suggested_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("task", "preset"):
        Path("conf", kind).mkdir(parents=True)
        shutil.copy(ROOT / f"conf/{kind}/{'pen' if kind == 'task' else 'quick'}.yaml", f"conf/{kind}/gripper.yaml")
    with pytest.raises(AwacError, match=r"unknown task 'griper'.*Did you mean 'gripper'"):
        expand(["fit", "--task", "griper", "--preset", "quick"])
    with pytest.raises(AwacError, match=r"unknown task 'relocat'.*Did you mean 'relocate'"):
        expand(["fit", "--task", "relocat"])
    files = expand(["fit", "--task", "gripper", "--preset", "gripper"])  # without a base.yaml of one's own
    assert {"--config=conf/task/gripper.yaml", "--config=conf/preset/gripper.yaml"} < set(files)
    assert expand(["fit", "--task", "Push-v0"])[-1] == "--data.task=Push-v0"


def columns(episodes: int = 3) -> dict[str, np.ndarray]:
    chosen = reach_episodes(episodes)
    return {
        key: np.stack([getattr(one, key) for one in chosen]) for key in ("observations", "actions", "rewards", "success")
    }


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda o, a: (o, a[:, :, 0]), r"'actions' is \[3, 10\], 'observations' is \[3, 11, 2\]; expected \[N, T, A\] and"),
        (lambda o, a: (o[0], a[0, :, 0]), r"'actions' is \[10\], 'observations' is \[11, 2\]; expected"),
        (lambda o, a: (o[:, :, 0], a), r"'actions' is \[3, 10, 1\], 'observations' is \[3, 11\]; expected"),
        (lambda o, a: (o, a[..., None]), r"'actions' is \[3, 10, 1, 1\]"),
        (lambda o, a: (o, np.float32(3)), r"'actions' is \[\]"),
        (lambda o, a: (o.transpose(1, 0, 2), a.transpose(1, 0, 2)), r"'observations' is \[11, 3, 2\], 'act"),
    ],
)  # fmt: skip
def test_shapes_that_could_be_many_things(change, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = columns()
    observations, actions = change(stored["observations"], stored["actions"])
    np.savez(tmp_path / "mine.npz", observations=observations, actions=actions)
    answer = refused(capsys, "data", "import", f"{tmp_path}/mine.npz", "--task", REACH, "--to", "toy/mine-v0")
    with pytest.raises(AwacError, match=line):
        raise AwacError(answer)
    assert "mine.npz: " in answer


@pytest.mark.parametrize(
    ("beginning", "name", "form"),
    [
        (b"\x80\x04", "mine.npz", "dapg"),
        (b"\x80\x05", "mine", "dapg"),
        (b"\x93NUMPY", "mine.pkl", "rlkit"),
        (b"\x89HDF\r\n\x1a\n", "mine.dat", "d4rl"),
        (b"a,b\n1,2\n", "mine.npz", "npz"),  # its reader refuses it
    ],
)
def test_a_file_is_known_by_its_content(beginning: bytes, name: str, form: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(beginning)
    assert choose_format(tmp_path / name) == form


def test_arrays_in_a_zip_are_npz_and_others_are_not(tmp_path: Path, wide_run: Path) -> None:
    np.savez(tmp_path / "mine.npz", actions=np.zeros(3))
    (tmp_path / "mine.npz").rename(tmp_path / "mine.pkl")
    assert choose_format(tmp_path / "mine.pkl") == "npz"
    with pytest.raises(AwacError, match=r"last.ckpt: neither its content nor its suffix tells a format"):
        choose_format(wide_run / "checkpoints/last.ckpt")


def test_a_dataset_that_lacks_an_episode(
    reach_dataset: str, datasets_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(datasets_root / reach_dataset / "data/main_data.hdf5", "a") as file:
        del file["episode_7"]
    line = refused(capsys, "data", "relabel", reach_dataset, "--task", REACH, "--to", "toy/again-v0")
    assert "'toy/reach-v0' lacks 1 of the episodes that its metadata count" in line
    findings = inspect_dataset(reach_dataset, find_task(REACH))["findings"]
    assert "1 of the episodes that its metadata count are missing" in [finding["finding"] for finding in findings]


def test_a_file_in_the_place_of_the_datasets(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", f"{tmp_path}/file")
    assert refused(capsys, "data", "list").endswith("file is no folder; set MINARI_DATASETS_PATH to a folder for datasets")


def test_no_mlflow_is_no_folder() -> None:
    with pytest.raises(AwacError, match=r"MLflow is switched off"):
        checked_uri("none")


def test_a_folder_that_would_end_the_address_of_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a?b").mkdir()
    monkeypatch.chdir(tmp_path / "a?b")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(AwacError, match=r"cannot keep mlflow.db in .*a\?b, which has a '\?'"):
        checked_uri(None)


def test_an_interrupt_of_the_environment_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)  # as in a worker
    assert is_fault(KeyboardInterrupt())
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    assert not is_fault(KeyboardInterrupt())
    assert is_fault(SystemExit(1))
    assert not is_fault(GeneratorExit())


def test_a_bare_assertion_shows_its_statement() -> None:
    with pytest.raises(AssertionError) as caught:
        exec(compile("assert limit > 0", "robot.py", "exec"), {"limit": 0})
    caught.value.args = ()
    assert described(caught.value).startswith("AssertionError()")


def test_limits_that_begin_with_a_minus(capsys: pytest.CaptureFixture[str], wide_export: Path) -> None:
    assert main(["deploy", str(wide_export), "--env", WIDE, "--action_limits", "-0.5,0.5"]) == 0
    assert "episodes     1, " in capsys.readouterr().out


def test_recorded_episodes_keep_the_names_of_the_observations_of_their_run(
    reach_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reach
) -> None:
    named = [{"key": "eef", "size": 1}, {"key": "object", "size": 1}]
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("data: {}\n")
    manifest = {"format": 1, "datasets": [{"id": "a/b-v0"}, {"id": "a/c-v0", "observation_layout": named}]}
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    origin = from_runs._origin(tmp_path / "run/checkpoints/last.ckpt", replay=True)
    store("toy/recorded-v0", reach_episodes(2), *reach, origin, "recorded", overwrite=False)
    assert recorded_layout("toy/recorded-v0") == named
