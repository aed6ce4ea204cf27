# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What TensorRT 8.2, the last for a Jetson Nano (JetPack 4.6), can parse of an ONNX graph.

The rules are those of onnx-tensorrt, branch 8.2-GA: docs/operators.md for operators and types,
builtin_op_importers.cpp for what an importer asserts. They say what the parser refuses; that a
plan is then found and is right shows only on the board.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Iterator, List, Set, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.onnx_fold import opset_of, require_onnx, shapes_of
from evit_seg.core.onnx_graph import constants_of

MAX_OPSET = 13
MAX_AXES = 8  # nvinfer1::Dims::MAX_DIMS
TRIED_AXES = 5

_BOTH = frozenset({'float32', 'float16'})
_ANY = _BOTH | {'int32', 'int8', 'bool'}
_LISTED: Tuple[Tuple[FrozenSet[str], str], ...] = (
    (_BOTH, 'Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Ceil Celu Cos Cosh '
            'CumSum Dropout Einsum Erf Exp Floor GRU ImageScaler InstanceNormalization LRN LSTM '
            'Log LogSoftmax LpNormalization MatMul NonMaxSuppression Pow QuantizeLinear RNN '
            'RandomUniform RandomUniformLike ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp '
            'ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize '
            'ReverseSequence Scan Sin Sinh Softmax Sqrt Tan TopK Upsample'),
    (_BOTH | {'int8'}, 'Clip Conv ConvTranspose Elu Gemm GlobalAveragePool GlobalLpPool '
                       'GlobalMaxPool HardSigmoid LeakyRelu LpPool MaxPool PRelu '
                       'ParametricSoftplus Relu Round ScaledTanh Selu Sigmoid Softplus Softsign '
                       'Tanh ThresholdedRelu'),
    (_BOTH | {'int32'}, 'Abs Add DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less '
                        'LessOrEqual Max Mean Min Mul Neg Range SpaceToDepth Sub Sum'),
    (_BOTH | {'int32', 'int8'}, 'AveragePool Gather GatherElements GatherND Pad Scatter '
                                'ScatterElements ScatterND Sign'),
    (_BOTH | {'int32', 'bool'}, 'Expand EyeLike Flatten If Loop Split Tile Where'),
    (_ANY, 'Cast Concat Constant Identity Reshape Shape Size Slice Squeeze Transpose Unsqueeze'),
    (frozenset({'bool'}), 'And Not Or'),
    (frozenset({'float32'}), 'ConstantOfShape'),
    (frozenset({'int8'}), 'DequantizeLinear'),
)
OPERATORS: Dict[str, FrozenSet[str]] = {
    operator: types for types, operators in _LISTED for operator in operators.split()}
"""Types of the data that each supported operator takes."""

_CAST_DOWN = {'int64': 'int32', 'float64': 'float32'}
_DATA_INPUT = {'Where': 1}
_MUST_BE_STORED = {
    'Conv': (2,), 'ConvTranspose': (2,), 'InstanceNormalization': (1, 2), 'Slice': (3,),
    'Squeeze': (1,), 'Unsqueeze': (1,), 'TopK': (1,), 'CumSum': (1,)}
_RESIZE = {
    'mode': ('nearest', 'linear'),
    'coordinate_transformation_mode': ('half_pixel', 'pytorch_half_pixel', 'tf_half_pixel_for_nn',
                                       'asymmetric', 'align_corners'),
    'nearest_mode': ('floor', 'ceil', 'round_prefer_floor', 'round_prefer_ceil'),
}
_EXPORT = 'export the run again with --opset 13'
_ELSEWHERE = ('or let ONNX Runtime run it outside TensorRT (engine.provider: tensorrt), at the '
              'price of a copy each way')
_QUANTIZED = ('quantize as QuantizeLinear and DequantizeLinear of int8 with zero points 0; on a '
              'Nano, which has no int8, take the fp32 or fp16 variant')
_WAYS = {
    'LayerNormalization': f'{_EXPORT}, which writes it as ReduceMean, Sub, Pow, Sqrt and Div',
    'HardSwish': f'{_EXPORT}, which writes it as HardSigmoid and Mul',
    'GroupNormalization': f'{_EXPORT}, which writes it as InstanceNormalization',
    'QLinearConv': _QUANTIZED, 'QLinearMatMul': _QUANTIZED, 'ConvInteger': _QUANTIZED,
    'MatMulInteger': _QUANTIZED, 'DynamicQuantizeLinear': _QUANTIZED,
    'Reciprocal': 'write it as Div',
}


@dataclass(frozen=True)
class Finding:
    """Something TensorRT 8.2 does not take, or takes in another way than one may think."""

    node: str  # name of the node, input or tensor; '' for the whole model
    operator: str
    why: str
    way_out: str
    stops: bool = True
    """False for what the parser takes but that needs care."""

    def __str__(self) -> str:
        return f'{self.operator} {self.node}: {self.why}; {self.way_out}'


