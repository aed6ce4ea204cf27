# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""CUDA and TensorRT through ONNX Runtime, without either: options, cache, and no stand-in."""
from __future__ import annotations

import ctypes
from dataclasses import replace
from types import SimpleNamespace

from evit_seg.core.bundle import open_bundle
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.onnx_providers import (
    gpu_name,
    provider_list,
    tensorrt_facts,
    tensorrt_version,
)
import onnxruntime
import pytest
from tiny_bundle import write_tiny_bundle

TRT, CUDA, CPU = 'TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'


class Session:
    """Stands for a session on a GPU that is not here; TensorRT's writes its engine."""

    made = []
    takes = (TRT, CUDA, CPU)
    fails = ''

    def __init__(self, path, options, *, providers, enable_fallback):
        self.made.append(self)
        self.options, self.providers, self.enable_fallback = options, providers, enable_fallback
        cache = dict(providers[0][1]).get('trt_engine_cache_path')
        self.fallback = True
        if self.fails:
            raise RuntimeError(self.fails)
        if cache is not None:
            with open(f'{cache}/engine.engine', 'ab') as stream:
                stream.write(b'plan')

    def disable_fallback(self):
        self.fallback = False

    def get_providers(self):
        asked = [name for name, _ in self.providers]
        return [name for name in self.takes if name in asked or name == CPU]

    def get_inputs(self):
        return [SimpleNamespace(name='image', type='tensor(uint8)', shape=[1, 64, 64, 3])]

    def get_outputs(self):
        return [SimpleNamespace(name='logits', type='tensor(float)', shape=[1, 14, 8, 8])]


@pytest.fixture
def sessions(monkeypatch):
    made = type('Here', (Session,), {'made': []})
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: [TRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, 'InferenceSession', made)
    return made


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_tiny_bundle(tmp_path / 'tiny'))


@pytest.mark.parametrize('provider, asked, said', [
    ('cpu', [CPU], 'cpu'), ('cuda', [CUDA], 'cuda'),
    ('tensorrt', [TRT, CUDA], 'tensorrt and cuda')])
def test_a_session_is_asked_for_what_was_set_and_may_not_go_elsewhere(
        bundle, sessions, tmp_path, provider, asked, said):
    engine = load_engine(bundle, provider=provider, cache_dir=str(tmp_path / 'cache'))
    (session,) = sessions.made
    assert [name for name, _ in session.providers] == asked
    assert engine.provider == said
    assert session.enable_fallback == 0 and session.fallback is False
    wanted = '' if provider == 'cpu' else '1'
    with_key = session.options.get_session_config_entry
    if wanted:
        assert with_key('session.disable_cpu_ep_fallback') == wanted
    else:
        with pytest.raises(RuntimeError):
            with_key('session.disable_cpu_ep_fallback')


def test_a_gpu_that_onnx_runtime_did_not_take_is_an_error(bundle, sessions):
    sessions.takes = (CPU,)
    with pytest.raises(ConfigError, match="'cuda' was asked for, ONNX Runtime took CPUExecution"):
        load_engine(bundle, provider='cuda')


def test_a_gpu_that_fails_is_an_error(bundle, sessions):
    sessions.fails = 'CUDA failure 999'
    with pytest.raises(BundleError, match='CUDA failure 999'):
        load_engine(bundle, provider='cuda')
    assert len(sessions.made) == 1  # and not a second one, elsewhere


def test_options():
    assert provider_list('cpu', 'int8', '1.31.0') == [(CPU, {})]
    ((name, options),) = provider_list('cuda', 'fp16', '1.17.3')
    assert name == CUDA and options == {
        'cudnn_conv_algo_search': 'HEURISTIC', 'arena_extend_strategy': 'kSameAsRequested'}
    for newer in ('1.18.0', '1.22.1+cu126', '2.0'):
        assert provider_list('cuda', 'fp32', newer)[0][1] == {**options, 'use_tf32': '0'}
    assert provider_list('tensorrt', 'fp32', '1.22.0')[0] == (TRT, {
        'trt_fp16_enable': '0', 'trt_int8_enable': '0', 'trt_engine_cache_enable': '0'})
    assert provider_list('tensorrt', 'fp16', '1.22.0', '/cache')[0] == (TRT, {
        'trt_fp16_enable': '1', 'trt_int8_enable': '0', 'trt_engine_cache_enable': '1',
        'trt_engine_cache_path': '/cache'})


def test_tensorrts_engine_is_kept_and_found(bundle, sessions, tmp_path):
    first = load_engine(bundle, provider='tensorrt', cache_dir=str(tmp_path / 'cache'))
    assert first.cache.text.startswith(f'built in {tmp_path}/cache/') and not first.cache.failed
    (folder,) = (tmp_path / 'cache').iterdir()
    second = load_engine(bundle, provider='tensorrt', cache_dir=str(tmp_path / 'cache'))
    assert second.cache == (f'found in {folder}', False)
    paths = [dict(session.providers[0][1])['trt_engine_cache_path'] for session in sessions.made]
    assert paths[0] != str(folder) == paths[1]


def test_without_room_for_the_cache_tensorrt_runs_all_the_same_and_says_so(bundle, sessions):
    engine = load_engine(bundle, provider='tensorrt', cache_dir='/dev/null/cache')
    assert engine.provider == 'tensorrt and cuda'
    assert engine.cache.failed and 'Not a directory' in engine.cache.text
    (session,) = sessions.made
    assert dict(session.providers[0][1])['trt_engine_cache_enable'] == '0'


@pytest.mark.parametrize('provider', ['cpu', 'cuda'])
def test_the_others_keep_no_cache(bundle, sessions, tmp_path, provider):
    engine = load_engine(bundle, provider=provider, cache_dir=str(tmp_path / 'cache'))
    assert engine.cache == ('', False) and not (tmp_path / 'cache').exists()


class Cuda:
    """The five calls of libcuda that name a GPU."""

    def __init__(self, result=0):
        self._result = result

    def cuInit(self, flags):  # noqa: N802  the library's own name
        return self._result

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        return 0

    def cuDeviceGetName(self, text, size, device):  # noqa: N802
        text.value = b'Orin'
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def machine(tensorrt='libnvinfer.so.10', cuda=None):
    def library(name):
        if name == tensorrt:
            return SimpleNamespace(getInferLibVersion=lambda: 100300)
        if name == 'libcuda.so.1' and cuda is not None:
            return cuda
        raise OSError(name)
    return library


def test_what_an_engine_depends_on(bundle):
    variant = bundle.manifest.variants[0]
    facts = tensorrt_facts(variant, '1.22.0', machine(cuda=Cuda()))
    assert facts == {'provider': 'tensorrt', 'model': variant.sha256, 'precision': 'fp32',
                     'shape': '1x64x64x3', 'onnxruntime': '1.22.0', 'tensorrt': '100300',
                     'device': 'Orin 8.7'}
    others = [tensorrt_facts(replace(variant, **change), '1.22.0', machine(cuda=Cuda()))
              for change in ({'sha256': 'b'}, {'precision': 'fp16'}, {'width': 128})]
    assert all(other != facts for other in others)


def test_what_is_not_to_be_learned_is_unknown():
    assert tensorrt_version(machine('libnvinfer.so.8')) == '100300'
    assert tensorrt_version(machine('none')) == 'unknown'
    assert gpu_name(machine()) == 'unknown'
    assert gpu_name(machine(cuda=Cuda(result=100))) == 'unknown'  # CUDA_ERROR_NO_DEVICE
    assert isinstance(tensorrt_version(ctypes.CDLL), str)
    assert isinstance(gpu_name(ctypes.CDLL), str)
