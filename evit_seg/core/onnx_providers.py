# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
ONNX Runtime's execution providers: what each computes, its options, what its cache depends on.

Options: onnxruntime.ai/docs/execution-providers, pages of CUDA and TensorRT.
"""
from __future__ import annotations

import ctypes
from pathlib import Path
import re
from typing import Callable, Dict, List, Optional, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.manifest import Variant

PROVIDERS: Dict[str, str] = {
    'cpu': 'CPUExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'tensorrt': 'TensorrtExecutionProvider',
}
RUNS: Dict[str, Tuple[str, ...]] = {
    'cpu': ('fp32', 'int8', 'fp16'),
    'cuda': ('fp32', 'fp16'),
    'tensorrt': ('fp32', 'fp16'),
}
"""
Precisions a provider computes itself, all of the graph.

cpu computes most of a half graph in single precision: right, no faster than fp32. cuda has no
integer kernels and leaves parts of an int8 graph to the CPU without a word; TensorRT takes int8
only where every zero point is 0, ours are not.
"""

ENGINE_BYTES_PER_MODEL_BYTE = 4
ENGINE_BYTES = 64 << 20
"""Room on the disk that a compiled engine is taken to need, beside a multiple of the model's."""

ProviderList = List[Tuple[str, Dict[str, str]]]
Library = Callable[[str], ctypes.CDLL]
"""`ctypes.CDLL`, or what a test puts in its place."""


def check_precision(variant: Variant, provider: str) -> None:
    """Raise ConfigError for a precision that the provider would not compute itself."""
    precision, file = variant.precision, variant.file
    if provider not in RUNS:
        raise ConfigError(f'engine.provider: there is no {provider!r}; there are '
                          f'{", ".join(PROVIDERS)}')
    if precision in RUNS[provider]:
        return
    able = [name for name, precisions in RUNS.items() if precision in precisions]
    if not able:
        raise ConfigError(f'engine.precision: expected {", ".join(RUNS[provider])}, {file} is '
                          f'{precision!r}, which ONNX Runtime does not run here; set '
                          'engine.precision to another variant of the bundle, or export one')
    raise ConfigError(f'engine.provider: {provider!r} does not run {precision!r} ({file}), it '
                      f'would leave parts of it to the CPU or refuse it; set engine.provider: '
                      f'{able[0]}, or engine.precision: {" or ".join(RUNS[provider])}')


def provider_list(provider: str, precision: str, onnxruntime_version: str,
                  cache: Optional[Path] = None) -> ProviderList:
    """
    Return the providers of a session with their options, the one asked for first.

    TensorRT stands before CUDA, which takes the cast of the uint8 image that TensorRT refuses.
    `cache` is the folder of TensorRT's engine, None for none. An option that ONNX Runtime does
    not know is an error there, so a newer one depends on `onnxruntime_version`.
    """
    if provider == 'cpu':
        return [(PROVIDERS['cpu'], {})]
    # Its defaults try every algorithm at the first frame of a shape, which takes seconds, and
    # double the memory they hold, which on a Jetson is the camera's too.
    cuda = (PROVIDERS['cuda'], {'cudnn_conv_algo_search': 'HEURISTIC',
                                'arena_extend_strategy': 'kSameAsRequested'})
    if _release(onnxruntime_version) >= (1, 18):
        # What calls itself fp32 shall not round to 10 bits; fp16 is there for who wants speed.
        cuda[1]['use_tf32'] = '0'
    if provider == 'cuda':
        return [cuda]
    options = {'trt_fp16_enable': str(int(precision == 'fp16')), 'trt_int8_enable': '0',
               'trt_engine_cache_enable': str(int(cache is not None))}
    if cache is not None:
        options['trt_engine_cache_path'] = str(cache)
    return [(PROVIDERS['tensorrt'], options), cuda]


def _release(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r'\d+', version)[:2])


def tensorrt_facts(variant: Variant, onnxruntime_version: str,
                   library: Library = ctypes.CDLL) -> Dict[str, str]:
    """
    Return all that an engine of TensorRT depends on; 'unknown' for what is not to be learned.

    TensorRT itself refuses an engine of another version or another kind of GPU, and a cache that
    it refuses is built again: an unknown costs time, never a wrong answer.
    """
    return {'provider': 'tensorrt', 'model': variant.sha256, 'precision': variant.precision,
            'shape': f'1x{variant.height}x{variant.width}x3', 'onnxruntime': onnxruntime_version,
            'tensorrt': tensorrt_version(library), 'device': gpu_name(library)}


def tensorrt_version(library: Library = ctypes.CDLL) -> str:
    """Return the version of libnvinfer as its own number, such as '100300' for 10.3.0."""
    for name in ('libnvinfer.so.10', 'libnvinfer.so.8', 'libnvinfer.so'):
        try:
            return str(library(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
    return 'unknown'


def gpu_name(library: Library = ctypes.CDLL) -> str:
    """Return the name of the first GPU and its compute capability, such as 'Orin 8.7'."""
    try:
        cuda = library('libcuda.so.1')
        device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        steps = (cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0),
                 cuda.cuDeviceGetName(text, 256, device),
                 cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),  # CUDA's enumeration
                 cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device))
    except (OSError, AttributeError):
        return 'unknown'
    if any(steps):
        return 'unknown'
    return f'{text.value.decode(errors="replace")} {major.value}.{minor.value}'
