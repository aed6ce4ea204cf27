# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime behind the Engine protocol."""
from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple, TYPE_CHECKING

from evit_seg.core.bundle import Bundle
from evit_seg.core.engine import CacheState, check_shapes
from evit_seg.core.engine_cache import open_cached
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.manifest import Variant
from evit_seg.core.onnx_providers import (
    check_precision,
    ENGINE_BYTES,
    ENGINE_BYTES_PER_MODEL_BYTE,
    provider_list,
    PROVIDERS,
    tensorrt_facts,
)
import numpy as np

if TYPE_CHECKING:
    import onnxruntime


class OnnxEngine:
    """A session of ONNX Runtime with its input and output shapes checked against the manifest."""

    name = 'onnxruntime'

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int = 0,
                 provider: str = 'cpu', cache_dir: str = '') -> None:
        self.precision = variant.precision
        self.input_hw = variant.input_hw
        self.stride = variant.stride
        path = bundle.folder / variant.file
        check_precision(variant, provider)
        _check_provider(provider)
        session, self.cache = _open(path, variant, threads, provider, cache_dir)
        used = session.get_providers()
        if used[0] != PROVIDERS[provider]:
            raise ConfigError(f'engine.provider: {provider!r} was asked for, ONNX Runtime took '
                              f'{used[0]}; see its log above, or set engine.provider: cpu')
        names = {registered: name for name, registered in PROVIDERS.items()}
        # The CPU is registered everywhere; it may not take part where it was not asked for.
        self.provider = ' and '.join(names[name] for name in used
                                     if names.get(name, 'cpu') != 'cpu') or 'cpu'
        self._input_name = _check_interface(session, variant, len(bundle.manifest.label_map))
        self._session: Optional[onnxruntime.InferenceSession] = session

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) to float32 logits (C, h, w)."""
        session = self._session
        if session is None:
            raise BundleError('the engine was closed; load it again')
        logits_NCHW = session.run(None, {self._input_name: image_HWC[None]})[0]
        logits_CHW: np.ndarray = logits_NCHW[0]
        return logits_CHW if logits_CHW.dtype == np.float32 else logits_CHW.astype(np.float32)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _check_provider(provider: str) -> None:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError('engine onnxruntime: the Python package is not installed; '
                          'pip install onnxruntime') from error
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise ConfigError(f'engine.provider: this ONNX Runtime has no {PROVIDERS[provider]}, only '
                          f'{", ".join(available)}; install the build that has it, or set cpu')


def _open(path: Path, variant: Variant, threads: int, provider: str, cache_dir: str
          ) -> Tuple[onnxruntime.InferenceSession, CacheState]:
    import onnxruntime

    def session(cache: Optional[Path]) -> onnxruntime.InferenceSession:
        return _session(path, variant, threads, provider, cache)

    if provider != 'tensorrt':
        return session(None), CacheState()
    facts = tensorrt_facts(variant, onnxruntime.__version__)
    return open_cached(cache_dir, facts,
                       ENGINE_BYTES + ENGINE_BYTES_PER_MODEL_BYTE * variant.bytes, session)


def _session(path: Path, variant: Variant, threads: int, provider: str,
             cache: Optional[Path]) -> onnxruntime.InferenceSession:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle workers that spin would take the cores from the camera driver and the autopilot.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    if provider != 'cpu':
        # Nodes that the GPU does not take are an error, not a silent half of the network.
        options.add_session_config_entry('session.disable_cpu_ep_fallback', '1')
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, enable_fallback=0,
            providers=provider_list(provider, variant.precision, onnxruntime.__version__, cache))
        # Else the CPU would take a failing GPU's place, even between two frames; 1.17 knows this
        # call and not the argument.
        session.disable_fallback()
        return session
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BundleError(f'ONNX Runtime {onnxruntime.__version__} cannot load {path}: '
                          f'{str(error).strip()}; export the model for this version '
                          '(offline_train export --opset)') from error


def _check_interface(session: onnxruntime.InferenceSession, variant: Variant,
                     num_classes: int) -> str:
    """Hold the session's input and output against the manifest; returns the input's name."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(f'{variant.file}: expected one input and one output, got {len(inputs)} '
                          f'and {len(outputs)}')
    dtype = str(inputs[0].type).replace('tensor(', '').replace(')', '')
    check_shapes(variant, num_classes, dtype, inputs[0].shape, outputs[0].shape)
    return str(inputs[0].name)
