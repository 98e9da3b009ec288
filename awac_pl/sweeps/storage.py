"""Run folders of machines that do not see the sweep's folder: copies in an object store, or on the machine of the sweep."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from awac_pl.errors import AwacError, first_line
from awac_pl.files import link_or_copy, replacing

#: Bytes of a file that travel at once.
PART = 16 << 20


class Store(Protocol):
    """Keeps folders by name. A file is there completely or not at all."""

    def files(self, name: str) -> list[str]:
        """The files of a folder, as paths inside it."""

    def send(self, name: str, file: str, path: Path) -> None:
        """Copy ``path`` into the store."""

    def fetch(self, name: str, file: str, path: Path) -> None:
        """Copy a file of the store to ``path``."""


class UriStore:
    """A folder of a file system that pyarrow knows: ``s3://bucket/folder``, ``gs://…``, ``hdfs://…``, ``file:///…``.

    Args:
        uri: of the folder.

    Raises:
        AwacError: the address is none, or cannot be written to.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            filesystem, path = self._open()
            filesystem.create_dir(path, recursive=True)
            with filesystem.open_output_stream(f"{path}/.awac") as file:
                file.write(b"")
        except Exception as error:  # each file system has errors of its own
            raise AwacError(f"--storage {uri} cannot be written to: {first_line(error)}") from error

    def files(self, name: str) -> list[str]:
        """See ``Store``."""
        from pyarrow import fs

        filesystem, path = self._open()
        found = filesystem.get_file_info(fs.FileSelector(f"{path}/{name}", allow_not_found=True, recursive=True))
        inside = [os.path.relpath(info.path, f"{path}/{name}") for info in found if info.type == fs.FileType.File]
        return [file for file in inside if not file.endswith(".part")]

    def send(self, name: str, file: str, path: Path) -> None:
        """See ``Store``."""
        from pyarrow import fs

        filesystem, base = self._open()
        target = f"{base}/{name}/{file}"
        filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        fs.copy_files(str(path), f"{target}.part", source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
        filesystem.move(f"{target}.part", target)

    def fetch(self, name: str, file: str, path: Path) -> None:
        """See ``Store``."""
        from pyarrow import fs

        filesystem, base = self._open()
        fs.copy_files(
            f"{base}/{name}/{file}", str(path), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem()
        )

    def _open(self) -> tuple[Any, str]:
        from pyarrow import fs

        filesystem, path = fs.FileSystem.from_uri(self.uri)
        return filesystem, path.rstrip("/")


class FolderKeeper:
    """The sweep's folder, for machines that do not see it; lives as an actor of Ray on a machine that does.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def files(self, name: str) -> list[str]:
        """The files of a run folder."""
        return list(files_of(self.folder / name))

    def write(self, name: str, file: str, start: int, part: bytes, last: bool) -> None:
        """Take a part of a file; the last one puts the file in its place."""
        path = self.folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.part")
        with half.open("r+b" if start else "wb") as target:
            target.seek(start)
            target.write(part)
        if last:
            os.replace(half, path)

    def read(self, name: str, file: str, start: int) -> bytes:
        """A part of a file; empty at its end."""
        with (self.folder / name / file).open("rb") as source:
            source.seek(start)
            return source.read(PART)


class KeptStore:
    """The keeper as a ``Store``.

    Args:
        keeper: handle of the actor.
    """

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper

    def files(self, name: str) -> list[str]:
        """See ``Store``."""
        return self._call("files", name)

    def send(self, name: str, file: str, path: Path) -> None:
        """See ``Store``."""
        size = path.stat().st_size
        with path.open("rb") as source:
            for start in range(0, max(size, 1), PART):
                self._call("write", name, file, start, source.read(PART), start + PART >= size)

    def fetch(self, name: str, file: str, path: Path) -> None:
        """See ``Store``."""
        with path.open("wb") as target:
            while part := self._call("read", name, file, target.tell()):
                target.write(part)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self.keeper, method).remote(*arguments))


def push(store: Store, name: str, folder: Path, sent: dict[str, Any]) -> None:
    """Send what has changed in a run folder.

    A run that goes on needs metrics that are at least as new as its checkpoint. So the checkpoints are held fast first, by
    links (they are replaced, never changed), and sent last.

    Args:
        store: where to.
        name: of the folder there.
        folder: of the run.
        sent: files and their states as last sent; updated.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".push-") as held:
        checkpoints: dict[str, Path] = {}
        for number, path in enumerate(sorted((folder / "checkpoints").glob("*.ckpt"))):
            link = Path(held) / str(number)
            link_or_copy(path, link)
            checkpoints[str(path.relative_to(folder))] = link
        others = {file: path for file, path in files_of(folder).items() if not file.startswith("checkpoints/")}
        for file, path in [*others.items(), *checkpoints.items()]:
            state = path.stat()
            if sent.get(file) != (identity := (state.st_size, state.st_mtime_ns)):
                store.send(name, file, path)
                sent[file] = identity


def pull(store: Store, name: str, folder: Path) -> None:
    """Fetch a run folder into ``folder``."""
    for file in store.files(name):
        with replacing(folder / file) as new:
            store.fetch(name, file, new)


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a run folder by their names there. Hidden folders come and go while it is looked through."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(place, name) for name in names if not name.startswith("."))
        found |= {str(path.relative_to(folder)): path for path in paths if path.is_file()}
    return found


def store_places(places: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables that a run on another machine needs as well."""
    names = ("MINARI_DATASETS_PATH", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MUJOCO_GL", "PYTHONPATH")
    return {name: str(places[name]) for name in names if name in places}
