"""Episodes with pictures, by seed, in worker processes of their own.

Separate processes, because MuJoCo chooses its backend (``MUJOCO_GL``) when it is imported, and because a graphics driver
that crashes ends its process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from awac_pl.envs.faults import close_environment
from awac_pl.envs.rollouts import run_episode
from awac_pl.envs.tasks import Task, inspect_spaces, make_environment
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, first_line
from awac_pl.parallel.executor import Executor, WorkerError
from awac_pl.policies.policy import Policy

if TYPE_CHECKING:
    import gymnasium

#: Closer cameras (metres) for tasks whose own camera is far away.
VIEWS: dict[str, dict[str, Any]] = {
    "pen": {"distance": 0.6, "lookat": np.array([0.0, -0.15, 0.2])},
    "hammer": {"distance": 1.2, "lookat": np.array([0.0, -0.1, 0.15])},
}
#: Side of MuJoCo's shadow map in pixels. Adroit's 4096 look the same and take 1.4 times as long in software.
SHADOW_SIZE = 2048


class RenderingError(AwacError):
    """No pictures: the environment makes none, there are no graphics, or an episode fails."""


class _BackendError(RenderingError):
    """This backend does not work here; another one may."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """An episode and its pictures.

    Args:
        label: who acted.
        frames: ``[F, H, W, 3]`` uint8.
        steps: ``[F]`` environment steps before each frame; 0 is the reset.
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
    """Run whole episodes, as evaluations do, and take pictures of them.

    Args:
        task: what to act in.
        policies: by label; each acts in the same seeds.
        seeds: one per episode.
        size: width and height of a picture; pictures of another shape are scaled, with black borders.
        every: environment steps between pictures; the reset and the end always have one.
        num_workers: processes; at least one is started.
        progress: show a progress bar.

    Returns:
        By label, in the order of the seeds.

    Raises:
        RenderingError: the environment makes no pictures, no backend works on this machine, or an episode fails.
    """
    jobs = [(label, policy, seed) for seed in seeds for label, policy in policies.items()]
    first_problem: RenderingError | str | None = None
    for backend in _backends():
        renderer = partial(_Renderer, task, size, every, backend)
        bar = tqdm(total=len(jobs), desc="rendering", unit="episode", disable=not progress or None, leave=False)
        try:
            with bar, closing(Executor(renderer, max(1, num_workers))) as workers:
                clips = workers.map(jobs, bar.update)
        except _BackendError as error:
            first_problem = first_problem or error
        except WorkerError:
            first_problem = first_problem or "the process that renders died"
        else:
            return {label: [clip for clip in clips if clip.label == label] for label in policies}
    chosen = f" with MUJOCO_GL={os.environ['MUJOCO_GL']}" if "MUJOCO_GL" in os.environ else ""
    raise RenderingError(
        f"{task.env_id} cannot be rendered{chosen}: {first_problem}; without a display MuJoCo needs EGL "
        "(Debian: apt install libegl1 libgl1-mesa-dri) and MUJOCO_GL=egl"
    )


def makes_pictures(task: Task) -> bool:
    """Whether the task's environment has an ``rgb_array`` render mode."""
    environment = make_environment(task)
    close_environment(environment)
    return "rgb_array" in (environment.metadata.get("render_modes") or [])


def _backends() -> list[str | None]:
    """Values of ``MUJOCO_GL`` in the order to try, None for the present one: the user's choice or the display first.

    ``disable`` is for environments without MuJoCo, whose import must not fail because there are no graphics.
    """
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        return [None]
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return [*([None] if display else []), "egl", "osmesa", "disable"]


class _Renderer:
    """Makes the clips of a worker process. Fails at once if the backend draws nothing."""

    def __init__(self, task: Task, size: tuple[int, int], every: int, backend: str | None) -> None:
        sys.unraisablehook = lambda _: None  # a viewer that failed fails again when it is deleted
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend
        self.task = replace(task, terminate_on_success=False)
        self.size = size
        self.every = every
        try:
            import mujoco  # noqa: F401  (with graphics, or not at all)

            self.spaces = inspect_spaces(self.task)
            if not makes_pictures(self.task):
                raise RenderingError(f"{task.env_id} makes no pictures (it has no render mode rgb_array)")
            self.environment = _open(self.task, size)
            self.environment.reset(seed=0)
            self._picture()
        except RenderingError:
            raise
        except Exception as error:
            raise _BackendError(f"{type(error).__name__}: {first_line(error).rstrip('.')}") from error

    def __call__(self, job: tuple[str, Policy, int]) -> Clip:
        label, policy, seed = job
        frames, steps = [], []

        def take_picture(step: int, ended: bool) -> None:
            if step % self.every == 0 or ended:
                frames.append(self._picture())
                steps.append(step)

        try:
            episode = run_episode(self.environment, self.task, self.spaces, policy, seed, take_picture)
        except Exception as error:
            raise RenderingError(f"{self.task.env_id}: seed {seed}: {first_line(error)}") from error
        return Clip(label=label, frames=np.stack(frames), steps=np.array(steps), episode=episode)

    def _picture(self) -> np.ndarray:
        """``[H, W, 3]`` uint8 of ``size``; keeps the environment's proportions, with black borders."""
        from PIL import Image, ImageOps

        picture = np.asarray(self.environment.render())
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise RenderingError(f"the environment renders {picture.dtype} {list(picture.shape)}, not uint8 [H, W, 3]")
        return np.asarray(ImageOps.pad(Image.fromarray(picture), self.size))


def _open(task: Task, size: tuple[int, int]) -> gymnasium.Env:
    """The environment, drawing at this size if it accepts one."""
    try:
        environment = make_environment(task, render_mode="rgb_array", width=size[0], height=size[1])
    except AwacError as error:
        if not isinstance(error.__cause__, TypeError):
            raise
        environment = make_environment(task, render_mode="rgb_array")
    renderer = getattr(environment.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        renderer.default_cam_config = {**(renderer.default_cam_config or {}), **VIEWS.get(task.name, {})}
        quality = renderer.model.vis.quality
        quality.shadowsize = min(quality.shadowsize, SHADOW_SIZE)
    return environment
