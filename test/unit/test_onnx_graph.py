# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Costs, folding and TensorRT 8.2's rules on small graphs whose answers are known by hand."""
from __future__ import annotations

import sys

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.onnx_fold import fold_constants, shapes_of
from evit_seg.core.onnx_graph import graph_facts, read_model
from evit_seg.core.tensorrt8 import check, float_input, OPERATORS
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
import pytest
from tiny_bundle import painted_frame, tiny_onnx

F, U8, I8, I64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT64


def node(operator, inputs, outputs=('y',), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), name=f'{operator}_node',
                            **attributes)


def model_of(nodes, inputs, outputs, weights=None, opset=13):
    """Make a model; inputs and outputs: name -> (type, shape), weights: name -> array."""
    graph = helper.make_graph(
        nodes, 'test', [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()],
        [helper.make_tensor_value_info(n, *t) for n, t in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)])
    model.ir_version = 7
    return model


def run(model, **feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=['CPUExecutionProvider'])
    return session.run(None, feeds)[0]


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def test_costs_of_a_small_network():
    model = model_of(
        [node('Cast', ['image'], ['a'], to=F), node('Transpose', ['a'], ['b'], perm=[0, 3, 1, 2]),
         node('Conv', ['b', 'w', 'bias'], ['c'], kernel_shape=[3, 3], pads=[1] * 4),
         node('Relu', ['c'], ['d']), node('Reshape', ['d', 'shape'], ['e']),
         node('MatMul', ['e', 'm'])],
        {'image': (U8, [1, 4, 6, 3])}, {'y': (F, [5, 7])},
        {'w': zeros(5, 3, 3, 3), 'bias': zeros(5), 'shape': np.array([5, 24]),
         'm': zeros(24, 7)})
    facts = graph_facts(model)
    assert facts.opset == 13 and str(facts.inputs[0]) == 'image uint8 1x4x6x3'
    assert facts.operators == dict.fromkeys(
        ['Cast', 'Transpose', 'Conv', 'Relu', 'Reshape', 'MatMul'], 1)
    assert facts.flops == 2 * 5 * 24 * 27 + 2 * 5 * 7 * 24
    assert facts.element_ops == 5 * 24  # the Relu; moving data is no arithmetic
    assert facts.weight_bytes == 4 * (5 * 27 + 5 + 24 * 7) + 8 * 2
    by_name = {n.operator: n for n in facts.nodes}
    conv = by_name['Conv']
    assert conv.moved_bytes == conv.fused_bytes == 4 * (5 * 27 + 5 + 3 * 24 + 5 * 24)
    assert by_name['Relu'].moved_bytes == 4 * 2 * 5 * 24 and by_name['Relu'].fused_bytes == 0
    assert by_name['Reshape'].moved_bytes == 0
    # c and d are alive together; e is d's memory
    assert facts.peak_activation_bytes == 4 * 5 * 24 * 2


def test_memory_keeps_what_a_skip_connection_needs():
    chain = [node('Relu', ['x'], ['a']), node('Relu', ['a'], ['b']), node('Relu', ['b'], ['c'])]
    io = {'x': (F, [1, 100])}, {'y': (F, [1, 100])}
    straight = model_of([*chain, node('Relu', ['c'])], *io)
    skipped = model_of([*chain, node('Add', ['a', 'c'])], *io)
    assert graph_facts(straight).peak_activation_bytes == 2 * 400
    assert graph_facts(skipped).peak_activation_bytes == 3 * 400


def flops_case(operator, inputs, output, weights, **attributes):
    names = [*inputs, *weights]
    return model_of([node(operator, names, **attributes)], inputs, {'y': output}, weights)


