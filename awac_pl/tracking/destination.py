"""Where a run folder is stored in MLflow; saved as its ``mlflow.json``."""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from awac_pl.errors import AwacError, first_line, without_credentials
from awac_pl.files import write_text


@dataclass
class Destination:
    """A run on a tracking server or in a SQLite file.

    Args:
        uri: of the server or database.
        experiment: name of the experiment for a new run; unused where there is ``experiment_id``.
        group: name of the parent run for runs that differ only in their seed; None for no parent.
        run_id: None until MLflow has answered.
        key: a tag that finds the run if the answer to its creation was lost.
        description: the last one sent. If MLflow shows another one, a user wrote it.
        files: artifacts as last sent: path to size in bytes and modification time in ns.
    """

    uri: str
    experiment: str = "awac"
    group: str | None = None
    run_id: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    description: str = ""
    files: dict[str, list[int]] = field(default_factory=dict)
    experiment_id: str | None = None

    @property
    def shown_uri(self) -> str:
        """The URI without user and password."""
        return without_credentials(self.uri)

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for a server."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    def elsewhere(self, uri: str, run_id: str | None = None) -> Destination:
        """A copy for another server or run, to which nothing has been sent."""
        number = self.experiment_id if uri == self.uri else None  # another server counts anew
        return replace(self, uri=uri, run_id=run_id, description="", files={}, experiment_id=number)

    def save(self, folder: Path) -> None:
        """Write ``mlflow.json``, without credentials: those come from the command line or the environment each time."""
        write_text(folder / "mlflow.json", json.dumps(asdict(self) | {"uri": self.shown_uri}, indent=2) + "\n")


def find_destination(
    folder: Path, uri: str | None, *, experiment: str | None = None, group: str | None = None
) -> Destination:
    """Where a run is stored: as the user says, as ``mlflow run`` says, as before, or in a local SQLite file.

    Args:
        folder: the run folder.
        uri: the user's; None for none.
        experiment: the user's, for a new run; None for the one before, ``$MLFLOW_EXPERIMENT_NAME``,
            ``$MLFLOW_EXPERIMENT_ID``, or ``awac``.
        group: the user's; None for the one before, or none.

    Raises:
        AwacError: the URI is a folder, the group has letters that MLflow cannot search for, or ``mlflow.json`` is damaged.
    """
    if group is not None and not re.fullmatch(r"[\w .:/-]+", group):
        raise AwacError(f"group '{group}': use letters, digits, spaces and . : / - _")
    stored = _stored_destination(folder / "mlflow.json")
    run_id = os.environ.get("MLFLOW_RUN_ID") if uri is None else None
    uri = checked_uri(uri or (stored.uri if stored is not None and run_id is None else None))
    name, number = (os.environ.get(f"MLFLOW_EXPERIMENT_{kind}") for kind in ("NAME", "ID"))
    destination = stored or Destination(uri, name or "awac", run_id=run_id, experiment_id=None if name else number)
    uri = with_credentials(uri)
    if destination.shown_uri == without_credentials(uri):
        destination = replace(destination, uri=uri)
    if destination.uri != uri or (run_id is not None and destination.run_id != run_id):
        destination = destination.elsewhere(uri, run_id)
    if experiment is not None:
        destination = replace(destination, experiment=experiment, experiment_id=None)
    return replace(destination, group=group or destination.group)


def with_credentials(uri: str) -> str:
    """The address with user and password of ``$MLFLOW_TRACKING_URI``, if that is the same address."""
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    return environment if without_credentials(environment) == uri else uri


def _stored_destination(path: Path) -> Destination | None:
    try:
        return Destination(**json.loads(path.read_text())) if path.is_file() else None
    except (OSError, ValueError, TypeError) as error:
        raise AwacError(f"{path} is damaged ({first_line(error)}); remove it, and a new MLflow run is made") from error


def checked_uri(uri: str | None) -> str:
    """The URI, by default ``$MLFLOW_TRACKING_URI`` or ``mlflow.db`` in the working folder. A SQLite path becomes absolute.

    Raises:
        AwacError: the URI is a folder, or a file that MLflow could not open; it would try for minutes.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///")).absolute()
        if "?" in str(database.parent):  # where the path of an address ends
            raise AwacError(f"MLflow cannot keep {database.name} in {database.parent}, which has a '?' in its name; "
                            "pass --mlflow_uri sqlite:////another/folder/mlflow.db, or none")  # fmt: skip
        if database.exists() and not (database.is_file() and os.access(database, os.R_OK | os.W_OK)):
            raise AwacError(f"MLflow URI '{uri}' is no file that can be read and written; name another one")
        return f"sqlite:///{database}"
    if uri == "none":
        raise AwacError("MLflow is switched off (--mlflow_uri or MLFLOW_TRACKING_URI is none); name a database or a server")
    is_folder = uri.startswith("file:") or (":" not in uri and uri != "databricks")
    if is_folder and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise AwacError(
            f"MLflow URI '{uri}' is a folder, and MLflow keeps runs in a database or on a server; "
            "pass for example --mlflow_uri=sqlite:///mlflow.db or --mlflow_uri=http://HOST:5000, or none"
        )
    return uri
