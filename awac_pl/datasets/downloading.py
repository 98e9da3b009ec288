"""Downloads Minari datasets, and fails at once with a clear error if there is no network."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from awac_pl.datasets.catalog import check_storage, dataset_ids, find_dataset, local_root
from awac_pl.errors import DatasetError, first_line, nearest


def fetch_dataset(dataset_id: str) -> None:
    """Download a dataset from Minari's remote, unless it is local or built in.

    Raises:
        DatasetError: there is no network, or the remote does not have the dataset.
    """
    if find_dataset(dataset_id) is not None:
        return
    check_storage(dataset_id)
    if dataset_id.startswith("awac/"):
        raise DatasetError(f"there is no dataset '{dataset_id}'.{nearest(dataset_id, dataset_ids())}")
    host = "storage.googleapis.com" if os.environ.get("MINARI_REMOTE", "").startswith("gcp://") else "huggingface.co"
    if not any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")) and not _reachable(host):
        raise DatasetError(
            f"dataset '{dataset_id}' is not in {local_root()} and {host} cannot be reached; download it where there is a "
            f"network (minari download {dataset_id}) and copy its folder there, or bring your own (awac data import FILE "
            f"--task TASK --to mine/name-v0) and name it in data.datasets.{nearest(dataset_id, dataset_ids())}"
        )
    import minari

    try:
        minari.download_dataset(dataset_id)
    except Exception as error:
        raise DatasetError(f"dataset '{dataset_id}' cannot be downloaded: {first_line(error)}") from error


def _reachable(host: str, timeout: float = 3.0) -> bool:
    """Whether a TCP connection to the host opens in time. The thread bounds the name look-up, too."""
    reached = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, 443), timeout=timeout).close()
            reached.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return reached.is_set()
