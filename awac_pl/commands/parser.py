"""The parser of ``awac fit``, ``validate`` and ``test``: jsonargparse's, whose errors are one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from typing import Annotated, Any

import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from awac_pl.algorithms.checkpoints import ALGORITHMS
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.video_recorder import VideoRecorder
from awac_pl.errors import AwacError, nearest
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.settings import CountOrZero, Range, check_values, settings_of, wrong

#: Learners by the names that the command line has for them.
LEARNERS = {name.lower(): learner for name, learner in ALGORITHMS.items()}
#: Sections of the configuration that are arguments of this package's classes; ``model`` is that of AWAC or of another one.
SECTIONS: dict[str, type] = {
    "model": LEARNERS["awac"], "data": ReplayDataModule, "interaction": EnvironmentInteraction, "video": VideoRecorder,
}  # fmt: skip
#: Ranges of the Trainer's numbers that Lightning does not check itself; -1 is without an end there.
TRAINER: dict[str, Any] = dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps"), CountOrZero | None)
TRAINER |= dict.fromkeys(("max_epochs", "max_steps", "num_sanity_val_steps"), Annotated[int, Range(-1, 10**12)] | None)
#: Where Lightning has the classes of these options of the Trainer.
LIGHTNING = {name: name if name[-1] == "s" else f"{name}s" for name in ("callbacks", "logger", "plugins", "profiler")}
LIGHTNING["strategy"] = "strategies"
#: How the help of each command begins. ``expand`` replaces ``--task`` and ``--overrides``, so the parser does not know them.
HELP = {
    "fit": """Pretrain on datasets, then act in the environment and improve.

examples:
  awac fit --task pen --preset quick
  awac fit --task door --preset plus --seed_everything 1 --model.temperature 2
  awac fit --algorithm iql --task relocate --preset comparison
  awac fit --task my_robot:Push-v0 --preset quick --config mine.yaml
  awac fit --resume runs/pen-quick-seed0
  awac fit --task pen --preset plus --print_config

files, in the order in which they apply; each changes what stands before it:
  conf/base.yaml        with any of the next three; in a folder without conf/ the package's
  --algorithm NAME      conf/algorithm/NAME.yaml (awac)
  --task NAME           conf/task/NAME.yaml, or the id of a Gymnasium environment
  --preset NAME         conf/preset/NAME.yaml
  --config FILE         your own, as many as you like
Single options change them all, wherever they stand.

also: --overrides "--a=1 --b=2" (options in one text, for mlflow run), --debug (the
traceback of an error, too). The sections below have every option.""",
    "validate": """Evaluate a checkpoint on fixed seeds: 100 episodes, or its run's data.milestone_episodes.

examples:
  awac validate --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt

--config FILE: evaluate with another configuration than the run's.""",
    "test": """Evaluate a checkpoint on fixed seeds: 100 episodes, or its run's data.milestone_episodes.

examples:
  awac test --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt
  awac test --ckpt_path runs/pen-quick-seed0/checkpoints/best.ckpt --data.milestone_episodes 500

--config FILE: evaluate with another configuration than the run's.""",
}
#: Type of ``seed_everything``.
SEED = settings_of(ReplayDataModule)["seed"]


class Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help, with the lines of a description as they are."""


def check_ranges(config: Mapping[str, Any]) -> None:
    """Compare all values of a configuration with their ranges.

    Raises:
        SettingError: a value lies outside; the message names key, value and range.
    """
    check_values({"seed_everything": SEED}, config)
    check_values(TRAINER, config.get("trainer", {}), "trainer.")
    for section, cls in (SECTIONS | {"model": LEARNERS[config.get("algorithm", "awac")]}).items():
        check_values(settings_of(cls), config[section], f"{section}.")


# A callback's default can be an Enum, as Lightning's Timer has one; PyYAML cannot write these.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, one: dumper.represent_data(one.value))


class AwacParser(LightningArgumentParser):
    """A parser whose errors are one line, with the nearest known key."""

    def error(self, message: str, *args: Any, **kwargs: Any) -> Any:
        """Raise instead of printing the usage.

        Raises:
            AwacError: always.
        """
        text = " ".join(message.replace("Validation failed:", "").split())
        linked = re.search(r"argument (\S+) --> (\S+): ", text)
        if linked:
            raise AwacError(f"{linked[2]} is always that of {linked[1]}; set {linked[1]}")
        unknown = re.search(
            r"[Uu]nrecognized arguments?: (\S+)|[Kk]ey '([^']+)' is not expected|does not accept option '([^']+)'", text
        )
        if unknown:
            key = unknown[unknown.lastindex or 0].lstrip("-").split("=")[0]
            if re.match(r"optimizer|lr_scheduler", key):
                raise AwacError(f"unknown key '{key}': a learner has its own optimizer; set model.learning_rate")
            parsers = [self, *(getattr(self._subcommands_action, "choices", None) or {}).values()]
            text = f"unknown key '{key}'.{nearest(key, {action.dest for parser in parsers for action in parser._actions})}"
            raise AwacError(text)
        raise AwacError(_wrong_value(self, text) or text)


def _wrong_value(parser: Any, text: str) -> str | None:
    """The complaint of jsonargparse about a value's type, as all others: key, value, range."""
    # "Given value" stands behind the complaints of all types of a Union, "Got value" in the one of a single type.
    finds = (re.match(rf'Parser key "([^"]+)": .*?{word} value: ?(.*)', text) for word in ("Given", "Got"))
    found = next(filter(None, finds), None)
    if found is None:
        return None
    key, value = found.groups()
    if problem := _class_problem(key, value, text):
        return problem
    section, _, name = key.partition(".")
    classes = LEARNERS.values() if section == "model" else [SECTIONS[section]] if section in SECTIONS else []
    hints = [hint for cls in classes if (hint := settings_of(cls).get(name)) is not None]
    hint = hints[0] if hints else SEED if key == "seed_everything" else None
    if hint is not None:
        return wrong(key, value or "''", hint)
    actions = [action for below in [parser, *_below(parser)] for action in below._actions if action.dest == key]
    return wrong(key, value, getattr(actions[-1], "_typehint", "")) if actions else None


def _class_problem(key: str, value: str, text: str) -> str | None:
    """What is wrong with a class that the Trainer is to have; jsonargparse lists a complaint for each type of a Union."""
    complaints = re.findall(r" - (.*?)(?= - |$)", text.partition(" Errors:")[2].partition(" Given value")[0])
    complaint = next((one for one in complaints if not one.startswith(("Expected a <", "Not a valid subclass"))), None)
    name = key.removeprefix("trainer.").split(".")[0]
    if complaint is None or not key.startswith("trainer."):
        return None
    if missing := re.match(
        r"Problem with given class_path '(.*?)': (.*)|Expected a dot import path string: (.*)", complaint
    ):
        wanted, reason, alone = missing.groups()
        folder = import_module(f"lightning.pytorch.{LIGHTNING[name]}") if name in LIGHTNING else None
        hint = nearest((wanted or alone).rpartition(".")[2], getattr(folder, "__all__", ()))
        return f"{key}: there is no class '{wanted or alone}'{f' ({reason})' if reason else ''}.{hint}"
    if kind := re.match(r"Import path (\S* ?)does not correspond to a subclass of (\S+)", complaint):
        return f"{key}: {kind[1].strip() or value} is no {kind[2]}"
    return f"{key}: {complaint}"


def _below(parser: Any) -> list[Any]:
    return list((getattr(parser._subcommands_action, "choices", None) or {}).values())
