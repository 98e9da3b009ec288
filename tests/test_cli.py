"""The command line: what a user types, what comes of it, and how mistakes are answered."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import torch
import yaml

from awac_pl.commands.fit import AwacCLI
from awac_pl.commands.main import main
from awac_pl.errors import WriteError
from awac_pl.parallel.interruption import Interrupted
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.metrics import read_metrics
from tests.conftest import REACH

ROOT = Path(__file__).parents[1]
SMALL = """\
preset: small
data:
  task: tests.toy:Reach-v0
  datasets: [toy/reach-v0]
  batch_size: 16
  chunk_size: 5
  updates_per_epoch: 10
  offline_epochs: 1
  evaluation_episodes: 2
  milestone_episodes: 4
  workers: 1
model:
  actor_hidden_sizes: [16, 16]
  critic_hidden_sizes: [16, 16]
interaction:
  env_steps_per_epoch: 20
trainer:
  max_epochs: 3
  check_val_every_n_epoch: 1
  accelerator: cpu
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reach_dataset: str) -> Path:
    """An empty working folder beside a small configuration on top of the real base."""
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


def fit(*arguments: str) -> int:
    return main(["fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", *arguments])


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that a mistake gets."""
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("awac: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_from_start_to_finish(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit("--model.temperature=0.3", "--seed_everything=3") == 0
    printed = capsys.readouterr().out
    assert "after pretraining" in printed
    assert "after fine-tuning" in printed
    assert "runs/tests-toy-Reach-v0-small-seed3" in printed
    folder = workplace / "runs/tests-toy-Reach-v0-small-seed3"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["model"]["temperature"], config["seed_everything"]) == (0.3, 3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["tags"].pop("commit")
    assert manifest["tags"] == {"task": REACH, "algorithm": "awac", "preset": "small", "seed": "3"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "last.previous.ckpt"}

    client = mlflow.MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("awac").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.temperature"] == "0.3"
    assert {run.data.tags[name] for name in ("task", "preset", "seed")} == {REACH, "small", "3"}
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {
        "checkpoints", "config.yaml", "manifest.json", "metrics.csv", "report.html", "figures",
    }  # fmt: skip
    rows = read_metrics(folder / "metrics.csv")
    assert len(run.data.tags["commit"]) >= 7
    logged = client.get_metric_history(run.info.run_id, "eval/success_rate")
    assert [point.value for point in logged] == [row["eval/success_rate"] for row in rows]
    assert [point.step for point in logged] == [0, 20, 40]  # env_steps


def test_resume_validate_and_test(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("--mlflow_uri=none", "--data.workers=0")
    assert fit(*options) == 0
    folder = workplace / "runs/tests-toy-Reach-v0-small-seed0"
    last = folder / "checkpoints/last.ckpt"
    assert fit(*options, "--trainer.max_epochs=1") == 0  # a fresh run gets a folder of its own
    other = workplace / "runs/tests-toy-Reach-v0-small-seed0-2"
    before = (other / "metrics.csv").read_text()
    seconds = [row["seconds"] for row in read_metrics(folder / "metrics.csv")]
    assert fit(*options, "--trainer.max_epochs=4", f"--ckpt_path={last}") == 0  # goes on where it lies
    rows = read_metrics(folder / "metrics.csv")
    assert [row["updates"] for row in rows] == [10, 20, 30, 40]
    assert [row["seconds"] for row in rows[:3]] == seconds  # kept, not made again
    assert rows[3]["seconds"] > seconds[-1]
    assert (other / "metrics.csv").read_text() == before
    assert fit(*options, "--trainer.max_epochs=4", f"--ckpt_path={last}") == 0  # it has ended already
    assert "pretrained" in json.loads((folder / "manifest.json").read_text())["scores"]
    capsys.readouterr()
    for command in ("validate", "test"):
        assert main([command, "--ckpt_path", str(folder / "checkpoints/last.ckpt")]) == 0
        assert capsys.readouterr().out.startswith("eval/success_rate")  # and no bar, where no terminal is


@pytest.mark.usefixtures("short_cloning")
def test_the_real_pen_task_on_a_small_budget(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    """MuJoCo, built-in demonstrations, a clone, both phases: everything that ``make demo`` does, only less of it."""
    files = [f"--config={ROOT / 'conf' / name}.yaml" for name in ("base", "task/pen", "preset/quick")]
    small = [
        "--data.num_demonstrations=3", "--data.clone_episodes=4", "--data.milestone_episodes=2",
        "--data.evaluation_episodes=2", "--data.updates_per_epoch=20", "--data.chunk_size=10", "--data.offline_epochs=1",
        "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=1", "--interaction.env_steps_per_epoch=200",
        "--run_dir=here", "--video.episodes=0",
    ]  # fmt: skip
    assert main(["fit", *files, *small]) == 0
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in ("after cloning", "after pretraining", "after fine-tuning"))
    rows = read_metrics(workplace / "here/metrics.csv")
    assert [row["updates"] for row in rows] == [20, 40, 60]
    assert rows[0]["env_steps"] == 0
    assert rows[2]["env_steps"] >= 400
    datasets = json.loads((workplace / "here/manifest.json").read_text())["datasets"]
    assert [(entry["id"], entry["episodes"]) for entry in datasets] == [
        ("awac/pen/expert-v0", 3),
        ("awac/pen/cloned-3-normalized-v0", 4),
    ]


def test_last_is_the_last_and_best_is_the_best(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Success falls from evaluation to evaluation: the best is the first, and the run still goes on from the last."""
    rates = itertools.chain([0.9, 0.5], itertools.repeat(0.1))
    monkeypatch.setattr(
        "awac_pl.algorithms.evaluating.score_episodes",
        lambda episodes: {"success_rate": next(rates), "episode_return": 0.0, "episodes": 1.0},
    )
    assert fit("--mlflow_uri=none", "--run_dir=here") == 0
    updates = {
        name: int(torch.load(workplace / f"here/checkpoints/{name}.ckpt", weights_only=True)["state_dict"]["updates"])
        for name in ("best", "last")
    }
    assert updates == {"best": 10, "last": 30}


