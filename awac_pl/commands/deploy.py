"""``awac deploy``: act with an exported policy, without torch."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from numpy.typing import ArrayLike

from awac_pl.errors import AwacError

EXAMPLES = """\
examples:
  awac deploy exported/pen --env pen --action_limits contract --episodes 10
  awac deploy exported/pen --env pen --action_limits=-0.5,0.5 --rate 50
  awac deploy exported/pen --env my_robot:Hand-v0 --action_limits=-0.2,0.2 --rate 100 --backend numpy
"""


def run(arguments: list[str]) -> None:
    """Run ``awac deploy``; not ``awac run``, because a run is a training run here.

    Raises:
        AwacError: the export, the limits or the environment do not fit; or something is not finite.
    """
    parser = argparse.ArgumentParser(
        "awac deploy", description="Act with an exported policy, without torch.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="what awac export wrote")
    parser.add_argument("--env", required=True, help="Gymnasium environment id, or a task")
    parser.add_argument(
        "--action_limits", required=True, metavar="contract|=LOW,HIGH",
        help="of every action, in the environment's units; contract: the bounds it was trained with",
    )  # fmt: skip
    parser.add_argument("--episodes", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode's reset (default: %(default)s)")
    parser.add_argument("--rate", type=float, metavar="HZ", help="actions per second (default: as fast as it goes)")
    parser.add_argument("--backend", choices=["onnxruntime", "numpy"], default="onnxruntime", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    from tqdm import tqdm

    from awac_pl.deploy.contract import read_contract
    from awac_pl.deploy.runner import PolicyRunner
    from awac_pl.envs.tasks import find_task, make_environment

    contract = read_contract(options.folder)
    limits: tuple[ArrayLike, ArrayLike] = (contract.action_low, contract.action_high)
    if options.action_limits != "contract":
        limits = _two_numbers(options.action_limits)
    runner = PolicyRunner.load(options.folder, action_limits=limits, backend=options.backend)
    task = find_task(options.env)
    if task.env_id == contract.env_id:
        task = replace(task, horizon=contract.horizon)
    environment = make_environment(task)
    seeds = range(options.seed, options.seed + options.episodes)
    try:
        with tqdm(total=options.episodes, desc="acting", unit="episode", leave=False) as bar:
            report = runner.run(environment, seeds, rate_hz=options.rate, on_episode=bar.update)
    finally:
        environment.close()
    known = [success for success in report.successes if success is not None]
    mean = sum(report.environment_returns) / len(report.environment_returns)
    print(f"  episodes     {options.episodes}, {report.env_steps} steps, mean return {mean:.2f}")
    print(f"  successes    {f'{sum(known)} of {len(known)}' if known else 'unknown'}")
    print(f"  rate         {report.rate_hz:.1f} Hz, {report.deadlines_missed} deadlines missed")
    print(f"  an action    {report.action_us[0]:.0f} µs (99th percentile {report.action_us[1]:.0f} µs)")


def _two_numbers(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise AwacError(
            f"--action_limits is '{text}'; write contract, or two numbers as in --action_limits=-0.5,0.5"
        ) from None
    return low, high
