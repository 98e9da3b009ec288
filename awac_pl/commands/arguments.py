"""What the parsers of the commands share: help from a docstring, numbers with ranges, errors of one line."""

from __future__ import annotations

import argparse
import re
import textwrap

from awac_pl.errors import AwacError

TYPE_CHECKING = False  # as in awac_pl/__init__.py: `awac --help` reads this file
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def help_from(documented: Any) -> dict[str, Any]:
    """Arguments of a parser that explains a module or a function by its docstring.

    The first paragraph is the description; the rest are examples.
    """
    description, _, examples = documented.__doc__.strip().partition("\n\n")
    return {
        "description": textwrap.fill(" ".join(description.split()), 80),
        "epilog": "\n".join(["examples:", *(f"  {line.strip()}" for line in examples.splitlines())]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-[\d.]")  # argparse knows single numbers, not -0.5,0.5

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing.

        Raises:
            AwacError: always.
        """
        text = re.sub(r"^argument (\S+?)(?:/\S+)?: is ", r"\1 is ", message)
        if choice := re.match(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)$", message):
            name, value, known = (part.replace("'", "") for part in choice.groups())
            text = f"{name} is {value}; it must be one of {known}"
        raise AwacError(f"{text} ({self.prog} --help)" if text == message else text)


def number(hint: Any) -> Callable[[str], Any]:
    """The ``type`` of an argument that is a number with a range, such as ``Count`` of ``settings``."""
    from awac_pl.settings import fits, wrong

    def parse(text: str) -> Any:
        value: Any = text
        for kind in (int, float):
            try:
                value = kind(text)
                break
            except ValueError:
                continue
        if not fits(value, hint):
            raise argparse.ArgumentTypeError(wrong("", value, hint).strip())
        return value

    return parse
