"""Videos: pictures by hand, the same episodes as a worker's, files that can be read again, and what happens without GL."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from awac_pl.algorithms.checkpoints import read_checkpoint
from awac_pl.callbacks.video_recorder import VideoRecorder, formats
from awac_pl.commands.main import main
from awac_pl.commands.video import _print_successes
from awac_pl.datasets.minari_io import save_dataset
from awac_pl.envs import rendering, video
from awac_pl.envs.rendering import Clip, RenderingError, render_clips
from awac_pl.envs.rollouts import RolloutWorkers
from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.envs.tasks import find_task, inspect_spaces
from awac_pl.episode import Episode
from awac_pl.errors import AwacError
from awac_pl.policies.actor import Actor
from tests.toy import constant_policy, make_episode, reach_episodes

ROOT = Path(__file__).parents[1]
PICTURES = "tests.toy:Pictures-v0"
SEEDS = [3, 1, 4]


def make_clip(
    steps: int, grey: int, *, success_at: int | None = None, known: bool = True, label: str = "a", seed: int = 7
) -> Clip:
    """A clip with a picture at each step, of one grey; the state after step ``success_at`` is a success."""
    success = np.zeros(steps, bool)
    if success_at is not None:
        success[success_at - 1] = True
    return Clip(
        label=label,
        frames=np.full((steps + 1, 96, 128, 3), grey, np.uint8),
        steps=np.arange(steps + 1),
        episode=make_episode(steps, seed=seed, success=success if known else None),
    )


def assert_equal(one: Episode, other: Episode) -> None:
    for name in ("observations", "actions", "rewards", "terminated", "truncated", "success"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert one.seed == other.seed


def test_pictures_and_episodes_are_those_of_the_seed() -> None:
    task = find_task(PICTURES, terminate_on_success=True)
    policies = {"weak": constant_policy(action=0.2, std=0.3), "strong": constant_policy(action=0.8, std=0.3)}
    clips = render_clips(task, policies, SEEDS, size=(96, 112), every=4, progress=False)
    assert list(clips) == ["weak", "strong"]
    workers = RolloutWorkers(task, 0)
    for label, row in clips.items():
        for clip, expected in zip(row, workers.rollout(policies[label], SEEDS, whole_episodes=True), strict=True):
            assert_equal(clip.episode, expected)
            assert clip.label == label
            assert clip.steps.tolist() == [0, 4, 8, 10]  # the reset, every fourth step, and the end
            assert (clip.frames.shape, clip.frames.dtype) == ((4, 112, 96, 3), np.uint8)
            # 24 by 12 fitted into 96 by 112: 96 by 48, with 32 rows of black above and below
            assert [frame[56, 48, 0] for frame in clip.frames] == [0, 80, 160, 200]
            assert clip.frames[:, :32].max() == 0
            assert clip.frames[:, 80:].max() == 0
            np.testing.assert_array_equal(clip.frames[3, 32:80], 200)
    assert any(clip.episode.success.any() for row in clips.values() for clip in row)


def test_an_environment_that_can_renders_at_the_size_asked_for() -> None:
    task = find_task("tests.toy:SizedPictures-v0")
    (clip,) = render_clips(task, {"a": constant_policy()}, [1], size=(112, 96), every=10, num_workers=1, progress=False)["a"]
    np.testing.assert_array_equal(clip.frames[1], np.full((96, 112, 3), 200))  # no black


def test_the_real_pen_task() -> None:
    torch.manual_seed(0)
    task, policies = find_task("pen", horizon=9), {"a": Actor(45, 24, initial_std=0.3).to_numpy()}
    try:
        (clip,) = render_clips(task, policies, [5], size=(128, 96), every=4, progress=False)["a"]
    except RenderingError as error:
        pytest.skip(str(error))
    assert clip.steps.tolist() == [0, 4, 8, 9]
    assert_equal(clip.episode, RolloutWorkers(task, 0).rollout(policies["a"], [5])[0])
    assert clip.frames.shape == (4, 96, 128, 3)
    assert clip.frames.std() > 30
    assert (clip.frames[0] != clip.frames[3]).any()


def test_labels_and_borders_follow_success() -> None:
    clip = make_clip(4, 150, success_at=3)
    drawn = video.draw_labels(clip)
    assert drawn.shape == clip.frames.shape
    corner = [tuple(frame[0, 0]) for frame in drawn]
    assert corner == [(50, 50, 50)] * 3 + [video.GREEN] * 2  # a dark band; green from the success on
    np.testing.assert_array_equal(drawn[:, 40:60, 10:-10], 150)  # the middle is left alone
    assert (clip.frames == 150).all()  # and so is the clip
    assert drawn[2].max() > 200  # text
    assert [tuple(frame[0, 0]) for frame in video.draw_labels(make_clip(2, 150))] == [(50, 50, 50)] * 2 + [video.RED]
    unknown = video.draw_labels(make_clip(2, 150, known=False))
    assert [tuple(frame[0, 0]) for frame in unknown] == [(50, 50, 50)] * 3
    assert (video.first_success(clip), video.first_success(make_clip(2, 150, known=False))) == (3, None)


def middles(grid: np.ndarray, frame: int) -> list[list[int]]:
    """The grey in the middle of each tile."""
    return grid[frame, 48::96, 64::128, 0].tolist()


def test_a_pair_stands_in_rows_and_one_policy_in_a_square() -> None:
    pair = {"cloned": [make_clip(2, 10), make_clip(4, 20)], "fine-tuned": [make_clip(1, 30), make_clip(1, 40)]}
    grid = video.make_grid(pair)
    assert grid.shape == (5, 192, 256, 3)  # as long as the longest
    assert [middles(grid, frame) for frame in (0, 4)] == [[[10, 20], [30, 40]]] * 2
    np.testing.assert_array_equal(grid[4, :96, :128], grid[2, :96, :128])  # over: it stays at its last frame
    assert tuple(grid[1, 0, 0]) != video.RED
    assert tuple(grid[4, 0, 0]) == video.RED
    square = video.make_grid({"a": [make_clip(1, grey) for grey in (10, 20, 30)]})
    assert middles(square, 0) == [[10, 20], [30, 0]]
    wide = video.make_grid({name: [make_clip(1, base + i) for i in range(6)] for name, base in (("a", 10), ("b", 20))})
    assert middles(wide, 1) == [[10, 11, 12, 13, 14], [20, 21, 22, 23, 24], [15, 0, 0, 0, 0], [25, 0, 0, 0, 0]]


@pytest.mark.parametrize(("size", "near"), [((250, 256), "256x256"), ((64, 112), "96x112")])
def test_a_size_that_h264_cannot_hold_is_refused(size: tuple[int, int], near: str) -> None:
    video.check_size((96, 112))
    with pytest.raises(AwacError, match=f"multiples of 16, at least 96: {near}"):
        video.check_size(size)


def ramp() -> np.ndarray:
    """8 frames, 128 wide and 96 high, each of one grey: 0, 30, 60 and so on."""
    return np.repeat(np.arange(8, dtype=np.uint8) * 30, 96 * 128 * 3).reshape(8, 96, 128, 3)


def read_mp4(path: Path) -> tuple[np.ndarray, dict]:
    """Frames ``[F, H, W, 3]`` and metadata; imageio's reader leaves its pipes to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        reader = imageio.get_reader(path)
        frames, facts = np.stack([frame for frame in reader]), reader.get_meta_data()  # noqa: C416  (no length)
        reader.close()
        del reader
        gc.collect()
    return frames, facts


