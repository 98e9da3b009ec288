"""Figures, and the page that holds everything."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from awac_pl.commands.main import main
from awac_pl.report import figures, published
from awac_pl.report import page as report
from awac_pl.report.figures import GRAY, STYLES, band, curve, draw, explain, mean_curve, save
from awac_pl.report.page import write_report
from awac_pl.report.statistics import wilson_interval
from awac_pl.runs.grouping import SeedGroup, group_runs
from awac_pl.runs.reading import read_runs
from tests.run_folders import make_rows, make_run
from tests.test_cli import fit, workplace  # noqa: F401

GIF = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")


def groups_of(*folders: Path) -> list[SeedGroup]:
    return group_runs(read_runs(folders)[0])


def seeds(tmp_path: Path, *rates: list[float], **changes) -> list[Path]:
    return [make_run(tmp_path / f"seed{index}", make_rows(each), seed=index, **changes) for index, each in enumerate(rates)]


class Page(HTMLParser):
    """What a browser makes of a page: its elements, what it would load, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data

    def loaded(self) -> list[str]:
        return [value for _, attributes in self.elements for name, value in attributes.items()
                if name in ("src", "href", "xlink:href", "data", "poster", "action")]  # fmt: skip


# Figures


def test_seeds_stand_side_by_side_by_epoch(tmp_path: Path) -> None:
    (group,) = groups_of(*seeds(tmp_path, [0.1, 0.5, 0.9], [0.3, math.nan, 0.5]))
    places, values = curve(group.runs, "success_rate")
    np.testing.assert_array_equal(places, [0, 10_000, 20_000])
    np.testing.assert_array_equal(values, [[0.1, 0.5, 0.9], [0.3, math.nan, 0.5]])


def test_bands_by_hand(tmp_path: Path) -> None:
    one, two, three = ([0.2, 0.5], [0.5, 0.5], [0.8, math.nan])
    (group,) = groups_of(*seeds(tmp_path, one, two, three))

    def ends(number: int, measure="success_rate"):
        runs = group.runs[:number]
        return band(runs, curve(runs, measure)[1], measure)

    low, high = ends(3)
    assert (low[0], high[0]) == (pytest.approx(0.2), pytest.approx(0.8))
    assert math.isnan(low[1])  # a gap, where a seed has none
    assert ends(2) is None
    low, high = ends(1)
    assert (low[1], high[1]) == (pytest.approx(0.237, abs=1e-3), pytest.approx(0.763, abs=1e-3))  # 5 of 10, Wilson
    assert ends(1, "episode_return") is None


def test_what_is_drawn(tmp_path: Path) -> None:
    config = {"data": {"offline_epochs": 2, "updates_per_epoch": 1000}}
    folders = [
        make_run(tmp_path / f"{seed}", make_rows([0.2, 0.4, rate], pretraining=2), seed=seed, config=config)
        for seed, rate in enumerate([0.4, 0.6, 0.8])
    ]
    figure = draw(groups_of(*folders), "success_rate")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "environment steps (thousands)"
    assert axes.get_ylabel() == "success rate (any step)"
    means = [line for line in axes.lines if line.get_linewidth() == 2.4 and len(line.get_xdata())]
    np.testing.assert_allclose(means[0].get_xdata(), [-1, 0, 10])
    np.testing.assert_allclose(means[0].get_ydata(), [0.2, 0.4, 0.6])
    assert sum(line.get_linewidth() == 0.9 for line in axes.lines) == 3
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linewidth() == 1.1] == pytest.approx(
        [0.4]
    )  # the cloned policy
    assert axes.get_xlim()[0] <= -2  # all of pretraining, shaded up to 0
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["mean of 3 seeds", "one seed", "95 % interval", "cloned policy"]


