# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Shapes of a graph's tensors, and a graph without the arithmetic of sizes.

torch's exporter leaves sizes as arithmetic in the graph (Shape, Slice, Concat, ...) and gives
equal weights an Identity each. ONNX Runtime folds both when it loads; TensorRT 8.2's parser takes
what it is given: an Identity turns a weight into an activation, which it then refuses as a
convolution's bias.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Set, Tuple

from evit_seg.core.errors import ConfigError
import numpy as np

SMALL = 4096
"""Constants up to so many numbers are computed to learn shapes; sizes are a handful."""
FEW = 8
"""So many floats may be the scales of a Resize; more are weights at work."""
KEPT = frozenset({'QuantizeLinear', 'DequantizeLinear'})
"""Folding these would undo a quantization."""

Shapes = Dict[str, Tuple[str, Tuple[int, ...]]]


def require_onnx() -> Any:
    """Import onnx with its parts; ConfigError says how to get it."""
    try:
        import onnx
        import onnx.reference
        import onnx.shape_inference
    except ImportError as error:
        raise ConfigError('the Python package onnx is not installed; pip install onnx') from error
    return onnx


def opset_of(model: Any) -> int:
    """Return the version of the standard operators a model is written in."""
    return int(next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0))


def shapes_of(model: Any) -> Shapes:
    """
    Return dtype (as numpy names it) and shape of every tensor of static shape, by name.

    A tensor whose size is not known is absent.
    """
    types = _Propagation(model, SMALL).types
    helper = require_onnx().helper
    found: Shapes = {}
    for name, proto in types.items():
        kind = proto.tensor_type
        if kind.HasField('shape') and all(d.HasField('dim_value') for d in kind.shape.dim):
            found[name] = (str(helper.tensor_dtype_to_np_dtype(kind.elem_type)),
                           tuple(d.dim_value for d in kind.shape.dim))
    return found


def fold_constants(model: Any) -> None:
    """
    Compute sizes, indices and scales that depend on no input and take them out, in place.

    Weights that several nodes share are read by each directly. What is made of weights in floats
    stays in the graph, where it says where it comes from (half precision treats it apart), and
    quantized weights stay as they are. NVIDIA recommends the same before a build (Polygraphy,
    `surgeon sanitize --fold-constants`).
    """
    onnx = require_onnx()
    values = {name: value for name, value in _Propagation(model, None).values.items()
              if value.dtype.kind in 'iub' or value.size <= FEW}
    results = {info.name for info in model.graph.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    same: Dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if node.op_type == 'Identity' and node.input[0] in stored \
                and node.output[0] not in results:
            same[node.output[0]] = node.input[0]
        elif node.op_type == 'Constant' or not (set(node.output) <= set(values)) \
                or results & set(node.output):
            kept.append(node)
    read = {name for node in kept for name in node.input} | results
    del model.graph.node[:]
    model.graph.node.extend(n for n in kept if n.op_type != 'Constant' or n.output[0] in read)
    made = {name for node in model.graph.node for name in node.output}
    for name in sorted((read & set(values)) - made - stored):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values[name], name))
    used = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)
    del model.graph.value_info[:]


class _Propagation:
    """Types of all tensors and values of the constant ones, in one pass over the nodes."""

    def __init__(self, model: Any, limit: Optional[int]) -> None:
        self.onnx = require_onnx()
        self.limit = limit
        self.opset = opset_of(model)
        self.imports = list(model.opset_import)
        self.ir_version = int(model.ir_version)
        self.types: Dict[str, Any] = {}
        self.values: Dict[str, np.ndarray] = {}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        for tensor in model.graph.initializer:
            self.types[tensor.name] = self.onnx.helper.make_tensor_type_proto(
                tensor.data_type, list(tensor.dims))
        for info in (*model.graph.input, *model.graph.value_info):
            self.types.setdefault(info.name, info.type)
        self.constant: Set[str] = set(self.weights)
        for node in model.graph.node:
            self._visit(node)
        for info in model.graph.output:  # the model's own word where nothing was inferred
            if info.name not in self.types:
                self.types[info.name] = info.type

    def _visit(self, node: Any) -> None:
        inputs = [name for name in node.input if name]
        if node.op_type == 'Constant' or (inputs and set(inputs) <= self.constant):
            self.constant.update(node.output)
        if node.op_type == 'Shape' and self._static(inputs[0]) and not node.attribute:
            shape = [d.dim_value for d in self.types[inputs[0]].tensor_type.shape.dim]
            self.constant.update(node.output)
            self._store(node.output[0], np.array(shape, np.int64))
            return
        if set(node.output) <= self.constant and node.op_type not in KEPT and self._compute(node):
            return
        if node.domain in ('', 'ai.onnx'):
            self._infer(node)

    def _static(self, name: str) -> bool:
        kind = self.types[name].tensor_type if name in self.types else None
        return kind is not None and kind.HasField('shape') \
            and all(d.HasField('dim_value') for d in kind.shape.dim)

    def _value(self, name: str) -> Optional[np.ndarray]:
        """Return a constant's numbers, None for what was not computed or is too large."""
        if name not in self.values and name in self.weights:
            size = int(np.prod(self.weights[name].dims))
            if self.limit is None or size <= self.limit:
                array = self.onnx.numpy_helper.to_array(self.weights[name])
                if self.limit is None:
                    return np.asarray(array)  # not kept: a stored weight is not a folded one
                self.values[name] = array
        return self.values.get(name)

    def _compute(self, node: Any) -> bool:
        feeds = {name: self._value(name) for name in node.input if name}
        if any(value is None for value in feeds.values()):
            return False
        domain_opsets = {o.domain: o.version for o in self.imports}
        run = self.onnx.reference.ReferenceEvaluator(node, opsets=domain_opsets).run
        for name, value in zip(node.output, run(None, feeds)):
            self._store(name, np.asarray(value))
        return True

    def _store(self, name: str, value: np.ndarray) -> None:
        self.values[name] = value
        self.types[name] = self.onnx.helper.make_tensor_type_proto(
            self.onnx.helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape))

    def _infer(self, node: Any) -> None:
        known = {name: self.types[name] for name in node.input if name in self.types}
        if len(known) < len([name for name in node.input if name]):
            return
        data = {name: self.onnx.numpy_helper.from_array(value) for name in known
                for value in [self._value(name)] if value is not None and value.size <= SMALL}
        schema = self.onnx.defs.get_schema(node.op_type, self.opset, '')
        self.types.update(self.onnx.shape_inference.infer_node_outputs(
            schema, node, known, data, opset_imports=self.imports, ir_version=self.ir_version))
