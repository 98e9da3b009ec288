"""Files of settings, which anybody may have written, and where the shipped ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from awac_pl.errors import AwacError, first_line

#: Largest file of settings, in bytes; values that its aliases may unfold to; and how deep they may be nested. A large run
#: has 100 values, 5 deep. libyaml overruns the stack below some 10,000 levels.
LARGEST_FILE, MOST_VALUES, DEEPEST = 4 << 20, 50_000, 100


def shipped() -> Path:
    """The ``conf/`` of the package; that of the repository where the package runs from its source."""
    package = Path(__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "base.yaml").is_file())


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file of settings that anybody may have written.

    Raises:
        AwacError: it is none, or it would unfold to more than settings do; the message names the file and the line.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path.stat().st_size / 2**20:.0f} MiB are more than settings need")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _load_yaml(text)
    except UnicodeDecodeError as error:
        raise AwacError(f"{path} cannot be read: it is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AwacError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        kind = "it is empty" if content is None else f"it holds {'a list' if isinstance(content, list) else 'one value'}"
        raise AwacError(f"{path} is no table of settings: {kind}")
    return content


def _load_yaml(text: str) -> Any:
    import yaml  # a robot need not have it

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_unfolded(text, loader)
        return yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from error


def _check_unfolded(text: str, loader: Any) -> None:
    """Count the values with every alias replaced by what it stands for, before anything is built."""
    import yaml

    sizes: dict[str, int] = {}  # of what an anchor names
    unfinished: list[list[Any]] = [["", 0]]  # anchor and size of the collections that are open
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            unfinished.append([event.anchor, 1])
            anchor, size = None, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = unfinished.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(
                    f"the alias *{event.anchor} in line {event.start_mark.line + 1} stands for nothing before it"
                )
            anchor, size = None, sizes[event.anchor]
        else:
            anchor, size = getattr(event, "anchor", None), 1
        if anchor:
            sizes[anchor] = size
        unfinished[-1][1] += size
        if unfinished[-1][1] > MOST_VALUES or len(unfinished) > DEEPEST:
            line = event.start_mark.line + 1
            raise ValueError(
                f"more than {MOST_VALUES:,} values, or {DEEPEST} levels, at line {line}, with every alias unfolded"
            )
