"""ONNX models as torch modules, so that gradients flow through them.

`onnx2torch` converts a graph node by node. Two things are added here. Its metadata ask for torchvision, for two
operators that scorers do not have; where torchvision is missing, it is imported without. And some exporters write
weights as constants and leave out shapes, which it does not take: constants become initializers, and batch
normalizations get the rank of the convolution before them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from noiseward.errors import ModelError, describe_error
from noiseward.rewards.extras import import_extra

__all__ = ["convert"]


def convert(path: Path) -> nn.Module:
    """Convert a model; it is frozen.

    Raises:
        ModelError: a package is missing, or the model has an operator that cannot be converted.
    """
    onnx = import_extra("onnx", extra="onnx", name="a gradient through an ONNX model")
    with _without_torchvision(), warnings.catch_warnings(action="ignore"):
        converter = import_extra("onnx2torch", extra="onnx", name="a gradient through an ONNX model", alone=True)
        try:
            model = onnx.load(str(path))
            _lift_constants(model)
            _add_ranks(model, onnx)
            return converter.convert(model).eval().requires_grad_(False)
        except Exception as error:  # its converters raise kinds of their own
            raise ModelError(f"{path} cannot be converted to torch: {describe_error(error, 160)}") from None


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """In the body of a `with`, torchvision can be imported, and is empty where it is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    whole, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    vars(operators)["roi_align"] = None
    vars(whole)["ops"] = operators
    names = {"torchvision": whole, "torchvision.ops": operators}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _lift_constants(model: Any) -> None:
    nodes = []
    for node in model.graph.node:
        value = next((part for part in node.attribute if part.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.t.name = node.output[0]
            model.graph.initializer.append(value.t)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _add_ranks(model: Any, onnx: Any) -> None:
    ranks = {part.name: len(part.dims) for part in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if maker is not None and maker.op_type == "Conv" and maker.input[1] in ranks:
            shape = [None] * ranks[maker.input[1]]
            kind = onnx.TensorProto.FLOAT
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(node.input[0], kind, shape))
