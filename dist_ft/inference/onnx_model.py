"""Writes a network as an ONNX file, and runs such a file with onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mxnet as mx
import numpy as np

from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import Network
from dist_ft.files import library_path
from dist_ft.models.zoo import MEAN, STD

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 13, 7  # the opset that MXNet's exporter writes


def write(core: mx.gluon.HybridBlock, side: int, description: dict[str, Any], path: Path) -> None:
    """Writes a network from (n, side, side, 3) uint8 'pixels' to (n, C) 'probabilities'.

    core: maps normalized pixels, (n, 3, side, side), to logits; description: the metadata, with the
    "classes". Raises UserError if onnx is missing.
    """
    onnx = _import_onnx()
    symbol = mx.sym.softmax(core(mx.sym.var("normalized")), name="probabilities")
    arrays = {name: parameter.data() for name, parameter in core.collect_params().items()}
    mx.onnx.export_model(
        symbol,
        arrays,
        in_shapes=[(1, 3, side, side)],
        onnx_file_path=str(path),
        dynamic=True,
        dynamic_input_shapes=[("n", 3, side, side)],
    )
    graph = _with_normalization(onnx.load(str(path)).graph, side, len(description["classes"]))
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, producer_name="dist_ft", opset_imports=[opset])
    model.ir_version = IR_VERSION
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in description.items()}
    # Names of classes may contain any bytes, but protobuf accepts UTF-8 only.
    utf8 = {k: v.encode("utf-8", "replace").decode() for k, v in texts.items()}
    onnx.helper.set_model_props(model, utf8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def load(path: Path) -> Network | None:
    """The network of a file, run by onnxruntime; None if that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    with library_path(path) as file:
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    return lambda x: mx.nd.array(session.run(None, {"pixels": x.asnumpy()})[0])


def _with_normalization(graph: onnx.GraphProto, side: int, num_classes: int) -> onnx.GraphProto:
    """The graph with the normalization of zoo.Normalize before it.

    MXNet lists the parameters as inputs, too, which keeps onnxruntime from folding them. Here
    'pixels' is the only input.
    """
    onnx = _import_onnx()
    helper, types = onnx.helper, onnx.TensorProto
    channels = (1, 3, 1, 1)
    constants = {
        "pixels_max": np.array(255, np.float32),
        "pixels_mean": np.array(MEAN, np.float32).reshape(channels),
        "pixels_std": np.array(STD, np.float32).reshape(channels),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["pixels_float"], to=types.FLOAT),
        helper.make_node("Transpose", ["pixels_float"], ["pixels_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["pixels_nchw", "pixels_max"], ["pixels_unit"]),
        helper.make_node("Sub", ["pixels_unit", "pixels_mean"], ["pixels_centered"]),
        helper.make_node("Div", ["pixels_centered", "pixels_std"], ["normalized"]),
    ]
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    arrays = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    pixels = helper.make_tensor_value_info("pixels", types.UINT8, ["n", side, side, 3])
    output = graph.output[0].name
    probabilities = helper.make_tensor_value_info(output, types.FLOAT, ["n", num_classes])
    return helper.make_graph(
        [*nodes, *graph.node], "classifier", [pixels], [probabilities], [*arrays, *weights]
    )


def _import_onnx() -> Any:
    """Raises UserError if onnx, or the module of it that MXNet needs, is missing."""
    try:
        import onnx
        import onnx.mapping  # for MXNet's exporter; onnx 1.19 removed it
    except ImportError as error:
        raise UserError(
            f"--to onnx: needs onnx ({error}); pip install 'onnx>=1.16.2,<1.19'"
        ) from error
    return onnx
