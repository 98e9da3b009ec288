"""Reading run folders, grouping them, and every number of the tables by hand."""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import awac_pl
from awac_pl.errors import AwacError
from awac_pl.report import statistics, tables
from awac_pl.report.origin import origin_tables
from awac_pl.report.page import TEMPLATES
from awac_pl.report.tables import Table
from awac_pl.runs import summary
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.grouping import differences, group_runs
from awac_pl.runs.manifest import shown_command
from awac_pl.runs.reading import clip, read_run, read_runs
from awac_pl.runs.summary import stages
from tests.run_folders import evaluation, make_rows, make_run

KEPT = Path(__file__).parents[1] / "results"


def cells(found: list[Table], title: str) -> list[dict[str, str]]:
    """The rows of the table with this title, by column; of two columns with one name the first."""
    (table,) = [table for table in found if table.title == title]
    return [dict(reversed(list(zip(table.columns, row, strict=True)))) for row in table.rows]


def results(folders: list[Path]) -> list[Table]:
    runs, _ = read_runs(folders)
    return tables.result_tables(runs, group_runs(runs))


def origin(folders: list[Path]) -> list[Table]:
    runs, _ = read_runs(folders)
    return origin_tables(runs, group_runs(runs))


# Measures


def test_returns_of_all_evaluations_by_hand() -> None:
    rows = [evaluation(0.5, 10, -10.0, 2.0), {"env_steps": 1.0}, evaluation(0.5, 30, -20.0, 4.0)]
    found = summary.all_returns(rows)
    # Mean (10 * -10 + 30 * -20) / 40; variance (10 * (2² + 7.5²) + 30 * (4² + 2.5²)) / 40.
    assert found == {
        "episode_return": -17.5,
        "episode_return_std": pytest.approx(math.sqrt((10 * 60.25 + 30 * 22.25) / 40)),
        "episode_length": 200.0,
        "episodes": 40.0,
    }
    assert math.isnan(summary.all_returns([])["episode_return"])


def test_the_evaluation_at_a_milestone_is_the_first_behind_it() -> None:
    rows = [{"env_steps": steps, **evaluation(0.1)} for steps in (0, 48_000, 50_011, 60_000, 120_000)]
    assert summary.evaluation_at(rows, 50_000) is rows[2]
    assert summary.evaluation_at(rows, 100_000) is None  # the next one is 20 % late
    assert summary.evaluation_at(rows, 200_000) is None


def test_interquartile_mean_by_hand() -> None:
    assert statistics.interquartile_mean(np.array([0.0, 0.4, 0.6, 5.0])) == pytest.approx(0.5)
    assert statistics.interquartile_mean(np.array([0.1, 0.4, 0.7])) == pytest.approx(0.4)  # of three none is left out
    assert statistics.interquartile_mean(np.array([0.0, 0.4]), np.array([0.6, 5.0])) == pytest.approx(0.5)  # tasks together


def test_a_mean_over_tasks_weighs_tasks_not_seeds() -> None:
    assert statistics.mean_over_seeds(np.array([0.0, 0.0, 0.0]), np.array([1.0])) == 0.5


def test_bootstrap_by_hand() -> None:
    # Of 27 resamples of three seeds one has only the lowest: 3.7 %, more than the 2.5 % that are cut off.
    low, high = statistics.bootstrap_interval([np.array([0.2, 0.5, 0.9])])
    assert (low, high) == (pytest.approx(0.2), pytest.approx(0.9))
    # Thirty seeds of 0 and 1: the normal interval of a mean, within the granularity of 1/30.
    low, high = statistics.bootstrap_interval([np.array([0.0, 1.0] * 15)])
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(30), abs=0.034)
    assert high == pytest.approx(0.5 + 1.96 * 0.5 / math.sqrt(30), abs=0.034)


def test_bootstrap_resamples_each_task_by_itself() -> None:
    low, high = statistics.bootstrap_interval([np.full(3, 0.2), np.full(3, 0.8)])
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.5))  # pooled, it would spread from 0.2 to 0.8


