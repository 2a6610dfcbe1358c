"""Small ONNX models, as serialised bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

FREE = ("batch", 1, "rows", "columns")


def model(
    nodes: Sequence[Any],
    shape: Sequence[int | str | None] = FREE,
    output: Sequence[int | str | None] | None = None,
    weights: Sequence[Any] = (),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> Any:
    """A model from ``x`` to ``y``; an output of other shape than the input needs `output`."""
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    outputs = [helper.make_tensor_value_info("y", dtype, output or shape)]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def scaling_model(factor: float, shape: Sequence[int | str | None] = FREE, **settings: Any) -> bytes:
    """A model that multiplies by a factor."""
    weight = numpy_helper.from_array(np.float32(factor), "factor")
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return model([node], shape, weights=[weight], **settings).SerializeToString()


def mean_model(shape: Sequence[int | str | None] = FREE, side: int = 3, valid: bool = False) -> Any:
    """A convolution with a mean over ``side`` x ``side`` pixels; its weights are an initializer."""
    kernel = np.full((1, 1, side, side), 1 / side**2, np.float32)
    pads = [0 if valid else side // 2] * 4
    node = helper.make_node("Conv", ["x", "kernel"], ["y"], pads=pads)
    output = [*shape[:2], None, None] if valid else shape
    return model([node], shape, output, [numpy_helper.from_array(kernel, "kernel")])
