"""Files of other programs, as recorded episodes. A new format is a file with a reader here, and an entry of ``FORMATS``.

Code in a file is never run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from awac_pl.datasets.formats import flat_hdf5, lerobot, minari_arrow, pickled, robomimic
from awac_pl.datasets.formats.columns import Reading
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.untrusted import reading
from awac_pl.errors import DatasetError


@dataclass(frozen=True)
class Format:
    """A way to store episodes.

    Args:
        read: yields the episodes of a file or folder.
        suffixes: of its files.
        recognise: whether a file or folder is built like this; None if the suffix alone tells.
    """

    read: Callable[[Path, Reading], Iterator[RawEpisode]]
    suffixes: tuple[str, ...] = ()
    recognise: Callable[[Path], bool] | None = None


#: By name. The first one that fits is taken; what is recognised by its build comes before what has only a suffix.
FORMATS: dict[str, Format] = {
    "lerobot": Format(lerobot.read, ("", ".parquet"), lerobot.recognise),
    "minari": Format(minari_arrow.read, ("",), minari_arrow.recognise),
    "robomimic": Format(robomimic.read, (".hdf5", ".h5"), robomimic.recognise),
    "d4rl": Format(flat_hdf5.read, (".hdf5", ".h5")),
    "dapg": Format(pickled.read_pickle, (".pickle", ".pkl")),
    "rlkit": Format(pickled.read_npy, (".npy",)),
    "npz": Format(pickled.read_npz, (".npz",)),
}


#: How the content of a file begins, whatever its name is, and the suffix for it.
BEGINNINGS = {b"\x89HDF\r\n\x1a\n": ".hdf5", b"\x93NUMPY": ".npy", b"PAR1": ".parquet"}
BEGINNINGS |= {bytes([0x80, protocol]): ".pkl" for protocol in range(2, 6)}


def _suffix(file: Path) -> str | None:
    """The suffix by the content, where that tells it, else that of the name; "" for a folder."""
    if file.is_dir():
        return ""
    with reading(file), file.open("rb") as stream:
        beginning = stream.read(8)
    if beginning.startswith(b"PK\x03\x04") and zipfile.is_zipfile(file):
        with reading(file), zipfile.ZipFile(file) as archive:
            if all(name.endswith(".npy") for name in archive.namelist()):
                return ".npz"
    known = (suffix for start, suffix in BEGINNINGS.items() if beginning.startswith(start))
    return next(known, file.suffix.lower() or None)


def choose_format(file: Path, form: str | None = None) -> str:
    """The given format, else the one that the file or folder is built like, else that of its content or its suffix.

    Raises:
        DatasetError: there is no such file, or nothing tells its format.
    """
    if not file.exists():
        raise DatasetError(f"{file}: no such file")
    if not (file.is_file() or file.is_dir()):
        raise DatasetError(f"{file}: is no file, but a pipe or a device; save its content to a file first")
    if form is not None:
        return form
    suffix = _suffix(file)
    for name, known in FORMATS.items():
        if suffix in known.suffixes and (known.recognise is None or _is_built_like(known.recognise, file)):
            return name
    if file.is_dir():
        raise DatasetError(f"{file}: is the folder of no known dataset (no meta/info.json of LeRobot, no data of Minari)")
    raise DatasetError(
        f"{file}: neither its content nor its suffix tells a format; pass --format, one of {', '.join(FORMATS)}"
    )


def _is_built_like(recognise: Callable[[Path], bool], file: Path) -> bool:
    try:
        return recognise(file)
    except Exception:  # a damaged file; its reader will name it
        return False


def read_recordings(file: Path, form: str, how: Reading | None = None) -> Iterator[RawEpisode]:
    """The episodes of a file, unchanged.

    Raises:
        DatasetError: the file cannot be read in this format, or holds more than arrays.
    """
    with reading(file, form):
        yield from FORMATS[form].read(file, how or Reading())