def test_no_interval_over_fewer_than_three_seeds() -> None:
    assert statistics.bootstrap_interval([np.array([0.2, 0.9])]) is None
    assert statistics.bootstrap_interval([np.array([0.2, 0.5, 0.9]), np.array([0.1])]) is None


# Tables


def test_one_run_by_hand(tmp_path: Path) -> None:
    rows = make_rows([0.3, 0.5, 0.8, 0.6, 0.7, 0.9])
    (row,) = cells(results([make_run(tmp_path / "run", rows)]), "Success of each run")
    assert row == {
        "run": "run",
        "after cloning": "0.40 (0.31 to 0.50)",  # 100 episodes
        "after pretraining": "0.30 (0.11 to 0.60)",  # 10 episodes
        "at 50k steps": "0.90 (0.60 to 0.98)",
        "after fine-tuning": "0.90 (0.60 to 0.98)",
        "last": "0.73",  # (0.6 + 0.7 + 0.9) / 3
        "dip": "0.50",
        "worst": "-",
        "steps to 0.5": "10,000",
        "steps to 0.9": "50,000",
        "regret": "0.25",
    }


def test_returns_and_speed_by_hand(tmp_path: Path) -> None:
    found = results([make_run(tmp_path / "run", make_rows([0.3, 0.5, 0.8]))])
    assert cells(found, "Returns of all evaluations") == [
        {
            "run": "run",
            "average return": "-50.0",
            "standard deviation": "10.0",
            "episodes": "30",
            "steps per episode": "200.0",
        }
    ]
    assert cells(found, "The last evaluation") == [
        {
            "run": "run",
            "episodes": "10",
            "success": "0.80",
            "at the last step": "-",
            "share of steps": "-",
            "return": "-50.0",
            "environment's return": "-",
        }
    ]
    assert cells(found, "Speed") == [
        {
            "run": "run",
            "wall time": "1.0 min",
            "updates": "3,000",
            "updates/s": "50.0",  # in 60 s
            "environment steps": "20,000",
            "environment steps/s": "500.0",  # in the 40 s behind pretraining
            "while collecting": "700",
        }
    ]


def test_over_seeds_by_hand(tmp_path: Path) -> None:
    last = {0: 0.2, 1: 0.5, 2: 0.8}
    found = results([make_run(tmp_path / f"run-{seed}", make_rows([0.1, rate]), seed=seed) for seed, rate in last.items()])
    (stage,) = cells(found, "Success at each stage")
    assert stage["seeds"] == "3"
    assert stage["after fine-tuning"] == "0.500 (0.332 to 0.668)"  # 15 of 30 episodes
    (row,) = [row for row in cells(found, "Over seeds") if row["measure"] == "after fine-tuning"]
    assert (row["mean"], row["95 % interval"]) == ("0.500", "0.200 to 0.800")
    assert (row["interquartile mean"], row["lowest to highest"]) == ("0.500", "0.200 to 0.800")
    (row,) = [row for row in cells(found, "Over seeds") if row["measure"] == "steps to 0.5"]
    assert (row["mean"], row["lowest to highest"]) == ("reached by 2 of 3", "10,000 to never")


def test_two_seeds_have_a_mean_and_no_interval(tmp_path: Path) -> None:
    found = results([make_run(tmp_path / f"run-{seed}", make_rows([0.1, 0.5]), seed=seed) for seed in range(2)])
    (row,) = [row for row in cells(found, "Over seeds") if row["measure"] == "after fine-tuning"]
    assert (row["mean"], row["95 % interval"]) == ("0.500", "-")


def test_several_tasks_are_summed_up(tmp_path: Path) -> None:
    folders = []
    for task, rate in (("pen", 0.9), ("door", 0.3)):
        for seed in range(3):
            tags = {"task": task, "preset": "quick", "seed": str(seed)}
            folders.append(make_run(tmp_path / f"{task}-{seed}", make_rows([0.1, rate]), seed=seed, tags=tags))
    rows = [row for row in cells(results(folders), "Over seeds") if row["runs"] == "2 tasks, preset quick"]
    assert {row["measure"]: (row["seeds"], row["mean"], row["95 % interval"]) for row in rows}["after fine-tuning"] == (
        "6",
        "0.600",
        "0.600 to 0.600",
    )


