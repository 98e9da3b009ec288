"""A connection to MLflow that does not wait for a dead server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from awac_pl.errors import AwacError, first_line
from awac_pl.tracking.destination import checked_uri

if TYPE_CHECKING:  # slow to import
    import mlflow


def set_timeouts() -> None:
    """Give up on a dead server after one retry; by default MLflow tries for minutes. To be called before its import."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def mlflow_client(uri: str | None = None) -> mlflow.MlflowClient:
    """A connection to a tracking server that answers.

    Args:
        uri: of the server; ``$MLFLOW_TRACKING_URI`` by default, else ``mlflow.db`` in the working folder.

    Raises:
        AwacError: it does not.
    """
    set_timeouts()
    import mlflow

    uri = checked_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    if uri == "none":
        raise AwacError("MLflow is switched off (none), so there is nowhere to register; pass --mlflow_uri")
    client = mlflow.MlflowClient(uri)
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        raise AwacError(f"MLflow at {client.tracking_uri} cannot be used: {first_line(error)}") from error
    return client