def test_an_mp4_can_be_read_again(tmp_path: Path) -> None:
    video.write_video(tmp_path / "new/film.mp4", ramp())
    read, facts = read_mp4(tmp_path / "new/film.mp4")
    assert (facts["codec"], facts["fps"], facts["size"]) == ("h264", 12.5, (128, 96))
    assert read.shape == (8, 96, 128, 3)
    np.testing.assert_allclose(read.mean(axis=(1, 2, 3)), np.arange(8) * 30, atol=4)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["film.mp4"]  # nothing half done beside it


def test_a_gif_can_be_read_again_and_needs_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    video.write_video(tmp_path / "film.gif", ramp())
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (8, (128, 96), 0)
        greys, durations = [], []
        for index in range(8):
            film.seek(index)
            greys.append(np.asarray(film.convert("RGB")).mean())
            durations.append(film.info["duration"])
    np.testing.assert_allclose(greys, np.arange(8) * 30, atol=4)
    assert durations == [80] * 7 + [1080]
    wide = np.concatenate([ramp()] * 12, axis=2)
    video.write_video(tmp_path / "wide.gif", wide)
    with Image.open(tmp_path / "wide.gif") as film:
        assert film.size == (768, 48)


def test_without_ffmpeg_an_mp4_is_refused_in_one_line(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(AwacError, match=r"no MP4 without ffmpeg \(.*nowhere.*pip install imageio-ffmpeg.*or write a .gif"):
        video.write_video(tmp_path / "film.mp4", ramp())
    assert not list(tmp_path.iterdir())
    assert formats() == [".gif"]
    assert len(caplog.records) == 1
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    monkeypatch.setattr("imageio_ffmpeg._utils._get_ffmpeg_exe", lambda: None)
    with pytest.raises(AwacError, match="No ffmpeg exe could be found"):
        video.check_ffmpeg()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AwacError, match=r"film.gif: cannot be written"):
        video.write_video(tmp_path / "file/film.gif", ramp())
    with pytest.raises(AwacError, match=r"film.avi: write to a .mp4 or a .gif file"):
        video.write_video(tmp_path / "film.avi", ramp())


