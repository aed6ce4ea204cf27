# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Convert an exported graph to half precision, what breaks in it left in single.

The camera's bytes still go in and float32 logits still come out. The conversion is ONNX
Runtime's; its casts are then put in order, because it writes the same one several times, at the
end of the graph, and rounds between two neighbours that both stay in single precision.

On a CPU, ONNX Runtime computes most of a half graph in single precision: rounded weights show in
a comparison with torch, a value beyond 65504 does not. So that is looked for by itself, and the
nodes around it stay in single precision.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Set, Tuple

from evit_seg.core.errors import BundleError
import numpy as np
import onnx
from onnx import helper, TensorProto
import onnxruntime
from onnxruntime.transformers.float16 import convert_float_to_float16, DEFAULT_OP_BLOCK_LIST

KEPT = {
    'LayerNormalization': 'its squares overflow for deviations beyond 255',
    'Pow': 'the squares of a LayerNorm written out, as opset 13 has it',
    'ReduceMean': 'the mean of those squares',
    'ReduceL2': 'the squares of normalised queries and keys',
    'ReduceSum': 'sums over many cells leave the range of 65504',
}
"""Operators that stay in single precision, and why."""
FOLLOWERS = ('Add', 'Clip', 'Sqrt', 'Expand')
"""
Operators that stay in single precision where all they take comes from those above.

They add an epsilon or bound by one and take the root; 1e-12 is 0 in half precision, and dividing
by it, which stays too, would not be a number.
"""
NORMALISATION = ('Reshape', 'Cast', 'Sub', 'Mul')
"""From the camera's bytes to the network's input: a mean such as 123.675 is not a half."""
LARGEST = 65504.0
"""The largest half."""


@dataclass(frozen=True)
class Half:
    """A graph in half precision and what was measured of it."""

    content: bytes
    largest: float
    """Largest magnitude, over the frames, of the values it holds as halves."""
    single: Tuple[str, ...]
    """Nodes left in single precision because a frame's value left the range."""


def fit_half(content: bytes, inputs: Sequence[np.ndarray]) -> Half:
    """
    Return the ONNX of a deployed network in half precision, what overflows in it left in single.

    A value that leaves the range of halves on one of the frames keeps the nodes that make and
    take it in single precision; then it is measured again. inputs: uint8 RGB (H, W, 3) at the
    network's size. BundleError where an overflow cannot be kept out.
    """
    single: List[str] = []
    while True:
        half = to_half(content, single)
        peaks = measure_peaks(content, half, inputs)
        # Not a number compares as false: it counts as too large.
        over = [name for name, peak in peaks.items() if not peak <= LARGEST]
        more = [name for name in _touching(content, over) if name not in single]
        largest = float(f'{max(peaks.values(), default=0.0):.4g}')
        if not over:
            print(f'largest value in half precision {largest:.4g}, the format ends at '
                  f'{LARGEST:.0f}; {len(single)} nodes left in single precision for it')
            return Half(half, largest, tuple(single))
        if not more:
            raise BundleError(f'export: {over[0]} reaches {peaks[over[0]]:.4g}, half precision '
                              f'ends at {LARGEST:.0f}; leave fp16 out')
        single += more


def to_half(content: bytes, single: Sequence[str] = ()) -> bytes:
    """
    Return the ONNX of a deployed network in half precision: same input, same output types.

    single: names of nodes that stay in single precision beside those that always do.
    """
    model = onnx.load_from_string(content)
    _constants_as_initializers(model.graph)
    half = convert_float_to_float16(model, keep_io_types=True,
                                    node_block_list=[*_kept_nodes(model.graph), *single],
                                    op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT])
    _order_casts(half.graph)
    converted: bytes = half.SerializeToString()
    onnx.checker.check_model(converted, full_check=True)
    return converted


