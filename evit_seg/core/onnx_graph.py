# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What an ONNX graph costs: operations, bytes of weights and activations, memory, node by node.

Counted from static shapes, nothing is run. Work on constants (weights that are transposed, cast or
dequantized) is done once by every engine and costs nothing here.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set, Tuple

from evit_seg.core.errors import InputError
from evit_seg.core.onnx_fold import opset_of, require_onnx, shapes_of
import numpy as np

VIEWS = frozenset({'Reshape', 'Identity', 'Flatten', 'Squeeze', 'Unsqueeze', 'Dropout'})
"""Operators that only name their input anew."""
MOVERS = VIEWS | {'Transpose', 'Slice', 'Concat', 'Split', 'Gather', 'Expand', 'Pad', 'Tile',
                  'DepthToSpace', 'SpaceToDepth', 'Shape', 'Cast', 'ConstantOfShape'}
"""Operators without arithmetic."""
POINTWISE = frozenset({
    'Add', 'Sub', 'Mul', 'Div', 'Pow', 'Sqrt', 'Relu', 'Sigmoid', 'Tanh', 'Erf', 'Exp', 'Log',
    'Clip', 'HardSigmoid', 'HardSwish', 'LeakyRelu', 'PRelu', 'Elu', 'Gelu', 'Neg', 'Abs', 'Where',
    'Cast', 'BatchNormalization', 'QuantizeLinear', 'DequantizeLinear', 'Min', 'Max',
    'Reciprocal'})
"""Operators that an engine joins to the node before or after them."""
_WEIGHT_INPUT = {'Conv': 1, 'ConvInteger': 1, 'QLinearConv': 3}


@dataclass(frozen=True)
class Tensor:
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: Tuple[int, ...]

    def __str__(self) -> str:
        return f'{self.name} {self.dtype} {"x".join(map(str, self.shape))}'


@dataclass(frozen=True)
class Node:
    """What one node costs; zeros for work on constants."""

    name: str
    operator: str
    flops: int = 0  # 2 x multiply-adds of convolutions and matrix products
    element_ops: int = 0  # of any other arithmetic: one per element of its largest tensor
    weight_bytes: int = 0  # constants it reads
    read_bytes: int = 0  # activations it reads
    written_bytes: int = 0

    @property
    def moved_bytes(self) -> int:
        """Bytes to and from memory if the node ran by itself; a view moves none."""
        if self.operator in VIEWS:
            return 0
        return self.weight_bytes + self.read_bytes + self.written_bytes

    @property
    def fused_bytes(self) -> int:
        """Bytes to and from memory if element-wise work were joined to its neighbours."""
        return 0 if self.operator in POINTWISE else self.moved_bytes


@dataclass(frozen=True)
class Graph:
    """A graph's interface and cost."""

    opset: int
    ir_version: int
    inputs: Tuple[Tensor, ...]
    outputs: Tuple[Tensor, ...]
    nodes: Tuple[Node, ...]
    weight_bytes: int  # of all constants, as stored
    peak_activation_bytes: int  # the most that is alive at once, run in the file's order

    @property
    def flops(self) -> int:
        """2 x multiply-adds of convolutions and matrix products."""
        return sum(node.flops for node in self.nodes)

    @property
    def element_ops(self) -> int:
        """Operations of all other arithmetic."""
        return sum(node.element_ops for node in self.nodes)

    @property
    def moved_bytes(self) -> int:
        """Bytes to and from memory if every node ran by itself."""
        return sum(node.moved_bytes for node in self.nodes)

    @property
    def operators(self) -> Dict[str, int]:
        """How many nodes of each operator, the most frequent first."""
        return dict(Counter(node.operator for node in self.nodes).most_common())


def read_model(path: Path) -> Any:
    """Return an ONNX file as a ModelProto; InputError when it is none."""
    onnx = require_onnx()
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's DecodeError has no stable place
        raise InputError(f'{path}: expected an ONNX model: {error}') from error


def constants_of(graph: Any) -> Set[str]:
    """Return the names of initializers and of outputs of Constant nodes."""
    return {tensor.name for tensor in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == 'Constant'}