def test_flops_of_grouped_transposed_and_plain_products():
    x = {'x': (F, [1, 8, 5, 5])}
    grouped = flops_case('Conv', x, (F, [1, 8, 3, 3]), {'w': zeros(8, 1, 3, 3)}, group=8)
    assert graph_facts(grouped).flops == 2 * 8 * 9 * 9
    up = flops_case('ConvTranspose', x, (F, [1, 6, 10, 10]), {'w': zeros(8, 6, 2, 2)},
                    strides=[2, 2])
    assert graph_facts(up).flops == 2 * 8 * 25 * 6 * 4
    gemm = flops_case('Gemm', {'x': (F, [9, 2])}, (F, [2, 5]), {'w': zeros(9, 5)}, transA=1)
    assert graph_facts(gemm).flops == 2 * 2 * 9 * 5
    batched = model_of([node('MatMul', ['x', 'z'])],
                       {'x': (F, [2, 3, 4, 6]), 'z': (F, [2, 3, 6, 5])}, {'y': (F, [2, 3, 4, 5])})
    assert graph_facts(batched).flops == 2 * 2 * 3 * 4 * 6 * 5


def test_flops_of_integer_products():
    one, zero = np.float32(1), np.uint8(0)
    convolved = model_of(
        [node('QLinearConv', ['x', 's', 'z', 'w', 's', 'z', 's', 'z'])],
        {'x': (U8, [1, 4, 6, 6])}, {'y': (U8, [1, 5, 4, 4])},
        {'s': one, 'z': zero, 'w': zeros(5, 4, 3, 3, dtype=np.uint8)})
    assert graph_facts(convolved).flops == 2 * 5 * 16 * 36
    plain = flops_case('ConvInteger', {'x': (U8, [1, 4, 6, 6])}, (TensorProto.INT32, [1, 5, 4, 4]),
                       {'w': zeros(5, 4, 3, 3, dtype=np.uint8)})
    assert graph_facts(plain).flops == 2 * 5 * 16 * 36
    product = model_of([node('QLinearMatMul', ['x', 's', 'z', 'w', 's', 'z', 's', 'z'])],
                       {'x': (U8, [3, 7])}, {'y': (U8, [3, 2])},
                       {'s': one, 'z': zero, 'w': zeros(7, 2, dtype=np.uint8)})
    assert graph_facts(product).flops == 2 * 3 * 7 * 2


def quantized(kind=np.int8):
    zero = kind(0)
    return model_of(
        [node('QuantizeLinear', ['x', 's', 'z'], ['q']),
         node('DequantizeLinear', ['q', 's', 'z'], ['d']),
         node('DequantizeLinear', ['w8', 's', 'z'], ['w']),
         node('Conv', ['d', 'w'], ['c']), node('QuantizeLinear', ['c', 's', 'z'], ['r']),
         node('DequantizeLinear', ['r', 's', 'z'])],
        {'x': (F, [1, 4, 6, 6])}, {'y': (F, [1, 5, 6, 6])},
        {'s': np.float32(0.1), 'z': zero, 'w8': zeros(5, 4, 1, 1, dtype=zero.dtype)})


def test_quantized_values_count_a_byte_each():
    facts = graph_facts(quantized())
    conv = next(n for n in facts.nodes if n.operator == 'Conv')
    assert (conv.read_bytes, conv.weight_bytes, conv.written_bytes) == (4 * 36, 20, 5 * 36)
    folded = quantized()
    fold_constants(folded)
    assert graph_facts(folded).weight_bytes == facts.weight_bytes  # int8 weights stay int8


def exported_like():
    """Sizes computed in the graph and a bias behind an Identity, as torch's exporter writes."""
    weights = {'w': np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32),
               'b': np.arange(4, dtype=np.float32), 'zero': np.array([0]), 'two': np.array([2]),
               'rest': np.array([-1])}
    return model_of(
        [node('Identity', ['b'], ['b2']), node('Conv', ['x', 'w', 'b2'], ['c']),
         node('Shape', ['c'], ['s']), node('Slice', ['s', 'zero', 'two'], ['front']),
         node('Concat', ['front', 'rest'], ['shape'], axis=0), node('Reshape', ['c', 'shape'])],
        {'x': (F, [1, 3, 2, 5])}, {'y': (F, [1, 4, 10])}, weights)


