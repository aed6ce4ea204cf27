# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime and OpenVINO answer alike, keep to their CPUs, and never stand in for another."""
from __future__ import annotations

from dataclasses import replace
import importlib.util
import subprocess
import sys

from engine_cases import answers_like_onnxruntime, outlives_its_file, threads_stay_on_their_cpu
from evit_seg.core.bundle import open_bundle, select_variant
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError, ConfigError, LabelMapMismatch
from evit_seg.core.segmenter import Segmenter
import pytest
from tiny_bundle import tiny_onnx, write_tiny_bundle
from tiny_int8 import quantized_onnx, write_int8

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec('openvino') is None,
    reason='needs openvino, which `make test` brings where a wheel exists')
ENGINES = ('onnxruntime', pytest.param('openvino', marks=needs_openvino))


@pytest.fixture
def folder(tmp_path):
    return write_tiny_bundle(tmp_path / 'tiny')


@pytest.mark.parametrize('engine', ENGINES)
def test_it_answers_like_onnx_runtime(folder, engine):
    answers_like_onnxruntime(folder, engine)


@pytest.mark.parametrize('engine', ENGINES)
def test_it_runs_int8(tmp_path, folder, engine):
    quantized = write_int8(tmp_path / 'int8', folder, quantized_onnx())
    answers_like_onnxruntime(quantized, engine, atol=0.05)


@pytest.mark.parametrize('engine', ENGINES)
def test_the_file_may_go_once_it_is_loaded(folder, engine):
    outlives_its_file(folder, engine)


@pytest.mark.parametrize('engine', ENGINES)
def test_threads_stay_on_their_cpu(folder, engine):
    threads_stay_on_their_cpu(folder, engine)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('content, error, said', [
    (tiny_onnx(hw=(128, 128)), BundleError, 'expected input uint8'),
    (tiny_onnx(stride=16), BundleError, r'expected logits 1x14x8x8 \(stride 8\)'),
    (tiny_onnx(num_classes=9), LabelMapMismatch, 'answers with 9 classes'),
    (b'not a model', BundleError, 'cannot load')])
def test_a_model_that_does_not_fit_is_refused(folder, engine, content, error, said):
    bundle = open_bundle(folder)
    (folder / 'tiny.onnx').write_bytes(content)
    with pytest.raises(error, match=said):
        load_engine(bundle, engine)


@needs_openvino
def test_openvino_says_what_really_runs_and_at_which_precision(folder):
    bundle = open_bundle(folder)
    engine = load_engine(bundle, 'openvino', threads=2)
    assert (engine.name, engine.provider, engine.precision) == ('openvino', 'cpu', 'fp32')
    compiled = engine._request.get_compiled_model()
    assert compiled.get_property('INFERENCE_PRECISION_HINT').to_string() == 'f32'
    assert compiled.get_property('INFERENCE_NUM_THREADS') == 2


@needs_openvino
def test_openvino_does_not_report_home(folder):
    check = f"""
import socket, sys, threading
def asked(*args, **options):
    print('NETWORK', args)
    raise OSError('no network')
socket.socket.connect = socket.getaddrinfo = socket.create_connection = asked
from evit_seg.core.segmenter import Segmenter
Segmenter.open({str(folder)!r}, engine='openvino').warm_up(1)
print(sorted(name for name, module in sys.modules.items()
             if name.startswith('openvino_telemetry') and module is not None),
      threading.active_count())
"""
    run = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == '[] 1' and 'NETWORK' not in run.stdout


@pytest.mark.parametrize('engine, provider, precision, said', [
    ('openvino', 'cuda', 'fp32', 'engine.provider: the engine openvino runs on the cpu, got '
                                 '.cuda.; set engine.provider: cpu'),
    ('openvino', 'cpu', 'fp16', r"openvino runs fp32 and int8 here, tiny\.onnx is 'fp16'"),
    ('torchscript', 'tensorrt', 'fp32', "torchscript runs on cpu or cuda, got 'tensorrt'"),
    ('torchscript', 'cpu', 'int8', r"torchscript runs fp32 and fp16, tiny\.onnx is 'int8'")])
def test_what_an_engine_cannot_do_is_refused_with_the_way_out(folder, engine, provider, precision,
                                                              said):
    bundle = open_bundle(folder)
    variant = replace(bundle.manifest.variants[0], precision=precision)
    with pytest.raises(ConfigError, match=said):
        load_engine(bundle, engine, variant=variant, provider=provider)


@pytest.mark.parametrize('engine, package, line', [
    ('onnxruntime', 'onnxruntime', 'pip install onnxruntime'),
    ('openvino', 'openvino', 'pip install openvino'),
    ('torchscript', 'torch', 'pip install torch')])
def test_a_missing_package_says_how_to_get_it(folder, monkeypatch, engine, package, line):
    monkeypatch.setitem(sys.modules, package, None)
    bundle = open_bundle(folder)
    with pytest.raises(ConfigError, match=f'engine {engine}: .*not installed; {line}'):
        load_engine(bundle, engine, variant=bundle.manifest.variants[0])


def test_openvino_reads_the_onnx_files_and_torchscript_does_not(folder):
    bundle = open_bundle(folder)
    assert select_variant(bundle, 'openvino') is bundle.manifest.variants[0]
    with pytest.raises(BundleError, match='has no variant torchscript; it holds onnxruntime'):
        select_variant(bundle, 'torchscript')


def test_no_engine_brings_another_ones_library(folder):
    check = ('import sys; from evit_seg.core.segmenter import Segmenter; '
             f'Segmenter.open({str(folder)!r}).warm_up(1); '
             "print(sorted({'torch', 'openvino', 'onnx'} & set(sys.modules)))")
    run = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == '[]'


@pytest.mark.parametrize('cpus, said', [
    ('x', "expected CPU numbers such as '0-2,5'"), ('2-1', 'expected CPU numbers'),
    ('0,', 'expected CPU numbers'), ('-1', 'expected CPU numbers'),
    ('0-999999999', 'expected CPU numbers'), ('4095', 'which this process may use, got .4095.'),
    ('0-4095', 'which this process may use, got .0-4095.')])
def test_cpus_that_are_not_there(folder, cpus, said):
    with pytest.raises(ConfigError, match=f'engine.cpus: .*{said}'):
        Segmenter(open_bundle(folder), load_engine(open_bundle(folder), cpus=cpus))
