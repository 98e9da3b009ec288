"""``awac sweep`` before Ray: what it plans, and what it refuses."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from awac_pl.commands import sweep
from awac_pl.commands.main import main, own_parser
from awac_pl.errors import AwacError, WriteError
from awac_pl.parallel import cluster, interruption
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.metrics import write_metrics
from awac_pl.sweeps import child, results, tuning
from awac_pl.sweeps.plan import Plan, parse_grid, parse_search, parse_seeds, read_plan
from awac_pl.sweeps.results import finish
from awac_pl.sweeps.storage import FolderKeeper, KeptStore, UriStore, pull, push, store_places
from awac_pl.sweeps.table import ProgressTable
from tests.conftest import ROOT
from tests.run_folders import make_rows, make_run
from tests.test_cli import refused, workplace  # noqa: F401

FILES = (f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml")


def plan_of(folder: Path, **changes) -> Plan:
    totals = {"updates": 30, "offline_updates": 10, "env_steps": 40}
    return Plan(
        **{"name": "pen-quick", "folder": str(folder), "arguments": ["--task", "pen"], "seeds": [0, 1], "totals": totals}
        | changes
    )


def test_every_combination_with_every_seed_one_seed_after_the_other(tmp_path: Path) -> None:
    grid = parse_grid(["model.temperature=1,3", "model.actor_hidden_sizes=[16,16],[32]"])
    assert grid == {"model.temperature": ["1", "3"], "model.actor_hidden_sizes": ["[16,16]", "[32]"]}
    plan = plan_of(tmp_path, grid=grid)
    runs = plan.grid_runs()
    assert len(runs) == plan.count == 8
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert len({run.name for run in runs}) == 8
    assert runs[5].settings == {"model.temperature": "1", "model.actor_hidden_sizes": "[32]"}
    command = plan.command(runs[5].settings, runs[5].seed)
    assert command[:2] + command[-2:] == ["awac", "fit", "--model.actor_hidden_sizes=[32]", "--seed_everything=1"]
    plan.save()
    assert read_plan(tmp_path) == plan


def test_names_stay_apart_where_values_look_alike(tmp_path: Path) -> None:
    names = [run.name for run in plan_of(tmp_path, grid={"data.task": ["a/b", "a b"]}, seeds=[0]).grid_runs()]
    assert names == ["pen-quick-taska-b-seed0", "pen-quick-taska-b-2-seed0"]


def test_a_comma_in_brackets_separates_nothing() -> None:
    assert parse_grid(["a=[[1,2],[3,4]],5", "b={c: [6,7], d: 8},(9,)"]) == {
        "a": ["[[1,2],[3,4]]", "5"], "b": ["{c: [6,7], d: 8}", "(9,)"]
    }  # fmt: skip


def test_a_short_value_stays_in_its_range(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, search={"a.b": ["uniform", "0.1", "0.99999"]}, trials=1)
    assert plan.trial(1, {"a.b": 0.123456789}).settings == {"a.b": "0.1235"}
    assert plan.trial(1, {"a.b": 0.99998}).settings == {"a.b": "0.99998"}


def test_seeds_are_listed_or_given_as_a_range() -> None:
    assert parse_seeds("3,0-2") == [3, 0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--seeds", "0,x"], "--seeds is x; it must be a whole number in [0, 999]"),
        (["--seeds", "0,1000"], "--seeds is 1000"),
        (["--seeds", "1,0-2"], "--seeds 1,0-2: a seed stands twice"),
        (["--seeds", "0,5-3"], "--seeds 5-3: the range runs backwards; write 3-5"),
        (["--grid", "preset=quick,plus"], "--grid preset=quick,plus: preset loads a file, before all settings; start"),
        (["--seed_everything=3"], "--seed_everything is the sweep's to give; use --seeds 0,1,2"),
        (["--grid", "model.temprature=1,3"], "unknown key 'model.temprature'. Did you mean 'model.temperature'?"),
        (["--grid", "model.temperature=1,hot"], "model.temperature is hot; it must be a number above 0"),
        (["--grid", "model.temperature=1,1"], "--grid model.temperature=1,1: a value stands twice"),
        (["--grid", "model.temperature"], "--grid model.temperature: write KEY=VALUES"),
        (["--grid", "group=a,b"], "--grid group=a,b: use nothing: the sweep is the group"),
        (["--search", "model.temperature=lognormal:1:2", "--trials", "3"], "unknown range 'lognormal'"),
        (["--search", "model.temperature=loguniform:0:2", "--trials", "3"], "LOW must be below HIGH, and above 0"),
        (["--search", "model.temperature=uniform:1:2"], "--search and --trials N belong together"),
        (["--search", "data.n_step=choice:1:2", "--trials", "2", "--seeds", "0,1"], "--search takes one seed"),
        (["--search", "model.temperature=uniform:-1:2", "--trials", "2"], "model.temperature is -1"),
        (["--grid", "data.n_step=1,2", "--search", "model.temperature=uniform:1:2", "--trials", "2"], "exclude each other"),
        (["--trials", "0"], "--trials"),
        (["--trainer.max_epochs=-1"], "trainer.max_epochs is without an end"),
        (["--trainer.max_epochs=0"], "trainer.max_epochs is 0; nothing would be trained"),
        (["--resume", "sweeps/none"], "--resume takes the sweep as it is; leave out --config="),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("workplace")
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture) -> None:
    assert line in refused(capsys, "sweep", "--dry_run", *FILES, *arguments)
    assert not Path("sweeps").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "machine", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused_before_the_settings_are_read(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("awac_pl.parallel.cluster.import_ray", lambda what: None)
    line = f"no cluster answers at --address {address}; ray start --head prints the address"
    assert line in refused(capsys, "sweep", "--address", address, "--config=not_there.yaml")
    with socket.create_server(("127.0.0.1", 0)) as nothing_of_ray:  # something listens, and Ray's own question fails
        monkeypatch.setattr(subprocess, "run", lambda *args, **more: subprocess.CompletedProcess(args, 1))
        address = f"127.0.0.1:{nothing_of_ray.getsockname()[1]}"
        assert f"no cluster answers at --address {address}" in refused(capsys, "sweep", "--address", address)


def test_a_folder_without_a_sweep_is_not_resumed(capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, "sweep", "--dry_run", "--resume", "sweeps/none")
    assert "there is no sweep to resume: sweeps/none has no sweep.json" in line
    for option in ("--seeds=1", "--grid=data.n_step=1,2", "--trials=3", "--storage=here"):
        line = refused(capsys, "sweep", "--dry_run", "--resume", "sweeps/none", option)
        assert f"--resume takes the sweep as it is; leave out {option.partition('=')[0]}" in line


def test_a_sweep_goes_on_without_its_gpus(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    plan_of(workplace, gpus=1, cpus=2).save()
    monkeypatch.setattr("awac_pl.commands.resolving.resolve", lambda arguments: ({"mlflow_uri": None}, ""))
    for option, gpus in (([], 1), (["--gpus_per_run", "0"], 0), (["--gpus_per_run", "0.5"], 0.5)):
        options, options.others = own_parser("sweep").parse_known_args(["--resume", str(workplace), *option])
        assert sweep._resumed(options)[0].gpus == gpus


def test_a_dry_run_lists_commands_that_are_awac_fits(workplace: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    grid = ["--grid", "model.temperature=1,3", "data.n_step=1,2"]
    assert main(["sweep", *FILES, "--seeds", "0,1", *grid, "--dry_run", "--data.workers", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("awac fit --config=")
    assert lines[0].endswith("--data.workers 0 --model.temperature=1 --data.n_step=1 --seed_everything=0")
    assert [path.name for path in workplace.iterdir() if path.name == "sweeps"] == []
    passed = ["--overrides", "--grid model.temperature=1,3 --data.workers=0"]  # as mlflow run does
    assert main(["sweep", *FILES, "--seeds", "0,1", "--dry_run", *passed]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("--config=small.yaml --data.workers=0 --model.temperature=3 --seed_everything=1")


def test_a_password_in_the_tracking_uri_is_written_nowhere(
    workplace: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = "http://robot:s3cr3tpass@127.0.0.1:9"
    monkeypatch.setattr("awac_pl.replay.data_module.ReplayDataModule.prepare_data", lambda self: None)
    options, options.others = own_parser("sweep").parse_known_args([*FILES, f"--mlflow_uri={uri}"])
    plan, text, config = sweep._planned(options)
    sweep._prepare(plan, text, config)
    assert (plan.place["mlflow_uri"], "s3cr3t" in text) == (uri, False)  # the runs are told, by their environment
    assert sorted(path.name for path in Path(plan.folder).iterdir()) == ["config.yaml", "sweep.json"]
    assert [path for path in Path(plan.folder).iterdir() if "s3cr3t" in path.read_text()] == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    again, again.others = own_parser("sweep").parse_known_args(["--resume", plan.folder])
    assert sweep._resumed(again)[0].metric == "eval/success_rate"
    again.metric = "eval/episode_return"
    resumed, *_ = sweep._resumed(again)
    assert resumed.metric == "eval/episode_return"
    assert resumed.place["mlflow_uri"] == resumed.place["environment"]["MLFLOW_TRACKING_URI"] == uri
    resumed.save()
    assert "s3cr3t" not in (Path(plan.folder) / "sweep.json").read_text()


def test_without_ray_one_line_says_how_to_get_it(workplace: Path) -> None:  # noqa: F811
    (workplace / "ray.py").write_text("raise ImportError('no ray')")
    command = [sys.executable, "-m", "awac_pl", "sweep", *FILES]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(workplace), str(ROOT)])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (2, "awac: error: awac sweep needs Ray: pip install 'awac_pl[ray]'\n")


def test_lines_instead_of_a_table_where_nobody_looks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = ProgressTable(plan_of(tmp_path))
    shown = [
        {"outcome": "starting"}, {"updates": 10.0, "steps": 0.0, "pace": 2.0, "eval/success_rate": 0.5},
        {"updates": 10.0, "steps": 0.0}, {"updates": 20.0, "steps": 20.0, "pace": 2.0}, {"outcome": "finished"},
    ]  # fmt: skip
    for result in shown:
        table.show("seed0", result)
    assert capsys.readouterr().err.splitlines() == [
        "seed0  starting",
        "seed0  offline  10 of 10 updates  0.50  00:40",
        "seed0  online  20 of 40 steps  0.50  00:20",
        "seed0  finished  20 of 40 steps  0.50",
    ]
    assert table.summary() == "2 runs: 1 finished, 1 waiting"


def test_the_table_is_drawn_in_place_of_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("awac_pl.sweeps.table.REFRESH", 0.0)
    table = ProgressTable(plan_of(tmp_path))
    table.live = True
    table.show("seed1", {"updates": 20.0, "steps": 20.0, "pace": 400.0, "eval/success_rate": 0.25})
    table.draw()
    table.show("seed0", {"outcome": "finished", "updates": 30.0, "steps": 40.0})
    table.draw()
    first, second = capsys.readouterr().err.split("\x1b[3F\x1b[J")
    assert first.splitlines()[0].split() == ["run", "phase", "done", "success", "time", "left"]
    assert first.splitlines()[1].split() == ["seed1", "online", "20", "of", "40", "steps", "0.25", "1:06:40"]
    assert second.splitlines()[-1] == "2 runs: 1 running, 1 finished"


def run_folder(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_bytes(b"c" * 70)
    (folder / "metrics.csv").write_text("epoch\n0\n")
    (folder / ".lock").touch()
    return folder


class Here:
    """An actor's handle without Ray."""

    def __init__(self, keeper: FolderKeeper) -> None:
        for name in ("files", "write", "read"):
            setattr(self, name, types.SimpleNamespace(remote=getattr(keeper, name)))


