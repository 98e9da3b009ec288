"""Connections to MLflow: HTTP settings, the SQLite file, and a first request."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from awac_pl.errors import AwacError, first_line
from awac_pl.files import link_or_copy, staging
from awac_pl.tracking.destination import Destination, checked_uri

if TYPE_CHECKING:  # slow to import
    from mlflow import MlflowClient

#: MLflow's own defaults keep trying a dead server for minutes. MLflow reads these when it is imported.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def connect(destination: Destination) -> MlflowClient:
    """A client of MLflow; makes the SQLite file if it is missing. Takes seconds the first time."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    levels = {"mlflow": "WARNING", "alembic": "WARNING", "urllib3": "ERROR", "mlflow.store.db.utils": "CRITICAL"}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)  # without a line for each new table, and many for each failed request
    if destination.database is not None and not destination.database.exists():
        make_store(destination.database)
    return MlflowClient(destination.uri)


def mlflow_client(uri: str | None = None) -> MlflowClient:
    """A client of a tracking server that answers.

    Args:
        uri: of the server; by default ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working folder.

    Raises:
        AwacError: MLflow is switched off or does not answer.
    """
    destination = Destination(checked_uri(uri))
    try:
        client = connect(destination)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise AwacError(f"MLflow at {destination.shown_uri} cannot be used: {first_line(error)}") from error
    return client


def find_experiment(client: MlflowClient, name: str, database: Path | None) -> str:
    """Id of an experiment, which is created if it does not exist.

    Args:
        client: of the tracking server.
        name: of the experiment.
        database: the SQLite file, if the client writes to one; the files of runs then lie beside it.

    Raises:
        AwacError: the experiment is deleted.
    """
    from mlflow.exceptions import MlflowException

    if client.get_experiment_by_name(name) is None:
        try:
            client.create_experiment(name, str(artifacts_beside(database)) if database else None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run was faster
                raise
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise AwacError(f"MLflow experiment '{name}' is deleted; restore it, or name another one")
    return experiment.experiment_id


def make_store(path: Path) -> None:
    """Make a SQLite file for MLflow beside its final place, then move it there.

    This takes seconds. MLflow cannot use a file if its process was killed meanwhile, or if two processes made it together.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with staging(path.parent) as folder:
        SqlAlchemyStore(f"sqlite:///{folder / path.name}", str(artifacts_beside(path))).engine.dispose()
        with contextlib.suppress(FileExistsError):  # another run was faster
            link_or_copy(folder / path.name, path)


def artifacts_beside(database: Path) -> Path:
    """The folder of the files of runs whose metrics are in this SQLite file."""
    return database.parent / "mlartifacts"
