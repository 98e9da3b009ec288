"""Episodes with pictures, by seed, in processes of their own: those of ``rollouts``, watched by a camera.

The processes are their own because MuJoCo binds to one way of drawing (``MUJOCO_GL``) when it is imported, and because a
graphics driver that dies takes its process along.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from awac_pl.envs.rollouts import run_episode
from awac_pl.envs.tasks import Task, inspect_spaces, make_environment
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, first_line
from awac_pl.parallel.executor import Executor, WorkerError
from awac_pl.policies.policy import Policy

#: Cameras of tasks whose own one stands far off (metres), over what the environment sets.
VIEWS: dict[str, dict[str, Any]] = {
    "pen": {"distance": 0.6, "lookat": np.array([0.0, -0.15, 0.2])},
    "hammer": {"distance": 1.2, "lookat": np.array([0.0, -0.1, 0.15])},
}
#: Side of MuJoCo's shadow map in pixels; Adroit's 4096 look the same and take 1.4 times as long in software.
SHADOW_SIZE = 2048


class RenderingError(AwacError):
    """Pictures that cannot be had: no graphics, or an episode that fails."""


class NoPicturesError(RenderingError):
    """An environment that has no ``rgb_array`` render mode; nothing is wrong with the machine."""


class _NoGraphicsError(RenderingError):
    """This way of drawing does not work here; another one may."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """An episode and its pictures.

    Args:
        label: who acted.
        frames: ``[F, H, W, 3]`` uint8.
        steps: ``[F]`` environment steps that had been taken at each; 0 is the reset.
        episode: the whole episode.
    """

    label: str
    frames: np.ndarray
    steps: np.ndarray
    episode: Episode


def render_clips(
    task: Task,
    policies: Mapping[str, Policy],
    seeds: Sequence[int],
    *,
    size: tuple[int, int] = (256, 256),
    every: int = 4,
    num_workers: int = 2,
    progress: bool = True,
) -> dict[str, list[Clip]]:
    """Run whole episodes, as an evaluation does, and take pictures of them.

    Args:
        task: what to act in.
        policies: by label; each acts in the same seeds.
        seeds: one per episode.
        size: width and height of a picture; one of another shape is fitted in, on black.
        every: environment steps between pictures; there is one of the reset and one of the end in any case.
        num_workers: processes; at least one is started.
        progress: show a progress bar.

    Returns:
        By label, in the order of the seeds.

    Raises:
        NoPicturesError: the environment makes none.
        RenderingError: there is no way of drawing on this machine, or an episode cannot be run.
    """
    jobs = [(label, policy, seed) for seed in seeds for label, policy in policies.items()]
    first_problem: RenderingError | None = None
    for backend in _backends():
        with tqdm(total=len(jobs), desc="rendering", unit="episode", disable=not progress, leave=False) as bar:
            try:
                clips = _render(task, jobs, size, every, backend, max(1, num_workers), bar.update)
            except _NoGraphicsError as error:
                first_problem = first_problem or error
                continue
        return {label: [clip for clip in clips if clip.label == label] for label in policies}
    own = f" with MUJOCO_GL={os.environ['MUJOCO_GL']}" if "MUJOCO_GL" in os.environ else ""
    raise RenderingError(
        f"{task.env_id} cannot be rendered{own}: {first_problem}; without a display MuJoCo needs EGL "
        "(Debian: apt install libegl1 libgl1-mesa-dri) and MUJOCO_GL=egl"
    )


def makes_pictures(task: Task) -> bool:
    """Whether the task's environment has an ``rgb_array`` render mode."""
    environment = make_environment(task)
    environment.close()
    return "rgb_array" in (environment.metadata.get("render_modes") or [])


