"""Clips as a video: labels and success are drawn on them, a grid shows them together, an MP4 or GIF stores them."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from awac_pl.envs.rendering import Clip
from awac_pl.errors import AwacError, first_line
from awac_pl.files import replacing

#: Both sides of a video are multiples of this, the size of H.264's blocks.
BLOCK = 16
#: Smallest side on which the labels can be read.
SMALLEST = 96
#: Half speed for Adroit tasks, which have 100 steps a second, with a picture every 4 steps.
FRAMES_PER_SECOND = 12.5
#: Most seeds side by side if several policies are shown.
COLUMNS = 5
#: Colours and largest width of a GIF: small enough for a README.
GIF_COLOURS, GIF_WIDTH = 256, 768

GREEN, RED = (46, 160, 67), (207, 34, 46)


def check_size(size: tuple[int, int], name: str = "size") -> None:
    """Refuse pictures that H.264 cannot store or that are too small for the labels.

    Raises:
        AwacError: a side is not a multiple of 16, or below 96.
    """
    if min(size) < SMALLEST or any(side % BLOCK for side in size):
        near = "x".join(str(max(SMALLEST, round(side / BLOCK) * BLOCK)) for side in size)
        given = "x".join(map(str, size))
        raise AwacError(f"{name} is {given}; width and height must be multiples of {BLOCK}, at least {SMALLEST}: {near}")


def check_ffmpeg() -> None:
    """Check that MP4 files can be written.

    Raises:
        AwacError: there is no working ffmpeg.
    """
    import imageio_ffmpeg

    try:
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, check=True, timeout=60)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise AwacError(
            f"no MP4 without ffmpeg ({first_line(error)}); pip install imageio-ffmpeg, look at IMAGEIO_FFMPEG_EXE, or write "
            "a .gif"
        ) from error


def draw_labels(clip: Clip) -> np.ndarray:
    """The clip's frames ``[F, H, W, 3]`` with label, seed, step and success.

    The border is green from the first success on. It is red on the last frame of an episode without success, unless success
    is unknown.
    """
    from PIL import Image, ImageDraw, ImageFont

    _, height, width, _ = clip.frames.shape
    points, edge = max(7, width // 20), max(2, width // 64)
    font, band = ImageFont.load_default(points), edge + round(1.6 * points)
    left, right, top, bottom = edge + 3, width - edge - 4, edge + 0.8 * points, height - edge - 0.8 * points
    first = first_success(clip)
    frames = clip.frames.copy()
    for rows in (slice(0, band), slice(height - band, height)):
        frames[:, rows] //= 3  # dark, so that the text can be read on any picture
    for index, step in enumerate(clip.steps):
        status, colour = "", None
        if first is not None and step >= first:
            status, colour = f"success at step {first}", GREEN
        elif first is None and clip.episode.success is not None and index == len(clip.steps) - 1:
            status, colour = "no success", RED
        image = Image.fromarray(frames[index])
        draw = ImageDraw.Draw(image)
        draw.text((left, top), clip.label, "white", font, anchor="lm")
        draw.text((right, top), status, "white", font, anchor="rm")
        draw.text((left, bottom), f"seed {clip.episode.seed}", "white", font, anchor="lm")
        draw.text((right, bottom), f"step {step}", "white", font, anchor="rm")
        if colour is not None:
            draw.rectangle((0, 0, width - 1, height - 1), outline=colour, width=edge)
        frames[index] = np.asarray(image)
    return frames


def first_success(clip: Clip) -> int | None:
    """Environment steps to the first success; None if there is none or success is unknown."""
    success = clip.episode.success
    return int(success.argmax()) + 1 if success is not None and success.any() else None


def make_grid(clips: Mapping[str, Sequence[Clip]]) -> np.ndarray:
    """Labelled clips side by side: a square for one policy, a row per policy and a column per seed for several.

    Args:
        clips: by policy, of the same seeds and one size.

    Returns:
        ``[F, rows * H, columns * W, 3]`` uint8 with the longest F. Shorter clips keep their last frame; empty places are
        black.
    """
    count = len(next(iter(clips.values())))
    columns = math.ceil(math.sqrt(count)) if len(clips) == 1 else min(count, COLUMNS)
    rows = [row[start : start + columns] for start in range(0, count, columns) for row in clips.values()]
    length = max(len(clip.frames) for row in rows for clip in row)
    height, width = rows[0][0].frames.shape[1:3]
    grid = np.zeros((length, len(rows) * height, columns * width, 3), dtype=np.uint8)
    for number, row in enumerate(rows):
        for column, clip in enumerate(row):
            place = grid[:, number * height : (number + 1) * height, column * width : (column + 1) * width]
            frames = draw_labels(clip)
            place[: len(frames)], place[len(frames) :] = frames, frames[-1]
    return grid


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames ``[F, H, W, 3]`` as ``.mp4`` or ``.gif``, atomically.

    Raises:
        AwacError: another suffix, no ffmpeg for an MP4, or the file cannot be written.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise AwacError(f"{path}: write to a .mp4 or a .gif file")
    if path.suffix == ".mp4":
        check_ffmpeg()
    write = _write_mp4 if path.suffix == ".mp4" else _write_gif
    with replacing(path) as new:
        write(new, frames)


def _write_mp4(path: Path, frames: np.ndarray) -> None:
    """Calls ffmpeg itself: through imageio it would hide that the disk is full, and leave the part that was written."""
    import imageio_ffmpeg

    _, height, width, _ = frames.shape
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "10"]
    command += ["-movflags", "+faststart", str(path)]  # browsers can play it while it loads
    ended = subprocess.run(
        command, input=np.ascontiguousarray(frames).data.cast("B"), capture_output=True, restore_signals=False
    )
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines() or ["ffmpeg failed"]
        raise OSError(lines[-1].rpartition(": ")[2])


def _write_gif(path: Path, frames: np.ndarray) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    if (width := images[0].width) > GIF_WIDTH:
        smaller = GIF_WIDTH, round(images[0].height * GIF_WIDTH / width)
        images = [image.resize(smaller, Image.Resampling.BOX) for image in images]
    # One palette and no dithering: areas without motion are equal in all frames and need no space.
    sample = Image.fromarray(np.concatenate([np.asarray(image) for image in images[:: max(1, len(images) // 8)]]))
    palette = sample.quantize(GIF_COLOURS, dither=Image.Dither.NONE)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 / FRAMES_PER_SECOND)] * len(images)
    durations[-1] += 1000  # a pause before it starts again
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)
