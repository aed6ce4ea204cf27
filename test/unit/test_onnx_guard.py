# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An ONNX model that names other files is refused before anything opens it."""
from __future__ import annotations

from evit_seg.core.bundle import find_bundle
from evit_seg.core.errors import BundleError
from evit_seg.core.onnx_guard import check_self_contained
from evit_seg.core.segmenter import Segmenter
from hypothesis import given, settings, strategies
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
import pytest
from tampering import rewrite
from tiny_bundle import tiny_onnx, write_tiny_bundle
from tiny_int8 import quantized_onnx


@pytest.fixture
def folder(tmp_path):
    return write_tiny_bundle(tmp_path / 'tiny')


PLACES = ('../../../../etc/passwd', '/etc/passwd', 'weights.bin', './weights.bin', '')


def external(location):
    """Return the tiny model with its convolution's weights in another file."""
    model = onnx.load_from_string(tiny_onnx())
    _move_out(model.graph.initializer[0], location)
    return model.SerializeToString()


def _move_out(tensor, location):
    tensor.ClearField('raw_data')
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value=location)


def external_without_location(location):
    model = onnx.load_from_string(external(location))
    model.graph.initializer[0].ClearField('external_data')
    return model.SerializeToString()


def external_entry_only(location):
    model = onnx.load_from_string(external(location))
    model.graph.initializer[0].ClearField('data_location')
    return model.SerializeToString()


def in_a_constant(location):
    model = onnx.load_from_string(tiny_onnx())
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), 'hidden')
    _move_out(tensor, location)
    model.graph.node.insert(0, helper.make_node('Constant', [], ['hidden'], value=tensor))
    return model.SerializeToString()


def in_a_branch(location):
    inner = onnx.load_from_string(external(location)).graph
    model = onnx.load_from_string(tiny_onnx())
    model.graph.node.append(helper.make_node('If', ['c'], ['d'], then_branch=inner,
                                             else_branch=inner))
    return model.SerializeToString()


def in_a_list_of_graphs(location):
    inner = onnx.load_from_string(in_a_branch(location)).graph
    model = onnx.load_from_string(tiny_onnx())
    node = model.graph.node.add(op_type='Odd')
    node.attribute.append(helper.make_attribute('graphs', [inner]))
    return model.SerializeToString()


def in_a_sparse_weight(location):
    model = onnx.load_from_string(tiny_onnx())
    values = numpy_helper.from_array(np.ones(1, np.float32), 'sparse')
    indices = numpy_helper.from_array(np.zeros(1, np.int64), 'sparse_indices')
    _move_out(indices, location)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model.SerializeToString()


def in_a_function(location):
    model = onnx.load_from_string(tiny_onnx())
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), 'hidden')
    _move_out(tensor, location)
    constant = helper.make_node('Constant', [], ['y'], value=tensor)
    model.functions.append(helper.make_function(
        'here', 'Weights', [], ['y'], [constant], [helper.make_opsetid('', 13)]))
    return model.SerializeToString()


def in_training(location):
    model = onnx.load_from_string(tiny_onnx())
    graph = model.training_info.add().algorithm
    _move_out(graph.initializer.add(name='w', data_type=1, dims=[4]), location)
    return model.SerializeToString()


def in_a_second_graph(location):
    """Protobuf joins messages that come twice: the weights of both count."""
    second = onnx.ModelProto()
    _move_out(second.graph.initializer.add(name='w', data_type=1, dims=[4]), location)
    return tiny_onnx() + second.SerializeToString()


HIDING = [external, external_without_location, external_entry_only, in_a_constant, in_a_branch,
          in_a_list_of_graphs, in_a_sparse_weight, in_a_function, in_training, in_a_second_graph]


