"""What is wrong with somebody else's environment: its own error with file and line, or what it must not return."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from awac_pl.errors import AwacError, first_line, without_credentials
from awac_pl.parallel.interruption import Interrupted

if TYPE_CHECKING:
    import gymnasium

log = logging.getLogger(__name__)

#: Where an environment's author will not look for an error: this package, Gymnasium, NumPy, Python's own library.
_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = re.compile(r"^<|[/\\](gymnasium|numpy)[/\\]|[/\\]lib[/\\]python[\d.]+[/\\](?!site-packages)")
NO_STEP = "step() returned no (observation, reward, terminated, truncated, info)"
#: Largest observation, action and reward to learn from. Products of such values in a loss still fit float32.
LARGEST_VALUE = 1e15


class RolloutError(AwacError, RuntimeError):
    """An episode failed: the environment raised or broke its contract, or a worker died or hung repeatedly."""


def is_fault(error: BaseException) -> bool:
    """Whether this is an environment's own error, ``sys.exit`` and KeyboardInterrupt included, not a user's wish to end."""
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # else it is Ctrl-C
    return isinstance(error, Exception | SystemExit) and not isinstance(error, Interrupted)


@contextlib.contextmanager
def own_errors(told: Callable[[BaseException], AwacError]) -> Iterator[None]:
    """Around the calls of an environment: raise what ``told`` makes of its own errors; a user's wish to end passes."""
    try:
        yield
    except BaseException as error:
        if not is_fault(error):
            raise
        raise told(error) from error


def described(error: BaseException) -> str:
    """An error, and the file and line of the environment where it came from."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not (frame.filename.startswith(_PACKAGE) or _LIBRARIES.search(frame.filename))]
    where = "".join(f" at {frame.filename}:{frame.lineno}" for frame in (own or frames)[-1:])
    statement = f" ({frames[-1].line})" if isinstance(error, AssertionError) and not error.args and frames else ""
    return without_credentials(repr(error)) + statement + where


def close_environment(environment: gymnasium.Env) -> None:
    """Close an environment. What it raises then is logged: its episodes are there."""
    try:
        environment.close()
    except Exception as error:
        log.warning("%s: close() failed: %s", environment.spec.id if environment.spec else environment, described(error))


def step_fault(error: BaseException) -> str:
    """An error of ``reset`` or ``step``; an old ``step`` of four values fails in a wrapper of Gymnasium."""
    frames = traceback.extract_tb(error.__traceback__)
    in_wrapper = re.search(r"[/\\]gymnasium[/\\]", frames[-1].filename)
    return NO_STEP if in_wrapper and "unpack" in repr(error) else described(error)


def why_not_made(env_id: str, error: BaseException) -> str:
    """Why ``gymnasium.make`` failed: an error of Gymnasium, or one of the environment's own code."""
    import gymnasium

    cause = error.__cause__ if isinstance(error, ModuleNotFoundError) and error.__cause__ else error
    module = env_id.partition(":")[0]
    if isinstance(cause, ModuleNotFoundError) and cause.name and f"{module}.".startswith(f"{cause.name}."):
        return f"there is no module '{cause.name}', neither in this folder nor installed"
    return first_line(error) if isinstance(error, gymnasium.error.Error) else described(cause)


def check_outcome(outcome: Any) -> tuple[Any, ...]:
    """What ``step`` returned.

    Raises:
        RolloutError: it is not five values.
    """
    if not isinstance(outcome, tuple) or len(outcome) != 5:
        raise RolloutError(NO_STEP)
    return outcome


def check_observation(observation: Any, size: int) -> None:
    """Refuse what is no ``[O]`` of usable numbers; MuJoCo would only warn, and numbers that are not finite spread.

    Raises:
        RolloutError: a wrong shape, or values that are no numbers, not finite or too large.
    """
    if np.shape(observation) != (size,) or np.asarray(observation).dtype.kind not in "biuf":
        found = f"{type(observation).__name__} {list(np.shape(observation))}"
        raise RolloutError(f"the observation is a {found}, not numbers [{size}]")
    if not np.isfinite(observation).all():
        raise RolloutError("the observation is not finite")
    if (largest := np.abs(observation).max(initial=0)) > LARGEST_VALUE:
        raise RolloutError(f"the observation reaches {largest:.3g}, more than {LARGEST_VALUE:g}; use other units")


def check_number(value: Any, name: str) -> float:
    """A finite number that ``step`` returned.

    Raises:
        RolloutError: it is none.
    """
    if np.ndim(value) or np.asarray(value).dtype.kind not in "biuf":
        raise RolloutError(f"the {name} is {value!r}, not a number")
    if not np.isfinite(value):
        raise RolloutError(f"the {name} is {value}; it must be finite")
    return float(value)
