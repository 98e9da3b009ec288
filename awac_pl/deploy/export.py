"""Export a checkpoint's policy: one folder with its graph, its weights and a contract for their use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from awac_pl import __version__
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.checkpoints import data_of, load_module, read_checkpoint
from awac_pl.deploy.contract import EXAMPLES, ONNX, WEIGHTS, write_contract
from awac_pl.deploy.mlflow_model import save_mlflow_model
from awac_pl.deploy.runner import numpy_policy, onnx_policy
from awac_pl.envs.faults import close_environment
from awac_pl.envs.observations import value_names
from awac_pl.envs.rollouts import RolloutError, run_episode
from awac_pl.envs.tasks import Spaces, Task, find_task, inspect_spaces, make_environment, recorded_task, scale_action
from awac_pl.episode import Episode
from awac_pl.errors import AwacError, first_line
from awac_pl.files import replacing
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.onnx_graph import policy_graph
from awac_pl.runs.folder import run_of
from awac_pl.runs.manifest import git_commit, layout_of_run, read_config, read_manifest

if TYPE_CHECKING:
    import gymnasium

#: Number of observations on which all forms of the policy must agree, and how well, for actions in [-1, 1].
PARITY_OBSERVATIONS = 10_000
PARITY_TOLERANCE = 1e-5
#: Pairs of observation and action in ``examples.npz``.
NUM_EXAMPLES = 16
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "gymnasium", "mujoco", "mlflow")


def export_policy(checkpoint: Path, target: Path, *, task_name: str | None = None, progress: bool = True) -> dict[str, Any]:
    """Write the deterministic policy of a checkpoint into a new folder, all of it or nothing.

    Args:
        checkpoint: of a fit.
        target: folder to write; may exist if it is empty.
        task_name: of the checkpoint, if it lies in no run folder.
        progress: show a progress bar.

    Returns:
        The content of ``contract.json``.

    Raises:
        AwacError: the folder is in use, the checkpoint is none or of a task of other sizes, its task cannot be found, or
            a form of the policy disagrees with torch.
    """
    target = target.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise AwacError(f"{target}: exists already; choose another folder, or remove it")
    with tqdm(total=4, desc="export: checkpoint", unit="part", disable=not progress or None, leave=False) as bar:
        state = read_checkpoint(checkpoint)
        module = load_module(checkpoint, state)
        policy = module.mean_policy()
        task, run = _training_run(checkpoint, task_name, state)
        _next(bar, "rollout")
        spaces = inspect_spaces(task)
        if module.sizes != (spaces.observation_dim, spaces.action_dim):
            raise AwacError(
                f"{checkpoint}: its policy maps {module.sizes[0]} values to {module.sizes[1]} actions; {task.env_id} has "
                f"{spaces.observation_dim} and {spaces.action_dim}: another task?"
            )
        episode, interface = _act(checkpoint, policy, task, spaces, state)
        _next(bar, "parity")
        graph = policy_graph(policy, spaces.action_low, spaces.action_high)
        contract = interface | {
            "task": task.name,
            "parity": check_parity(graph, module, policy, spaces, episode.observations),
            "training_run": {**run, "updates": int(module.updates), "env_steps": int(module.env_steps)},
            "exported": {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()},
            "versions": {"awac_pl": __version__, **{name: version(name) for name in _PACKAGES}},
        }
        _next(bar, "files")
        return _write(target, graph, policy, episode, spaces, contract)


def _next(bar: tqdm, part: str) -> None:
    bar.update()
    bar.set_description(f"export: {part}")


def _act(
    checkpoint: Path, policy: NumpyPolicy, task: Task, spaces: Spaces, state: Mapping[str, Any]
) -> tuple[Episode, dict[str, Any]]:
    """An episode of the policy, and the contract's part about the environment."""
    online = [rank["online"]["observation"].numpy() for rank in state["ReplayDataModule"]["replay"] if rank["online"]]
    environment = make_environment(task)
    try:
        episode = run_episode(environment, task, spaces, policy, seed=0)
        interface = _interface(environment, task, spaces, np.concatenate([*online, episode.observations]))
        layout = [] if spaces.observation_layout else layout_of_run(checkpoint)
        if layout and sum(part["size"] for part in layout) == spaces.observation_dim:
            interface["observation"] |= {"names": value_names(layout), "layout": layout}
        return episode, interface
    except RolloutError as error:
        raise AwacError(f"{checkpoint}: its policy cannot act: {error}") from error
    finally:
        close_environment(environment)


def _write(
    target: Path, graph: bytes, policy: NumpyPolicy, episode: Episode, spaces: Spaces, contract: Mapping[str, Any]
) -> dict[str, Any]:
    """Write all files into a folder beside the target, then rename it; returns the content of ``contract.json``."""
    chosen = np.unique(np.linspace(0, len(episode) - 1, NUM_EXAMPLES).astype(int))
    actions = scale_action(episode.actions[chosen], spaces.action_low, spaces.action_high).astype(np.float32)
    with replacing(target) as new:
        new.mkdir()
        (new / ONNX).write_bytes(graph)
        (new / WEIGHTS).write_bytes(policy.to_bytes())
        np.savez(new / EXAMPLES, observation=episode.observations[chosen], action=actions, step=chosen)
        content = write_contract(new, contract)
        save_mlflow_model(new, spaces.action_dim)
        if target.exists():
            target.rmdir()  # it was empty at the start; nothing that has come since is overwritten
    return content