def test_an_unfinished_run_is_marked_and_in_the_means_as_far_as_it_came(tmp_path: Path) -> None:
    done = make_run(tmp_path / "done", make_rows([0.1, 0.5]), seed=0)
    killed = make_run(tmp_path / "killed", make_rows([0.1, 0.9])[:1], seed=1, status="running")
    found = results([done, killed])
    assert [row["run"] for row in cells(found, "Success of each run")] == ["done", "killed (killed or crashed)"]
    assert cells(found, "Success of each run")[1]["after fine-tuning"] == "-"
    (row,) = cells(found, "Success at each stage")
    assert (row["seeds"], row["after fine-tuning"]) == ("2", "0.500 (0.237 to 0.763), 1 seed")
    assert row["after pretraining"] == "0.100 (0.028 to 0.301)"  # of both, 10 episodes each
    (stage_table,) = [table for table in found if table.title == "Success at each stage"]
    assert "unfinished, in the means only as far as they came: killed" in stage_table.note
    means = {row["measure"]: (row["seeds"], row["mean"]) for row in cells(found, "Over seeds")}
    assert means["after pretraining"] == ("2", "0.100")
    assert means["last"] == ("1", "0.500")  # scores of whole runs: those that are as long


def test_a_clone_that_seeds_share_counts_once(tmp_path: Path) -> None:
    def datasets(clone: str) -> list[dict]:
        return [{"id": "expert", "sha256": "ab", "episodes": 25}, {"id": "cloned", "sha256": clone, "episodes": 500}]

    folders = [
        make_run(tmp_path / str(seed), make_rows([0.1, 0.5]), seed=seed, datasets=datasets("cd")) for seed in range(3)
    ]
    (row,) = cells(results(folders), "Success at each stage")
    assert (row["seeds"], row["after cloning"]) == ("3", "0.400 (0.309 to 0.498), 1 clone")  # of 100 episodes
    means = {row["measure"]: row for row in cells(results(folders), "Over seeds")}
    assert [means["after cloning"][name] for name in ("seeds", "mean", "95 % interval")] == ["1", "0.400", "-"]
    folders[2] = make_run(tmp_path / "2", make_rows([0.1, 0.5]), seed=2, datasets=datasets("ef"))
    (row,) = cells(results(folders), "Success at each stage")
    assert row["after cloning"] == "0.400 (0.335 to 0.469), 2 clones"


def test_a_run_that_was_cut_off_later_than_another_ended_is_in_the_means(tmp_path: Path) -> None:
    done = make_run(tmp_path / "done", make_rows([0.1, 0.5]), seed=0)
    longer = make_run(tmp_path / "longer", make_rows([0.3, 0.9, 0.9]), seed=1, status="running")
    (row,) = cells(results([done, longer]), "Success at each stage")
    assert (row["seeds"], row["after pretraining"]) == ("2", "0.200 (0.081 to 0.416)")  # of 10 episodes each
    assert row["after fine-tuning"] == "0.500 (0.237 to 0.763), 1 seed"  # the one that ended