def test_the_mean_goes_on_while_more_than_half_of_the_seeds_do(tmp_path: Path) -> None:
    """A run that was cut off counts as far as it came, beside one that finished."""
    rates = [[0.2, 0.2, 0.2], [0.4, 0.4], [0.6, 0.6, 0.8, 0.9]]
    (group,) = groups_of(*seeds(tmp_path, *rates))
    np.testing.assert_allclose(mean_curve(curve(group.runs, "success_rate")[1]), [0.4, 0.4, 0.5, math.nan])
    np.testing.assert_allclose(mean_curve(np.array([[0.2, 0.4, 0.6], [0.4, math.nan, 0.8]])), [0.3, math.nan, 0.7])
    np.testing.assert_allclose(mean_curve(np.array([[0.2, 0.4], [math.nan, math.nan]])), [0.2, 0.4])  # one has just begun
    low, _ = band(group.runs, curve(group.runs, "success_rate")[1], "success_rate")
    assert np.isnan(low).tolist() == [False, False, True, True]  # two seeds have no band
    figure = draw([group], "success_rate")
    assert figure.legends[0].get_texts()[0].get_text() == "mean of 2 to 3 seeds"
    assert max(len(line.get_xdata()) for line in figure.axes[0].lines) == 4  # the longest seed, thin


def test_returns_have_no_cloned_line_and_one_seed_no_band(tmp_path: Path) -> None:
    groups = groups_of(make_run(tmp_path / "run", make_rows([0.2, 0.4])))
    figure = draw(groups, "episode_return")
    assert figure.axes[0].get_ylabel() == "average return of an episode"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0"]
    assert "a single seed has no band" in explain(groups, "episode_return").lower()


def test_published_curves_only_when_asked_for(tmp_path: Path) -> None:
    groups = groups_of(make_run(tmp_path / "run", make_rows([0.2, 0.4])))

    def gray(figure) -> list:
        return [line for line in figure.axes[0].lines if line.get_color() == GRAY and len(line.get_xdata()) == 4]

    assert gray(draw(groups, "success_rate")) == []
    lines = gray(draw(groups, "success_rate", compare=True))
    assert {tuple(line.get_ydata()) for line in lines} == set(published.SUCCESS["pen"].values())
    assert list(lines[0].get_xdata()) == [0, 100, 200, 300]
    assert gray(draw(groups, "episode_return", compare=True)) == []
    assert published.SOURCE in explain(groups, "success_rate", compare=True)


def test_one_evaluation_is_a_point_with_its_interval(tmp_path: Path) -> None:
    figure = draw(groups_of(make_run(tmp_path / "run", make_rows([0.2]))), "success_rate")
    assert len(figure.axes[0].containers) == 1


@pytest.mark.parametrize("rates", [[0.2], [0.2, 0.4]])
def test_a_run_that_ends_within_pretraining_is_drawn_within_it(tmp_path: Path, rates: list[float]) -> None:
    """The text at the end of pretraining is in the figure, so its layout is found: a warning would be an error."""
    folder = make_run(tmp_path / "run", make_rows(rates, pretraining=5), offline_updates=5000)
    figure = draw(groups_of(folder), "success_rate")
    with warnings.catch_warnings(action="error"):
        save(figure, tmp_path / "figure.png")
    low, high = figure.axes[0].get_xlim()
    assert low <= -5 < 0 <= high


@pytest.mark.parametrize("rates", [[1.0], [0.0], [0.9, 0.9, 0.9], [1.0, 1.0, 1.0], [math.nan], [1.0, 0.5], []])
@pytest.mark.parametrize("without", ["", "eval/success_rate", "eval/episode_return", "eval/episodes"])
def test_whatever_one_evaluation_says_has_a_page(tmp_path: Path, rates: list[float], without: str) -> None:
    for seed, rate in enumerate(rates):
        rows = [{name: value for name, value in row.items() if name != without} for row in make_rows([rate])]
        make_run(tmp_path / f"runs/{seed}", rows, seed=seed)
    make_run(tmp_path / "runs/empty", [], seed=9)
    write_report([tmp_path / "runs"], tmp_path / "page.html")
    assert "empty: no epoch has ended" in (tmp_path / "page.html").read_text()


def test_an_interval_holds_its_rate() -> None:
    for episodes in range(1, 200):
        assert wilson_interval(episodes, episodes)[1] == 1
        assert wilson_interval(0, episodes)[0] == 0