def test_folding_leaves_what_depends_on_the_image():
    model = exported_like()
    x = np.random.default_rng(1).normal(size=(1, 3, 2, 5)).astype(np.float32)
    wanted = run(model, x=x)
    assert shapes_of(model)['y'] == ('float32', (1, 4, 10))
    refused = [f for f in check(model) if f.stops]
    assert [(f.operator, 'Identity_node' in f.why) for f in refused] == [('Conv', True)]
    fold_constants(model)
    assert [n.op_type for n in model.graph.node] == ['Conv', 'Reshape']
    assert {t.name for t in model.graph.initializer} == {'w', 'b', 'shape'}
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, x=x), wanted)
    assert check(model) == []


def test_a_constant_result_stays_a_result():
    model = model_of([node('Add', ['a', 'a'])], {'x': (F, [2])}, {'y': (F, [2])},
                     {'a': np.ones(2, np.float32)})
    fold_constants(model)
    np.testing.assert_array_equal(run(model, x=zeros(2)), [2, 2])


def test_a_graph_of_unknown_size_is_refused():
    model = model_of([node('Relu', ['x'])], {'x': (F, ['n', 3])}, {'y': (F, ['n', 3])})
    with pytest.raises(InputError, match=r"'Relu_node'.*static shapes.*fixed size"):
        graph_facts(model)
    assert [(f.node, f.operator, f.stops) for f in check(model)] == [('x', 'input', False)]


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / 'a.onnx').write_bytes(b'no model')
    with pytest.raises(InputError, match=r'a\.onnx: expected an ONNX model'):
        read_model(tmp_path / 'a.onnx')


def test_without_onnx_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ConfigError, match='pip install onnx'):
        read_model(tmp_path / 'a.onnx')


def found_in(nodes, inputs, weights=None, opset=13, outputs=None):
    model = model_of(nodes, inputs, outputs or {'y': (F, [1])}, weights, opset)
    return [(f.operator, f.stops) for f in check(model)]


MAP = {'x': (F, [1, 4, 6, 6])}


@pytest.mark.parametrize('nodes, inputs, weights, wanted', [
    ([node('Mod', ['x', 'x'])], MAP, {}, 'Mod'),
    ([helper.make_node('Gelu', ['x'], ['y'], domain='com.microsoft')], MAP, {},
     'com.microsoft.Gelu'),
    ([node('Resize', ['x', '', 's'], mode='cubic')], MAP,
     {'s': np.array([1, 1, 2, 2], np.float32)}, 'Resize'),
    ([node('Resize', ['x', '', 's'], coordinate_transformation_mode='tf_crop_and_resize')], MAP,
     {'s': np.array([1, 1, 2, 2], np.float32)}, 'Resize'),
    ([node('Resize', ['x', '', 'x'], mode='linear')], MAP, {}, 'Resize'),
    ([node('Conv', ['x', 'x'])], MAP, {}, 'Conv'),
    ([node('MaxPool', ['x'], kernel_shape=[2, 2], dilations=[2, 2])], MAP, {}, 'MaxPool'),
    ([node('MaxPool', ['x'], ['y', 'i'], kernel_shape=[2, 2])], MAP, {}, 'MaxPool'),
    ([node('Einsum', ['x', 'x'], equation='...ij,...jk->...ik')], MAP, {}, 'Einsum'),
    ([node('Einsum', ['x'], equation='abcc->abc')], MAP, {}, 'Einsum'),
    ([node('Clip', ['x', 'low'])], {'x': (TensorProto.FLOAT16, [1])}, {'low': np.float16(0)},
     'Clip'),
    ([node('ReduceMean', ['x'])], {'x': (TensorProto.INT32, [4])}, {}, 'ReduceMean'),
    ([node('Squeeze', ['x', 'axes'])], {'x': (F, [1, 4]), 'axes': (I64, [1])}, {}, 'Squeeze'),
    ([node('QuantizeLinear', ['x', 's', 'z'])], MAP,
     {'s': np.float32(1), 'z': np.int8(3)}, 'QuantizeLinear'),
    ([node('QuantizeLinear', ['x', 's', 'z'])], MAP,
     {'s': np.float32(1), 'z': np.uint8(0)}, 'QuantizeLinear'),
    ([node('Transpose', ['x'])], {'x': (F, [1] * 9)}, {}, 'Transpose'),
])
def test_what_tensorrt_8_refuses(nodes, inputs, weights, wanted):
    assert found_in(nodes, inputs, weights) == [(wanted, True)]


