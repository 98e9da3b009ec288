"""The progress of a run: a bar in a terminal, lines in a file."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from typing import Any, cast

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from awac_pl.algorithms.base import Learner
from awac_pl.callbacks.messages import duration
from awac_pl.callbacks.stopping import planned_epochs, updates_per_epoch
from awac_pl.replay.data_module import ReplayDataModule

log = logging.getLogger(__name__)

#: Room for the bar itself; what else there is to show has to fit beside it.
BAR_WIDTH = 8
BAR = "{desc} {percentage:3.0f}%|{bar}|"
#: Seconds between two pictures of the bar.
REFRESH = 0.1
#: Seconds; for less nobody asks.
LONG = 10.0


class AwacProgressBar(ProgressBar):
    """Shows the whole run: epoch, time left, phase, speeds, and the success of the last evaluation and the last block.

    In a terminal it is a bar, and messages appear above it. Elsewhere it is a line from time to time.

    Args:
        seconds: between two lines.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._started = (0, 0.0)
        self._pace = {False: (0, 0.0), True: (0, 0.0)}  # online or not: epochs of this start, their seconds
        self._epoch_began = self._latest = 0.0
        self._goal: int | None = None
        self._bar: tqdm | None = None
        self._shown = contextlib.ExitStack()

    def disable(self) -> None:
        """Does nothing: other ranks show nothing anyway."""

    def enable(self) -> None:
        """Does nothing."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        tqdm.write(" ".join(map(str, args)))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar where somebody looks at it."""
        self._epoch_began = self._latest = time.monotonic()
        self._started = (_updates(pl_module), time.perf_counter())  # a resumed run can begin within an epoch
        self._goal = _goal(trainer, pl_module)
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = self._shown.enter_context(
                tqdm(desc=_place(trainer), total=self._goal, initial=_updates(pl_module), dynamic_ncols=True, leave=False,
                     bar_format=BAR)
            )  # fmt: skip
            self._shown.enter_context(logging_redirect_tqdm())

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """Start the clock with the epoch's first chunk, so that waiting for a block does not count."""
        if trainer.fit_loop.epoch_loop.batch_idx == 0:
            self._started = (_updates(pl_module), time.perf_counter())

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """Refresh the bar, or write a line if one is due."""
        if not trainer.is_global_zero or time.monotonic() - self._latest < (self.seconds if self._bar is None else REFRESH):
            return  # reading the module's counters makes a GPU wait
        self._latest = time.monotonic()
        if self._bar is not None:
            self._refresh(trainer, pl_module)
        else:
            log.info("%s", ", ".join([_place(trainer), *self._parts(trainer, pl_module)]))

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say why the updates stand still."""
        if self._bar is not None:
            self._refresh(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the epoch; after the first one of each phase say how long the run will take."""
        online, now = _data(trainer).is_online(trainer.current_epoch), time.monotonic()
        epochs, seconds = self._pace[online]
        self._pace[online] = (epochs + 1, seconds + now - self._epoch_began)
        self._epoch_began = now
        left, lower_bound = self._left(trainer, pl_module)
        if trainer.is_global_zero and not epochs and LONG < left < math.inf:
            how = "at least %s, for the updates alone" if lower_bound else "about %s more"
            log.info(f"expected time: {how}", duration(left))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the bar away."""
        self._shown.close()
        self._bar = None

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._shown.close()
        self._bar = None

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Values to show behind the bar."""
        updates, since = self._started
        speed = (_updates(pl_module) - updates) / max(time.perf_counter() - since, 1e-9)
        online = _data(trainer).is_online(trainer.current_epoch)
        shown: dict[str, Any] = {"phase": "online" if online else "offline", "updates/s": f"{speed:.0f}"}
        metrics = trainer.callback_metrics
        if online and "rollout/env_steps_per_s" in metrics:
            shown["env steps/s"] = f"{float(metrics['rollout/env_steps_per_s']):.0f}"
        for name, key in (("training success", "rollout/success_rate"), ("eval success", "eval/success_rate")):
            if key in metrics:
                value = float(metrics[key])
                shown[name] = "unavailable" if math.isnan(value) else f"{value:.2f}"
        return shown

    def _refresh(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        bar, place = self._bar, _place(trainer)
        assert bar is not None
        # of an unknown width tqdm draws 10 columns
        room = (bar.ncols or 80 - 10 + BAR_WIDTH) - len(f"{place} 100%|| ") - BAR_WIDTH
        text = ""
        for part in self._parts(trainer, pl_module):
            if len(text) + len(part) + 2 <= room:
                text += f", {part}" if text else part
        bar.set_description_str(place, refresh=False)
        bar.bar_format = f"{BAR} {text}"
        bar.n = _updates(pl_module)
        bar.refresh()

    def _parts(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> list[str]:
        """What to show, the most important first."""
        metrics = self.get_metrics(trainer, pl_module)
        left, lower_bound = self._left(trainer, pl_module)
        time_left = [f"{'over ' if lower_bound else ''}{tqdm.format_interval(left)} left"] if math.isfinite(left) else []
        phase = "evaluating" if trainer.validating else metrics.pop("phase")
        eval_success = [f"success {metrics['eval success']}"] if "eval success" in metrics else []
        others = [f"{value} {name}" for name, value in metrics.items() if name.endswith("/s")]
        training = [f"training success {metrics['training success']}"] if "training success" in metrics else []
        return [*time_left, phase, *eval_success, *others, *training]

    def _left(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> tuple[float, bool]:
        """Seconds until the end of the run, by the epochs so far; and whether acting, not measured yet, comes on top."""
        if self._goal is None:
            return math.inf, False
        data, updates = _data(trainer), _updates(pl_module)
        of_epoch = updates_per_epoch(trainer, data)
        offline = min(max(0, data.offline_epochs * of_epoch - updates), self._goal - updates)
        online = self._goal - updates - offline
        before, since = self._started
        by_updates = (time.perf_counter() - since) / max(1, updates - before)
        paces = [seconds / (epochs * of_epoch) if epochs else by_updates for epochs, seconds in self._pace.values()]
        return offline * paces[0] + online * paces[1], online > 0 and not self._pace[True][0]


def _data(trainer: lightning.Trainer) -> ReplayDataModule:
    return trainer.datamodule  # type: ignore[attr-defined]


def _updates(module: lightning.LightningModule) -> int:
    return int(cast(Learner, module).updates)


def _place(trainer: lightning.Trainer) -> str:
    number, last = f"epoch {trainer.current_epoch + 1}", planned_epochs(trainer)
    return number if last is None else f"{number} of {last}"


def _goal(trainer: lightning.Trainer, module: lightning.LightningModule) -> int | None:
    """Updates at the end of the run that begins or goes on here; None for a run without an end."""
    if (last := planned_epochs(trainer)) is None:
        return None
    data, loop = _data(trainer), trainer.fit_loop.epoch_loop
    done = loop.batch_progress.current.ready % max(1, int(trainer.num_training_batches)) * data.chunk_size  # of this epoch
    return _updates(module) + (last - trainer.current_epoch) * updates_per_epoch(trainer, data) - done