def test_pretraining_goes_left_of_zero_on_mlflows_axis(workplace: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, workplace / "mlflow.db")
    assert fit("--data.offline_epochs=2", "--trainer.max_epochs=3") == 0
    client = mlflow.MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("awac").experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "updates")] == [-10, 0, 20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=conf/task/relocat.yaml"],
            "unknown task 'relocat': no file conf/task/relocat.yaml. Did you mean 'relocate'?",
        ),
        (["--config=conf/preset/quik.yaml"], "unknown preset 'quik': no file conf/preset/quik.yaml. Did you mean 'quick'?"),
        (["--data.task=penn"], "unknown task 'penn': neither a task nor a Gymnasium environment id. Did you mean 'pen'?"),
        (["--model.temprature=0.3"], "unknown key 'model.temprature'. Did you mean 'model.temperature'?"),
        (["--model.temperature=warm"], "model.temperature"),
        (["--ckpt_path=last", "--run_dir=runs/new"], "there is nothing to resume: no runs/new/checkpoints/last.ckpt"),
        (["--ckpt_path=gone.ckpt"], "no checkpoint gone.ckpt"),
    ],
)
def test_mistakes_get_one_line(capsys: pytest.CaptureFixture, monkeypatch, tmp_path: Path, arguments, message: str) -> None:
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "fit", "--config=conf/base.yaml", *arguments)


