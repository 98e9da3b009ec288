"""Connect to Ray: to a cluster that is there, or to one on this machine that ends with the command."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from awac_pl.errors import AwacError, first_line
from awac_pl.parallel import interruption

#: Seconds in which a cluster must answer.
PATIENCE = 8.0
#: Of Ray: nothing is sent to its makers, nothing is printed between our lines, and no file of its own is written.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_worker_niceness": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}  # fmt: skip


def import_ray(what: str) -> Any:
    """Ray.

    Args:
        what: needs it, for the message.

    Raises:
        AwacError: it is not installed.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise AwacError(f"{what} needs Ray: pip install 'awac_pl[ray]'") from error
    return ray


@contextlib.contextmanager
def connected(address: str | None, what: str) -> Iterator[Any]:
    """Ray, connected until the end of the block; the block finds it connected already in a process that is.

    Args:
        address: ``auto`` for the cluster that this machine belongs to, ``HOST:PORT``; None for a cluster of this machine
            alone, which is started here; empty for ``$RAY_ADDRESS``, the cluster that this machine belongs to, or a new one.
        what: needs it, for messages.

    Raises:
        AwacError: Ray is missing, or does not start or connect.
    """
    ray = import_ray(what)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address is None:
        options |= {"address": "local", "include_dashboard": False}
    elif address:
        options["address"] = address
    _init(ray, address, options)
    if threading.current_thread() is threading.main_thread():
        interruption.take_over()  # Ray has put its handlers in place of ours
    try:
        yield ray
    finally:
        ray.shutdown()


def _init(ray: Any, address: str | None, options: dict[str, Any]) -> None:
    for last in (False, True):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray gives itself 30 s to start, which a busy machine can need twice
            if address is None and not last:
                ray.shutdown()
                continue
            reason = first_line(error)[:200]
            if not address:
                raise AwacError(f"Ray cannot be started on this machine: {reason}") from error
            hint = "start one with ray start --head, or leave --address out" if address == "auto" else "is it a Ray cluster?"
            raise AwacError(f"no cluster at address {address}: {reason} ({hint})") from error


def check_address(address: str) -> None:
    """Ask whether a cluster is there: ``ray.init`` would try for minutes.

    Args:
        address: ``HOST:PORT``.

    Raises:
        AwacError: nothing answers there, or something that is no cluster.
    """
    host, _, port = address.rpartition(":")
    healthy = False
    with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: no port, or no such port
        place = host.strip("[]"), int(port)
        socket.create_connection(place, timeout=PATIENCE / 2).close()  # most wrong addresses end here, at once
        asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
        healthy = subprocess.run(asked, capture_output=True, timeout=PATIENCE).returncode == 0
    if not healthy:
        raise AwacError(f"no cluster answers at --address {address}; ray start --head prints the address, with port 6379")


def check_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Refuse runs that no machine can take; Ray would wait for a machine that can.

    Raises:
        AwacError: no machine has so many CPUs or GPUs.
    """
    for kind, option, need in (("CPU", "--cpus_per_run", cpus), ("GPU", "--gpus_per_run", gpus)):
        largest = max((node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if need > largest:
            raise AwacError(f"{option} {need:g}: a run fits on no machine; the largest has {largest:g} {kind}s")
    together = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in together):
        raise AwacError(f"no machine has both {cpus:g} CPUs and {gpus:g} GPUs for a run")
