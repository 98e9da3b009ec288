"""Where in MLflow a run folder belongs, kept in its ``mlflow.json``."""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from awac_pl.errors import AwacError, first_line
from awac_pl.files import write_text


@dataclass
class Destination:
    """A run of a tracking server, or of a database.

    Args:
        uri: of the server or database.
        experiment: name of the experiment that a new run is created in.
        group: runs that differ in their seed alone share one, and a parent run; None for none.
        run_id: None until MLflow has answered.
        key: a tag of the run, which finds it where the answer to its creation was lost.
        description: as it was last sent, which tells it from one that somebody wrote in the browser.
        files: artifacts as they were last sent: path to size in bytes and time of change in ns.
    """

    uri: str
    experiment: str = "awac"
    group: str | None = None
    run_id: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    description: str = ""
    files: dict[str, list[int]] = field(default_factory=dict)

    @property
    def shown_uri(self) -> str:
        """The URI without user and password."""
        return re.sub(r"//[^@/]*@", "//", self.uri)

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for a server."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    def elsewhere(self, uri: str, run_id: str | None = None) -> Destination:
        """The same folder's place on another server or in another run, which has got nothing yet."""
        return replace(self, uri=uri, run_id=run_id, description="", files={})

    def save(self, folder: Path) -> None:
        """Write ``mlflow.json``."""
        write_text(folder / "mlflow.json", json.dumps(asdict(self), indent=2) + "\n")


def find_destination(
    folder: Path, uri: str | None, *, experiment: str | None = None, group: str | None = None
) -> Destination:
    """Where a run belongs: where the user says, where ``mlflow run`` says, where it was before, or in a local SQLite file.

    Args:
        folder: the run folder.
        uri: the user's; None for none.
        experiment: the user's, for a new run; None for the one it had, or ``awac``.
        group: the user's; None for the one it had, or none.

    Raises:
        AwacError: MLflow cannot keep runs there, the group's name cannot be searched for, or ``mlflow.json`` is damaged.
    """
    if group is not None and not re.fullmatch(r"[\w .:/-]+", group):
        raise AwacError(f"group '{group}': use letters, digits, spaces and . : / - _")
    stored = _stored_destination(folder / "mlflow.json")
    run_id = os.environ.get("MLFLOW_RUN_ID") if uri is None else None
    if stored is not None and run_id is None:
        uri = uri or stored.uri
    uri = checked_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    destination = stored or Destination(uri, run_id=run_id)
    if destination.uri != uri or (run_id is not None and destination.run_id != run_id):
        destination = destination.elsewhere(uri, run_id)
    return replace(destination, experiment=experiment or destination.experiment, group=group or destination.group)


def _stored_destination(path: Path) -> Destination | None:
    try:
        return Destination(**json.loads(path.read_text())) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise AwacError(f"{path} is damaged ({first_line(error)}); remove it, and a new MLflow run is made") from error


def checked_uri(uri: str) -> str:
    """The URI; of a SQLite file with its absolute path, so that it is the same from everywhere."""
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    is_folder = uri.startswith("file:") or (":" not in uri and uri != "databricks")
    if is_folder and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise AwacError(
            f"MLflow URI '{uri}' is a folder, and MLflow keeps runs in a database or on a server; "
            "pass for example --mlflow_uri=sqlite:///mlflow.db or --mlflow_uri=http://HOST:5000, or none"
        )
    return uri
