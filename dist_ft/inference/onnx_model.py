"""A network as an ONNX file of opset 13, which MXNet's exporter speaks, and that file run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import mxnet as mx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dist_ft.models.zoo import MEAN, STD

OPSET, IR_VERSION = 13, 7

try:
    import onnxruntime
except ImportError:  # nothing but the comparison asks for it
    onnxruntime = None


def write(core: mx.gluon.HybridBlock, side: int, described: dict[str, Any], path: Path) -> None:
    """Writes (n, side, side, 3) uint8 'pixels' to (n, C) 'probabilities'.

    core: normalised pixels, (n, 3, side, side), to logits; described: goes into the metadata.
    """
    x = mx.sym.var("normalised")
    net = mx.sym.softmax(core(x), name="probabilities")
    values = {name: parameter.data() for name, parameter in core.collect_params().items()}
    shape = (1, 3, side, side)
    mx.onnx.export_model(
        net,
        values,
        [shape],
        [np.float32],
        str(path),
        dynamic=True,
        dynamic_input_shapes=[("n", *shape[1:])],
    )
    found = onnx.load(str(path))
    made = _with_normalisation(found.graph, side, len(described["classes"]))
    made = helper.make_model(
        made, producer_name="dist_ft", opset_imports=[helper.make_opsetid("", OPSET)]
    )
    made.ir_version = IR_VERSION
    told = {k: v if isinstance(v, str) else json.dumps(v) for k, v in described.items()}
    # A class's name may be no UTF-8, which protobuf insists on.
    utf8 = {k: v.encode("utf-8", "replace").decode() for k, v in told.items()}
    helper.set_model_props(made, utf8)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, str(path))


def _with_normalisation(graph: onnx.GraphProto, side: int, num_classes: int) -> onnx.GraphProto:
    """The graph from raw pixels on; its parameters are no longer inputs, which could be fed."""
    by_channel = (1, 3, 1, 1)
    constants = {  # as model.Normalize has them, in its order
        "pixels_largest": np.array(255, np.float32),
        "pixels_mean": np.array(MEAN, np.float32).reshape(by_channel),
        "pixels_std": np.array(STD, np.float32).reshape(by_channel),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["pixels_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels_float"], ["pixels_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["pixels_nchw", "pixels_largest"], ["pixels_unit"]),
        helper.make_node("Sub", ["pixels_unit", "pixels_mean"], ["pixels_centred"]),
        helper.make_node("Div", ["pixels_centred", "pixels_std"], ["normalised"]),
    ]
    weights = [part for part in graph.initializer if any(part.name in n.input for n in graph.node)]
    output, single = graph.output[0].name, TensorProto.FLOAT
    return helper.make_graph(
        [*nodes, *graph.node],
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info(output, single, ["n", num_classes])],
        [*(numpy_helper.from_array(array, name) for name, array in constants.items()), *weights],
    )


def running(path: Path) -> Callable[[np.ndarray], np.ndarray] | None:
    """What the file holds, as onnxruntime runs it; None where that is not installed."""
    if onnxruntime is None:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda x: session.run(None, {"pixels": x})[0]
