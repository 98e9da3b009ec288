"""The policy as an ONNX graph, node by node: no tracing, no torch."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from awac_pl import __version__
from awac_pl.policies.numpy_policy import NumpyPolicy

#: Operator set and format of 2022: they suffice for the graph, and old runtimes read them.
OPSET, IR_VERSION = 17, 8


def policy_graph(policy: NumpyPolicy, low: np.ndarray, high: np.ndarray) -> bytes:
    """The mean action as an ONNX model: ``observation`` [N, O] to ``action`` [N, A], in the environment's units.

    The graph includes the scaling of ``scale_action`` and the bounds.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    last = "observation"

    def add(kind: str, *arrays: np.ndarray, output: str | None = None) -> None:
        nonlocal last
        names = [f"{kind.lower()}_{len(nodes)}_{index}" for index in range(len(arrays))]
        constants.extend(
            numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in zip(names, arrays, strict=True)
        )
        output = output or f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, [last, *names], [output]))
        last = output

    if policy.mean is not None and policy.scale is not None:
        add("Sub", policy.mean)
        add("Div", policy.scale)
    for layer, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        add("Gemm", weight, bias)
        add("Relu" if layer < len(policy.weights) - 1 else "Tanh")
    if not ((low == -1).all() and (high == 1).all()):
        add("Add", np.ones_like(low))
        add("Mul", 0.5 * (high - low))
        add("Add", low)
    add("Max", low)  # Clip takes one bound for all actions
    add("Min", high, output="action")
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "policy",
            [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", len(policy.weights[0])])],
            [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["N", len(low)])],
            constants,
        ),
        producer_name="awac_pl",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