def measure_peaks(content: bytes, half: bytes, inputs: Sequence[np.ndarray]) -> Dict[str, float]:
    """
    Return the largest magnitude, over some frames, of each value that `half` holds as halves.

    They are computed by the fp32 graph `content`. inputs: uint8 RGB (H, W, 3) at the network's
    size.
    """
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(half)).graph.value_info
    halves = {value.name for value in inferred
              if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    model = onnx.load_from_string(content)
    names = [name for node in model.graph.node for name in node.output if name in halves]
    for name in names:
        model.graph.node.extend([
            helper.make_node('Abs', [name], [f'{name}_magnitude']),
            helper.make_node('ReduceMax', [f'{name}_magnitude'], [f'{name}_peak'], keepdims=0)])
        model.graph.output.extend([
            helper.make_tensor_value_info(f'{name}_peak', TensorProto.FLOAT, [])])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=['CPUExecutionProvider'])
    peaks = [f'{name}_peak' for name in names]
    values_FN = np.array([session.run(peaks, {'image': image[None]}) for image in inputs])
    return {name: float(value) for name, value in zip(names, values_FN.max(axis=0), strict=True)}


def _touching(content: bytes, values: Sequence[str]) -> List[str]:
    """Return the nodes of a graph that make or take one of some values."""
    wanted = set(values)
    return [node.name for node in onnx.load_from_string(content).graph.node
            if wanted & {*node.input, *node.output}]


def _constants_as_initializers(graph: Any) -> None:
    """
    Replace constant nodes, and second names of weights, by the tensors themselves.

    The conversion keeps a tensor in single precision where only such nodes use it, a node never.
    """
    names: Dict[str, str] = {tensor.name: tensor.name for tensor in graph.initializer}
    others = []
    for node in graph.node:
        if node.op_type == 'Constant' and node.attribute[0].name == 'value':
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = names[tensor.name] = node.output[0]
        elif node.op_type == 'Identity' and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
        else:
            others.append(node)
    for node in others:
        node.input[:] = [names.get(name, name) for name in node.input]
    _replace_nodes(graph, others)


def _kept_nodes(graph: Any) -> List[str]:
    """
    Return the nodes that stay in single precision because of what they are fed with.

    Among them is what depends on weights and static shapes alone, such as Swin's position bias:
    ONNX Runtime computes it once while loading, but on a CPU only in single precision.
    """
    constant = {tensor.name for tensor in graph.initializer}
    raw: Set[str] = {graph.input[0].name}
    single: Set[str] = set()
    names = []
    for node in graph.node:
        values = node.input[:1] if node.op_type == 'Expand' else node.input  # not its shape
        fed = {name for name in values if name and name not in constant}
        if node.op_type == 'Shape':
            constant.update(node.output)
        elif not fed:
            constant.update(node.output)
            names.append(node.name)
        elif node.op_type in NORMALISATION and fed <= raw:
            raw.add(node.output[0])
            names.append(node.name)
        elif node.op_type in KEPT:
            single.add(node.output[0])
        elif (node.op_type in FOLLOWERS and fed <= single) \
                or (node.op_type == 'Div' and node.input[1] in single):
            single.add(node.output[0])
            names.append(node.name)
    return names


def _order_casts(graph: Any) -> None:
    """Keep one of equal casts, take out pairs that cast there and back, and sort the nodes."""
    made: Dict[str, Any] = {}
    for node in graph.node:
        for name in node.output:
            made.setdefault(name, node)
    for node in graph.node:
        node.input[:] = [_uncast(name, made) for name in node.input]
    ordered: List[Any] = []
    done: Set[str] = set()

    def place(node: Any) -> None:
        """Append a node after the casts it needs; all others are in order already."""
        if node.output[0] in done:
            return
        done.add(node.output[0])
        for name in node.input:
            if name in made:
                place(made[name])
        ordered.append(node)

    for node in graph.node:
        if not node.name.endswith(('_cast_to_fp16_node', '_cast_to_fp32_node')):
            place(node)
    _replace_nodes(graph, ordered)
    del graph.value_info[:]  # types of what is no more among them


def _uncast(name: str, made: Dict[str, Any]) -> str:
    """Return the single-precision result itself for one that was halved and cast back."""
    source = name.removesuffix('_cast_to_fp32')
    producer = made.get(source)
    if source == name or producer is None or producer.name != f'{source}_cast_to_fp16_node':
        return name
    return f'{source}_cast_to_fp16'


def _replace_nodes(graph: Any, nodes: List[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