def test_which_ways_of_drawing_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert rendering._backends() == ["egl", "osmesa", "disable"]
    monkeypatch.setenv("DISPLAY", ":0")
    assert rendering._backends() == [None, "egl", "osmesa", "disable"]
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert rendering._backends() == [None]


def test_the_next_way_of_drawing_is_tried_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_backends", lambda: ["bogus", "disable"])
    clips = render_clips(find_task(PICTURES), {"a": constant_policy()}, [1], size=(96, 96), num_workers=0, progress=False)
    assert len(clips["a"]) == 1


def test_a_driver_that_kills_its_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_backends", lambda: [None])
    task = find_task("tests.toy:DyingPictures-v0")
    with pytest.raises(RenderingError, match=r"cannot be rendered.*: the process that renders died"):
        render_clips(task, {"a": constant_policy()}, [1, 2], size=(96, 96), num_workers=1, progress=False)


def test_an_episode_that_fails_names_its_seed() -> None:
    with pytest.raises(RenderingError, match="seed 7: step 0: the action is not finite"):
        render_clips(find_task(PICTURES), {"a": constant_policy(action=np.nan)}, [7], size=(96, 96), progress=False)


SMALL = f"""\
preset: small
mlflow_uri: none
data: {{task: {PICTURES}, datasets: [toy/cloned-v0], batch_size: 16, chunk_size: 5, updates_per_epoch: 10, offline_epochs: 1,
  evaluation_episodes: 2, milestone_episodes: 2, workers: 0}}
model: {{actor_hidden_sizes: [16, 16], critic_hidden_sizes: [16, 16]}}
interaction: {{env_steps_per_epoch: 20}}
video: {{episodes: 2, size: 96, every: 5}}
trainer: {{max_epochs: 2, check_val_every_n_epoch: 1, accelerator: cpu, enable_progress_bar: false}}
"""


