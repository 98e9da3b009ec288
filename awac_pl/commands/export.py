"""``awac export`` and ``awac deploy``: a policy leaves the house, and acts there."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from numpy.typing import ArrayLike

from awac_pl.errors import AwacError

EXPORT_EXAMPLES = """\
examples:
  awac export --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --to exported/pen
  awac export --ckpt_path runs/pen-quick-seed0/checkpoints/best.ckpt --to exported/pen --register pen
  awac export --ckpt_path somewhere/last.ckpt --task pen --to exported/pen
  mlflow models serve -m exported/pen/mlflow_model --env-manager local --port 5001
  curl localhost:5001/invocations -H 'Content-Type: application/json' -d '{"inputs": [[0.1, 0.2, …]]}'
"""
DEPLOY_EXAMPLES = """\
examples:
  awac deploy exported/pen --env pen --action_limits contract --episodes 10
  awac deploy exported/pen --env pen --action_limits=-0.5,0.5 --rate 50
  awac deploy exported/pen --env my_robot:Hand-v0 --action_limits=-0.2,0.2 --rate 100 --backend numpy
"""


def export(arguments: list[str]) -> None:
    """Run ``awac export``.

    Raises:
        AwacError: there is nothing to export, or no place for it.
    """
    parser = _parser("export", "Write a checkpoint's policy as ONNX, safetensors and an MLflow model, with a contract.",
                     EXPORT_EXAMPLES)  # fmt: skip
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a fit")
    parser.add_argument("--to", type=Path, required=True, help="folder to write; must not be there, or be empty")
    parser.add_argument("--task", help="of a checkpoint that lies in no run folder")
    parser.add_argument("--register", metavar="NAME", help="register it with MLflow as a new version of this model")
    parser.add_argument(
        "--mlflow_uri", help="where to register (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder)"
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it reads them when it is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from awac_pl.deploy.export import export_policy
    from awac_pl.deploy.mlflow_model import MLFLOW_MODEL, mlflow_client, register_policy

    client = mlflow_client(options.mlflow_uri) if options.register else None
    facts = export_policy(options.ckpt_path, options.to, task_name=options.task)
    differences = ", ".join(f"{form} {value:.1g}" for form, value in facts["parity"]["largest_difference"].items())
    rate = "unknown" if facts["control_hz"] is None else f"{facts['control_hz']:g} Hz"
    print(f"{options.to}: the policy of {options.ckpt_path}")
    print(f"  task         {facts['task']}, {facts['observation']['shape'][1]} values to {facts['action']['shape'][1]} "
          f"actions, control rate {rate}")  # fmt: skip
    print(f"  against torch, {facts['parity']['observations']:,} observations: largest difference {differences}")
    if client is not None:
        version = register_policy(options.to, options.register, client)
        print(f"  registered   models:/{options.register}/{version}")
    print(f"  serve it     mlflow models serve -m {options.to / MLFLOW_MODEL} --env-manager local --port 5001")


def deploy(arguments: list[str]) -> None:
    """Run ``awac deploy``; not ``awac run``, because a run is a training run here.

    Raises:
        AwacError: the export, the limits or the environment do not fit; or something is not finite.
    """
    parser = _parser("deploy", "Act with an exported policy, without torch.", DEPLOY_EXAMPLES)
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


def _parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        f"awac {name}", description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _two_numbers(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise AwacError(
            f"--action_limits is '{text}'; write contract, or two numbers as in --action_limits=-0.5,0.5"
        ) from None
    return low, high