def fit_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale ``[h, w, 3]`` uint8 into width and height ``size``, in its own proportions, centred on black."""
    from PIL import Image, ImageOps

    if picture.shape[1::-1] == size:
        return np.ascontiguousarray(picture)
    return np.asarray(ImageOps.pad(Image.fromarray(picture), size))


class Camera(gymnasium.Wrapper):
    """Takes a picture at the reset, every so many steps and at the end; the episode is the same as without it.

    Args:
        environment: with render mode ``rgb_array``.
        size: width and height of the pictures.
        every: steps between them.
    """

    def __init__(self, environment: gymnasium.Env, size: tuple[int, int], every: int) -> None:
        super().__init__(environment)
        self.size = size
        self.every = every
        self.frames: list[np.ndarray] = []
        self.steps: list[int] = []
        self._step = 0

    def reset(self, **kwargs: Any) -> Any:
        """Begin a new film."""
        outcome = self.env.reset(**kwargs)
        self.frames, self.steps, self._step = [], [], 0
        self._take()
        return outcome

    def step(self, action: Any) -> Any:
        """Step, and take a picture where one is due."""
        outcome = self.env.step(action)
        self._step += 1
        if self._step % self.every == 0 or outcome[2] or outcome[3]:
            self._take()
        return outcome

    def _take(self) -> None:
        picture = np.asarray(self.env.render())
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise RenderingError(f"the environment renders {picture.dtype} {list(picture.shape)}, not uint8 [H, W, 3]")
        self.frames.append(fit_picture(picture, self.size))
        self.steps.append(self._step)


def _backends() -> list[str | None]:
    """Values of ``MUJOCO_GL`` to try in turn, None to leave it alone: what the user set, or the display, goes first.

    ``disable`` is for environments that are not of MuJoCo: its import must not fail for want of graphics.
    """
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        return [None]
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return [*([None] if display else []), "egl", "osmesa", "disable"]


def _render(
    task: Task,
    jobs: Sequence[tuple[str, Policy, int]],
    size: tuple[int, int],
    every: int,
    backend: str | None,
    num_workers: int,
    on_clip: Callable[[], object],
) -> list[Clip]:
    """One clip per job, in order."""
    workers = Executor(partial(_Renderer, task, size, every, backend), num_workers)
    try:
        return workers.map(jobs, on_clip)
    except WorkerError:
        raise _NoGraphicsError("the process that renders died") from None
    finally:
        workers.close()


class _Renderer:
    """Makes the clips of a worker process. Fails at once where nothing can be drawn."""

    def __init__(self, task: Task, size: tuple[int, int], every: int, backend: str | None) -> None:
        sys.unraisablehook = lambda _: None  # a viewer that failed fails again when it is deleted; once is enough
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend
        self.task = replace(task, terminate_on_success=False)
        try:
            self.spaces = inspect_spaces(self.task)
            if not makes_pictures(self.task):
                raise NoPicturesError(f"{task.env_id} makes no pictures (it has no render mode rgb_array)")
            self.camera = Camera(_open(self.task, size), size, every)
            self.camera.reset(seed=0)  # the first picture tells whether there are graphics
        except RenderingError:
            raise
        except Exception as error:
            raise _NoGraphicsError(f"{type(error).__name__}: {first_line(error).rstrip('.')}") from error

    def __call__(self, job: tuple[str, Policy, int]) -> Clip:
        label, policy, seed = job
        try:
            episode = run_episode(self.camera, self.task, self.spaces, policy, seed)
        except Exception as error:
            raise RenderingError(f"{self.task.env_id}: seed {seed}: {first_line(error)}") from error
        frames, steps = np.stack(self.camera.frames), np.array(self.camera.steps)
        return Clip(label=label, frames=frames, steps=steps, episode=episode)


def _open(task: Task, size: tuple[int, int]) -> gymnasium.Env:
    """The environment, drawing at this size if it can be told to."""
    width, height = size
    try:
        environment = make_environment(task, render_mode="rgb_array", width=width, height=height)
    except TypeError:
        environment = make_environment(task, render_mode="rgb_array")
    renderer = getattr(environment.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        renderer.default_cam_config = {**(renderer.default_cam_config or {}), **VIEWS.get(task.name, {})}
        quality = renderer.model.vis.quality
        quality.shadowsize = min(quality.shadowsize, SHADOW_SIZE)
    return environment
