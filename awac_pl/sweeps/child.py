"""``python -m awac_pl.sweeps.child fit …``: ``awac fit …`` that ends as on SIGTERM when its parent process is gone.

A trial's process can be killed, by Ray or with its node. What it started would train on, and hold the run folder.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)  # saves a checkpoint and ends


if __name__ == "__main__":
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's processes block Ctrl-C
    runpy.run_module("awac_pl", run_name="__main__", alter_sys=True)
