"""Plain containers and arrays: DAPG's pickled list of episodes, rlkit's object array in a ``.npy`` file, and ``.npz``.

Code in a file is never run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from awac_pl.datasets.formats.arrays import read_arrays
from awac_pl.datasets.formats.columns import Reading, one_episode, plain_columns
from awac_pl.datasets.relabelling import RawEpisode
from awac_pl.datasets.safe_hdf5 import too_large
from awac_pl.errors import DatasetError


def _plain_dict(*arguments: Any) -> dict[Any, Any]:
    """Stands for ``OrderedDict`` and ``defaultdict``; ``defaultdict`` loses its factory."""
    plain: dict[Any, Any] = {}
    for key, value in arguments[-1] if arguments and isinstance(arguments[-1], list | tuple) else ():
        _check_key(key)
        plain[key] = value
    return plain


def _encode(text: str, codec: str) -> bytes:
    """How Python 2 wrote bytes."""
    if codec not in ("latin1", "latin-1"):
        raise DatasetError(f"the file asks for the codec {codec}; expected latin1")
    return text.encode("latin1")


def _check_key(key: Any) -> None:
    """Tuples are refused: the hash of a nested one can take for ever."""
    if not isinstance(key, str | bytes | int | float):
        raise DatasetError(f"a dict has a key of {type(key).__name__}; expected names")


#: All names that a pickle may use: numpy arrays, how Python 2 wrote their bytes, and plain containers.
_HARMLESS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode, ("collections", "OrderedDict"): _plain_dict, ("collections", "defaultdict"): _plain_dict,
    **{(module, name): kind for module in ("builtins", "__builtin__")
       for name, kind in (("list", list), ("dict", _plain_dict), ("float", float), ("int", int))},
}  # fmt: skip
_HARMLESS_OF_NUMPY = {
    ("numpy", "ndarray"), ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip


_PythonUnpickler: Any = pickle._Unpickler


class HarmlessUnpickler(_PythonUnpickler):
    """Builds only numpy arrays and plain containers; refuses every other name in a pickle.

    It is Python's own unpickler written in Python: the one in C cannot be kept from hashing what takes for ever to hash.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a harmless class or function.

        Raises:
            DatasetError: the pickle names another one.
        """
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if (module, name) in _HARMLESS_OF_NUMPY:
            module = (
                module.replace("numpy.core", "numpy._core") if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else module
            )
            return super().find_class(module, name)
        raise DatasetError(f"the file asks for {module}.{name}, which is no array; it may run code and was refused")

    def load_setitem(self) -> None:
        """Add an entry to a dict."""
        _check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Add entries to a dict."""
        for key in self.stack[::2]:
            _check_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        """Make a dict of entries."""
        for key in self.stack[::2]:
            _check_key(key)
        super().load_dict()

    def load_build(self) -> None:
        """Set the content of an array or its dtype."""
        if not isinstance(self.stack[-2], np.ndarray | np.dtype):
            raise DatasetError(
                f"the file sets the state of a {type(self.stack[-2]).__name__}; it may run code and was refused"
            )
        super().load_build()

    def refuse_set(self) -> None:
        """Sets are refused: see ``_check_key``."""
        raise DatasetError("the file holds a set; expected lists, dicts and arrays")

    dispatch = _PythonUnpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict,
        pickle.BUILD[0]: load_build, pickle.EMPTY_SET[0]: refuse_set, pickle.ADDITEMS[0]: refuse_set,
        pickle.FROZENSET[0]: refuse_set,
    }  # fmt: skip


def unpickle(stream: IO[bytes], size: int) -> Any:
    """The plain containers and arrays of a pickle of ``size`` bytes.

    Raises:
        DatasetError: it may run code, or unpacks to far more than it holds.
    """
    value = HarmlessUnpickler(stream, encoding="latin1").load()
    unfolded = 0
    stack: list[Any] = [(value,)]
    while stack:
        part = stack.pop()
        inner = part.values() if isinstance(part, Mapping) else part
        if isinstance(part, np.ndarray):
            unfolded += part.nbytes
            inner = part.ravel() if part.dtype.hasobject else ()
        unfolded += 8 * len(inner)
        stack.extend(item for item in inner if isinstance(item, Mapping | list | tuple | np.ndarray))
        if too_large(unfolded, size):
            raise DatasetError(f"unpacks to more than {unfolded} bytes and holds {size}; damaged, or made to harm")
    return value


def read_array(stream: IO[bytes], size: int) -> np.ndarray:
    """One array in numpy's format, ``size`` bytes long; objects in it are plain containers and arrays."""
    start = stream.tell()
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if header(stream)[2].hasobject:
        return np.asarray(unpickle(stream, size), dtype=object)
    stream.seek(start)
    return np.lib.format.read_array(stream, allow_pickle=False)


def read_pickle(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """A pickled list of episodes."""
    with file.open("rb") as stream:
        yield from read_container(unpickle(stream, file.stat().st_size), how)


def read_npy(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """An object array of episodes, or of one dict of arrays."""
    with file.open("rb") as stream:
        array = read_array(stream, file.stat().st_size)
    if not array.dtype.hasobject:
        raise DatasetError(f"holds one array of {array.dtype}, not an object array of episodes")
    yield from read_container(array, how)


def read_npz(file: Path, how: Reading) -> Iterator[RawEpisode]:
    """Named arrays; see ``read_arrays``."""
    named = {}
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if too_large(part.file_size, part.compress_size):
                sizes = f"declares {part.file_size} bytes and holds {part.compress_size}"
                raise DatasetError(f"'{part.filename}' {sizes}; damaged, or made to harm")
        for part in archive.infolist():
            with archive.open(part) as stream:
                named[part.filename.removesuffix(".npy")] = read_array(stream, part.file_size)
    yield from read_container(next(iter(named.values())) if list(named) == ["arr_0"] else named, how)


def read_container(value: Any, how: Reading) -> Iterator[RawEpisode]:
    """The episodes of a list of dicts, as DAPG and rlkit store them, or of one dict of arrays."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Mapping):
        lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], Mapping)]
        if len(lists) == 1 and not {"observations", "actions"} & set(plain_columns(value)):
            value = lists[0]  # such as {"demos": [...], "env": "Reach-v0"}
        else:
            yield from read_arrays(value, how)
            return
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        raise DatasetError(f"holds a {type(value).__name__}, not a list of episodes")
    for index, path in enumerate(value):
        if not isinstance(path, Mapping):
            raise DatasetError(f"episode {index} has no 'observations' and 'actions'")
        yield from one_episode(plain_columns(path), how, f"episode {index}: ")
