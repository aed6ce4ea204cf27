# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A variant whose precision an engine cannot compute is refused at load, with the way out."""
from __future__ import annotations

from dataclasses import replace

from evit_seg.core.bundle import open_bundle, read_golden, self_test
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.segmenter import Segmenter
import onnx
import onnxruntime
import pytest
from tiny_bundle import write_tiny_bundle
from tiny_int8 import quantized_onnx, write_int8

GPUS = ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider']


@pytest.fixture
def sessions(monkeypatch, tmp_path):
    """Pretend that GPUs are there; return the providers that sessions were asked for."""
    asked = []

    def session(_path, _options, *, providers, enable_fallback):
        asked.append(providers[0][0])
        raise RuntimeError('no such device')

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: GPUS)
    monkeypatch.setattr(onnxruntime, 'InferenceSession', session)
    return asked


def load(folder, precision, provider='cpu'):
    """Load the tiny bundle's variant as if it were of another precision."""
    bundle = open_bundle(folder)
    variant = replace(bundle.manifest.variants[0], precision=precision)
    return load_engine(bundle, variant=variant, provider=provider)


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
    assert set(sessions) == {{'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider',
                              'tensorrt': 'TensorrtExecutionProvider'}[provider]}


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
