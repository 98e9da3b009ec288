"""An exported policy in MLflow: a model in the export, and its versions in the registry."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from awac_pl.deploy.contract import CONTRACT, EXAMPLES, ONNX, read_contract
from awac_pl.errors import AwacError, first_line
from awac_pl.tracking.client import find_experiment
from awac_pl.tracking.destination import Destination

if TYPE_CHECKING:  # slow to import
    import mlflow

#: Folder of the MLflow model inside an export.
MLFLOW_MODEL = "mlflow_model"


def save_mlflow_model(folder: Path, action_dim: int) -> None:
    """Add an MLflow model to an export: code, graph and contract; no pickle, and no path of this machine.

    Args:
        folder: with graph, contract and examples.
        action_dim: A.
    """
    with np.load(folder / EXAMPLES) as examples:
        example = examples["observation"][:1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*type hint")  # in MLflow's own code
        from mlflow import pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        actions = Schema([TensorSpec(np.dtype(np.float32), (-1, action_dim))])
        pyfunc.save_model(
            folder / MLFLOW_MODEL,
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={"policy": str(folder / ONNX), "contract": str(folder / CONTRACT)},
            signature=ModelSignature(outputs=actions),  # MLflow would check inputs by it, and refuse float64
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnxruntime")],
        )
    model = Model.load(folder / MLFLOW_MODEL)
    flavour = model.flavors["python_function"]
    flavour["model_code_path"] = "serving.py"
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(folder / MLFLOW_MODEL / "MLmodel")


def register_policy(folder: Path, name: str, client: mlflow.MlflowClient) -> str:
    """Log an export to MLflow as a run of its own and register its model.

    Args:
        folder: an export.
        name: of the registered model; created if it does not exist.
        client: of the tracking server.

    Returns:
        The version.

    Raises:
        AwacError: MLflow refuses.
    """
    from mlflow.exceptions import MlflowException

    contract = read_contract(folder).facts
    try:
        experiment = find_experiment(client, "awac", Destination(client.tracking_uri).database)
        tags = {"task": contract["task"], "training_run": contract["training_run"]["folder"] or "unknown"}
        run = client.create_run(experiment, run_name=f"export-{folder.name}", tags=tags)
        client.log_artifacts(run.info.run_id, str(folder))
        client.set_terminated(run.info.run_id)
        try:
            client.get_registered_model(name)
        except MlflowException:
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/{MLFLOW_MODEL}"
        return str(client.create_model_version(name, source, run.info.run_id, tags=tags).version)
    except Exception as error:
        raise AwacError(f"MLflow cannot register '{name}' ({first_line(error)}); {folder} is complete") from error
