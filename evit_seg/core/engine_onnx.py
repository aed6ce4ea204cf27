# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime behind the Engine protocol."""
from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, TYPE_CHECKING

from evit_seg.core.bundle import Bundle
from evit_seg.core.errors import BundleError, ConfigError, LabelMapMismatch
from evit_seg.core.manifest import Variant
import numpy as np

if TYPE_CHECKING:
    import onnxruntime

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


class OnnxEngine:
    """A session of ONNX Runtime with its input and output shapes checked against the manifest."""

    name = 'onnxruntime'

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int = 0,
                 provider: str = 'cpu') -> None:
        self.precision = variant.precision
        self.input_hw = variant.input_hw
        self.stride = variant.stride
        path = bundle.folder / variant.file
        _check_precision(variant, provider)
        self._session: Optional[onnxruntime.InferenceSession] = _open(path, threads, provider)
        used = self._session.get_providers()
        if used[0] != PROVIDERS[provider]:
            raise ConfigError(f'engine.provider: {provider!r} was asked for, ONNX Runtime took '
                              f'{used[0]}; see its log above, or set engine.provider: cpu')
        self.provider = provider
        self._input_name = self._check_shapes(path.name, len(bundle.manifest.label_map))

    def _check_shapes(self, file: str, num_classes: int) -> str:
        if self._session is None:
            raise BundleError(f'{file}: the engine is closed')
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BundleError(f'{file}: expected one input and one output, got {len(inputs)} and '
                              f'{len(outputs)}')
        height, width = self.input_hw
        wanted = [1, height, width, 3]
        if inputs[0].shape != wanted or inputs[0].type != 'tensor(uint8)':
            raise BundleError(f'{file}: expected input uint8 {wanted}, got {inputs[0].type} '
                              f'{inputs[0].shape}')
        shape = outputs[0].shape
        if len(shape) != 4 or shape[2:] != [height // self.stride, width // self.stride]:
            raise BundleError(f'{file}: expected logits 1x{num_classes}x{height // self.stride}x'
                              f'{width // self.stride} (stride {self.stride}), got {shape}')
        if shape[1] != num_classes:
            raise LabelMapMismatch(f'{file} answers with {shape[1]} classes, the label map of its '
                                   f'manifest has {num_classes}: they do not belong together')
        return str(inputs[0].name)

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) to float32 logits (C, h, w)."""
        if self._session is None:
            raise BundleError('the engine was closed; load it again')
        logits_NCHW = self._session.run(None, {self._input_name: image_HWC[None]})[0]
        logits_CHW: np.ndarray = logits_NCHW[0]
        return logits_CHW if logits_CHW.dtype == np.float32 else logits_CHW.astype(np.float32)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _check_precision(variant: Variant, provider: str) -> None:
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


def _open(path: Any, threads: int, provider: str) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError('engine onnxruntime: the Python package is not installed; '
                          'pip install onnxruntime') from error
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise ConfigError(f'engine.provider: this ONNX Runtime has no {PROVIDERS[provider]}, only '
                          f'{", ".join(available)}; install the build that has it, or set cpu')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle workers that spin would take the cores from the camera driver and the autopilot.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[PROVIDERS[provider]])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BundleError(f'ONNX Runtime {onnxruntime.__version__} cannot load {path}: '
                          f'{str(error).strip()}; export the model for this version '
                          '(offline_train export --opset)') from error
