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
    """Observations ``[N, O]`` or ``[O]`` to actions ``[N, A]`` or ``[A]``, float32, in the environment's units.

    It checks its input itself. MLflow's check of a signature would refuse the float64 that environments return.
    """

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
        self.names = contract["observation"]["names"]

    # The type of model_input is the one that MLflow neither enforces nor warns about.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Act.

        Args:
            context: not used.
            model_input: an array or nested lists; ``{"observation": array}``; a table or a dictionary whose columns have the
                contract's names, in any order; or a table of other names, in the contract's order.
            params: not used.

        Raises:
            MlflowException: the input is something else, or a value is not finite; a server answers with HTTP 400.
        """
        try:
            observations = self._numbers(model_input)
        except (TypeError, ValueError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            message = f"the observations cannot be read: {reason}"
            raise MlflowException(message, error_code=INVALID_PARAMETER_VALUE) from error
        rows = np.atleast_2d(observations)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise MlflowException(
                f"observation {row} is not finite: value {column} is {rows[row, column]}", error_code=INVALID_PARAMETER_VALUE
            )
        actions = self.session.run(["action"], {"observation": rows})[0]
        return actions.reshape(*observations.shape[:-1], actions.shape[-1])

    def _numbers(self, given: Any) -> np.ndarray:
        """``[N, O]`` or ``[O]`` float32; raises a ValueError for anything else."""
        if isinstance(given, dict):
            given = given["observation"] if list(given) == ["observation"] else self._columns(given)
        elif hasattr(given, "columns"):
            given = self._table(given)
        numbers, size = np.asarray(given), len(self.names)
        if numbers.dtype.kind == "O":
            numbers = numbers.astype(np.float64)  # None becomes NaN
        if numbers.dtype.kind not in "fiu" or numbers.ndim not in (1, 2) or numbers.shape[-1] != size:
            raise ValueError(f"{numbers.dtype} {list(numbers.shape)}; the policy takes numbers, [N, {size}] or [{size}]")
        with np.errstate(over="ignore"):  # the value becomes infinite and is refused
            return numbers.astype(np.float32)

    def _table(self, table: Any) -> Any:
        """The columns of a pandas table by name or, where none has a name of the contract, as they stand."""
        if set(self.names) & set(table.columns):
            return self._columns(table)
        one = table.shape[1] == 1 < len(self.names)
        return table.iloc[:, 0].tolist() if one else table.to_numpy()  # one column of arrays, or O of numbers

    def _columns(self, columns: Any) -> np.ndarray:
        """The columns of a table or a dictionary, in the contract's order."""
        names = list(columns)
        wrong = [name for name in self.names if names.count(name) != 1] + [name for name in names if name not in self.names]
        if wrong:
            listed = ", ".join(map(str, wrong[:5]))
            raise ValueError(f"columns that are missing, twice there or not in the contract: {listed}")
        return np.stack([np.asarray(columns[name]) for name in self.names], axis=-1)


set_model(ServedPolicy())
