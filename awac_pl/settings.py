"""Ranges of settings. They stand in the signatures, as types, and are checked here: values of the command line, of files
and of Python alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from awac_pl.errors import SettingError


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``; an ``open`` end itself does not belong to them."""

    low: float = -math.inf
    high: float = math.inf
    open: Literal["", "low", "high", "both"] = ""

    def __contains__(self, value: float) -> bool:
        inside = self.low <= value <= self.high
        return inside and not (value == self.low and self._left == "(") and not (value == self.high and self._right == ")")

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"in {self._left}{self.low}, {self.high}{self._right}"
        return f"above {self.low}" if self._left == "(" else f"of at least {self.low}"

    @property
    def _left(self) -> str:
        return "(" if self.open in ("low", "both") else "["

    @property
    def _right(self) -> str:
        return ")" if self.open in ("high", "both") else "]"


#: Types of settings. Type checkers read the number in them; jsonargparse ignores the range, and saves plain numbers.
Count = Annotated[int, Range(1, 10**9)]
CountOrZero = Annotated[int, Range(0, 10**9)]
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, open="low")]
OpenShare = Annotated[float, Range(0, 1, open="both")]
#: 1 itself is left out: the range of returns divides by 1 - gamma.
Discount = Annotated[float, Range(0, 1, open="high")]
Episodes = Annotated[int, Range(1, 100_000)]
#: Steps of an episode: it is kept in memory as a whole.
Horizon = Annotated[int, Range(1, 1_000_000)]
Workers = Annotated[int, Range(0, 1000)]
Port = Annotated[int, Range(0, 65_535)]
#: Of a random choice; and of a run, whose episodes have seeds of their own (``envs/seeds.py``).
Seed = Annotated[int, Range(0, 2**32 - 1)]
RunSeed = Annotated[int, Range(0, 999)]

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def settings_of(cls: type) -> dict[str, Any]:
    """Names and types of the arguments of a class of this package, with those that it passes on to its bases."""
    own = [one for one in reversed(cls.__mro__) if one.__module__.startswith("awac_pl") and "__init__" in vars(one)]
    return {name: hint for one in own for name, hint in _hints(vars(one)["__init__"]).items()}


def check_arguments(function: Callable, values: Mapping[str, Any], section: str) -> None:
    """Compare arguments with the types of a signature: ``check_arguments(AWAC.__init__, locals(), "model")``.

    Raises:
        SettingError: see ``check_values``.
    """
    check_values(_hints(function), values, f"{section}.")


def _hints(function: Callable) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(function, include_extras=True).items() if name != "return"}


def check_values(hints: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """Compare values with types.

    Args:
        hints: types by name.
        values: by name; others are ignored.
        prefix: of a name, for the message; ``model.`` for ``model.temperature``.

    Raises:
        SettingError: a value does not fit; the message names key, value and range.
    """
    for name, hint in hints.items():
        if name in values and not fits(values[name], hint):
            raise SettingError(wrong(f"{prefix}{name}", values[name], hint))


def wrong(key: str, value: Any, hint: Any) -> str:
    """The line that refuses a value."""
    shown = _shown(value)
    return f"{key} is {shown if len(shown) <= 60 else shown[:57] + '...'}; it must be {describe(hint)}"


def _shown(value: Any) -> str:
    """A value as YAML shows it."""
    try:
        return (
            {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | NoneType) else str(value) or "''"
        )
    except ValueError:  # Python does not print numbers of more than 4,300 digits
        return f"a number of {value.bit_length()} bits"


def describe(hint: Any) -> str:
    """A type in words, for example ``a number in (0, 1]``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *map(str, arguments[1:])]).strip()
    if origin in (Union, UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and ... not in arguments:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    if origin in (Sequence, list, tuple):
        return f"a list, each {describe(arguments[0])}"
    if origin in (Mapping, dict):
        return f"a table, each value {describe(arguments[1])}"
    return _WORDS.get(hint) or getattr(hint, "__name__", None) or str(hint)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type, and lies in its range. What this package's signatures do not use fits always."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = [part for part in arguments[1:] if isinstance(part, Range)]
        return fits(value, arguments[0]) and all(value in part for part in ranges)
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (tuple, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        hints = arguments * len(value) if origin is Sequence else arguments
        return len(value) == len(hints) and all(map(fits, value, hints))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(fits(one, arguments[1]) for one in value.values())
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, NoneType) else True


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def check_memory(what: str, need: float) -> None:
    """Refuse what needs more memory than this machine, or this container, has.

    Args:
        what: is to be made, with the setting behind it: ``data.capacity 5: the replay buffer``.
        need: bytes.

    Raises:
        SettingError: it does not fit.
    """
    import psutil

    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    available = min(psutil.virtual_memory().total, int(text) if text.isdigit() else 1 << 62)
    if need > available:
        raise SettingError(f"{what} needs {need / 2**30:,.0f} GiB of memory; there are {available / 2**30:,.0f}")
