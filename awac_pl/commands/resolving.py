"""The configuration that ``awac fit`` would have, without a run."""

from __future__ import annotations

import logging
from typing import Any

from awac_pl.commands.fit import AwacCLI, run_cli
from awac_pl.commands.presets import check_files, expand
from awac_pl.commands.trainer_options import check_options


class _Resolving(AwacCLI):
    """Parses and checks; builds nothing."""

    def before_instantiate_classes(self) -> None:
        """Refuse options that ``awac fit`` refuses before it builds anything."""
        check_options(self.config[self.subcommand].trainer)

    def instantiate_classes(self) -> None:
        """Nothing."""

    def after_instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def resolve(arguments: list[str]) -> tuple[dict[str, Any], str]:
    """Resolve arguments of ``awac fit``.

    Returns:
        The configuration, nested, and the text of a file with it.

    Raises:
        AwacError: a file, a key or a value is wrong.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    arguments = expand(["fit", *arguments])
    check_files(arguments)
    cli = run_cli(arguments, _Resolving)
    config = cli.config["fit"]
    text = cli._parser("fit").dump(config, skip_none=False)
    return config.as_dict(), text
