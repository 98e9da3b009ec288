"""The contract of an exported policy: its inputs, outputs and origin. A robot reads it, so it imports nothing heavy.

Digests detect a damaged or replaced file. They are not a signature: who can write the folder can write new digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from awac_pl.errors import AwacError, first_line
from awac_pl.files import file_digest, read_text

#: Version of the folder's format; readers refuse others.
FORMAT = 1
ONNX, WEIGHTS, EXAMPLES, CONTRACT = "policy.onnx", "policy.safetensors", "examples.npz", "contract.json"


@dataclass(frozen=True)
class Contract:
    """What a runner must know.

    Args:
        env_id: Gymnasium id of the training environment.
        horizon: steps of a training episode.
        control_hz: actions per second in training; None if the environment does not say it.
        observation_names: one for each of the O values.
        action_low: ``[A]`` float32, in the environment's units.
        action_high: ``[A]`` float32.
        facts: the whole content of ``contract.json``.
        observation_layout: ``{"key": name, "size": values}`` for each part of observations that are a dict or a tuple, in
            the order of the O values; empty for others.
    """

    env_id: str
    horizon: int
    control_hz: float | None
    observation_names: tuple[str, ...]
    action_low: np.ndarray
    action_high: np.ndarray
    facts: dict[str, Any]
    observation_layout: list[dict[str, Any]] = field(default_factory=list)


def write_contract(folder: Path, contract: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``contract.json`` beside the files of an export, with digests of all files; returns its content."""
    digests = {name: file_digest(folder / name) for name in (ONNX, WEIGHTS, EXAMPLES)}
    body = {"format": FORMAT, **contract, "sha256": digests}
    body["sha256"] = {**digests, CONTRACT: _digest(body)}
    (folder / CONTRACT).write_text(json.dumps(body, indent=2) + "\n")
    return body


def read_contract(folder: Path) -> Contract:
    """Read ``contract.json`` and compare every file of the export with its digest.

    Raises:
        AwacError: the folder is no export, its format is unknown, or a file was changed.
    """
    path = folder / CONTRACT
    try:
        body = json.loads(read_text(path))
    except FileNotFoundError:
        raise AwacError(f"{folder}: is no exported policy: no {CONTRACT}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AwacError(f"{path}: cannot be read ({first_line(error)}); export the policy anew") from error
    version = body.get("format") if isinstance(body, dict) else None
    if version != FORMAT:
        raise AwacError(f"{path}: its format is {version}, this version knows {FORMAT}; export the policy anew")
    digests = body.get("sha256")
    digests = dict(digests) if isinstance(digests, dict) else {}
    if digests.pop(CONTRACT, None) != _digest({**body, "sha256": digests}):
        raise AwacError(f"{path}: was changed after the export; export the policy anew")
    for name in (ONNX, WEIGHTS, EXAMPLES):
        if not (folder / name).is_file() or file_digest(folder / name) != digests.get(name):
            raise AwacError(f"{folder / name}: is not the file that was exported; export the policy anew")
    try:
        low, high = (np.array(body["action"][end], dtype=np.float32) for end in ("low", "high"))
        contract = Contract(
            env_id=body["env_id"],
            horizon=body["horizon"],
            control_hz=body["control_hz"],
            observation_names=tuple(body["observation"]["names"]),
            action_low=low,
            action_high=high,
            facts=body,
            observation_layout=body["observation"].get("layout") or [],  # version 0.1 wrote none
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # its digest is right: another program wrote it
        raise AwacError(f"{path}: is no contract of this version ({first_line(error)}); export the policy anew") from error
    if not (isinstance(contract.env_id, str) and isinstance(contract.horizon, int) and low.ndim == 1 == high.ndim):
        raise AwacError(f"{path}: its env_id, horizon or bounds are of a wrong type; export the policy anew")
    return contract


def _digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of the content; indentation and the order of keys do not matter."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