def check(model: Any) -> List[Finding]:
    """Return what in an ONNX ModelProto TensorRT 8.2 cannot parse, in the graph's order."""
    return [*_check_model(model), *_Checker(model).findings()]


def float_input(model: Any) -> Any:
    """
    Return a copy that takes its uint8 input as float32, of the same values 0 to 255.

    For trtexec: TensorRT before 8.5 has no uint8 inputs. ConfigError when anything but a Cast
    reads the bytes.
    """
    onnx = require_onnx()
    kind = onnx.TensorProto
    copy = type(model)()
    copy.CopyFrom(model)
    for info in copy.graph.input:
        if info.type.tensor_type.elem_type != kind.UINT8:
            continue
        readers = [node for node in copy.graph.node if info.name in node.input]
        other = [node for node in readers if node.op_type != 'Cast']
        if other:
            raise ConfigError(f'input {info.name!r}: expected only Cast to read the bytes, got '
                              f'{other[0].op_type} {other[0].name!r}; export the run again')
        info.type.tensor_type.elem_type = kind.FLOAT
    onnx.checker.check_model(copy)
    return copy


def _check_model(model: Any) -> Iterator[Finding]:
    if opset_of(model) > MAX_OPSET:
        yield Finding('', 'opset', f'opset {opset_of(model)}, TensorRT 8.2 reads up to '
                      f'{MAX_OPSET}', _EXPORT)
    stored = constants_of(model.graph)
    for info in model.graph.input:
        if info.name in stored:
            continue
        kind = info.type.tensor_type
        if kind.elem_type == require_onnx().TensorProto.UINT8:
            yield Finding(
                info.name, 'input', 'a network input of uint8, which comes with TensorRT 8.5',
                'ONNX Runtime runs the Cast itself and gives TensorRT the rest (engine.provider: '
                'tensorrt); for trtexec write a copy with a float input: bundle inspect '
                '--float-input FILE')
        if not all(d.HasField('dim_value') for d in kind.shape.dim):
            yield Finding(info.name, 'input', 'a size that is not fixed',
                          'export with one size and one batch, or give trtexec --shapes', False)