def test_an_epoch_that_was_evaluated_twice_counts_once(tmp_path: Path) -> None:
    rows = make_rows([0.1, 0.2, 0.4])
    rows[1]["epoch"] = 0
    rows[2]["eval/episodes"] = 0.0  # every episode failed
    (group,) = groups_of(make_run(tmp_path / "run", rows))
    assert curve(group.runs, "success_rate")[1].tolist() == [[0.2]]
    draw([group], "success_rate")


def test_success_goes_from_0_to_1_and_marks_say_how_many_episodes(tmp_path: Path) -> None:
    rows = make_rows([0.9, 0.91, 0.92, 0.93])
    for row, episodes in zip(rows, (4, 20, 100, 20), strict=True):
        row["eval/episodes"] = float(episodes)
    few = make_run(tmp_path / "few", make_rows([0.9, 0.91]), config={"model": {"temperature": 2}})
    groups = groups_of(make_run(tmp_path / "run", rows), few)
    (axes,) = (figure := draw(groups, "success_rate")).axes
    assert axes.get_ylim() == (-0.02, 1.02)
    assert "100 episodes (small: 4 to 20)" in [text.get_text() for text in figure.legends[0].get_texts()]
    large = [line for line in axes.lines if line.get_markersize() == 7 and line.get_linestyle() == "None"]
    assert sorted(list(line.get_xdata()) for line in large) == [[], [20]]
    assert "large marks: evaluations of 100 episodes; small marks: of 4 to 20" in explain(groups, "success_rate").lower()


def test_runs_that_weight_their_data_otherwise_are_others(tmp_path: Path) -> None:
    data = {"id": "awac/door/human-v0", "sha256": "ab", "episodes": 25}
    plain = make_run(tmp_path / "plain", make_rows([0.2]), datasets=[data])
    heavy = make_run(tmp_path / "heavy", make_rows([0.2]), datasets=[data | {"weight": 20.0}])
    assert [group.title for folder in (plain, heavy) for group in groups_of(folder)] == [
        "pen, preset quick, 25 episodes of awac/door/human-v0, 1 seed",
        "pen, preset quick, 25 episodes of awac/door/human-v0 weighted 20 times, 1 seed",
    ]
    assert len(groups_of(plain, heavy)) == 2


def test_groups_differ_in_more_than_colour(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / str(index), make_rows([0.1, 0.2]), config={"model": {"temperature": index}})
        for index in range(6)
    ]
    figure = draw(groups_of(*folders), "success_rate")
    means = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.4 and not len(line.get_xdata())]
    assert len({line.get_color() for line in means}) == 6
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in means}) == 6
    assert len({line.get_marker() for line in means}) == 6


def test_a_method_looks_the_same_in_every_figure_of_a_report(tmp_path: Path) -> None:
    """The pen lacks the first of the door's three groups."""
    (group,) = groups_of(make_run(tmp_path / "run", make_rows([0.1])))
    warm, hot = (dataclasses.replace(group, label=label) for label in ("warm", "hot"))

    def colours(*groups: SeedGroup) -> list[str]:
        figure = draw(groups, "success_rate", labels=["cold", "warm", "hot"])
        (clone,) = (one.get_color() for one in figure.legends[0].legend_handles if one.get_label() == "cloned policy")
        lines = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.4 and not len(line.get_xdata())]
        return [*(line.get_color() for line in lines), clone]

    assert colours(warm, hot) == [STYLES[1][0], STYLES[2][0], GRAY]
    assert colours(hot) == [STYLES[2][0], STYLES[2][0]]  # of the dashes, too


def test_files_are_equal_to_the_byte(tmp_path: Path) -> None:
    groups = groups_of(*seeds(tmp_path, [0.1, 0.5], [0.3, 0.2], [0.3, 0.9]))
    for form in ("png", "svg"):
        files = [tmp_path / f"{name}.{form}" for name in ("one", "two")]
        for file in files:
            save(draw(groups, "success_rate"), file)
        assert files[0].read_bytes() == files[1].read_bytes()
    assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()