@pytest.mark.parametrize('nodes, inputs, weights', [
    ([node('Resize', ['x', '', 's'], mode='linear',
           coordinate_transformation_mode='pytorch_half_pixel')], MAP,
     {'s': np.array([1, 1, 2, 2], np.float32)}),
    ([node('MaxPool', ['x'], kernel_shape=[2, 2])], MAP, {}),
    ([node('Einsum', ['x', 'x'], equation='abij,abkj->abik')], MAP, {}),
    ([node('Clip', ['x', 'low'])], MAP, {'low': np.float32(0)}),
    ([node('Squeeze', ['x', 'axes'])], {'x': (F, [1, 4])}, {'axes': np.array([0])}),
    ([node('Gather', ['x', 'i'])], {'x': (I8, [4])}, {'i': np.array([1])}),
    ([node('Add', ['x', 'x'])], {'x': (I64, [4])}, {}),
    ([node('Transpose', ['x'])], {'x': (F, [1] * 5)}, {}),
])
def test_what_tensorrt_8_takes(nodes, inputs, weights):
    assert found_in(nodes, inputs, weights) == []


def test_more_than_five_axes_want_care():
    assert found_in([node('Transpose', ['x'])], {'x': (F, [1] * 6)}) == [('Transpose', False)]


def test_a_newer_opset_is_refused_with_its_operators():
    found = found_in([node('LayerNormalization', ['x', 'w'])], {'x': (F, [1, 4])},
                     {'w': zeros(4)}, opset=17)
    assert found == [('opset', True), ('LayerNormalization', True)]


def test_quantized_graph_with_zero_points_of_int8_zero_is_taken():
    assert check(quantized()) == []
    assert {f.operator for f in check(quantized(np.uint8))} == {
        'QuantizeLinear', 'DequantizeLinear'}


def test_operator_list_is_that_of_8_2():
    # docs/operators.md of branch 8.2-GA: 129 rows say Y.
    assert {'Einsum', 'Erf', 'Resize', 'Where', 'ScatterND', 'Round'} <= set(OPERATORS)
    assert not {'HardSwish', 'LayerNormalization', 'Mod', 'NonZero', 'OneHot', 'QLinearConv',
                'ConvInteger', 'Reciprocal', 'IsInf', 'Xor', 'Gelu'} & set(OPERATORS)


def test_bytes_at_the_input_and_the_way_out():
    model = onnx.load_from_string(tiny_onnx())
    assert [(f.node, f.operator) for f in check(model)] == [('image', 'input')]
    other = float_input(model)
    assert check(other) == []
    assert model.graph.input[0].type.tensor_type.elem_type == U8  # a copy was changed
    image = painted_frame()[0][None]
    np.testing.assert_array_equal(run(other, image=image.astype(np.float32)),
                                  run(model, image=image))


def test_bytes_that_more_than_a_cast_reads_have_no_float_twin():
    model = model_of([node('Transpose', ['x'], ['t'], perm=[1, 0]), node('Cast', ['t'], to=F)],
                     {'x': (U8, [2, 3])}, {'y': (F, [3, 2])})
    with pytest.raises(ConfigError, match="Transpose 'Transpose_node'"):
        float_input(model)