def test_unknown_success_is_unknown_not_zero(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", make_rows([math.nan, math.nan]), cloning=None)
    (row,) = cells(results([folder]), "Success of each run")
    assert (row["after pretraining"], row["after fine-tuning"], row["steps to 0.5"]) == ("unknown", "unknown", "-")
    assert "eval/success_rate is unknown throughout" in read_run(folder).notes


def test_where_the_runs_come_from(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", make_rows([0.1, 0.5]))
    versions = {"awac_pl": "0.1.0", "torch": "2.11.0"}
    second = make_run(tmp_path / "second", make_rows([0.1, 0.5]), versions=versions, config={"model": {"temperature": 0.3}})
    found = origin([first, second])
    (data,) = cells(found, "Datasets")
    assert data == {
        "dataset": "awac/pen/expert-v0",
        "episodes": "25",
        "transitions": "872",
        "clipped action values": "3",
        "sha256": "ab" * 32,
        "runs": "all",
    }
    assert cells(found, "Versions")[1] == {"package": "torch", "version": "2.13.0 (first); 2.11.0 (second)"}
    settings = {row["setting"]: list(row.values()) for row in cells(found, "Differences in configuration")}
    assert set(settings["model.temperature"]) == {"model.temperature", "0.5", "0.3"}
    assert settings["trainer.max_epochs"].count("-") == 1
    assert "run_dir" not in settings


def test_the_same_table_in_both_forms() -> None:
    table = Table(title="A | B", columns=["run", "a"], rows=[["<script>x</script>", "1|2\n3"]], note="<b>")
    assert table.markdown().splitlines()[2:5] == [
        "| run | a |",
        "|---|---|",
        "| &lt;script&gt;x&lt;/script&gt; | 1\\|2 3 |",
    ]
    html = TEMPLATES.get_template("table.html.j2").render(table=table)
    assert re.search(r"<th[^>]*>\s*&lt;script&gt;x&lt;/script&gt;\s*</th>", html)
    assert "1|2\n3" in html
    assert "<b>" not in html


# Groups


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path: Path) -> None:
    folders = [
        make_run(
            tmp_path / str(seed), make_rows([0.1]), seed=seed,
            config={"seed_everything": seed, "data": {"clone_seed": seed, "workers": seed},
                    "trainer": {"max_epochs": seed, "check_val_every_n_epoch": seed}},
        )
        for seed in (10, 9)
    ]  # fmt: skip
    (group,) = group_runs(read_runs(folders)[0])
    assert [run.seed for run in group.runs] == ["9", "10"]
    assert group.title == "pen, preset quick, 25 episodes of awac/pen/expert-v0, 2 seeds"


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        ("trainer", "max_time", (None, "00:08:00:00")), ("trainer", "max_steps", (-1, 6)),
        ("trainer", "min_epochs", (None, 2)), ("trainer", "profiler", (None, "simple")),
        ("data", "episode_timeout", (None, 5.0)), ("data", "chunk_size", (50, 10)),
        ("model", "matmul_engine", ("auto", "native")),
    ],
)  # fmt: skip
def test_how_long_and_how_fast_a_run_goes_on_does_not_tell_it_apart(
    section: str, key: str, values: tuple, tmp_path: Path
) -> None:
    folders = [
        make_run(tmp_path / str(seed), make_rows([0.1]), seed=seed, config={section: {key: value}})
        for seed, value in enumerate(values)
    ]
    (group,) = group_runs(read_runs(folders)[0])
    assert len(group.runs) == 2


def test_runs_that_learn_differently_are_told_apart(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / str(index), make_rows([0.1]), seed=0, config={"model": {"temperature": temperature}})
        for index, temperature in enumerate([0.3, 3.0, 3.0])
    ]
    cold, hot = group_runs(read_runs(folders)[0])
    assert (cold.label, hot.label) == ("preset quick, temperature 0.3", "preset quick, temperature 3.0")
    assert hot.notes == ["pen, preset quick, temperature 3.0: seed 0 counts more than once; intervals are too narrow"]
    assert differences(cold.runs + hot.runs) == {"model.temperature": [0.3, 3.0, 3.0]}


def test_an_option_that_came_after_a_run_does_not_tell_it_apart(tmp_path: Path) -> None:
    """Runs of older versions lack it; in ``base.yaml`` and in the algorithm's file it does nothing."""
    older, newer, other = (
        make_run(tmp_path / name, make_rows([0.1]), seed=seed, config={"model": {"temperature": 1.0}} | later)
        for seed, (name, later) in enumerate(
            {
                "older": {},
                "newer": {
                    "interaction": {"random_env_steps": 0},
                    "model": {"temperature": 1.0, "offline_value_gradient": None},
                },
                "other": {"interaction": {"random_env_steps": 4000}},
            }.items()
        )
    )
    plain, random = group_runs(read_runs([older, newer, other])[0])
    assert [run.name for run in plain.runs] == ["older", "newer"]
    assert (plain.label, random.label) == ("preset quick, random_env_steps 0", "preset quick, random_env_steps 4000")


