"""``awac sweep`` before Ray: what it plans, and what it refuses."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from awac_pl.commands import sweep
from awac_pl.commands.main import main, own_parser
from awac_pl.sweeps.plan import Plan, parse_grid, parse_search, parse_seeds, read_plan
from awac_pl.sweeps.results import finish
from awac_pl.sweeps.storage import FolderKeeper, KeptStore, UriStore, pull, push
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


def test_seeds_are_listed_or_given_as_a_range() -> None:
    assert parse_seeds("3,0-2") == [3, 0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--seeds", "0,x"], "--seeds is x; it must be a whole number in [0, 999]"),
        (["--seeds", "0,1000"], "--seeds is 1000"),
        (["--seeds", "1,0-2"], "--seeds 1,0-2: a seed stands twice"),
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
        (["--trials", "0"], "--trials"),
        (["--trainer.max_epochs=-1"], "trainer.max_epochs is without an end"),
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
    resumed, *_ = sweep._resumed(again)
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
    from awac_pl.errors import AwacError

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
