# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A variant whose precision an engine cannot compute is refused at load, with the way out."""
from __future__ import annotations

from dataclasses import replace

from evit_seg.core.bundle import open_bundle, read_golden, self_test, write_bundle
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.segmenter import Segmenter
import numpy as np
import onnx
from onnx import helper, numpy_helper
import onnxruntime
import pytest
from tiny_bundle import tiny_onnx, write_tiny_bundle

GPUS = ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider']


@pytest.fixture
def sessions(monkeypatch):
    """Pretend that GPUs are there; return the providers that sessions were asked for."""
    asked = []

    def session(_path, _options, providers):
        asked.append(providers[0])
        raise RuntimeError('no such device')

    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: GPUS)
    monkeypatch.setattr(onnxruntime, 'InferenceSession', session)
    return asked


def load(folder, precision, provider='cpu'):
    """Load the tiny bundle's variant as if it were of another precision."""
    bundle = open_bundle(folder)
    variant = replace(bundle.manifest.variants[0], precision=precision)
    return load_engine(bundle, variant=variant, provider=provider)


def quantized_onnx(opset=13, ir_version=7):
    """Return the tiny network with its weights as int8 and its image as uint8 levels."""
    model = onnx.load_from_string(tiny_onnx())
    nodes, tensors = model.graph.node, {t.name: t for t in model.graph.initializer}
    weight = numpy_helper.to_array(tensors['weight'])
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    scale[scale == 0] = 1  # of black, whose weights are none
    levels = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    tensors['weight'].CopyFrom(numpy_helper.from_array(levels, 'weight'))
    constants = {'weight_scale': scale.astype(np.float32), 'weight_zero': np.zeros(14, np.int8),
                 'image_scale': np.array(1, np.float32), 'image_zero': np.array(0, np.uint8)}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    cast, transpose, convolution = nodes
    convolution.input[0], convolution.input[1] = 'pixels', 'weights'
    made = [cast, transpose, helper.make_node('QuantizeLinear', ['nchw', 'image_scale',
                                                                 'image_zero'], ['levels']),
            helper.make_node('DequantizeLinear', ['levels', 'image_scale', 'image_zero'],
                             ['pixels']),
            helper.make_node('DequantizeLinear', ['weight', 'weight_scale', 'weight_zero'],
                             ['weights'], axis=0), convolution]
    graph = helper.make_graph(made, 'tiny', model.graph.input, model.graph.output,
                              model.graph.initializer)
    quantized = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)])
    quantized.ir_version = ir_version
    return quantized.SerializeToString()


def write_int8(folder, source, content):
    """Write the tiny bundle with a file of its own as the int8 variant."""
    bundle = open_bundle(source)
    manifest = bundle.manifest
    golden = replace(manifest.golden, min_agreement={'int8': 0.75})
    variant = replace(manifest.variants[0], file='int8.onnx', precision='int8')
    files = {name: (source / name).read_bytes() for name in (golden.image, golden.mask)}
    write_bundle(folder, replace(manifest, variants=(variant,), golden=golden),
                 {**files, 'int8.onnx': content})
    return folder


@pytest.mark.parametrize('provider', ['cuda', 'tensorrt'])
def test_a_gpu_does_not_take_int8_and_leave_half_of_it_to_the_cpu(tmp_path, sessions, provider):
    folder = write_tiny_bundle(tmp_path / 'tiny')
    with pytest.raises(ConfigError, match=rf"engine\.provider: '{provider}' does not run 'int8' "
                       r'\(tiny\.onnx\).*set engine\.provider: cpu, or engine\.precision: '
                       'fp32 or fp16'):
        load(folder, 'int8', provider)
    assert sessions == []  # refused before anything was loaded


@pytest.mark.parametrize('provider', ['cpu', 'cuda', 'tensorrt'])
def test_a_precision_that_nothing_runs_is_named(tmp_path, sessions, provider):
    folder = write_tiny_bundle(tmp_path / 'tiny')
    with pytest.raises(ConfigError, match=r'engine\.precision: expected fp32.* tiny\.onnx is '
                       r'.int4.\W.*set engine\.precision to another variant'):
        load(folder, 'int4', provider)
    assert sessions == []


@pytest.mark.parametrize('provider, precision', [
    ('cpu', 'fp32'), ('cpu', 'fp16'), ('cpu', 'int8'), ('cuda', 'fp32'), ('cuda', 'fp16'),
    ('tensorrt', 'fp32'), ('tensorrt', 'fp16')])
def test_what_a_provider_runs_reaches_onnx_runtime(tmp_path, sessions, provider, precision):
    folder = write_tiny_bundle(tmp_path / 'tiny')
    with pytest.raises(BundleError, match='no such device'):
        load(folder, precision, provider)
    assert sessions == [{'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider',
                         'tensorrt': 'TensorrtExecutionProvider'}[provider]]


def test_an_int8_graph_runs_on_the_cpu(tmp_path):
    source = write_tiny_bundle(tmp_path / 'tiny')
    folder = write_int8(tmp_path / 'int8', source, quantized_onnx())
    segmenter = Segmenter.open(str(folder), threads=1)
    assert segmenter.engine.precision == 'int8'
    assert self_test(segmenter) > 0.75
    image_HWC, _ = read_golden(segmenter.bundle)
    plain = Segmenter.open(str(source), threads=1)
    assert (segmenter(image_HWC, 'bgr').mask_HW == plain(image_HWC, 'bgr').mask_HW).mean() > 0.97


@pytest.mark.parametrize('opset, ir_version', [(99, 8), (21, 99)])
def test_an_int8_graph_newer_than_this_onnx_runtime_says_so(tmp_path, opset, ir_version):
    folder = write_int8(tmp_path / 'new', write_tiny_bundle(tmp_path / 'tiny'),
                        quantized_onnx(opset, ir_version))
    with pytest.raises(BundleError, match=r'ONNX Runtime \S+ cannot load .*int8\.onnx.*export '
                       'the model for this version'):
        Segmenter.open(str(folder))


def test_operators_that_this_onnx_runtime_lacks_say_so(tmp_path):
    model = onnx.load_from_string(quantized_onnx())
    model.graph.node[2].op_type = 'QuantizeToFourBits'
    folder = write_int8(tmp_path / 'odd', write_tiny_bundle(tmp_path / 'tiny'),
                        model.SerializeToString())
    with pytest.raises(BundleError, match=r'cannot load .*QuantizeToFourBits'):
        Segmenter.open(str(folder))