@pytest.mark.parametrize("kind", ["kept", "uri"])
def test_run_folders_travel_to_a_store_and_back(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awac_pl.sweeps.storage.PART", 32)  # a checkpoint in three parts
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda value: value))
    store = (
        UriStore((tmp_path / "store").as_uri()) if kind == "uri" else KeptStore(Here(FolderKeeper(str(tmp_path / "store"))))
    )
    folder, sent, order = run_folder(tmp_path / "here/run"), {}, []
    real = store.send
    monkeypatch.setattr(store, "send", lambda name, file, path: (order.append(file), real(name, file, path)))
    push(store, "run", folder, sent)
    assert order == ["metrics.csv", "checkpoints/last.ckpt"]  # metrics are never older than the checkpoint
    push(store, "run", folder, sent)
    assert len(order) == 2  # nothing has changed
    (folder / "metrics.csv").write_text("epoch\n0\n1\n")
    push(store, "run", folder, sent)
    assert order[2:] == ["metrics.csv"]
    pull(store, "run", tmp_path / "there/run")
    files = {
        str(path.relative_to(tmp_path / "there/run")): path.read_bytes()
        for path in (tmp_path / "there/run").rglob("*")
        if path.is_file()
    }
    assert files == {"metrics.csv": b"epoch\n0\n1\n", "checkpoints/last.ckpt": b"c" * 70}
    pull(store, "other", tmp_path / "there/other")
    assert not (tmp_path / "there/other").exists()