def test_other_data_is_another_group(tmp_path: Path) -> None:
    other = [{"id": "mine/pen-v0", "episodes": 5}]
    folders = [make_run(tmp_path / "a", make_rows([0.1])), make_run(tmp_path / "b", make_rows([0.1]), datasets=other)]
    assert [group.label for group in group_runs(read_runs(folders)[0])] == [
        "preset quick, awac/pen/expert-v0 (25 episodes)",
        "preset quick, mine/pen-v0 (5 episodes)",
    ]


# Reading


def test_what_a_run_folder_tells(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", make_rows([0.2, 0.1, 0.5], pretraining=2)))
    assert (run.task, run.preset, run.seed, run.status, run.finished) == ("pen", "quick", "0", "finished", True)
    assert run.notes == ()
    assert [run.axis(row) for row in run.rows] == [-1000, 0, 10_000]
    assert stages(run) == {"after cloning": (0.4, 100), "after pretraining": (0.1, 10), "after fine-tuning": (0.5, 10)}


def test_pretraining_that_goes_on_lies_left_of_zero(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", make_rows([0.2], pretraining=5), offline_updates=5000))
    assert run.axis(run.rows[0]) == -4000
    assert "after pretraining" not in stages(run)


def test_a_manifest_without_format_is_of_the_first(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", make_rows([0.1, 0.2]))
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"format": 1, ', ""))
    assert "format" not in read_run(folder).manifest


@pytest.mark.parametrize(
    ("changes", "status", "note"),
    [
        ({"status": "running"}, "killed or crashed", "unfinished: killed or crashed"),
        ({"status": "interrupted"}, "interrupted", "unfinished: interrupted"),
        ({"status": "failed", "error": "ValueError('x')"}, "failed", "unfinished: failed, ValueError('x')"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, changes: dict, status: str, note: str) -> None:
    run = read_run(make_run(tmp_path / "run", make_rows([0.1, 0.2]), **changes))
    assert (run.status, run.finished) == (status, False)
    assert run.notes[0].startswith(note)


def test_a_run_that_is_still_running(tmp_path: Path) -> None:
    owner = RunFolder(make_run(tmp_path / "run", make_rows([0.1, 0.2]), status="running"))
    owner.take()
    assert read_run(owner.path).notes == ("unfinished: still running",)
    owner.release()
    assert read_run(owner.path).status == "killed or crashed"


def test_gaps_and_single_evaluations_are_said(tmp_path: Path) -> None:
    rows = make_rows([0.1, math.nan, 0.3])
    run = read_run(make_run(tmp_path / "gap", rows))
    assert run.notes == ("eval/success_rate is no finite number in 1 of 3 rows: a gap",)
    assert "one evaluation only: points, no curve" in read_run(make_run(tmp_path / "one", make_rows([0.1]))).notes
    assert "no epoch has ended, there is nothing to show" in read_run(make_run(tmp_path / "none", [])).notes


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("manifest.json", None, "is no run folder: it has no manifest.json"),
        ("manifest.json", "{", "manifest.json cannot be read: "),
        ("manifest.json", "[]", "is no table of settings"),
        ("manifest.json", '{"kind": "else"}', "it is no run's manifest"),
        ("manifest.json", '{"tags": []}', "it is no run's manifest"),
        ("manifest.json", '{"tags": {}, "datasets": [1]}', "it is no run's manifest"),
        ("manifest.json", '{"tags": {}, "offline_updates": "many"}', "'offline_updates' is no whole number"),
        ("manifest.json", '{"tags": {}, "offline_updates": Infinity}', "'offline_updates' is no whole number"),
        ("manifest.json", '{"tags": {}, "format": 7, "versions": {"awac_pl": "9.0"}}',
         "has format 7, not 1; use awac_pl 9.0"),
        ("config.yaml", "!!python/object:os.system {}", "config.yaml cannot be read: "),
        ("metrics.csv", "epoch,updates,env_steps\n0,1,two\n", "metrics.csv is no table of numbers: "),
        ("metrics.csv", "epoch,loss\n0,1\n", "line 2 has no 'updates'"),
    ],
)  # fmt: skip
def test_damaged_folders_get_one_line(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = make_run(tmp_path / "run", make_rows([0.1, 0.2]))
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(AwacError) as caught:
        read_run(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_and_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(AwacError, match="is no run folder: it is empty"):
        read_runs([tmp_path])
    with pytest.raises(AwacError, match="no folder"):
        read_runs([tmp_path / "gone"])


def test_a_folder_of_runs(tmp_path: Path) -> None:
    for place in ("a/run", "b/run", "b/deep/other"):
        make_run(tmp_path / place, make_rows([0.1, 0.2]))
    make_run(tmp_path / "new", [], format=2)
    runs, left_out = read_runs([tmp_path, tmp_path / "a/run"])
    assert [run.name for run in runs] == [str(tmp_path / "a/run"), "other", str(tmp_path / "b/run")]
    assert len(left_out) == 1
    assert "has format 2" in left_out[0]
    with pytest.raises(AwacError, match="has format 2"):
        read_runs([tmp_path / "new"])


def test_a_commit_has_changes_where_any_file_of_the_package_has(tmp_path: Path) -> None:
    package = tmp_path / "awac_pl"
    shutil.copytree(Path(awac_pl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    def recorded() -> str:
        return run(sys.executable, "-c", "from awac_pl.runs.manifest import git_commit; print(git_commit())").strip()

    run("git", "init", "--quiet")
    assert recorded() == "unknown"  # the package is not in the repository
    run("git", "add", ".")
    run("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=first")
    commit = run("git", "rev-parse", "HEAD").strip()
    assert recorded() == commit
    (tmp_path / "notes.txt").write_text("no part of the package")
    assert recorded() == commit
    (package / "algorithms/losses.py").write_text("")
    assert recorded() == f"{commit}+changes"


def test_the_kept_results_say_what_the_readme_says() -> None:
    (row,) = cells(results([KEPT / "quick-before/pen-quick"]), "Success at each stage")
    assert (row["task"], row["preset"], row["seeds"]) == ("pen", "quick", "6")
    assert row["after cloning"] == "0.825 (0.793 to 0.853)"
    assert row["after pretraining"] == "0.903 (0.877 to 0.924)"
    assert row["after fine-tuning"] == "0.948 (0.928 to 0.963)"
    (row,) = cells(results([KEPT / "quick/pen"]), "Success at each stage")
    assert (row["seeds"], row["after fine-tuning"]) == ("3", "0.950 (0.919 to 0.969)")
    rows = cells(results([KEPT / "methods"]), "Success at each stage")
    at_the_end = {row["task"]: row["at 100k steps"].split()[0] for row in rows if row["preset"] == "AWAC, preset plus"}
    assert at_the_end == {"door": "0.980", "pen": "0.987", "relocate": "0.943"}


def test_the_results_page_has_the_tables_of_the_kept_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(KEPT)
    keep = importlib.import_module("keep")
    page = keep.README.read_text()
    for folder in {source for source, _, _ in keep.COLUMNS.values()}:
        runs = read_runs([KEPT / folder])[0]
        assert keep.with_tables(page, folder, runs, results([KEPT / folder])) == page, "python results/keep.py"
    (door,) = (line for line in page.splitlines() if line.startswith("| human door: BC"))
    assert door.split(" | ")[1:5] == ["121, 122, 123", "", "**.07**, **.00**, **.05**", ""]


def test_episodes_are_pooled_not_rates(tmp_path: Path) -> None:
    """8 of 10 and 10 of 90 are 18 of 100."""
    folders = []
    for seed, (rate, episodes) in enumerate(((0.8, 10), (10 / 90, 90))):
        rows = make_rows([0.1, 0.5])
        rows[1] |= evaluation(rate, episodes)
        folders.append(make_run(tmp_path / str(seed), rows, seed=seed))
    (row,) = cells(results(folders), "Success at each stage")
    assert row["after fine-tuning"].startswith("0.180 ")


def test_speed_and_last_evaluation_by_hand(tmp_path: Path) -> None:
    rows = make_rows([0.1, 0.5, 0.5, 0.8])
    for row, speed in zip(rows[1:], (100.0, 700.0, 1000.0), strict=True):
        row["rollout/env_steps_per_s"] = speed
    rows[-1] |= {"eval/success_final": 0.7, "eval/success_share": 0.3, "eval/environment_return": -12.3}
    rows[-1]["seconds"] = 2 * 3600 + 5 * 60.0
    found = results([make_run(tmp_path / "run", rows)])
    (speed,), (last,) = cells(found, "Speed"), cells(found, "The last evaluation")
    assert (speed["while collecting"], speed["wall time"]) == ("700", "2 h 05 min")
    names = ("success", "at the last step", "share of steps", "environment's return")
    assert [last[name] for name in names] == ["0.80", "0.70", "0.30", "-12.3"]


def test_there_is_no_mean_over_tasks_where_one_has_two_settings(tmp_path: Path) -> None:
    folders = []
    for task, temperature, seed in (("pen", 1.0, 0), ("pen", 1.0, 1), ("pen", 2.0, 0), ("pen", 2.0, 1), ("door", 1.0, 0),
                                    ("door", 1.0, 1)):  # fmt: skip
        tags, config = {"task": task, "preset": "quick", "seed": str(seed)}, {"model": {"temperature": temperature}}
        folder = tmp_path / f"{task}{temperature}{seed}"
        folders.append(make_run(folder, make_rows([0.1, 0.5]), seed=seed, tags=tags, config=config))
    assert not any("tasks" in row["runs"] for row in cells(results(folders), "Over seeds"))


# Where runs come from


def test_a_row_of_the_runs_by_hand(tmp_path: Path) -> None:
    (row,) = cells(origin([make_run(tmp_path / "run", make_rows([0.1, 0.5]))]), "Runs")
    assert row == {
        "run": "run", "task": "pen", "preset": "quick", "seed": "0", "status": "finished", "started": "2026-01-02 03:04",
        "device": "cpu", "processor": "-", "commit": "0123abc",
    }  # fmt: skip


def test_datasets_have_their_weights_and_their_runs(tmp_path: Path) -> None:
    data = {"id": "awac/pen/expert-v0", "sha256": "ab", "episodes": 25}
    folders = [
        make_run(tmp_path / name, make_rows([0.1]), datasets=[data, {"id": "mine", "weight": weight}])
        for name, weight in (("a", 1), ("b", 20.0), ("c", 20.0))
    ]
    rows = [(row["dataset"], row["weight"], row["runs"]) for row in cells(origin(folders), "Datasets")]
    assert rows == [("awac/pen/expert-v0", "-", "all"), ("mine", "1", "a"), ("mine", "20.0", "b, c")]


def test_runs_that_differ_in_nothing_but_their_seed_are_said_to(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(seed), make_rows([0.1]), seed=seed) for seed in range(2)]
    (table,) = [table for table in origin(folders) if table.title == "Differences in configuration"]
    assert (table.rows, table.note) == ([], "None except the seeds.")
    assert not [table for table in origin(folders[:1]) if table.title.startswith("Differences")]
    folders.append(make_run(tmp_path / "lost", make_rows([0.1]), config={}))
    (table,) = [table for table in origin(folders) if table.title == "Differences in configuration"]
    assert table.columns == ["setting", "pen, preset quick"]  # what was not kept differs in nothing


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["/x/site-packages/awac_pl/__main__.py", "fit", "--task=pen"], "awac fit --task=pen"),
        (["/usr/bin/awac", "fit", "--run_dir", "my run"], "awac fit --run_dir 'my run'"),
        ([], ""),
    ],
)
def test_a_command_is_shown_as_it_is_typed(command: list[str], shown: str) -> None:
    assert shown_command(command) == shown


# Runs that are told apart


def nested(settings: dict[str, object]) -> dict[str, dict]:
    config: dict[str, dict] = {}
    for name, value in settings.items():
        section, key = name.split(".")
        config.setdefault(section, {})[key] = value
    return config


def test_runs_that_differ_in_speed_and_place_are_one_group(tmp_path: Path) -> None:
    names = (
        "trainer.max_epochs", "trainer.check_val_every_n_epoch", "trainer.accelerator", "trainer.log_every_n_steps",
        "trainer.enable_progress_bar", "trainer.default_root_dir", "data.workers", "data.executor", "data.progress",
        "data.device", "data.storage", "data.chunk_size", "data.clone_seed", "model.compile", "checkpoint.dirpath",
    )  # fmt: skip
    folders = [
        make_run(tmp_path / str(seed), make_rows([0.1]), seed=seed, config=nested(dict.fromkeys(names, seed)))
        for seed in range(2)
    ]
    (group,) = group_runs(read_runs(folders)[0])
    assert group.label == "preset quick"


def test_labels_name_two_settings_in_short(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / str(value), make_rows([0.1]), config={"model": {"a": "x" * value, "b": value, "c": value}})
        for value in (1, 99)
    ]
    folders.append(make_run(tmp_path / "lost", make_rows([0.1]), config={}))
    assert [group.label for group in group_runs(read_runs(folders)[0])] == [
        "preset quick, a x, b 1, …",
        f"preset quick, a {'x' * 61}…, b 99, …",
        "preset quick, configuration not kept",
    ]


def test_a_group_without_a_finished_run_is_said_to_be_one(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / str(seed), make_rows([0.1, 0.5]), seed=seed, status=status)
        for seed, status in enumerate(["interrupted", "failed"])
    ]
    (group,) = group_runs(read_runs(folders)[0])
    assert group.notes == ["pen, preset quick: none of its runs has finished; the means are over unfinished runs"]


@pytest.mark.parametrize(
    "cloning",
    [
        {},
        {"success_deterministic": math.nan, "evaluation_episodes": 100},
        {"success_deterministic": 1.5, "evaluation_episodes": 100},
        {"success_deterministic": "0.4", "evaluation_episodes": 100},
        {"success_deterministic": 0.4, "evaluation_episodes": 0},
        {"success_deterministic": 0.4},
    ],
)
def test_a_clone_of_unknown_success_has_no_stage(tmp_path: Path, cloning: dict) -> None:
    run = read_run(make_run(tmp_path / "run", make_rows([0.1, 0.5]), cloning=cloning))
    assert run.cloned is None
    assert "after cloning" not in stages(run)


def test_clones_without_a_digest_are_not_taken_for_one(tmp_path: Path) -> None:
    data = [{"id": "expert", "sha256": "ab", "episodes": 25}, {"id": "cloned", "episodes": 500}]
    folders = [make_run(tmp_path / str(seed), make_rows([0.1, 0.5]), seed=seed, datasets=data) for seed in range(2)]
    (row,) = cells(results(folders), "Success at each stage")
    assert row["after cloning"] == "0.400 (0.335 to 0.469)"  # 80 of 200 episodes


def test_hidden_folders_and_links_are_not_searched(tmp_path: Path) -> None:
    for place in ("runs/a", "runs/.trash/b", "elsewhere/c"):
        make_run(tmp_path / place, make_rows([0.1, 0.2]))
    (tmp_path / "runs/link").symlink_to(tmp_path / "elsewhere")
    assert [run.name for run in read_runs([tmp_path / "runs"])[0]] == ["a"]


def test_what_is_missing_in_a_run_is_noted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [{"epoch": 0, "updates": 10, "env_steps": 0}])
    (folder / "config.yaml").unlink()
    assert read_run(folder).notes == ("its configuration was not kept", "nothing has been evaluated")


def test_a_text_is_clipped_to_one_line() -> None:
    assert [clip(text, 4) for text in ("ab\ncd", "a b", "\ud800")] == ["ab …", "a b", "?"]


def test_steps_are_not_averaged_over_tasks(tmp_path: Path) -> None:
    """Tasks differ in length."""
    folders = []
    for task in ("pen", "door"):
        for seed in range(2):
            tags = {"task": task, "preset": "quick", "seed": str(seed)}
            folders.append(make_run(tmp_path / f"{task}-{seed}", make_rows([0.1, 0.95]), seed=seed, tags=tags))
    rows = cells(results(folders), "Over seeds")
    measures = [row["measure"] for row in rows if row["runs"] == "pen, preset quick"]
    together = [row["measure"] for row in rows if row["runs"] == "2 tasks, preset quick"]
    assert [name for name in measures if name not in together] == ["steps to 0.5", "steps to 0.9"]
