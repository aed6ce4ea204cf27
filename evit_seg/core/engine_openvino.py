# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO behind the Engine protocol: the bundle's ONNX variants on Intel's and ARM's CPUs."""
from __future__ import annotations

from pathlib import Path
import sys
from typing import Any, Optional

from evit_seg.core.bundle import Bundle
from evit_seg.core.engine import CacheState, check_shapes
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.manifest import Variant
import numpy as np

PRECISIONS = ('fp32', 'int8')


class OpenVinoEngine:
    """A compiled model with its input and output shapes checked against the manifest."""

    name = 'openvino'
    cache = CacheState()

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int = 0,
                 provider: str = 'cpu') -> None:
        self.precision = variant.precision
        self.input_hw = variant.input_hw
        self.stride = variant.stride
        if provider != 'cpu':
            raise ConfigError(f'engine.provider: the engine openvino runs on the cpu, got '
                              f'{provider!r}; set engine.provider: cpu')
        if variant.precision not in PRECISIONS:
            raise ConfigError(f'engine.precision: the engine openvino runs '
                              f'{" and ".join(PRECISIONS)} here, {variant.file} is '
                              f'{variant.precision!r}; set engine.precision to another variant '
                              'of the bundle')
        path = bundle.folder / variant.file
        compiled = _compile(path, threads)
        self._output = _check_interface(compiled, variant, len(bundle.manifest.label_map))
        self.provider = ' and '.join(compiled.get_property('EXECUTION_DEVICES')).lower()
        self._request: Optional[Any] = compiled.create_infer_request()

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) to float32 logits (C, h, w)."""
        if self._request is None:
            raise BundleError('the engine was closed; load it again')
        logits_NCHW = self._request.infer([image_HWC[None]])[self._output]
        logits_CHW: np.ndarray = logits_NCHW[0]
        return logits_CHW

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None


def _import_openvino() -> Any:
    """
    Import the package without its telemetry.

    It reports every import to its maker over the network, where `openvino_telemetry`, which pip
    installs beside it, can be imported; a drone does not.
    """
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ConfigError('engine openvino: the Python package is not installed; '
                          'pip install openvino') from error
    return openvino


def _compile(path: Path, threads: int) -> Any:
    openvino = _import_openvino()
    settings = {
        'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': 1,
        # Left to itself it computes fp32 in half that where the CPU has bfloat16 or fp16.
        'INFERENCE_PRECISION_HINT': 'f32',
        # Left to itself it moves the caller's thread to a core of its choice, for good.
        'ENABLE_CPU_PINNING': False,
    }
    if threads:
        settings['INFERENCE_NUM_THREADS'] = threads
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(path), 'CPU', settings)
    except Exception as error:  # OpenVINO raises RuntimeError and whatever its plugins raise
        raise BundleError(f'OpenVINO {openvino.__version__} cannot load {path}: '
                          f'{str(error).strip()}; set engine.name: onnxruntime, or export the '
                          'model again (offline_train export --opset)') from error


def _check_interface(compiled: Any, variant: Variant, num_classes: int) -> Any:
    """Hold the model's input and output against the manifest; returns the output."""
    inputs, outputs = compiled.inputs, compiled.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(f'{variant.file}: expected one input and one output, got {len(inputs)} '
                          f'and {len(outputs)}')
    dtype = np.dtype(inputs[0].element_type.to_dtype()).name
    check_shapes(variant, num_classes, dtype, _shape(inputs[0]), _shape(outputs[0]))
    return outputs[0]


def _shape(port: Any) -> object:
    """Return a shape as a list of sizes; in OpenVINO's words where one of them is not fixed."""
    shape = port.partial_shape
    return list(shape.to_shape()) if shape.is_static else str(shape)
