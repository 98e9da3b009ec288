"""Act with an exported policy, without torch.

awac deploy exported/pen --env pen --action_limits contract --episodes 10
awac deploy exported/pen --env pen --action_limits=-0.5,0.5 --rate 50
awac deploy exported/pen --env my_robot:Hand-v0 --action_limits=-0.2,0.2 --rate 100 --backend numpy
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from awac_pl.commands.arguments import number
from awac_pl.envs.seeds import EVALUATION_SEEDS
from awac_pl.errors import AwacError
from awac_pl.settings import Episodes, Positive, Seed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from awac_pl.deploy.runner import PolicyRunner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac deploy``; it is not ``awac run``, because a run is a training run here."""
    add_policy_arguments(parser)
    parser.add_argument("--env", required=True, help="Gymnasium environment id, or a task")
    parser.add_argument("--episodes", type=number(Episodes), default=1, help="(default: %(default)s)")
    seed_help = "of the first episode's reset (default: %(default)s, that of evaluations; training has those from 0 on)"
    parser.add_argument("--seed", type=number(Seed), default=EVALUATION_SEEDS, help=seed_help)
    parser.add_argument("--rate", type=number(Positive), metavar="HZ", help="actions per second (default: no limit)")


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names an exported policy and the limits of its actions."""
    parser.add_argument("folder", type=Path, help="what awac export wrote")
    parser.add_argument(
        "--action_limits", required=True, type=_limits, metavar="contract|LOW,HIGH",
        help="of every action, in the environment's units; contract: the bounds of the training",
    )  # fmt: skip
    parser.add_argument("--backend", choices=["onnxruntime", "numpy"], default="onnxruntime", help="(default: %(default)s)")


def load_runner(options: argparse.Namespace) -> PolicyRunner:
    """The policy that ``add_policy_arguments`` names."""
    from awac_pl.deploy.contract import read_contract
    from awac_pl.deploy.runner import PolicyRunner

    contract = read_contract(options.folder)
    limits: tuple[ArrayLike, ArrayLike] = options.action_limits or (contract.action_low, contract.action_high)
    return PolicyRunner.load(options.folder, action_limits=limits, backend=options.backend)


def _limits(text: str) -> tuple[float, float] | None:
    """Two numbers; None for the contract's own bounds."""
    if text == "contract":
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise AwacError(
            f"--action_limits is '{text}'; write contract, or two numbers as in --action_limits=-0.5,0.5"
        ) from None
    return low, high


def run(options: argparse.Namespace) -> None:
    """Run ``awac deploy``."""
    from dataclasses import replace

    from tqdm import tqdm

    from awac_pl.envs.faults import close_environment
    from awac_pl.envs.tasks import find_task, make_environment

    runner = load_runner(options)
    task = find_task(options.env)
    if task.env_id == runner.contract.env_id:
        task = replace(task, horizon=runner.contract.horizon)
    environment = make_environment(task)
    seeds = range(options.seed, options.seed + options.episodes)
    try:
        with tqdm(total=options.episodes, desc="acting", unit="episode", leave=False, disable=None) as bar:
            report = runner.run(environment, seeds, rate_hz=options.rate, on_episode=bar.update)
    finally:
        close_environment(environment)
    known = [success for success in report.successes if success is not None]
    mean = sum(report.environment_returns) / len(report.environment_returns)
    print(f"  episodes     {options.episodes}, {report.env_steps} steps, mean return {mean:.2f}")
    print(f"  successes    {f'{sum(known)} of {len(known)}' if known else 'unknown'}")
    print(f"  rate         {report.rate_hz:.1f} Hz, {report.deadlines_missed} deadlines missed")
    print(f"  an action    {report.action_us[0]:.0f} µs (99th percentile {report.action_us[1]:.0f} µs)")
