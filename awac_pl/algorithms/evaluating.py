"""A module whose policy is evaluated by whole episodes: Lightning's validation and test loops over seeds."""

from __future__ import annotations

from abc import abstractmethod

import lightning

from awac_pl.episode import Episode, score_episodes
from awac_pl.errors import AwacError
from awac_pl.parallel.ranks import gather_objects
from awac_pl.policies.numpy_policy import NumpyPolicy


class EvaluatedModule(lightning.LightningModule):
    """Logs the measures of ``score_episodes`` as ``eval/…``. The data module runs the episodes, one per seed."""

    def __init__(self) -> None:
        super().__init__()
        self._episodes: list[Episode] = []
        self._failed: list[AwacError] = []

    @abstractmethod
    def mean_policy(self) -> NumpyPolicy:
        """The policy that is evaluated."""

    def validation_step(self, seeds: list[int], batch_idx: int) -> None:
        """Run one episode per evaluation seed with the mean action."""
        episodes, failed = self.trainer.datamodule.evaluate(self.mean_policy(), seeds)  # type: ignore[attr-defined]
        self._episodes, self._failed = self._episodes + episodes, self._failed + failed

    def on_validation_epoch_start(self) -> None:
        """Drop the episodes of the last evaluation."""
        self._episodes, self._failed = [], []

    def on_validation_epoch_end(self) -> None:
        """Log the measures of this evaluation."""
        fitting = self.trainer.state.fn == "fit"  # during a fit RunWriter logs, against env_steps
        self.log_dict(self.evaluation(), logger=not fitting)

    def evaluation(self) -> dict[str, float]:
        """The measures ``eval/…`` of the latest evaluation, over the episodes of all ranks; each rank must call it.

        Raises:
            AwacError: all episodes failed, on every rank.
        """
        episodes = [episode for episodes in gather_objects(self._episodes) for episode in episodes]
        failed = [error for errors in gather_objects(self._failed[:1]) for error in errors]
        if failed and not episodes:
            raise failed[0]
        scores = score_episodes(episodes)
        return {f"eval/{name}": value for name, value in scores.items()}

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end
