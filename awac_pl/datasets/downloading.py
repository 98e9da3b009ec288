"""Minari datasets from a remote, with a clear answer at once where there is no network."""

from __future__ import annotations

import os
import socket
import threading

from awac_pl.datasets.catalog import dataset_ids, find_dataset, local_root
from awac_pl.errors import DatasetError, first_line, nearest

_REMOTE_HOSTS = {"hf": "huggingface.co", "gcp": "storage.googleapis.com"}


def fetch_dataset(dataset_id: str) -> None:
    """Download a dataset that is not here from Minari's remote.

    Raises:
        DatasetError: no network, or the remote does not have it.
    """
    if find_dataset(dataset_id) is not None:
        return
    if dataset_id.startswith("awac/"):
        raise DatasetError(f"there is no dataset '{dataset_id}'.{nearest(dataset_id, dataset_ids())}")
    remote = os.environ.get("MINARI_REMOTE", "hf://farama-minari").split("://")[0]
    host = _REMOTE_HOSTS.get(remote, "huggingface.co")
    if not any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")) and not _reachable(host):
        raise DatasetError(
            f"dataset '{dataset_id}' is not in {local_root()} and {host} cannot be reached; download it where there is a "
            f"network (minari download {dataset_id}) and copy its folder there.{nearest(dataset_id, dataset_ids())}"
        )
    import minari

    try:
        minari.download_dataset(dataset_id)
    except Exception as error:
        raise DatasetError(f"dataset '{dataset_id}' cannot be downloaded: {first_line(error)}") from error


def _reachable(host: str, timeout: float = 3.0) -> bool:
    """Whether a TCP connection to the host opens; the name look-up is bounded, too."""
    reached = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, 443), timeout=timeout).close()
            reached.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return reached.is_set()
