"""The processes of a run that trains on several devices: what those that rank 0 starts take from it, and how they end."""

from __future__ import annotations

import os
import threading
import time

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from awac_pl.parallel import interruption

#: Environment variable in which rank 0 passes its run folder to the processes that it starts.
RUN_DIR_VARIABLE = "AWAC_RUN_DIR"


def rank() -> int:
    """This process's rank, before the processes know each other."""
    return rank_zero_only.rank  # type: ignore[attr-defined]


def started_by_rank_zero() -> bool:
    """Whether Lightning has started this process, in rank 0."""
    return bool(rank()) and RUN_DIR_VARIABLE in os.environ


def follow_parent() -> None:
    """Pass signals on to rank 0 if it has started this process, and end with the parent process."""
    parent = os.getppid()
    if started_by_rank_zero():
        interruption.relay_to(lambda: [parent] if os.getppid() == parent else [])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process after its parent has ended: no other signal reaches a rank that waits for the others."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