def test_a_store_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in ((tmp_path / "file").as_uri(), "nothing://here"):
        with pytest.raises(AwacError, match=r"^--storage \S+ cannot be written to: .+$"):
            UriStore(uri)


def test_search_ranges() -> None:
    assert parse_search(["--data.n_step=int:5:10"]) == {"data.n_step": ["int", "5", "10"]}


def test_a_sweep_without_online_steps_is_ranked_by_its_last_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plan = plan_of(tmp_path, totals={"updates": 3000, "offline_updates": 3000, "env_steps": 0})
    for run in plan.grid_runs():
        make_run(tmp_path / run.name, make_rows([0.4, 0.5, 0.6 + 0.1 * run.seed], pretraining=3), seed=run.seed)
        plan.runs[run.name] = {"settings": {}, "outcome": "finished", "error": ""}
    finish(plan)
    printed = capsys.readouterr().out
    assert "| as given | 2 | 0.7 | 0.65 | - | - |" in printed
    assert f"page: {tmp_path / 'report.html'}" in printed


def test_a_sweep_of_unknown_success_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plan = plan_of(tmp_path, seeds=[0])
    (run,) = plan.grid_runs()
    make_run(tmp_path / run.name, make_rows([math.nan, math.nan]), cloning=None)
    plan.runs[run.name] = {"settings": {}, "outcome": "finished", "error": ""}
    finish(plan)
    assert "nothing is ranked: no run has an evaluation with eval/success_rate; --metric" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()


# Plans


@pytest.mark.parametrize(
    ("parse", "parts", "line"),
    [
        (parse_grid, ["model.temperature=1,"], "--grid model.temperature=1,: a value is empty"),
        (parse_grid, ["data.n_step=1,2", "data.n_step=3"], "--grid: data.n_step stands twice"),
        (parse_search, ["data.n_step=choice:5"], "choice:5: a choice has at least two values"),
        (parse_search, ["model.temperature=uniform:2:2"], "uniform:2:2: LOW must be below HIGH"),
        (parse_search, ["model.temperature=uniform:1:inf"], "uniform:1:inf: LOW must be below HIGH"),
        (parse_search, ["data.n_step=int:1.5:3"], "int:1.5:3: write int:LOW:HIGH with two numbers"),
        (parse_search, ["data.n_step=int:1"], "int:1: write int:LOW:HIGH with two numbers"),
    ],
)
def test_values_that_leave_nothing_to_try(parse: Callable, parts: list[str], line: str) -> None:
    with pytest.raises(AwacError) as error:
        parse(parts)
    assert line in str(error.value)


def test_a_search_by_hand(tmp_path: Path) -> None:
    search = {"model.temperature": ["loguniform", "0.3", "10"], "data.n_step": ["choice", "5", "10"]}
    plan = plan_of(tmp_path, seeds=[3], search=search, trials=12)
    assert plan.count == 12
    assert list(plan.candidates()) == [
        ("model.temperature", "0.3"), ("model.temperature", "10"), ("data.n_step", "5"), ("data.n_step", "10"),
    ]  # fmt: skip
    run = plan.trial(7, {"model.temperature": 1.23456, "data.n_step": "5"})
    assert run.name == "pen-quick-trial007-seed3"
    assert run.arguments == ["--model.temperature=1.235", "--data.n_step=5", "--seed_everything=3"]


def test_a_plan_is_that_of_its_folder_wherever_that_lies(tmp_path: Path) -> None:
    plan_of(tmp_path / "here").save()
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_plan(tmp_path / "there").folder == str(tmp_path / "there")
    (tmp_path / "there/sweep.json").write_text('{"name": "pen-quick", "colour": "red"}')
    with pytest.raises(AwacError, match=r"sweep.json was written by another version of awac_pl, or is damaged: .*'colour'"):
        read_plan(tmp_path / "there")


# Results


def ended(plan: Plan, name: str, rates: list[float], outcome: str = "finished", **settings: str) -> None:
    """A run of a plan, pretrained in its first epoch, online in the others; without a folder if it failed."""
    if outcome != "failed":
        status = "finished" if outcome == "finished" else "interrupted"
        make_run(Path(plan.folder) / name, make_rows(rates), status=status)
    plan.runs[name] = {"settings": {f"model.{key}": value for key, value in settings.items()}, "outcome": outcome}


