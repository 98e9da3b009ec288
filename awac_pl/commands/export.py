"""Write a checkpoint's policy as ONNX, safetensors and an MLflow model, with a contract.

awac export --ckpt_path runs/pen-quick-seed0/checkpoints/last.ckpt --to exported/pen
awac export --ckpt_path runs/pen-quick-seed0/checkpoints/best.ckpt --to exported/pen --register pen
awac export --ckpt_path somewhere/last.ckpt --task pen --to exported/pen
awac serve exported/pen --action_limits contract
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac export``."""
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a fit")
    parser.add_argument("--to", type=Path, required=True, help="folder to write; it must not exist, or be empty")
    parser.add_argument("--task", help="task of a checkpoint that is in no run folder")
    parser.add_argument("--register", metavar="NAME", help="register it with MLflow as a new version of this model")
    parser.add_argument(
        "--mlflow_uri", help="where to register (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder)"
    )


def run(options: argparse.Namespace) -> None:
    """Run ``awac export``."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # MLflow reads these two when it is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from awac_pl.deploy.export import export_policy
    from awac_pl.deploy.mlflow_model import register_policy
    from awac_pl.tracking.client import mlflow_client

    client = mlflow_client(options.mlflow_uri) if options.register else None
    contract = export_policy(options.ckpt_path, options.to, task_name=options.task)
    parity = contract["parity"]
    differences = ", ".join(f"{form} {value:.1g}" for form, value in parity["largest_difference"].items())
    sizes = f"{contract['observation']['shape'][1]} values to {contract['action']['shape'][1]} actions"
    rate = "unknown" if contract["control_hz"] is None else f"{contract['control_hz']:g} Hz"
    print(f"{options.to}: the policy of {options.ckpt_path}")
    print(f"  task         {contract['task']}, {sizes}, control rate {rate}")
    print(f"  against torch, {parity['observations']:,} observations: largest difference {differences}")
    if client is not None:
        version = register_policy(options.to, options.register, client)
        print(f"  registered   models:/{options.register}/{version}")
    print(f"  serve it     awac serve {shlex.quote(str(options.to))} --action_limits contract")