@dataclass
class Place:
    """A working folder with a configuration and datasets."""

    folder: Path
    datasets: Path

    def fit(self, *arguments: str) -> int:
        return main(["fit", f"--config={ROOT / 'conf/base.yaml'}", f"--config={self.folder / 'small.yaml'}", *arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A fit has been here, on a dataset that keeps the policy behind it: run folder ``run``."""
    place = Place(tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("datasets"))
    (place.folder / "small.yaml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(place.datasets))
        task = find_task(PICTURES)
        save_dataset("toy/cloned-v0", reach_episodes(20), task, inspect_spaces(task), {}, policy=constant_policy())
        assert place.fit(f"--run_dir={place.folder / 'run'}", "--video.every_n_evaluations=2") == 0
    return place


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(place.datasets))
    monkeypatch.chdir(place.folder)
    return place


def test_a_resumed_run_goes_on_counting_its_evaluations(here: Place) -> None:
    state = read_checkpoint(here.folder / "run/checkpoints/last.ckpt")["callbacks"]["VideoRecorder"]
    recorder = VideoRecorder(every_n_evaluations=2)
    recorder.load_state_dict(state)
    assert recorder.state_dict() == state == {"evaluations": 2}


def record(*arguments: str, checkpoint: str = "run/checkpoints/last.ckpt") -> int:
    return main(["record", "--ckpt_path", checkpoint, "--size=96", "--every=5", "--workers=1", *arguments])


def test_a_fit_leaves_the_pair_in_its_folder(here: Place) -> None:
    videos = here.folder / "run/videos"
    names = {"last.mp4", "last.gif", "updates-0000020.mp4", "updates-0000020.gif"}
    assert {path.name for path in videos.iterdir()} == names
    pair = read_mp4(videos / "last.mp4")[0]
    assert pair.shape == (3, 192, 192, 3)  # steps 0, 5 and 10; two seeds, cloned above fine-tuned
    for frame, grey in zip(pair, (0, 100, 200), strict=True):
        np.testing.assert_allclose(frame[48::96, 48::96], grey, atol=8)
    assert read_mp4(videos / "updates-0000020.mp4")[0].shape == (3, 96, 192, 3)
    # RunWriter, which hands the folder to MLflow, has come later
    assert max(path.stat().st_mtime_ns for path in videos.iterdir()) <= (videos.parent / "manifest.json").stat().st_mtime_ns
    assert json.loads((videos.parent / "manifest.json").read_text())["status"] == "finished"


def test_the_command_records_by_seed(here: Place, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert record("--seeds=5,9,11", "--before", "--to", str(tmp_path / "films")) == 0
    printed = capsys.readouterr().out
    assert "films/last.mp4  3 frames" in printed
    assert "films/last.gif" in printed
    assert "cloned" in printed
    assert "of 3 episodes succeed" in printed
    assert "made anew" not in printed
    assert read_mp4(tmp_path / "films/last.mp4")[0].shape == (3, 192, 288, 3)
    assert record("--episodes=2", "--single", "--stochastic", "--to", str(tmp_path / "one.gif")) == 0
    assert {path.name for path in tmp_path.glob("*.gif")} == {
        f"one-fine-tuned-{EVALUATION_SEEDS}.gif", f"one-fine-tuned-{EVALUATION_SEEDS + 1}.gif",
    }  # fmt: skip


def test_a_checkpoint_outside_a_run_folder_is_enough(here: Place, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(here.folder / "run/checkpoints/last.ckpt", alone)
    assert record("--before", "--episodes=1", checkpoint=str(alone)) == 0
    printed = capsys.readouterr().out
    assert "cloned" in printed
    assert "made anew" not in printed
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {"alone.mp4", "alone.gif"}
    state = torch.load(alone, weights_only=True)
    del state["datamodule_hyper_parameters"]
    torch.save(state, alone)  # as version 0.1 saved it
    assert record(checkpoint=str(alone)) == 2
    assert "alone.ckpt: lies in no run folder (RUN/checkpoints), and does not name its task" in capsys.readouterr().err


def test_a_cloned_policy_that_is_not_the_runs_or_not_there_gets_a_line(here: Place, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "others"))
    arguments = ["--before", "--episodes=1", "--to", str(tmp_path / "film.gif")]
    assert record(*arguments) == 0
    assert "no cloned policy is kept with toy/cloned-v0" in capsys.readouterr().out
    task = find_task(PICTURES)
    other = constant_policy(action=0.1)
    save_dataset("toy/cloned-v0", reach_episodes(3), task, inspect_spaces(task), {}, policy=other)
    assert record(*arguments) == 0
    assert "toy/cloned-v0 has been made anew since" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path=run/checkpoints/gone.ckpt"], "no checkpoint run/checkpoints/gone.ckpt"),
        (["--ckpt_path=elsewhere.ckpt"], "elsewhere.ckpt: is no checkpoint, or is cut off"),
        (["--ckpt_path=run/checkpoints/text.ckpt"], "run/checkpoints/text.ckpt: is no checkpoint, or is cut off"),
        (["--size=250"], "--size is 250x250; width and height must be multiples of 16, at least 96: 256x256"),
        (["--size=big"], "--size big is no size; write 256 or 640x480"),
        (["--seeds=1,x"], "--seeds 1,x are no seeds"),
        (["--episodes=0"], "--episodes is 0; it must be a whole number in [1, 100000]"),
        (["--to=film.avi"], "--to film.avi: write to a .mp4 or a .gif file, or to a folder"),
    ],
)
def test_mistakes_get_one_line(here: Place, arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    for name in ("elsewhere.ckpt", "run/checkpoints/text.ckpt"):
        (here.folder / name).write_text("no checkpoint")
    assert main(["record", "--ckpt_path=run/checkpoints/last.ckpt", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_graphics_the_command_answers_in_one_line(here: Place) -> None:
    """In a process of its own: this one has imported MuJoCo already."""
    command = [sys.executable, "-m", "awac_pl", "record", "--ckpt_path=run/checkpoints/last.ckpt", "--to=film.gif"]
    environment = os.environ | {"MUJOCO_GL": "bogus", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    *bar, answer = done.stderr.splitlines()
    assert all(line.strip() == "" or line.startswith("\r") or "rendering:" in line for line in bar)
    assert answer.startswith("awac: error: ")
    assert "cannot be rendered with MUJOCO_GL=bogus: RuntimeError: invalid value" in answer
    assert "apt install libegl1 libgl1-mesa-dri" in answer
    assert not (here.folder / "film.gif").exists()


@pytest.mark.parametrize("module", ["awac_pl.commands.fit", "awac_pl.envs.tasks"])
def test_what_draws_nothing_needs_no_graphics(module: str) -> None:
    """In a process of its own: this one has imported MuJoCo already."""
    code = (
        f"import os, {module}; from awac_pl.envs.tasks import find_task, inspect_spaces;"
        "print(inspect_spaces(find_task('pen')).observation_dim, os.environ['MUJOCO_GL'])"
    )
    environment = os.environ | {"MUJOCO_GL": "bogus", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "45 bogus"


def test_without_graphics_or_ffmpeg_a_fit_goes_on(here: Place, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MUJOCO_GL", "bogus")
    assert here.fit("--run_dir=no-graphics") == 0
    (warning,) = [entry.message for entry in caplog.records if entry.levelname == "WARNING"]
    assert "no video, the run goes on: " in warning
    assert json.loads(Path("no-graphics/manifest.json").read_text())["status"] == "finished"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    caplog.clear()
    assert here.fit("--run_dir=no-ffmpeg", "--video.episodes=1") == 0
    assert [entry.levelname for entry in caplog.records].count("WARNING") == 1
    assert [path.name for path in Path("no-ffmpeg/videos").iterdir()] == ["last.gif"]


def test_an_environment_without_pictures_costs_a_line(here: Place, caplog: pytest.LogCaptureFixture, capsys) -> None:
    task = find_task("tests.toy:Reach-v0")
    save_dataset("toy/blind-v0", reach_episodes(20), task, inspect_spaces(task), {})
    assert here.fit("--data.task=tests.toy:Reach-v0", "--data.datasets=[toy/blind-v0]", "--run_dir=blind") == 0
    assert [entry.levelname for entry in caplog.records if "no video: tests.toy:Reach-v0" in entry.message] == ["INFO"]
    assert "WARNING" not in {entry.levelname for entry in caplog.records}
    assert not Path("blind/videos").exists()
    capsys.readouterr()
    assert record("--to=film.gif", checkpoint="blind/checkpoints/last.ckpt") == 2
    assert "tests.toy:Reach-v0 makes no pictures" in capsys.readouterr().err


def test_zero_episodes_switch_it_off(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awac_pl.callbacks.video_recorder.render_clips", lambda *_, **__: pytest.fail("rendered"))
    assert here.fit("--run_dir=off", "--video.episodes=0", "--video.every_n_evaluations=1") == 0
    assert not Path("off/videos").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("episodes", -1), ("every", 0), ("size", 100), ("every_n_evaluations", -1)]
)  # fmt: skip
def test_arguments_of_the_callback_are_checked(name: str, value: int) -> None:
    with pytest.raises(AwacError, match=f"video.{name} is {value}"):
        VideoRecorder(**{name: value})


def test_only_the_first_rank_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        is_global_zero = False

    monkeypatch.setattr("awac_pl.callbacks.video_recorder.makes_pictures", lambda task: pytest.fail("rendered"))
    VideoRecorder()._record(Trainer(), {}, "last")  # type: ignore[arg-type]


def test_help_shows_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["video", "--help"])
    assert f"awac video --ckpt_path runs{os.sep}" in capsys.readouterr().out.split("examples:")[1]


def test_every_option_of_the_command_arrives(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered, written = [], []
    clips = {"fine-tuned": [make_clip(2, 10, success_at=1)]}
    monkeypatch.setattr(rendering, "render_clips", lambda *given, **named: rendered.append((given, named)) or clips)
    monkeypatch.setattr("awac_pl.commands.video._write", lambda *given, **named: written.append((given, named)))
    command = ["video", "--ckpt_path", "run/checkpoints/last.ckpt"]
    assert main(command) == 0
    options = ["--seeds", "8,7,8", "--size", "112x96", "--every", "3", "--workers", "1", "--stochastic", "--single"]
    assert main([*command, *options, "--before", "--to", "films"]) == 0
    (first, second), folder = rendered, here.folder / "run/videos"
    policies = [[(name, policy.deterministic) for name, policy in given[1].items()] for given, _ in rendered]
    assert policies == [[("fine-tuned", True)], [("cloned", False), ("fine-tuned", False)]]  # the cloned one above
    assert first[0][0].env_id == second[0][0].env_id == PICTURES
    assert [*first[0][2]] == [EVALUATION_SEEDS + number for number in range(4)]
    assert first[1] == {"size": (256, 256), "every": 4, "num_workers": 2}
    assert (second[0][2], second[1]) == ([8, 7], {"size": (112, 96), "every": 3, "num_workers": 1})
    assert written == [
        ((clips, [folder / "last.mp4", folder / "last.gif"]), {"single": False}),
        ((clips, [Path("films/last.mp4"), Path("films/last.gif")]), {"single": True}),
    ]


def test_successes_are_counted(capsys: pytest.CaptureFixture) -> None:
    clips = {"cloned": [make_clip(2, 1, success_at=1), make_clip(2, 1)], "fine-tuned": [make_clip(2, 1, known=False)]}
    _print_successes(clips, find_task(PICTURES))
    assert capsys.readouterr().out.splitlines() == [
        "  cloned       1 of 2 episodes succeed",
        f"  fine-tuned   success unavailable: {PICTURES} reports none",
    ]