def test_settings_are_ranked_by_their_last_three_online_evaluations(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(results, "write_report", lambda *args: None)
    plan = plan_of(tmp_path, seeds=[0, 1, 2])
    for seed in range(3):
        ended(plan, f"a{seed}", [0.9, 0.1, 0.4, 0.5, 0.6], temperature="1")
        ended(plan, f"b{seed}", [0.9, 0.1, 0.4, 0.7, 0.7], temperature="3")
        ended(plan, f"c{seed}", [0.9], temperature="9")  # pretrained, and gone on with
        plan.runs[f"c{seed}"]["outcome"] = ""
        manifest = tmp_path / f"c{seed}/manifest.json"
        manifest.write_text(manifest.read_text().replace("finished", "running"))
    finish(plan)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("| model")] == [
        "| model.temperature=3 | 3 | 0.9 | 0.6 | 0.6 to 0.6 | - |",
        "| model.temperature=1 | 3 | 0.9 | 0.5 | 0.5 to 0.5 | - |",
    ]
    assert printed[-1] == "again: awac sweep --task pen --model.temperature=3 --seeds 0,1,2"


def test_trials_that_were_stopped_early_come_last_and_have_saved_updates(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(results, "write_report", lambda *args: None)
    search = {"model.temperature": ["uniform", "1", "4"]}
    plan = plan_of(tmp_path, seeds=[0], search=search, trials=3, totals={"updates": 5000})
    ended(plan, "trial001", [0.1, 0.9], "stopped early", temperature="1")
    ended(plan, "trial002", [0.1, 0.2, 0.3, 0.4, 0.5], temperature="2")
    ended(plan, "trial003", [], "failed", temperature="3")
    finish(plan)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("| model")] == [
        "| model.temperature=2 | 1 | 0.5 | 0.4 | - | - |",
        "| model.temperature=1 | 1 | 0.9 | 0.9 | - | 10,000 steps |",
    ]
    assert "bad trials were stopped early: 7,000 updates made, 3,000 saved (30%)" in printed
    assert printed[-1] == "again: awac sweep --task pen --model.temperature=2 --seeds 1,2,3"  # it was chosen on 0
    plan.seeds, plan.metric = [998], "eval/episode_return"
    finish(plan)
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --seeds 999,0,1 --metric eval/episode_return")


def test_one_run_is_trained_again_by_awac_fit(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(results, "write_report", lambda *args: None)
    plan = plan_of(tmp_path, seeds=[4])
    ended(plan, "pen-quick-seed4", [0.1, 0.2])
    finish(plan)
    assert capsys.readouterr().out.splitlines()[-1] == "again: awac fit --task pen --seed_everything=4"


@pytest.mark.parametrize("error", [AwacError, WriteError])
def test_a_page_without_runs_is_left_out_and_one_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch, error) -> None:
    def refuse(*args: object) -> None:
        raise error("no page")

    monkeypatch.setattr(results, "write_report", refuse)
    if error is AwacError:
        finish(plan_of(tmp_path))
        return
    with pytest.raises(WriteError, match="no page"):
        finish(plan_of(tmp_path))


# Places


def test_what_is_half_written_or_of_this_machine_is_no_file_of_a_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")  # with a lock
    (folder / "checkpoints/.last.ckpt.part").touch()
    assert sorted(FolderKeeper(str(tmp_path)).files("run")) == ["checkpoints/last.ckpt", "metrics.csv"]
    (folder / "metrics.csv.part").touch()
    assert "metrics.csv.part" not in UriStore(tmp_path.as_uri()).files("run")


def test_what_another_machine_is_told_of_this_one() -> None:
    told = {"MINARI_DATASETS_PATH": "/data", "MLFLOW_EXPERIMENT_NAME": "robots", "MUJOCO_GL": "egl", "PYTHONPATH": "/mine"}
    assert store_places({**told, "HOME": "/root", "MLFLOW_RUN_ID": "0ab"}) == told


def machines(*resources: dict[str, float]) -> Any:
    """Ray's answer: nodes that live, and one that has died."""
    nodes = [{"Alive": True, "Resources": each} for each in resources]
    return types.SimpleNamespace(nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])


