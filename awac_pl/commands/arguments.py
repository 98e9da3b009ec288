"""What the parsers of the commands share: their help, from a docstring."""

from __future__ import annotations

import argparse
import textwrap

TYPE_CHECKING = False  # as in awac_pl/__init__.py: `awac --help` reads this file
if TYPE_CHECKING:
    from typing import Any


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