def test_a_pretraining_that_ends_between_two_evaluations_gets_a_line(
    workplace: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    base = ["fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--ckpt_path=last", "--run_dir=new"]
    refused(capsys, *base)
    assert "no multiple" not in caplog.text
    refused(capsys, *base, "--data.offline_epochs=3", "--trainer.check_val_every_n_epoch=2")
    assert "data.offline_epochs 3 is no multiple of trainer.check_val_every_n_epoch 2: no evaluation and no" in caplog.text


def test_a_configuration_without_the_base_gets_one_line(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    (workplace / "mine.yaml").write_text(f"data:\n  task: {REACH}\n  datasets: [toy/reach-v0]\n")
    line = refused(capsys, "fit", "--config=mine.yaml")
    assert f"checkpoint.monitor is not set, as in base.yaml: put --config {ROOT / 'conf/base.yaml'} before yours" in line
    assert not (workplace / "runs").exists()


def test_a_wrong_key_in_a_file_is_named(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    (workplace / "wrong.yaml").write_text("data:\n  batchsize: 7\n")
    line = refused(capsys, "fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=wrong.yaml")
    assert "unknown key 'data.batchsize'. Did you mean 'data.batch_size'?" in line


def test_a_run_folder_in_use_is_refused(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    folder = RunFolder(workplace / "mine")
    folder.take()
    line = refused(capsys, "fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--run_dir=mine")
    assert "run folder mine is in use by another run" in line
    folder.release()
    (workplace / "mine/checkpoints").mkdir(parents=True)
    (workplace / "mine/manifest.json").write_text("{}")
    (workplace / "mine/checkpoints/last.ckpt").touch()
    line = refused(capsys, "fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--run_dir=mine")
    assert "run folder mine holds a run; go on with --resume mine, or pass another --run_dir" in line


def test_what_is_refused_leaves_no_folder(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    base = ["fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--mlflow_uri=none"]
    refused(capsys, *base, "--run_dir=mine", "--data.datasets=[toy/nothing-v0]")
    assert not (workplace / "mine").exists()
    assert "no checkpoint gone/last.ckpt" in refused(capsys, "test", "--ckpt_path", "gone/last.ckpt")


def test_a_refused_run_lets_go_of_its_folder(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "fit", f"--config={ROOT / 'conf/base.yaml'}", "--data.task=penn", "--run_dir=mine")
    assert "unknown task" in line
    assert not RunFolder(workplace / "mine").busy


def test_a_run_without_a_progress_bar(workplace: Path) -> None:
    assert fit("--mlflow_uri=none", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false") == 0


def test_overrides_come_as_one_string_as_mlflow_passes_them(workplace: Path) -> None:
    assert fit("--mlflow_uri=none", "--overrides", "--trainer.max_epochs=1 --model.temperature=0.7", "--run_dir=here") == 0
    config = yaml.safe_load((workplace / "here/config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["model"]["temperature"]) == (1, 0.7)


def test_mlflow_run_makes_one_run(workplace: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, workplace / "mlflow.db")
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{workplace / 'mlflow.db'}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    (workplace / "project/conf/task").mkdir(parents=True)
    (workplace / "project/conf/preset").mkdir()
    (workplace / "project/conf/algorithm").mkdir()
    for name in ("MLproject", "python_env.yaml", "conf/base.yaml", "conf/algorithm/awac.yaml"):
        (workplace / "project" / name).write_text((ROOT / name).read_text())
    (workplace / "project/conf/task/toy.yaml").write_text(SMALL)
    (workplace / "project/conf/preset/none.yaml").write_text("preset: none\n")
    command = ["mlflow", "run", "project", "--env-manager=local", "-P", "task=toy", "-P", "preset=none", "-P",
               "overrides=--trainer.max_epochs=2 --model.temperature=0.7", "-P", "model.polyak=0.1",
               "-P", "model.learning_rate=1e-4", "-P", "interaction.synchronous=true"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert (runs[0].data.params["model.temperature"], runs[0].data.params["model.polyak"]) == ("0.7", "0.1")
    assert (runs[0].data.params["model.learning_rate"], runs[0].data.params["data.batch_size"]) == ("1e-4", "16")
    assert runs[0].data.metrics["env_steps"] == 20
    assert {"task", "preset", "seed", "commit"} <= set(runs[0].data.tags)
    assert runs[0].data.tags["preset"] == "none"
    artifacts = {artifact.path for artifact in client.list_artifacts(runs[0].info.run_id)}
    assert artifacts == {"checkpoints", "config.yaml", "manifest.json", "metrics.csv", "report.html", "figures"}


def test_ctrl_c_closes_everything_and_keeps_what_is_there(workplace: Path) -> None:
    command = [sys.executable, "-m", "awac_pl", "fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml",
               "--trainer.max_epochs=100000", "--run_dir=here", "--mlflow_uri=none"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore Ctrl-C
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (workplace / "here/checkpoints/last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode == 130
    assert json.loads((workplace / "here/manifest.json").read_text())["status"] == "interrupted"
    deadline = time.monotonic() + 5
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.1)
    assert not RunFolder(workplace / "here").busy


def test_help_is_quick_and_shows_examples() -> None:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "awac_pl", "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert time.monotonic() - start < 3
    assert "awac fit --config conf/base.yaml" in done.stdout


@pytest.mark.parametrize("words", ["completion bash", "data list", "fit --task pen --print_config"])
def test_a_reader_that_has_ended_costs_no_traceback(words: str) -> None:
    """As in ``awac data list | head -1``: nothing is said, and the status is that of SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "awac_pl", *words.split()]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", ["--help", "fit --task pen --print_config"])
def test_a_terminal_that_knows_ascii_alone(words: str) -> None:
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "awac_pl", *words.split()]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=os.environ | ascii_alone)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


def test_completion(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A shell completes commands, options, choices, tasks and files from the printed script."""
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "folder.npz").touch()
    for words, completed in {
        ("da",): "data",
        ("data", "sub"): "subsample",
        ("data", "inspect", f"{tmp_path}/fold"): f"{tmp_path}/folder.npz",
        ("data", "inspect", "x", "--task", "p"): "pen",
        ("fit", "--tas"): "--task",
        ("fit", "--preset", "q"): "quick",
        ("fit", "--model.temp"): "--model.temperature",
        ("fit", "--model.compile", "by"): "by_hand",
        ("fit", "--config", f"{tmp_path}/fold"): f"{tmp_path}/folder.npz",
        ("test", "--ckpt_path", f"{tmp_path}/fold"): f"{tmp_path}/folder.npz",
    }.items():
        line = f"COMP_WORDS=(awac {' '.join(words)}) COMP_CWORD={len(words)}; _shtab_awac; echo ${{COMPREPLY[@]}}"
        command = ["bash", "--norc", "-c", f". {tmp_path}/script; {line}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == completed


@pytest.mark.usefixtures("short_cloning")
def test_clone_and_datasets(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--from", "toy/reach-v0", "--to", "toy/cloned-v0", "--episodes", "5", "--workers", "0"]
    assert main(["data", "clone", REACH, *arguments]) == 0
    assert "success_stochastic" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert "toy/cloned-v0" in listed
    assert "awac/pen/expert-v0" in listed


@pytest.mark.parametrize("preset", [path.stem for path in (ROOT / "conf/preset").glob("*.yaml")])
@pytest.mark.parametrize("task", ["pen", "door", "relocate", "hammer"])
def test_every_task_and_preset_makes_a_configuration(task: str, preset: str, capsys: pytest.CaptureFixture) -> None:
    files = [ROOT / "conf/base.yaml", ROOT / f"conf/task/{task}.yaml", ROOT / f"conf/preset/{preset}.yaml"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *(f"--config={path}" for path in files), "--print_config"])
    assert ended.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["data"]["task"], config["preset"]) == (task, preset)


def test_the_base_configuration_is_complete() -> None:
    """Every argument of AWAC, the data and the interaction stands in base.yaml or algorithm/awac.yaml, with its default."""
    import inspect

    from awac_pl.algorithms.awac import AWAC
    from awac_pl.callbacks.interaction import EnvironmentInteraction
    from awac_pl.callbacks.video_recorder import VideoRecorder
    from awac_pl.replay.data_module import ReplayDataModule

    base = yaml.safe_load((ROOT / "conf/base.yaml").read_text())
    base["model"] |= yaml.safe_load((ROOT / "conf/algorithm/awac.yaml").read_text())["model"]
    linked = {"observation_dim", "action_dim", "return_range", "seed", "task", "datasets", "discount"}
    sections = {"model": AWAC, "data": ReplayDataModule, "interaction": EnvironmentInteraction, "video": VideoRecorder}
    for section, cls in sections.items():
        parameters = {
            name: parameter
            for one in cls.__mro__  # AWAC passes **shared on to Learner
            if one.__module__.startswith("awac_pl")
            for name, parameter in inspect.signature(one).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
        linked |= {"normalize_observations"} if section == "data" else set()  # the model's
        expected = {
            name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            for name, parameter in parameters.items()
            if name not in linked
        }
        assert {name: value for name, value in base[section].items() if name not in linked} == expected


@pytest.mark.parametrize(
    ("option", "updates", "reason"),
    [("max_steps=3", [10, 20], "max_steps 3 ends within an epoch"), ("max_time=00:00:00:00", [10], "max_time is over")],
)
def test_a_limit_ends_a_run_after_whole_epochs(
    option: str, updates: list[int], reason: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit("--mlflow_uri=none", "--data.workers=0", "--video.episodes=0", "--run_dir=here", f"--trainer.{option}") == 0
    assert [row["updates"] for row in read_metrics(workplace / "here/metrics.csv")] == updates
    assert f"trainer.{reason}" in caplog.text


@pytest.mark.parametrize("error", [Interrupted(signal.SIGTERM), WriteError("the disk is full")])
def test_whoever_is_stopped_is_told_how_to_go_on(
    error: BaseException, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = RunFolder(Path("my run"))

    def stop(cli: AwacCLI, *_, **__) -> None:
        folder.take()
        cli.run_folder = folder
        raise error

    monkeypatch.setattr("awac_pl.commands.fit.LightningCLI.__init__", stop)
    with pytest.raises(type(error)):
        AwacCLI(args=["fit"])
    assert capsys.readouterr().err == ""  # there is no checkpoint
    (workplace / "my run/checkpoints").mkdir(parents=True)
    (workplace / "my run/checkpoints/last.ckpt").touch()
    with pytest.raises(type(error)):
        AwacCLI(args=["fit"])
    assert capsys.readouterr().err == "awac: go on with: awac fit --resume 'my run'\n"
    assert not folder.busy
