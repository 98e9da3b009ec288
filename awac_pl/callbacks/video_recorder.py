"""The callback that makes videos, and what it shares with ``awac video``: policies and file formats."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import lightning
from lightning.pytorch.callbacks import Callback

from awac_pl.algorithms.base import Learner
from awac_pl.datasets.cloned import cloned_policy
from awac_pl.envs.rendering import makes_pictures, render_clips
from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.envs.video import SMALLEST, check_ffmpeg, check_size, make_grid, write_video
from awac_pl.errors import AwacError, WriteError, first_line
from awac_pl.policies.policy import Policy
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.settings import Count, CountOrZero, Range, check_arguments

log = logging.getLogger(__name__)


def learned_policy(module: Learner, deterministic: bool) -> dict[str, Policy]:
    """A learner's policy, named by its stage: ``pretrained`` or ``fine-tuned``."""
    return {"fine-tuned" if int(module.env_steps) else "pretrained": module.policy(deterministic)}


def policy_before(dataset_ids: Sequence[str], deterministic: bool) -> dict[str, Policy]:
    """The policy of a run's cloned dataset as ``cloned``; empty if none is stored."""
    policy = cloned_policy(dataset_ids)
    return {} if policy is None else {"cloned": replace(policy, deterministic=deterministic)}


def formats() -> list[str]:
    """``.mp4`` and ``.gif``; without ffmpeg only ``.gif``, with a warning."""
    try:
        check_ffmpeg()
    except AwacError as error:
        log.warning("%s", error)
        return [".gif"]
    return [".mp4", ".gif"]


class VideoRecorder(Callback):
    """Renders evaluation episodes at the end of a fit, as ``videos/last.mp4`` and ``last.gif`` in the run folder.

    The cloned policy, if its dataset stores it, is shown above the learned one, in the same seeds; both act with the mean.
    The run continues without videos if the environment makes no pictures (one line) or rendering fails (a warning).

    Args:
        episodes: how many evaluation seeds to render, from the first one; 0 for no videos.
        every: environment steps between pictures.
        size: width and height of an episode's picture in pixels, a multiple of 16.
        every_n_evaluations: also render the learned policy after each so many evaluations, as ``updates-N.mp4`` and
            ``.gif``; 0 for the end only.
    """

    def __init__(
        self,
        episodes: Annotated[int, Range(0, 100)] = 4,
        every: Count = 4,
        size: Annotated[int, Range(SMALLEST, 4096)] = 256,
        every_n_evaluations: CountOrZero = 0,
    ) -> None:
        check_arguments(VideoRecorder.__init__, locals(), "video")
        check_size((size, size), "video.size")
        self.episodes = episodes
        self.every = every
        self.size = size
        self.every_n_evaluations = every_n_evaluations
        self._evaluations = 0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Render the learned policy after every ``every_n_evaluations``."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self.every_n_evaluations:
            return
        self._evaluations += 1
        if self._evaluations % self.every_n_evaluations == 0:
            module = cast(Learner, pl_module)
            self._record(trainer, learned_policy(module, True), f"updates-{int(module.updates):07d}")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Render the result: before the end of the fit, when RunWriter completes the folder for MLflow."""
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._record(trainer, policy_before(data.dataset_ids, True) | learned_policy(cast(Learner, pl_module), True), "last")

    def state_dict(self) -> dict[str, Any]:
        """The number of evaluations, which a resumed run goes on counting."""
        return {"evaluations": self._evaluations}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore it."""
        self._evaluations = state_dict["evaluations"]

    def _record(self, trainer: lightning.Trainer, policies: Mapping[str, Policy], name: str) -> None:
        if not trainer.is_global_zero or self.episodes == 0:
            return
        data: ReplayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        try:
            if not makes_pictures(data.task):
                log.info("no video: %s makes no pictures (it has no render mode rgb_array)", data.task.env_id)
                return
            clips = render_clips(
                data.task,
                policies,
                range(EVALUATION_SEEDS, EVALUATION_SEEDS + self.episodes),
                size=(self.size, self.size),
                every=self.every,
                num_workers=data.workers.num_workers,
                progress=trainer.progress_bar_callback is not None,
            )
            grid = make_grid(clips)
            for suffix in formats():
                path = Path(trainer.default_root_dir) / "videos" / f"{name}{suffix}"
                write_video(path, grid)
                log.info("video: %s", path)
        except WriteError:
            raise
        except Exception as error:
            log.warning("no video, the run goes on: %s", first_line(error))
