"""Where MLflow lives: a server, or without one a SQLite file and a folder of artifacts in the working folder."""

from __future__ import annotations

import os
from pathlib import Path


def tracking_uri(given: str | None) -> str:
    """The URI that was given, else ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its files; None where the server decides."""
    return None if "://" in uri and not uri.startswith("sqlite") else str(Path.cwd() / "mlartifacts")


def give_up_soon() -> None:
    """By default MLflow retries a dead server for minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
