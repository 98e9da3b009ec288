"""Pickles of plain containers and arrays. Code in a pickle is never run, and none of its bytes pass for an object."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from awac_pl.datasets.untrusted import too_large
from awac_pl.errors import DatasetError


class _Kind:
    """Stands for ``numpy.dtype``. A pickle may set the flags of a real one, and then bytes pass for pointers to objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not re.fullmatch(r"[|<>=]?[biufcSUO?]\d{0,9}", code):
            raise DatasetError(f"an array of {str(code)[:40]}; expected one of numbers")
        self.dtype = np.dtype(code)

    def set(self, state: Any) -> None:
        """Set the order of bytes, the only part of a dtype's state that matters here."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise DatasetError("an array of records; expected one of numbers")
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


def _set_array(array: np.ndarray, state: Any) -> None:
    """Set what an array holds, after a look at the sizes."""
    shape, kind, fortran, data = state[-4:]
    data = data.encode("latin1") if isinstance(data, str) else data
    count = math.prod(shape)
    held = len(data) if kind.dtype.hasobject else len(data) / kind.dtype.itemsize
    if min(shape, default=0) < 0 or held != count or isinstance(data, list) != kind.dtype.hasobject:
        raise DatasetError(f"an array of {list(shape)} holds {held:g} values; damaged")
    plain: Any = array
    plain.__setstate__((1, shape, kind.dtype, bool(fortran), data))


def _empty_array(*_: Any) -> np.ndarray:
    """What ``_set_array`` fills."""
    return np.empty(0, np.int8)


def _scalar(kind: _Kind, data: Any) -> Any:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.dtype)[0]


def _array_of(buffer: Any, kind: _Kind, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(buffer, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


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


def _no_bytes() -> bytes:
    """How protocols up to 2 write the content of an empty array."""
    return b""


def _no_list(*content: Any) -> list:
    """Stands for ``list``, which would copy what it gets, again and again, beside all limits."""
    if content:
        raise DatasetError("the file copies lists; expected arrays and plain containers")
    return []


def _check_key(key: Any) -> None:
    """Tuples are refused: the hash of a nested one can take for ever."""
    if not isinstance(key, str | bytes | int | float):
        raise DatasetError(f"a dict has a key of {type(key).__name__}; expected names")


#: All names that a pickle may use: numpy arrays, how Python 2 wrote their bytes, and plain containers.
_HARMLESS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # only named as the type to make
    ("numpy", "dtype"): _Kind,
    **{(f"numpy.{core}.{name}", function): stand_in for core in ("core", "_core") for name, function, stand_in in (
        ("multiarray", "_reconstruct", _empty_array), ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _array_of),
    )},
    ("_codecs", "encode"): _encode, ("collections", "OrderedDict"): _plain_dict, ("collections", "defaultdict"): _plain_dict,
    **{(module, name): kind for module in ("builtins", "__builtin__")
       for name, kind in (("list", _no_list), ("dict", _plain_dict), ("float", float), ("int", int), ("bytes", _no_bytes))},
}  # fmt: skip
_PythonUnpickler: Any = pickle._Unpickler


class HarmlessUnpickler(_PythonUnpickler):
    """Builds only numpy arrays and plain containers; refuses every other name in a pickle.

    It is Python's own unpickler written in Python: the one in C cannot be kept from hashing what takes for ever to hash.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a harmless class or function.

        Raises:
            DatasetError: the pickle names another one.
        """
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
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
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, _Kind):
            built.set(state)
        elif isinstance(built, np.ndarray):
            _set_array(built, state)
        else:
            raise DatasetError(f"the file sets the state of a {type(built).__name__}; it may run code and was refused")

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