@pytest.fixture
def nothing_opened(monkeypatch):
    """Fail when ONNX Runtime is asked for a session at all."""
    def session(*args, **options):
        raise AssertionError('ONNX Runtime was asked to open the model')
    monkeypatch.setattr(onnxruntime, 'InferenceSession', session)


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('hide', HIDING)
def test_weights_in_another_file_are_refused_before_anything_opens_it(folder, nothing_opened,
                                                                      hide, place):
    (folder / 'weights.bin').write_bytes(bytes(1 << 16))
    rewrite(folder, 'tiny.onnx', hide(place))
    with pytest.raises(BundleError, match='keeps weights in another file'):
        Segmenter.open(str(folder))


def test_what_onnx_itself_writes_with_external_data_is_refused(tmp_path):
    onnx.save_model(onnx.load_from_string(tiny_onnx()), tmp_path / 'm.onnx',
                    save_as_external_data=True, location='m.data', size_threshold=0)
    with pytest.raises(BundleError, match='keeps weights in another file'):
        check_self_contained(tmp_path / 'm.onnx')


def test_a_node_that_names_a_compiled_file_is_refused(folder, nothing_opened):
    model = onnx.load_from_string(tiny_onnx())
    model.graph.node.append(helper.make_node('EPContext', [], ['x'], domain='com.microsoft',
                                             ep_cache_context='../../engine.plan'))
    rewrite(folder, 'tiny.onnx', model.SerializeToString())
    with pytest.raises(BundleError, match='EPContext'):
        Segmenter.open(str(folder))


@pytest.mark.parametrize('content', [tiny_onnx(), quantized_onnx()])
def test_models_that_hold_all_they_need_pass(tmp_path, content):
    (tmp_path / 'm.onnx').write_bytes(content)
    check_self_contained(tmp_path / 'm.onnx')
    check_self_contained(find_bundle('demo') / 'model.onnx')


def varint(value):
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def nested(levels):
    """Return a model of graphs in attributes of nodes in graphs."""
    content = b''
    for _ in range(levels):
        for tag in (0x32, 0x2A, 0x0A):  # graph of the attribute, attribute of the node, the node
            content = bytes([tag]) + varint(len(content)) + content
    return b'\x3A' + varint(len(content)) + content


@pytest.mark.parametrize('content, said', [
    (b'', 'there is no graph'), (b'<?xml version="1.0"?><net/>', 'wire type'),
    (b'\x3A\xFF\xFF\xFF\xFF\x0F', 'does not fit'), (b'\x3A' + b'\xFF' * 11, 'no number'),
    (b'\x80', 'no number'), (b'\x00\x00', 'field 0'), (b'\x08\x01', 'there is no graph'),
    (b'\xBA\x80\x80\x80\x80\x80\x01\x00', 'does not fit'),  # a field beyond 32 bits
    (nested(30), 'inside one another'), (b'\x08\x01' * 1_000_001, 'more than 1000000 fields')],
    ids=['empty', 'xml', 'too long', 'endless', 'cut', 'field 0', 'no graph', 'wide', 'deep',
         'many'])
def test_what_is_not_a_model_is_refused(tmp_path, content, said):
    (tmp_path / 'm.onnx').write_bytes(content)
    with pytest.raises(BundleError, match=said):
        check_self_contained(tmp_path / 'm.onnx')


@settings(max_examples=300, deadline=None)
@given(strategies.data())
def test_no_damage_escapes_the_guard(tmp_path_factory, data):
    content = bytearray(external('weights.bin'))
    for _ in range(data.draw(strategies.integers(1, 4))):
        content[data.draw(strategies.integers(0, len(content) - 1))] = \
            data.draw(strategies.integers(0, 255))
    content = bytes(content[:data.draw(strategies.integers(0, len(content)))])
    path = tmp_path_factory.getbasetemp() / 'damaged.onnx'
    path.write_bytes(content)
    try:
        check_self_contained(path)
    except BundleError:
        return
    try:  # it passed: then protobuf must not find another file in it either
        model = onnx.load_from_string(content)
    except Exception:  # noqa: BLE001  protobuf's own error; it cannot be loaded at all
        return
    assert not any(tensor.external_data or tensor.data_location == TensorProto.EXTERNAL
                   for tensor in model.graph.initializer)