@pytest.mark.parametrize(
    ("cpus", "gpus", "line"),
    [
        (4, 0, None),
        (2, 0.5, None),
        (8, 0, "--cpus_per_run 8: a run fits on no machine; the largest has 4 CPUs"),
        (1, 2, "--gpus_per_run 2: a run fits on no machine; the largest has 1 GPUs"),
        (4, 1, "no machine has both 4 CPUs and 1 GPUs for a run"),
    ],
)
def test_a_run_that_no_machine_can_take_is_refused(cpus: float, gpus: float, line: str | None) -> None:
    ray = machines({"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0})
    if line is None:
        cluster.check_resources(ray, cpus, gpus)
        return
    with pytest.raises(AwacError) as error:
        cluster.check_resources(ray, cpus, gpus)
    assert str(error.value) == line


class Connecting:
    """Ray before and after ``ray.init``, which puts its own handlers in place of ours."""

    def __init__(self, failures: int = 0, initialized: bool = False) -> None:
        self.failures, self.initialized, self.calls = failures, initialized, []

    def init(self, **options: Any) -> None:
        self.calls.append({name: options[name] for name in ("address", "include_dashboard") if name in options})
        if self.failures:
            self.failures -= 1
            raise TimeoutError("too slow\nmore")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def is_initialized(self) -> bool:
        return self.initialized

    def shutdown(self) -> None:
        self.calls.append("shutdown")


ALONE = {"address": "local", "include_dashboard": False}


@pytest.mark.parametrize(
    ("address", "kind", "calls"),
    [
        (None, {}, [ALONE, "shutdown"]),
        (None, {"failures": 1}, [ALONE, "shutdown", ALONE, "shutdown"]),  # a busy machine
        ("", {}, [{}, "shutdown"]),
        ("auto", {}, [{"address": "auto"}, "shutdown"]),
        ("a:6379", {"initialized": True}, []),
    ],
)
def test_ray_is_connected_for_a_block(monkeypatch, address: str | None, kind: dict, calls: list) -> None:
    ray = Connecting(**kind)
    monkeypatch.setattr(cluster, "import_ray", lambda what: ray)
    with interruption.handled():
        ours = signal.getsignal(signal.SIGTERM)
        with cluster.connected(address, "the test") as found:
            assert found is ray
            assert signal.getsignal(signal.SIGTERM) is ours
    assert ray.calls == calls


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (None, "Ray cannot be started on this machine: too slow"),
        ("auto", "no cluster at address auto: too slow (start one with ray start --head, or leave --address out)"),
        ("a:6379", "no cluster at address a:6379: too slow (is it a Ray cluster?)"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(monkeypatch, address: str | None, line: str) -> None:
    ray = Connecting(failures=2)
    monkeypatch.setattr(cluster, "import_ray", lambda what: ray)
    with pytest.raises(AwacError) as error, cluster.connected(address, "the test"):
        pass
    assert str(error.value) == line
    assert [call for call in ray.calls if call != "shutdown"] == ([ALONE] * 2 if address is None else [{"address": address}])


# The table


@pytest.mark.parametrize(("line", "shown"), [(0.0, 3), (60.0, 1)])
def test_a_run_has_a_line_for_its_steps_once_a_minute(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture, line: float, shown: int
) -> None:
    monkeypatch.setattr("awac_pl.sweeps.table.LINE", line)
    table = ProgressTable(plan_of(tmp_path))
    for steps in (10.0, 20.0, 20.0, 30.0):  # without news the third time
        table.show("seed0", {"updates": 10.0 + steps, "steps": steps})
    table.draw()
    assert len(capsys.readouterr().err.splitlines()) == shown


def test_the_table_fits_the_terminal_and_begins_with_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("awac_pl.sweeps.table.shutil.get_terminal_size", lambda: (40, 8))
    table = ProgressTable(plan_of(tmp_path, seeds=list(range(9)), metric="eval/episode_return"))
    table.live = True
    for seed, outcome in enumerate(["finished", "failed", "stopped early", "starting", "starting", "finished"]):
        table.show(f"seed{seed}", {"outcome": outcome})
    table.show("seed3", {"updates": 10.0, "steps": 0.0})
    table.show("seed4", {"updates": 20.0, "steps": 20.0})
    table.draw()
    table.draw()  # it is not time yet
    head, *rows, summary = capsys.readouterr().err.splitlines()
    assert head.split() == ["run", "phase", "done", "retu"]  # of return, in 39 columns
    assert [row.split()[0] for row in rows] == ["seed4", "seed3", "seed1", "seed0"]  # 8 lines, less these and the prompt
    assert summary == "9 runs: 2 running, 2 finished, 1 stopped early, 1 failed, 3 waiting"


# Trials


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """``sweeps/trial.py`` on a stand-in of Ray."""
    tune = types.ModuleType("ray.tune")
    for name in ("Trainable", "Callback", "Stopper"):
        setattr(tune, name, object)
    for name in ("uniform", "loguniform", "randint", "choice", "grid_search"):
        setattr(tune, name, lambda *values, name=name: (name, *values))
    ray = types.ModuleType("ray")
    ray.tune = tune  # type: ignore[attr-defined]
    ray.get_runtime_context = lambda: types.SimpleNamespace(get_node_id=lambda: "node")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    spec = importlib.util.spec_from_file_location("awac_pl.sweeps.trial", ROOT / "awac_pl/sweeps/trial.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "awac_pl.sweeps.trial", module)
    return module


class Process:
    """A run's. It ends with ``returncode``, and only by ``kill`` if it is ``stuck``."""

    def __init__(self, returncode: int | None = None, stuck: bool = False) -> None:
        self.returncode, self.stuck, self.calls = returncode, stuck, []

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self.calls.append("terminate")

    def wait(self, patience: float | None = None) -> None:
        if self.stuck and patience is not None:
            raise subprocess.TimeoutExpired("awac", patience)

    def kill(self) -> None:
        self.calls.append("kill")


def begin(trial: types.ModuleType, plan: Plan, *, store: Any = None, heartbeat: float = 60.0) -> tuple[Any, list]:
    """A trial of the first run of a plan, and the commands that it has started."""
    started: list[list[str]] = []
    one = trial.RunTrial()
    one.trial_name = "pen-quick-seed0"
    one._start = lambda command: started.append(command) or Process()
    one.setup({"run": 0}, plan, "the configuration", store, heartbeat)
    return one, started


def test_a_trial_starts_its_run_or_goes_on_with_it_or_only_reads_it(trial, tmp_path: Path) -> None:
    folder, plan = tmp_path / "pen-quick-seed0", plan_of(tmp_path, place={"mlflow_uri": ""})
    new = ["fit", f"--config={tmp_path}/config.yaml", "--seed_everything=0", f"--run_dir={folder}", "--group=pen-quick"]
    assert begin(trial, plan)[1] == [new]
    assert (tmp_path / "config.yaml").read_text() == "the configuration"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").touch()
    assert begin(trial, plan)[1] == [new]  # it was killed before it had written its configuration
    make_run(folder, make_rows([0.1, 0.5]), status="interrupted")
    assert begin(trial, plan)[1] == [["fit", f"--resume={folder}"]]
    for status, known, outcome in (("interrupted", "stopped early", "stopped early"), ("finished", "", "finished")):
        plan.runs["pen-quick-seed0"] = {"outcome": known}
        make_run(folder, make_rows([0.1, 0.5]), status=status)
        one, started = begin(trial, plan)
        *rows, end = one.step(), one.step(), one.step()
        assert [(row["updates"], row["env_steps"], row["eval/success_rate"]) for row in rows] == [
            (1000, 0, 0.1), (2000, 10_000, 0.5),
        ]  # fmt: skip
        assert (started, end["done"], end["outcome"], end["error"]) == ([], True, outcome, "")


def test_a_trial_tells_each_row_once_and_is_judged_where_it_was_evaluated(trial, tmp_path: Path) -> None:
    one, _ = begin(trial, plan_of(tmp_path, place={"mlflow_uri": ""}), heartbeat=0.0)
    one.folder.mkdir()
    rows = [
        {"epoch": 0, "updates": 10, "env_steps": 20, "seconds": 5.0, "eval/success_rate": 0.5, "eval/episodes": 2},
        {"epoch": 1, "updates": 20, "env_steps": 40, "seconds": 15.0},
    ]
    write_metrics(one.folder / "metrics.csv", rows)
    names = ("updates", "steps", "env_steps", "pace", "eval/success_rate")

    def told() -> tuple:
        row = one.step()
        return tuple(row[name] for name in names)

    assert [told(), told()] == [(10, 20, 20, 0.5, 0.5), (20, 40, 20, 1.0, 0.5)]
    assert told() == (20, 40, 20, 1.0, 0.5)  # a sign of life
    rows[1] |= {"eval/success_rate": 0.75, "eval/episodes": 4}  # of the end
    write_metrics(one.folder / "metrics.csv", rows)
    assert told() == (20, 40, 40, 1.0, 0.75)
    one.process.returncode = 0
    make_run(one.folder, rows)
    end = one.step()
    assert (end["done"], end["outcome"], end["node"], end["updates"]) == (True, "finished", "node", 20)


@pytest.mark.parametrize(
    ("status", "log", "error"),
    [
        (2, "epoch 1\nawac: error: the disk is full\nlast words\n", "the disk is full"),
        (1, "Traceback\nValueError: x\n\n", "ValueError: x"),
        (-9, None, "exit status -9"),
        (0, "stopped by SIGTERM\n", "stopped by SIGTERM"),  # by somebody else
    ],
)
def test_a_run_that_failed_says_why(trial, tmp_path: Path, status: int, log: str | None, error: str) -> None:
    one, _ = begin(trial, plan_of(tmp_path, place={"mlflow_uri": ""}))
    make_run(one.folder, [], status="interrupted")
    one.process.returncode = status
    if log is not None:
        one.log.write_text(log)
    end = one.step()
    assert (end["outcome"], end["error"]) == ("failed", error)


def test_a_run_that_failed_says_nothing_of_an_earlier_attempt(trial, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, place={"mlflow_uri": ""})
    (tmp_path / "pen-quick-seed0.log").write_text("awac: error: of yesterday\n")
    one, _ = begin(trial, plan)
    one.process.returncode = 9
    assert one.step()["error"] == "exit status 9"


@pytest.mark.parametrize("stuck", [False, True])
def test_a_trial_that_ends_ends_its_run(trial, tmp_path: Path, stuck: bool) -> None:
    one, _ = begin(trial, plan_of(tmp_path, place={"mlflow_uri": ""}))
    one.process.stuck = stuck
    one.cleanup()
    assert one.process.calls == ["terminate", "kill"]
    one.process = Process(returncode=0)
    one.cleanup()
    assert one.process.calls == []


@pytest.mark.parametrize(
    ("uri", "last"),
    [("", "--mlflow_uri=none"), ("sqlite:////a/b.db", "--mlflow_uri=none"), ("http://a:5000", "--group=pen-quick")],
)
def test_a_machine_that_does_not_see_the_sweeps_folder_sends_it_what_is_new(
    trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, last: str
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(trial.tempfile, "gettempdir", lambda: str(tmp_path / "there"))
    monkeypatch.setattr(sys.modules["ray"], "get", lambda value: value, raising=False)
    here, plan = tmp_path / "here/pen-quick-seed0", plan_of(tmp_path / "here", key="k", place={"mlflow_uri": uri})
    make_run(here, make_rows([0.1]))  # what another machine has sent
    (here / "manifest.json").unlink()
    one, started = begin(trial, plan, store=KeptStore(Here(FolderKeeper(str(tmp_path / "here")))))
    assert one.folder == tmp_path / "there/awac-sweep-k/pen-quick-seed0"
    assert (started[0][-1], one.step()["updates"]) == (last, 1000)
    write_metrics(one.folder / "metrics.csv", make_rows([0.1, 0.5]))
    assert one.step()["updates"] == 2000
    assert (here / "metrics.csv").read_bytes() == (one.folder / "metrics.csv").read_bytes()
    (one.folder / "checkpoints").mkdir()
    (one.folder / "checkpoints/last.ckpt").write_bytes(b"the last one")
    one.cleanup()
    assert (here / "checkpoints/last.ckpt").read_bytes() == b"the last one"
    assert not one.folder.exists()


def test_a_trial_waits_for_the_run_that_is_still_saving(trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, waited = RunFolder(tmp_path / "pen-quick-seed0"), []
    before.take()
    monkeypatch.setattr(trial.time, "sleep", lambda seconds: (waited.append(seconds), before.release()))
    monkeypatch.setattr(trial, "sees", lambda plan: False)
    monkeypatch.setattr(trial, "_scratch", lambda plan: tmp_path)
    monkeypatch.setattr(trial, "pull", lambda *arguments: waited.append("pulled"))
    _, started = begin(trial, plan_of(tmp_path, place={"mlflow_uri": ""}), store=object())
    assert (waited, len(started)) == ([trial.LOOK, "pulled"], 1)  # what it writes last would follow older rows


def test_a_run_whose_trial_is_gone_ends_as_on_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, told = iter([7, 7, 1]), []
    monkeypatch.setattr(child.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(child.os, "kill", lambda *signalled: told.append(signalled))
    monkeypatch.setattr(child.time, "sleep", lambda seconds: None)
    child._follow(7)
    assert (told, list(parents)) == ([(os.getpid(), signal.SIGTERM)], [])


def test_a_machine_sees_the_sweeps_folder_if_it_holds_the_same_plan(trial, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, key="k")
    assert not trial.sees(plan)
    plan.save()
    assert trial.sees(plan)
    assert not trial.sees(plan_of(tmp_path, key="another"))
    assert not trial.sees(plan_of(tmp_path, key="k", storage="s3://bucket/sweep"))


def test_a_run_has_the_place_of_the_sweep(trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict] = []
    monkeypatch.setattr(trial.subprocess, "Popen", lambda command, **more: started.append(more))
    monkeypatch.setenv("MLFLOW_RUN_ID", "0ab")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", "/here")
    environment = {"MINARI_DATASETS_PATH": "/elsewhere", "MUJOCO_GL": "egl"}
    place = {"environment": environment, "paths": ["/theirs", "/here"], "threads": "2", "mlflow_uri": ""}
    for cwd in (tmp_path, tmp_path / "not_here"):
        one = trial.RunTrial()
        one.folder, one.log = tmp_path / "runs/a", tmp_path / "log"
        one.plan = plan_of(tmp_path, place=place | {"cwd": str(cwd)})
        one._start(["fit"])
    assert [Path(more["cwd"]) for more in started] == [tmp_path, tmp_path / "runs"]
    told = started[0]["env"]
    assert (told["OMP_NUM_THREADS"], told["PYTHONPATH"], told["MUJOCO_GL"]) == ("2", "/theirs:/here", "egl")
    assert told["MINARI_DATASETS_PATH"] == os.environ["MINARI_DATASETS_PATH"]  # of the machine itself, where it has one
    assert "MLFLOW_RUN_ID" not in told


# The search


def test_a_trial_has_the_name_of_its_run(trial, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    name = tuning._names(plan)
    assert [name(types.SimpleNamespace(config={"run": run})) for run in (1, 0)] == ["pen-quick-seed1", "pen-quick-seed0"]
    plan = plan_of(tmp_path, seeds=[3], search={"model.temperature": ["uniform", "1", "4"]}, trials=2)
    name = tuning._names(plan)
    config = {"model.temperature": 2.5}
    names = [name(types.SimpleNamespace(config=config)) for _ in range(2)]
    assert names == ["pen-quick-trial001-seed3", "pen-quick-trial002-seed3"]
    assert trial.run_of(plan, config, names[1]) == plan.trial(2, config)
    assert trial.run_of(plan_of(tmp_path), {"run": 1}, "any").seed == 1


def test_ranges_as_tune_takes_them(trial, tmp_path: Path) -> None:
    search = {
        "a": ["uniform", "0.5", "2"],
        "b": ["loguniform", "0.3", "10"],
        "c": ["int", "5", "10"],
        "d": ["choice", "x", "y"],
    }
    assert tuning._space(plan_of(tmp_path, search=search, trials=3)) == {
        "a": ("uniform", 0.5, 2.0), "b": ("loguniform", 0.3, 10.0),
        "c": ("randint", 5, 11),  # HIGH is one of them
        "d": ("choice", ["x", "y"]),
    }  # fmt: skip
    assert tuning._space(plan_of(tmp_path)) == {"run": ("grid_search", [0, 1])}


class Trial(types.SimpleNamespace):
    """Of Tune, in the hands of an observer."""

    def __str__(self) -> str:
        return "pen-quick-trial001-seed0"

    def get_pickled_error(self) -> str:
        return "a remote process\n\nValueError: the end\n"


def test_what_becomes_of_a_trial_is_written_down(trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, seeds=[0], search={"model.temperature": ["uniform", "1", "4"]}, trials=2)
    shown: list[tuple] = []
    observer = tuning._observer(plan, lambda name, result: shown.append((name, result.get("outcome"))))
    one = Trial(config={"model.temperature": 2.5}, last_result={"outcome": "finished", "error": ""})
    name = str(one)

    def outcome() -> str:
        return json.loads((tmp_path / "sweep.json").read_text())["runs"][name]["outcome"]

    observer.on_trial_start(0, [], one)
    begun = {"seed": 0, "settings": {"model.temperature": "2.5"}, "values": {"model.temperature": 2.5}, "outcome": ""}
    assert plan.runs == {name: begun}
    for node in ("a", "b", "a"):
        observer.on_trial_result(0, [], one, {"node": node})
    assert plan.runs[name]["nodes"] == ["a", "b"]
    observer.on_trial_complete(0, [], one)
    assert outcome() == "finished"
    observer.on_trial_error(0, [], one)
    assert (outcome(), plan.runs[name]["error"]) == ("failed", "ValueError: the end")
    observer.on_trial_start(0, [], one)
    assert outcome() == ""  # tried again
    one.last_result = {"updates": 10}
    observer.on_trial_complete(0, [], one)
    assert outcome() == "stopped early"
    observer.on_trial_start(0, [], one)
    assert outcome() == "stopped early"  # not begun anew
    monkeypatch.setattr(interruption, "received", lambda: True)
    observer.on_trial_complete(0, [], one)
    assert outcome() == ""  # by the user
    assert shown[0] == (name, "starting")
    assert [told for _, told in shown[4:]] == ["finished", "failed", "starting", "stopped early", "starting", ""]


def test_run_folders_travel_where_there_is_another_machine_or_a_store(tmp_path: Path) -> None:
    store = tuning.store_of(machines(), plan_of(tmp_path, storage=(tmp_path / "store").as_uri()))
    assert isinstance(store, UriStore)
    assert tuning.store_of(machines({"CPU": 4.0}), plan_of(tmp_path)) is None  # the other one has died
    ray = machines({"CPU": 4.0})
    ray.util = types.SimpleNamespace(scheduling_strategies=types.SimpleNamespace(NodeAffinitySchedulingStrategy=dict))
    ray.get_runtime_context = lambda: types.SimpleNamespace(get_node_id=lambda *arguments: "a")
    ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node
    ray.remote = lambda keeper: types.SimpleNamespace(options=lambda **where: types.SimpleNamespace(remote=keeper))
    assert isinstance(tuning.store_of(ray, plan_of(tmp_path, place={"address": "auto"})), KeptStore)  # it may grow


def parsed(*arguments: str) -> argparse.Namespace:
    options, options.others = own_parser("sweep").parse_known_args(arguments)
    return options


def test_every_option_of_the_command_arrives(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("awac_pl.parallel.cluster.check_address", lambda address: None)
    name = "tests-toy-Reach-v0-small"
    (workplace / "sweeps" / name).mkdir(parents=True)
    plan, text, config = sweep._planned(parsed(*FILES))
    assert (plan.folder, plan.name, plan.seeds, plan.storage) == (f"{workplace}/sweeps/{name}-2", name, [0], None)
    assert (plan.cpus, plan.gpus, plan.metric, plan.place["address"]) == (1, 0, "eval/success_rate", None)
    assert plan.totals == {"updates": 30, "offline_updates": 10, "env_steps": 40}  # 3 epochs of 10, one of them offline
    assert plan.place["cwd"] == str(workplace)
    options = ["--cpus_per_run", "2", "--gpus_per_run", "0.5", "--metric", "eval/episode_return", "--address", "head:6379"]
    plan, *_ = sweep._planned(parsed(*FILES, *options, "--storage", "s3://bucket/place/"))
    assert (plan.cpus, plan.gpus, plan.metric, plan.place["address"]) == (2, 0.5, "eval/episode_return", "head:6379")
    assert (plan.folder, plan.storage) == (f"{workplace}/sweeps/{name}-2", f"s3://bucket/place/{name}-2")
    monkeypatch.setattr("awac_pl.sweeps.storage.UriStore", lambda uri: None)
    monkeypatch.setattr("awac_pl.replay.data_module.ReplayDataModule.prepare_data", lambda self: None)
    sweep._prepare(plan, text, config)
    assert plan.place["threads"] == "2"
    again, *_ = sweep._resumed(parsed("--resume", plan.folder))
    assert (again.cpus, again.gpus, again.metric, again.place["address"]) == (2, 0.5, "eval/episode_return", "head:6379")
    changed = ["--cpus_per_run", "3", "--metric", "eval/success_rate", "--address", "auto"]
    again, *_ = sweep._resumed(parsed("--resume", plan.folder, *changed))
    assert (again.cpus, again.gpus, again.metric, again.place["address"]) == (3, 0.5, "eval/success_rate", "auto")


def test_a_folder_for_sweeps(workplace: Path) -> None:  # noqa: F811
    plan, *_ = sweep._planned(parsed(*FILES, "--storage", "mine"))
    assert (plan.folder, plan.storage) == (f"{workplace}/mine/tests-toy-Reach-v0-small", None)


def test_sweeps_that_begin_at_once_get_folders_of_their_own(workplace: Path) -> None:  # noqa: F811
    name = "tests-toy-Reach-v0-small"
    plans = [sweep._planned(parsed(*FILES, "--storage", "s3://bucket/place"))[0] for _ in range(2)]
    assert [plan.storage for plan in plans] == [f"s3://bucket/place/{name}"] * 2
    for plan in plans:
        sweep._make_folder(plan)
    assert [plan.folder for plan in plans] == [f"{workplace}/sweeps/{name}", f"{workplace}/sweeps/{name}-2"]
    assert [plan.storage for plan in plans] == [f"s3://bucket/place/{name}", f"s3://bucket/place/{name}-2"]
    assert all(Path(plan.folder).is_dir() for plan in plans)


def test_a_dry_run_of_a_search_lists_its_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plan = plan_of(tmp_path, seeds=[3], search={"data.n_step": ["int", "5", "10"]}, trials=7)
    monkeypatch.setattr(sweep, "_planned", lambda options: (plan, "", {}))
    assert main(["sweep", "--dry_run"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "awac fit --task pen --data.n_step=int:5:10 --seed_everything=3\n"
    assert printed.err == f"7 runs in {tmp_path}\n"


@pytest.mark.parametrize("storage", [None, "s3://bucket/place"])
def test_runs_that_failed_end_the_sweep_in_one_line(
    storage: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plan, done = plan_of(tmp_path, seeds=[0, 1, 2], storage=storage, cpus=2, gpus=1, place={"address": "auto"}), []

    def train(ray: str, plan: Plan, text: str) -> None:
        done.append(("train", ray, text))
        for number, outcome in enumerate(("finished", "failed", "failed")):
            plan.runs[f"seed{number}"] = {"outcome": outcome, "error": f"error {number}"}

    monkeypatch.setattr(sweep, "_planned", lambda options: (plan, "text", {}))
    monkeypatch.setattr("awac_pl.parallel.cluster.import_ray", lambda what: None)
    monkeypatch.setattr("awac_pl.parallel.cluster.connected", lambda address, what: nullcontext(f"ray at {address}"))
    monkeypatch.setattr("awac_pl.parallel.cluster.check_resources", lambda *given: done.append(given))
    monkeypatch.setattr(sweep, "_make_folder", lambda plan: done.append("folder"))
    monkeypatch.setattr(sweep, "_prepare", lambda *given: done.append("prepare"))
    monkeypatch.setattr(sweep, "_train", train)
    monkeypatch.setattr(sweep, "_fetch", lambda plan: done.append("fetch"))
    monkeypatch.setattr("awac_pl.sweeps.results.finish", lambda plan: done.append("finish"))
    line = refused(capsys, "sweep")
    assert "2 of 3 runs failed, the others went on; seed1: error 1" in line
    assert f"(awac sweep --resume {tmp_path} tries again)" in line
    fetched = [] if storage is None else ["fetch"]
    assert done == [("ray at auto", 2, 1), "folder", "prepare", ("train", "ray at auto", "text"), *fetched, "finish"]
    plan.runs.clear()
    monkeypatch.setattr(sweep, "_train", lambda *given: None)
    assert main(["sweep"]) == 0