def check_parity(
    graph: bytes, module: Learner, policy: NumpyPolicy, spaces: Spaces, observations: np.ndarray
) -> dict[str, Any]:
    """Compare onnxruntime and numpy with torch, on the observations of an episode and on random ones around them.

    Args:
        graph: of ``policy_graph``.
        module: the reference is its mean action.
        policy: of the module.
        spaces: of the task's environment.
        observations: ``[T + 1, O]``.

    Returns:
        The number of observations, the tolerance, and for each form the largest difference of an action in the
        environment's units. Where the range of an action is k times that of [-1, 1], its difference is divided by k > 1,
        because float32 is coarser there.

    Raises:
        AwacError: a difference is above ``PARITY_TOLERANCE``.
    """
    rng = np.random.default_rng(0)
    around = rng.choice(observations, PARITY_OBSERVATIONS - min(len(observations), PARITY_OBSERVATIONS // 2))
    around = around + (observations.std(axis=0) + 0.01) * rng.standard_normal(around.shape)
    rows = np.concatenate([observations[: PARITY_OBSERVATIONS // 2], around]).astype(np.float32)
    low, high = spaces.action_low, spaces.action_high
    with torch.inference_mode():
        reference = scale_action(module.mean_action(torch.from_numpy(rows)).numpy(), low, high)
    unit = np.maximum(1, (high - low) / 2)
    forms = {"onnxruntime": onnx_policy(graph), "numpy": numpy_policy(policy, low, high)}
    differences = {name: float((np.abs(form(rows) - reference) / unit).max()) for name, form in forms.items()}
    for name, difference in differences.items():
        if not difference <= PARITY_TOLERANCE:
            raise AwacError(
                f"{name} differs from torch by up to {difference:.2g}, more than {PARITY_TOLERANCE:g}; nothing is exported"
            )
    return {"observations": len(rows), "tolerance": PARITY_TOLERANCE, "largest_difference": differences}


def _training_run(checkpoint: Path, name: str | None, state: Mapping[str, Any]) -> tuple[Task, dict[str, Any]]:
    """The task of a checkpoint, and its run by the run folder's manifest. Outside of one the checkpoint names its task."""
    folder = run_of(checkpoint)
    if folder is None:
        unknown = {
            "checkpoint": checkpoint.name,
            **dict.fromkeys(("folder", "preset", "seed", "commit", "status", "scores")),
        }
        if (data := data_of(state)) is not None and name in (None, data["task"]):
            return recorded_task(data), unknown
        if name is None:
            raise AwacError(f"{checkpoint}: lies in no run folder, so its task is unknown; pass --task")
        return find_task(name), unknown
    try:
        manifest, data = read_manifest(folder), read_config(folder)["data"]
        tags, recorded = manifest["tags"], data["task"]
    except (AwacError, KeyError, TypeError) as error:
        raise AwacError(f"{folder}: its manifest.json or config.yaml is damaged ({first_line(error)})") from error
    if name not in (None, recorded):
        raise AwacError(f"{checkpoint}: is of task {recorded}, as its run folder says, not {name}; omit --task")
    return recorded_task(data), {
        "checkpoint": checkpoint.name,
        "folder": folder.name,
        **{key: tags.get(key) for key in ("preset", "seed", "commit")},
        "status": manifest.get("status"),
        "scores": manifest.get("scores"),  # of the run's end, also for best.ckpt, which is older
    }


def _interface(environment: gymnasium.Env, task: Task, spaces: Spaces, seen: np.ndarray) -> dict[str, Any]:
    """The contract's part about observations and actions; ``seen`` ``[N, O]`` are observations of the training."""
    step, frames = getattr(environment.unwrapped, "dt", None), environment.metadata.get("render_fps")
    model: Any = getattr(environment.unwrapped, "model", None)
    actuators = [model.actuator(index).name for index in range(model.nu)] if hasattr(model, "actuator") else []
    actions = actuators if len(actuators) == spaces.action_dim and all(actuators) else _numbered("action", spaces.action_dim)
    return {
        "env_id": task.env_id,
        "horizon": spaces.horizon,
        "success_key": spaces.success_key,
        "control_hz": round(1 / float(step), 6) if isinstance(step, int | float | np.floating) and step > 0 else frames,
        "observation": {
            "dtype": "float32",
            "shape": ["N", spaces.observation_dim],
            "names": value_names(spaces.observation_layout) or _numbered("observation", spaces.observation_dim),
            "layout": spaces.observation_layout,
            "seen_low": seen.min(axis=0).tolist(),
            "seen_high": seen.max(axis=0).tolist(),
            "seen_in": f"{len(seen)} observations of the replay buffer's online part and of one episode",
        },
        "action": {
            "dtype": "float32",
            "shape": ["N", spaces.action_dim],
            "names": actions,
            "low": spaces.action_low.tolist(),
            "high": spaces.action_high.tolist(),
        },
    }


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word}_{index}" for index in range(count)]
