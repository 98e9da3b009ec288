"""The logger of a run. A background thread makes all requests to MLflow, so that training never waits for it."""

from __future__ import annotations

import logging
import math
import re
import shlex
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from awac_pl.parallel import interruption
from awac_pl.parallel.interruption import Interrupted
from awac_pl.runs.metrics import append_logged
from awac_pl.tracking.destination import Destination
from awac_pl.tracking.mirror import Mirror, reason

log = logging.getLogger(__name__)

#: Pause between attempts if a server does not answer: during the run, and at its end, when the user waits.
RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 1.0
#: How long the end of a run waits for a server, and for a SQLite file, which may be new or in use.
PATIENCE_SECONDS, FILE_PATIENCE_SECONDS = 10.0, 60.0
#: The same after a signal: enough for the run's status; files may be missing.
HURRY_SECONDS = 3.0
#: An artifact gets more time, as much as it needs at this speed.
SLOWEST_BYTES_PER_SECOND = 1e6


class RunFolderLogger(Logger):
    """Keeps an MLflow run equal to the run folder during the run.

    ``RunWriter`` writes the folder; a daemon thread sends what is new in it, at once or when the server answers again.
    Metrics of callbacks (``system/…`` of ``RunWriter``, and those of Lightning's own) go through ``logged.jsonl`` in the
    folder and keep their ``step``. Parameters come from ``config.yaml``. Only rank 0 sends.

    Args:
        folder: the run folder.
        destination: where in MLflow it is stored.
    """

    def __init__(self, folder: Path, destination: Destination) -> None:
        super().__init__()
        self.folder = folder
        self.destination = destination
        self._sender: Sender | None = None

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.destination.experiment

    @property
    def version(self) -> str:
        """Of the run."""
        return self.folder.name

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @property
    def how_to_look(self) -> str:
        """The address that shows the run in a browser, or the command and the address; MLflow's first page shows no runs."""
        destination = self.destination if self._sender is None else self._sender.mirror.destination
        uri, page = destination.shown_uri, f"/#/runs/{destination.run_id}" if destination.run_id else "/#/experiments"
        if uri.startswith("http"):
            return uri.rstrip("/") + page
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}, then http://127.0.0.1:5000{page}"

    @rank_zero_only
    def start(self) -> None:
        """Start to send. The folder must have its manifest."""
        self.destination.save(self.folder)
        self._sender = Sender(Mirror(self.folder, self.destination, live=True))
        self._sender.start()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Store a callback's metrics in the folder, and send all that is new there."""
        values = {re.sub(r"[^\w/. :-]", "_", name): float(value) for name, value in metrics.items()}
        append_logged(self.folder / "logged.jsonl", round(1000 * time.time()), step or 0, values)
        if self._sender is not None:
            self._sender.wake()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` has all parameters."""

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Wait a limited time until everything is sent, then log what is missing and how to send it. A signal shortens it.

        MLflow gets the manifest's status, not this one: the manifest distinguishes stopped runs from failed ones.
        """
        sender, self._sender = self._sender, None
        if sender is not None and not sender.finish():
            log.warning(
                "MLflow at %s has not got everything: %d rows and %d files are missing. Send them with: awac sync %s",
                self.destination.shown_uri, sender.mirror.missing_rows(), len(sender.mirror.missing_files()),
                shlex.quote(str(self.folder)),
            )  # fmt: skip
        if sender is not None and sender.stopped is not None:
            raise sender.stopped


class Sender(threading.Thread):
    """Sends a run folder to MLflow until the run has ended and everything is sent. Failures are tried again.

    As a daemon it does not keep the process alive if a server never answers.

    Args:
        mirror: of the run folder; used only by this thread.
    """

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(name="awac-mlflow", daemon=True)
        self.mirror = mirror
        self._news = threading.Event()
        self._ending = threading.Event()
        self._complete = self._given_up = False
        self.stopped: Interrupted | None = None  # during the wait at the end
        self._ended_at = self._deadline = 0.0  # of time.monotonic
        self._patience = PATIENCE_SECONDS if mirror.destination.database is None else FILE_PATIENCE_SECONDS

    def wake(self) -> None:
        """Send soon what is new in the folder."""
        self._news.set()

    def finish(self) -> bool:
        """Wait until everything is sent or the time is over. The folder must not change any more.

        Returns:
            Whether everything is sent.
        """
        self._ended_at = time.monotonic()
        self._deadline = self._ended_at + self._patience
        self._ending.set()
        self._news.set()
        announce_at = self._ended_at + 2
        hurry = self._ended_at + HURRY_SECONDS if interruption.received() else math.inf
        while self.is_alive() and (now := time.monotonic()) < min(self._deadline, hurry):
            if now > announce_at:
                log.info("waiting for MLflow at %s to take the rest", self.mirror.destination.shown_uri)
                announce_at = math.inf
            try:
                self.join(0.1)
            except Interrupted as error:
                self.stopped, hurry = error, now + HURRY_SECONDS
            except KeyboardInterrupt:
                break
        self._given_up = not self._complete
        return self._complete

    def run(self) -> None:
        """See the class."""
        answers = True
        while not (self._complete or self._given_up):
            ending = self._ending.is_set()  # before the update, so that it covers all that was written until the end
            try:
                self.mirror.update()
                if ending:
                    self._send_files()
                    self._complete = True
                if not answers:
                    log.info("MLflow at %s answers again, and has everything", self.mirror.destination.shown_uri)
                answers = True
            except Exception as error:  # of MLflow, in any of its libraries
                if self._given_up:
                    return
                if answers:
                    log.warning(
                        "MLflow at %s: %s. The run goes on; what is missing is sent when MLflow answers",
                        self.mirror.destination.shown_uri, reason(error),
                    )  # fmt: skip
                answers = False
                if ending:
                    self._deadline = min(self._deadline, self._ended_at + self._patience)  # no file is being sent
                    if time.monotonic() > self._deadline:
                        return
            if not self._complete:
                self._news.wait(None if answers else LAST_RETRY_SECONDS if ending else RETRY_SECONDS)
                self._news.clear()

    def _send_files(self) -> None:
        for path in self.mirror.missing_files():
            self._deadline = time.monotonic() + self._patience + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
            self.mirror.send_file(path)
