"""An exported policy as an MLflow model, for ``mlflow models serve`` and ``mlflow.pyfunc.load_model``.

MLflow copies this file into the model as its code (no pickle), so it stands alone: mlflow, numpy and onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel


class ServedPolicy(PythonModel):
    """Observations ``[N, O]`` to actions ``[N, A]``, float32, in the environment's units; the signature checks sizes."""

    def load_context(self, context: Any) -> None:
        """Read the graph and compare it with the contract's digest.

        Raises:
            MlflowException: the graph was changed after the export.
        """
        contract = json.loads(Path(context.artifacts["contract"]).read_text())
        graph = Path(context.artifacts["policy"]).read_bytes()
        if hashlib.sha256(graph).hexdigest() != contract["sha256"]["policy.onnx"]:
            raise MlflowException("policy.onnx is not the file that was exported; export the policy anew")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the network is too small for more
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Act.

        Raises:
            MlflowException: a value is not finite; a server answers with HTTP 400.
        """
        observations = np.asarray(model_input, dtype=np.float32)
        if not np.isfinite(observations).all():
            row, column = np.argwhere(~np.isfinite(observations))[0]
            raise MlflowException(
                f"observation {row} is not finite: value {column} is {observations[row, column]}",
                error_code=INVALID_PARAMETER_VALUE,
            )
        return self.session.run(["action"], {"observation": observations})[0]


set_model(ServedPolicy())