class _Checker:
    """One pass over the nodes with the tensors' types and shapes at hand."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.opset = opset_of(model)
        self.tensors = shapes_of(model)
        # What the parser holds as weights. Constants that pass through any node, even an
        # Identity, become activations to it.
        self.stored = constants_of(model.graph)
        self.made_by = {name: node for node in model.graph.node for name in node.output}
        self.inputs = {info.name for info in model.graph.input}
        self.values = {t.name: t for t in model.graph.initializer}
        self.values.update({n.output[0]: n.attribute[0].t for n in model.graph.node
                            if n.op_type == 'Constant' and n.attribute[0].name == 'value'})

    def findings(self) -> Iterator[Finding]:
        for node in self.graph.node:
            if node.domain not in ('', 'ai.onnx') or node.op_type not in OPERATORS:
                yield self._unknown(node)
                continue
            yield from self._axes(node)
            yield from self._types(node)
            yield from self._stored(node)
            rule = getattr(self, f'_{node.op_type.lower()}', None)
            if rule is not None:
                yield from rule(node)

    def _unknown(self, node: Any) -> Finding:
        name = f'{node.domain}.{node.op_type}' if node.domain else node.op_type
        way = _WAYS.get(node.op_type, f'{_EXPORT}, {_ELSEWHERE}')
        return Finding(node.name, name, 'not among the operators of TensorRT 8.2', way)

    def _axes(self, node: Any) -> Iterator[Finding]:
        names = [name for name in (*node.input, *node.output) if name in self.tensors]
        axes = max((len(self.tensors[name][1]) for name in names), default=0)
        if axes > MAX_AXES:
            yield Finding(node.name, node.op_type, f'a tensor of {axes} axes, at most {MAX_AXES}',
                          'write it in steps of fewer axes')
        elif axes > TRIED_AXES:
            yield Finding(node.name, node.op_type, f'a tensor of {axes} axes: the parser takes '
                          f'{MAX_AXES}, up to {TRIED_AXES} are known to build',
                          'build it on the board before relying on it', False)

    def _types(self, node: Any) -> Iterator[Finding]:
        if all(name in self.stored for name in node.input) and node.input:
            return
        allowed = OPERATORS[node.op_type]
        made = node.op_type in ('ConstantOfShape', 'Constant')
        name = node.output[0] if made else node.input[_DATA_INPUT.get(node.op_type, 0)]
        dtype = self.tensors.get(name, ('', ()))[0]
        if not dtype or (name in self.inputs and dtype == 'uint8') or node.op_type == 'Constant':
            return  # a network input of bytes is one finding, not one for each reader
        if _CAST_DOWN.get(dtype, dtype) not in allowed:
            way = _QUANTIZED if 'Linear' in node.op_type else f'cast it before, {_ELSEWHERE}'
            yield Finding(node.name, node.op_type,
                          f'data of {dtype}, it takes {", ".join(sorted(allowed))}', way)

    def _stored(self, node: Any) -> Iterator[Finding]:
        for index in _MUST_BE_STORED.get(node.op_type, ()):
            if len(node.input) > index and node.input[index] \
                    and node.input[index] not in self.stored:
                maker = self.made_by.get(node.input[index])
                by = f' (made by {maker.op_type} {maker.name!r})' if maker is not None else ''
                yield Finding(node.name, node.op_type, f'input {index} must be a stored constant'
                              f'{by}', 'export the run again: shared weights are read directly '
                              'then, and sizes are constants')

    def _conv(self, node: Any) -> Iterator[Finding]:
        maker = self.made_by.get(node.input[1])
        if node.input[1] not in self.stored and \
                (maker is None or maker.op_type != 'DequantizeLinear'):
            yield Finding(node.name, node.op_type, 'its kernel must be a stored constant',
                          _EXPORT)
        axes = len(self.tensors.get(node.input[0], ('', (0,) * 4))[1])
        if axes not in (4, 5):
            yield Finding(node.name, node.op_type, f'data of {axes} axes: 2-D and 3-D '
                          'convolutions only', 'write it as a 2-D convolution')

    _convtranspose = _conv

    def _resize(self, node: Any) -> Iterator[Finding]:
        found = _attributes(node)
        for key, allowed in _RESIZE.items():
            value = found.get(key, b'').decode()
            if value and value not in allowed and (key != 'nearest_mode' or
                                                   found.get('mode', b'nearest') == b'nearest'):
                yield Finding(node.name, 'Resize', f'{key} {value!r}, it has '
                              f'{", ".join(allowed)}', "use interpolate's bilinear or nearest")
        if found.get('coordinate_transformation_mode') == b'tf_half_pixel_for_nn' and \
                found.get('nearest_mode', b'round_prefer_floor') != b'round_prefer_floor':
            yield Finding(node.name, 'Resize', 'tf_half_pixel_for_nn goes with '
                          'round_prefer_floor only', "use interpolate's nearest")
        by_size = len(node.input) > 3 and bool(node.input[3])
        index = 3 if by_size else 2 if self.opset >= 11 else 1
        what = 'sizes' if by_size else 'scales'
        if len(node.input) <= index or node.input[index] not in self.stored:
            # Computed scales are refused (what seems to have stopped MobileViT on a Nano, see
            # huggingface/pytorch-image-models, issue 1373), computed sizes are not.
            yield Finding(node.name, 'Resize', f'its {what} are computed, not stored',
                          'export with one image size', stops=not by_size)

    def _clip(self, node: Any) -> Iterator[Finding]:
        limits = [name for name in node.input[1:] if name]
        if any(self.tensors.get(name, ('',))[0] == 'float16' for name in limits):
            yield Finding(node.name, 'Clip', 'its float16 limits are read as if they were '
                          'float32: it would clip elsewhere',
                          'give TensorRT the fp32 variant and --fp16')

    def _maxpool(self, node: Any) -> Iterator[Finding]:
        if any(d != 1 for d in _attributes(node).get('dilations', ())):
            yield Finding(node.name, node.op_type, 'pooling with dilation', 'pool without it')
        if node.op_type == 'MaxPool' and len(list(filter(None, node.output))) > 1:
            yield Finding(node.name, 'MaxPool', 'its output Indices', 'use the maxima only')

    _averagepool = _maxpool

    def _quantizelinear(self, node: Any) -> Iterator[Finding]:
        if len(node.input) < 3 or node.input[2] not in self.values:
            yield Finding(node.name, node.op_type, 'no stored zero point', _QUANTIZED)
            return
        onnx = require_onnx()
        zero = onnx.numpy_helper.to_array(self.values[node.input[2]])
        if zero.any() or zero.dtype != 'int8':
            yield Finding(node.name, node.op_type, f'zero point {zero.ravel()[0]} of '
                          f'{zero.dtype}, only 0 of int8 is known', _QUANTIZED)

    _dequantizelinear = _quantizelinear

    def _gemm(self, node: Any) -> Iterator[Finding]:
        axes = {len(self.tensors[name][1]) for name in node.input[:2] if name in self.tensors}
        if axes - {2}:
            yield Finding(node.name, 'Gemm', 'factors that are not matrices', 'write a MatMul')

    def _einsum(self, node: Any) -> Iterator[Finding]:
        equation = _attributes(node).get('equation', b'').decode()
        terms = equation.replace(' ', '').replace('->', ',').split(',')
        repeated: Set[str] = {t for t in terms if max(Counter(t).values(), default=0) > 1}
        if '...' in equation or repeated or equation != equation.lower():
            yield Finding(node.name, 'Einsum', f'equation {equation!r}: no ellipsis, diagonal or '
                          'capital', 'write it with Transpose and MatMul')


def _attributes(node: Any) -> Dict[str, Any]:
    helper = require_onnx().helper
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