def test_nobodys_pyplot_is_touched(tmp_path: Path) -> None:
    make_run(tmp_path / "run", make_rows([0.2, 0.4]))
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from pathlib import Path; from awac_pl.report.page import write_report\n"
        f"write_report([Path({str(tmp_path / 'run')!r})], Path({str(tmp_path / 'page.html')!r}))\n"
        "heavy = ('matplotlib.pyplot', 'torch', 'lightning', 'mlflow', 'minari', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules], matplotlib.rcParams.copy() == before)"
    )
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[] True\n"


# The page


def test_the_page_holds_everything(tmp_path: Path) -> None:
    folders = seeds(tmp_path, [0.1, 0.5, 0.8], [0.3, 0.2, 0.9], [0.3, 0.9, 0.7])
    target = tmp_path / "out/report.html"
    write_report(folders, target, figures=tmp_path / "figures")
    page = Page(target.read_text())
    assert [tag for tag, _ in page.elements].count("svg") == 2
    for part in ("AWAC on pen", "3 seeds", "0.800 (0.627 to 0.905)", "ab" * 32, "0123abc", "2.13.0", "temperature: 0.5",
                 "awac fit --config conf/base.yaml --data.task=pen",
                 "awac report"):  # fmt: skip
        assert part in page.text, part
    assert "/somewhere/bin" not in page.text
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "pen-success_rate.png", "pen-success_rate.svg", "pen-episode_return.png", "pen-episode_return.svg",
    }  # fmt: skip
    assert not list(target.parent.glob("*.tmp"))
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "run/videos").mkdir(parents=True)
    (tmp_path / "run/videos/last.gif").write_bytes(GIF)
    write_report([make_run(tmp_path / "run", make_rows([0.2, 0.4]))], tmp_path / "page.html", compare=True)
    page = Page((tmp_path / "page.html").read_text())
    assert all(value.startswith(("data:", "#")) for value in page.loaded())
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\((?!#)|@import", (tmp_path / "page.html").read_text())


HOSTILE = "<script>alert(1)</script>\"'--!><img src=x onerror=alert(2)>$\\frac{1}$_{{7*7}}"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    tags = {"task": HOSTILE, "preset": HOSTILE, "seed": HOSTILE, "commit": HOSTILE}
    dataset = {"id": HOSTILE, "sha256": HOSTILE, "episodes": HOSTILE}
    folders = [
        make_run(
            tmp_path / f"<script>{index}", make_rows([0.1, 0.2]), tags=tags, datasets=[dataset], device=HOSTILE,
            versions={HOSTILE: HOSTILE}, command=[HOSTILE, HOSTILE], status="failed", error=HOSTILE, started="\ud800",
            config={HOSTILE: HOSTILE, "model": {"x": [HOSTILE, index]}},
        )
        for index in range(2)
    ]  # fmt: skip
    (folders[0] / "videos").mkdir()
    (folders[0] / "videos/<script>alert(3)<%2Fscript>.gif").write_bytes(GIF)
    write_report(folders, tmp_path / "page.html", figures=tmp_path / "figures")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert [attributes["src"][:14] for tag, attributes in page.elements if tag == "img"] == ["data:image/gif"]
    assert "<script>alert(1)</script>" in page.text
    assert "49" not in re.findall(r"_(\d+)", page.text)
    assert all(path.parent == tmp_path / "figures" for path in (tmp_path / "figures").rglob("*"))


def test_the_same_runs_make_the_same_page(tmp_path: Path) -> None:
    folders = seeds(tmp_path, [0.1, 0.5], [0.3, 0.2])
    pages = []
    for _ in range(2):
        write_report(folders, tmp_path / "page.html")
        pages.append((tmp_path / "page.html").read_bytes())
    assert pages[0] == pages[1]


def test_videos_come_in_order_and_none_is_lost_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = make_run(tmp_path / "run", make_rows([0.2, 0.4])) / "videos"
    videos.mkdir()
    for name in ("updates-10000.gif", "updates-500.gif", "after.gif", "before.gif", "last.gif", "last.mp4", "notes.txt"):
        (videos / name).write_bytes(GIF)
    (tmp_path / "secret").write_text("key")
    (videos / "updates-99-other.gif").symlink_to(tmp_path / "secret")
    (videos / "updates-9-large.gif").write_bytes(GIF + bytes(5000))
    monkeypatch.setattr(report, "VIDEO_BYTES", 5000)
    found = report._embed_videos(read_runs([tmp_path / "run"])[0])
    assert [video["name"] for video in found] == [
        "before", "after", "last", "updates-500", "updates-10000", "updates-9-large", "updates-99-other",
    ]  # fmt: skip
    assert [(len(video["image"]), len(video["video"])) for video in found[:3]] == [(1, 0), (1, 0), (1, 1)]
    assert found[-2]["missing"] == ["updates-9-large.gif is left out: 0 MB of videos fit on a page"]
    assert found[-1]["missing"] == ["updates-99-other.gif is no file of the run's own"]
    assert found[-1]["image"] == []


def test_unknown_success_has_no_curve_of_it(tmp_path: Path) -> None:
    write_report([make_run(tmp_path / "run", make_rows([math.nan, math.nan]), cloning=None)], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert [tag for tag, _ in page.elements].count("svg") == 1
    assert "eval/success_rate is unknown throughout" in page.text


def test_a_run_without_an_epoch_has_a_page(tmp_path: Path) -> None:
    write_report([make_run(tmp_path / "run", [], status="running", datasets=[], cloning=None)], tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text()).text
    assert "no epoch has ended" in text
    assert "Nothing has been evaluated." in text


# The command


def test_the_command_reports_the_runs_that_are_here(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/good", make_rows([0.2, 0.4]))
    make_run(tmp_path / "runs/odd", [], format=9)
    assert main(["report", "--markdown"]) == 0
    captured = capsys.readouterr()
    assert "### Success at each stage" in captured.out
    assert "| pen | quick | 1 | 0.400 (0.309 to 0.498) |" in captured.out
    assert captured.err.startswith("report.html ")
    assert "left out: runs/odd/manifest.json has format 9" in Page(Path("report.html").read_text()).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no folder runs"),
        (["empty"], "empty is no run folder: it is empty"),
        (["good", "empty"], "empty is no run folder"),
        (["good", "--to", "empty"], "empty: cannot be written (Is a directory)"),
        (["other"], "has format 3"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, monkeypatch, capsys, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    make_run(Path("good"), make_rows([0.2, 0.4]))
    make_run(Path("other"), [], format=3)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_shows_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["report", "--help"])
    assert "awac report runs/" in capsys.readouterr().out.split("examples:")[1]


def test_a_real_run_is_reported(workplace: Path) -> None:  # noqa: F811
    assert fit("--mlflow_uri=none", "--run_dir=here", "--data.workers=0", "--trainer.max_epochs=2") == 0
    assert json.loads((workplace / "here/manifest.json").read_text())["format"] == 1
    write_report([workplace / "here"], workplace / "page.html")
    page = Page((workplace / "page.html").read_text())
    assert "AWAC on tests.toy:Reach-v0" in page.text
    assert "unfinished" not in page.text
    assert "toy/reach-v0" in page.text
    assert [tag for tag, _ in page.elements].count("svg") == 2


# What is said beside the figures


SINGLE = "Band of a single seed: Wilson's 95 % interval of its episodes"
THIN = "Thin lines: seeds; thick line: their mean, as far as more than half of them came"
GRAY_PART = "gray: pretraining, before the first environment step; there the axis counts thousands of updates."


@pytest.mark.parametrize(
    ("number", "measure", "sentence"),
    [
        (1, "success_rate", f"{SINGLE}; evaluations of 10 episodes; {GRAY_PART}"),
        (1, "episode_return", f"A single seed has no band; evaluations of 10 episodes; {GRAY_PART}"),
        (2, "success_rate", f"{THIN}; two seeds have no band; evaluations of 10 episodes; {GRAY_PART}"),
        (
            3,
            "episode_return",
            f"{THIN}; band: 95 % bootstrap interval of the mean over seeds; evaluations of 10 episodes; {GRAY_PART}",
        ),
    ],
)
def test_a_figure_is_explained(tmp_path: Path, number: int, measure, sentence: str) -> None:
    assert explain(groups_of(*seeds(tmp_path, *[[0.1, 0.5]] * number)), measure) == sentence


def test_a_figure_is_named_by_its_group_or_by_its_task(tmp_path: Path) -> None:
    one, other = (
        make_run(tmp_path / f"{value}", make_rows([0.1, 0.2]), config={"model": {"temperature": value}}) for value in (1, 2)
    )
    (group,) = groups_of(one)
    assert draw([group], "success_rate").get_suptitle() == group.title
    assert draw(groups_of(one, other), "success_rate").get_suptitle() == "pen"
    long = dataclasses.replace(group, label="x" * 200)
    assert draw([long], "success_rate").get_suptitle() == f"pen, {'x' * 84}…"


def test_more_groups_than_styles_have_those_of_their_own_figure(tmp_path: Path) -> None:
    (group,) = groups_of(make_run(tmp_path / "run", make_rows([0.1])))
    axes = draw([group], "success_rate", labels=[str(number) for number in range(1 + len(STYLES))]).axes[0]
    assert {line.get_color() for line in axes.lines if line.get_linewidth() == 2.4} == {STYLES[0][0]}


def test_videos_share_the_room_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        videos = make_run(tmp_path / name, make_rows([0.2])) / "videos"
        videos.mkdir()
        (videos / "last.gif").write_bytes(bytes(3000))
        (videos / "best.GIF").write_bytes(bytes(500))
    monkeypatch.setattr(report, "VIDEO_BYTES", 5000)
    found = report._embed_videos(read_runs([tmp_path])[0])
    assert [(video["run"], video["name"], len(video["image"])) for video in found] == [
        ("one", "last", 1), ("one", "best", 1), ("two", "last", 0), ("two", "best", 1),
    ]  # fmt: skip


def test_a_page_names_its_command_and_says_of_which_runs_a_note_is(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, [], status="interrupted") for name in ("a", "b")]
    target, pictures = tmp_path / "page.html", tmp_path / "figures"
    write_report(folders, target, figures=pictures, compare=True)
    text = Page(target.read_text()).text
    command = ["awac", "report", *map(str, folders), "--to", str(target), "--figures", str(pictures), "--published"]
    assert " ".join(command) in text
    assert "a, b: unfinished: interrupted" in text
    assert text.count("pen, preset quick: none of its runs has finished") == 2  # above all, and below the table


def test_published_curves_are_drawn_and_named_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(figures, "draw", lambda groups, measure, **options: asked.append(options["compare"]))
    monkeypatch.setattr(figures, "inline_svg", lambda figure, description: description)
    groups = groups_of(make_run(tmp_path / "run", make_rows([0.2, 0.4])))
    success, returns = report._draw_figures(groups, None, True)
    assert asked == [True, True]
    assert (published.SOURCE in success["caption"], published.SOURCE in returns["caption"]) == (True, False)
    assert success["svg"] == "pen: success rate (any step)"


def test_the_command_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def write(folders: list[Path], target: Path, **options: object) -> list:
        target.touch()
        asked.append((folders, target, options))
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_report", write)
    assert main(["report"]) == 0
    assert main(["report", "a", "b", "--to", "x.html", "--figures", "f", "--published"]) == 0
    assert asked == [
        ([Path("runs")], Path("report.html"), {"figures": None, "compare": False}),
        ([Path("a"), Path("b")], Path("x.html"), {"figures": Path("f"), "compare": True}),
    ]


def test_every_option_of_the_command_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("awac_pl.report.page.write_report", lambda *given, **named: asked.append((given, named)) or [])
    for page in ("report.html", "mine.html"):
        Path(page).touch()
    assert main(["report"]) == 0
    assert main(["report", "a", "b", "--to", "mine.html", "--figures", "pictures", "--published"]) == 0
    assert asked == [
        (([Path("runs")], Path("report.html")), {"figures": None, "compare": False}),
        (([Path("a"), Path("b")], Path("mine.html")), {"figures": Path("pictures"), "compare": True}),
    ]