class _Sizes:
    """Shapes and bytes of a graph's tensors, and which of them are constant."""

    def __init__(self, model: Any) -> None:
        self.shapes = shapes_of(model)
        self.constants = constants_of(model.graph)
        self.bytes: Dict[str, int] = {}
        for node in model.graph.node:
            inputs = [name for name in node.input if name]
            if inputs and all(name in self.constants for name in inputs):
                self.constants.update(node.output)
            for name in (*inputs, *filter(None, node.output)):
                if name not in self.shapes:
                    raise InputError(
                        f'node {node.name!r} ({node.op_type}): expected static shapes, got none '
                        f'for {name!r}; export the model with a fixed size and batch')
                self.bytes.setdefault(name, self._plain_bytes(name))
        # Engines compute on the quantized numbers: a value next to Quantize or Dequantize has
        # their size, not that of the float the graph shows.
        for node in model.graph.node:
            if node.op_type == 'DequantizeLinear':
                self.bytes[node.output[0]] = self.bytes[node.input[0]]
        for name, readers in _readers(model.graph).items():
            if readers and all(reader.op_type == 'QuantizeLinear' for reader in readers):
                self.bytes[name] = self.bytes[readers[0].output[0]]

    def _plain_bytes(self, name: str) -> int:
        dtype, shape = self.shapes[name]
        return int(np.dtype(dtype).itemsize) * prod(shape)

    def elements(self, name: str) -> int:
        """How many numbers a tensor holds."""
        return prod(self.shapes[name][1])


def _readers(graph: Any) -> Dict[str, List[Any]]:
    readers: Dict[str, List[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def graph_facts(model: Any) -> Graph:
    """Return what a model takes, answers with and costs; InputError without static shapes."""
    graph = model.graph
    sizes = _Sizes(model)
    stored = constants_of(graph)
    inputs = [t for t in graph.input if t.name not in stored]
    return Graph(
        opset_of(model), int(model.ir_version),
        tuple(Tensor(t.name, *sizes.shapes[t.name]) for t in inputs),
        tuple(Tensor(t.name, *sizes.shapes[t.name]) for t in graph.output),
        tuple(_node_facts(node, sizes) for node in graph.node),
        sum(sizes.bytes.get(name, 0) for name in stored),
        _peak_bytes(graph, sizes, [t.name for t in inputs]))


def _node_facts(node: Any, sizes: _Sizes) -> Node:
    if any(a.HasField('g') or a.graphs for a in node.attribute):
        raise InputError(f'node {node.name!r} ({node.op_type}): its branches cannot be counted; '
                         'export the model without control flow')
    inputs, outputs = [n for n in node.input if n], [n for n in node.output if n]
    if all(name in sizes.constants for name in outputs):
        return Node(node.name, node.op_type)
    flops = _flops(node, sizes)
    largest = max(sizes.elements(name) for name in (*inputs, *outputs))
    return Node(
        node.name, node.op_type, flops,
        0 if flops or node.op_type in MOVERS else largest,
        sum(sizes.bytes[name] for name in inputs if name in sizes.constants),
        sum(sizes.bytes[name] for name in inputs if name not in sizes.constants),
        sum(sizes.bytes[name] for name in outputs))


def _flops(node: Any, sizes: _Sizes) -> int:
    """Return 2 x multiply-adds of a convolution or matrix product, 0 for other operators."""
    def shape(index: int) -> Sequence[int]:
        return sizes.shapes[node.input[index]][1]

    out = sizes.elements(node.output[0])
    if node.op_type in _WEIGHT_INPUT:  # (out, in / groups, kernel...)
        return 2 * out * prod(shape(_WEIGHT_INPUT[node.op_type])[1:])
    if node.op_type == 'ConvTranspose':  # (in, out / groups, kernel...)
        return 2 * prod(shape(0)) * prod(shape(1)[1:])
    if node.op_type in ('MatMul', 'MatMulInteger', 'QLinearMatMul'):
        return 2 * out * shape(0)[-1]
    if node.op_type in ('Gemm', 'QGemm'):
        flipped = any(a.name == 'transA' and a.i for a in node.attribute)
        return 2 * out * shape(0)[0 if flipped else 1]
    return 0


def _peak_bytes(graph: Any, sizes: _Sizes, inputs: Sequence[str]) -> int:
    """Return the most bytes of activations alive at once; views share their input's memory."""
    owner: Dict[str, str] = {name: name for name in inputs}
    last: Dict[str, int] = {}
    for step, node in enumerate(graph.node):
        for name in filter(None, node.output):
            shared = node.op_type in VIEWS and node.input[0] in owner
            owner[name] = owner[node.input[0]] if shared else name
        for name in (*node.input, *node.output):
            if name in owner:
                last[owner[name]] = step
    last.update({owner[t.name]: len(graph.node) for t in graph.output if t.name in owner})
    alive = {name: sizes.bytes[name] for name in inputs}
    peak = sum(alive.values())
    for step, node in enumerate(graph.node):
        alive.update({name: sizes.bytes[name] for name in node.output
                      if name and owner[name] == name and name not in sizes.constants})
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > step}
    return peak
