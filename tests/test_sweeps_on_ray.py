"""``awac sweep`` and the rollouts on a Ray cluster of two nodes. Skipped where Ray is not installed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from awac_pl.commands.main import main
from awac_pl.envs.rollouts import RolloutError, RolloutWorkers
from awac_pl.envs.tasks import find_task
from awac_pl.runs.metrics import read_metrics
from tests.conftest import ROOT
from tests.test_cli import workplace  # noqa: F401
from tests.test_rollouts import assert_equal
from tests.test_sweeps import plan_of
from tests.toy import constant_policy

ray = pytest.importorskip("ray")
pytest.importorskip("optuna")
pytestmark = [
    pytest.mark.filterwarnings("default"),  # Ray's own
    pytest.mark.usefixtures("workplace"),
]
FILES = (f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml", "--mlflow_uri=none", "--data.workers=0")


class Nodes:
    """A head and another node, each with one CPU."""

    def __init__(self) -> None:
        from awac_pl.parallel.cluster import import_ray

        import_ray("the tests")
        from ray.cluster_utils import Cluster

        os.environ["PYTHONPATH"] = str(ROOT)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.other = self.cluster.add_node(num_cpus=1)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR", configure_logging=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        nodes = Nodes()
        yield nodes
        ray.shutdown()
        nodes.cluster.shutdown()


def rows_of(folder: Path) -> list[dict[str, float]]:
    """Metrics without those of time."""
    rows = read_metrics(folder / "metrics.csv")
    return [
        {name: value for name, value in row.items() if name != "seconds" and not name.endswith("_per_s")} for row in rows
    ]


def test_a_node_dies_and_its_run_goes_on_elsewhere(nodes: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = (*FILES, "--trainer.max_epochs=20")
    lost = threading.Event()

    def kill() -> None:
        begun = [
            tmp_path / f"sweeps/tests-toy-Reach-v0-small/tests-toy-Reach-v0-small-seed{seed}/metrics.csv" for seed in (0, 1)
        ]
        while not all(path.is_file() and len(path.read_text().splitlines()) > 3 for path in begun):
            time.sleep(0.02)
        nodes.cluster.remove_node(nodes.other, allow_graceful=False)
        lost.set()

    threading.Thread(target=kill, daemon=True).start()
    assert main(["sweep", *options, "--seeds", "0,1"]) == 0
    assert lost.is_set()
    sweep = tmp_path / "sweeps/tests-toy-Reach-v0-small"
    runs = json.loads((sweep / "sweep.json").read_text())["runs"]
    assert [run["outcome"] for run in runs.values()] == ["finished"] * 2
    assert len({node for run in runs.values() for node in run["nodes"]}) == 2
    (moved,) = [name for name, run in runs.items() if len(run["nodes"]) == 2]
    assert len(json.loads((sweep / moved / "manifest.json").read_text())["commands"]) == 2
    for seed in (0, 1):
        assert main(["fit", *options, f"--seed_everything={seed}", f"--run_dir=alone/{seed}"]) == 0
        assert rows_of(sweep / f"tests-toy-Reach-v0-small-seed{seed}") == rows_of(tmp_path / f"alone/{seed}")
    printed = capsys.readouterr().out
    assert "| as given | 2 |" in printed
    assert (sweep / "report.html").stat().st_size > 10_000


def test_episodes_are_the_same_on_a_cluster_even_if_a_node_dies(nodes: Nodes) -> None:
    node = nodes.cluster.add_node(num_cpus=1)
    task, seeds = find_task("tests.toy:Slow-v0"), list(range(8))
    with closing(RolloutWorkers(task, 0)) as here, closing(RolloutWorkers(task, 2, kind="ray")) as there:
        reference = here.rollout(constant_policy(), seeds)
        assert_equal(reference, there.rollout(constant_policy(), seeds))
        done: list[float] = []

        def on_episode() -> None:
            done.append(time.monotonic())
            if len(done) == 2:
                nodes.cluster.remove_node(node, allow_graceful=False)

        assert_equal(reference, there.rollout(constant_policy(), seeds, on_episode=on_episode))
        assert len(done) == len(seeds)
        assert there.rollout(constant_policy(), [1])[0].observations.flags.writeable
    broken = RolloutWorkers(find_task("tests.toy:Broken-v0"), 1, kind="ray")
    with closing(broken), pytest.raises(RolloutError, match=r"seed 3: .*the simulator exploded"):
        broken.rollout(constant_policy(), [3])


def test_a_resumed_search_begins_with_what_it_had_and_draws_other_values_then(tmp_path: Path) -> None:
    from awac_pl.sweeps.tuning import _space, _tune_config

    plan = plan_of(tmp_path, seeds=[0], search={"model.temperature": ["uniform", "0.5", "2"]}, trials=4)

    def values() -> list[float]:
        search = _tune_config(plan).search_alg
        search.set_search_properties(plan.metric, "max", _space(plan))
        return [search.suggest(str(number))["model.temperature"] for number in range(4)]

    first = values()
    plan.runs = {f"trial00{number}": {"values": {"model.temperature": value}} for number, value in enumerate(first[:2])}
    again = values()
    assert again[:2] == pytest.approx(first[:2])
    assert not set(again[2:]) & set(first)


def test_a_run_gets_the_password_by_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from awac_pl.sweeps import trial

    uri = "http://robot:s3cr3tpass@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    started: list[dict] = []
    monkeypatch.setattr(trial.subprocess, "Popen", lambda command, **more: started.append(more["env"]))
    place = {"cwd": str(tmp_path), "environment": {}, "paths": [], "threads": "1"}
    for address in (uri, "http://here:5000"):
        one = trial.RunTrial.__new__(trial.RunTrial)
        one.folder, one.log, one.plan = tmp_path, tmp_path / "log", plan_of(tmp_path, place=place | {"mlflow_uri": address})
        one._start(["fit"])
    assert [environment["MLFLOW_TRACKING_URI"] for environment in started] == [uri, "http://elsewhere:5000"]
