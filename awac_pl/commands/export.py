"""``awac export``: the policy of a checkpoint as a folder that needs no torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

EXAMPLES = """\
examples:
  awac export --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --to exported/pen
  awac export --ckpt_path runs/pen-quick-seed0/checkpoints/best.ckpt --to exported/pen --register pen
  awac export --ckpt_path somewhere/last.ckpt --task pen --to exported/pen
  mlflow models serve -m exported/pen/mlflow_model --env-manager local --port 5001
  curl localhost:5001/invocations -H 'Content-Type: application/json' -d '{"inputs": [[0.1, 0.2, …]]}'
"""


def run(arguments: list[str]) -> None:
    """Run ``awac export``.

    Raises:
        AwacError: there is nothing to export, or no place for it.
    """
    parser = argparse.ArgumentParser(
        "awac export", description="Write a checkpoint's policy as ONNX, safetensors and an MLflow model, with a contract.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
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
    from awac_pl.deploy.mlflow_model import MLFLOW_MODEL, register_policy
    from awac_pl.tracking.client import mlflow_client

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
