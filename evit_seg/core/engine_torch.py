# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
TorchScript behind the Engine protocol, as the paper measured its networks.

A TorchScript file is a program: unlike an ONNX file it may do whatever torch can. So it is opened
only where `engine.name: torchscript` asks for it, and a bundle that holds one is to be trusted
like any other program.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional
import warnings

from evit_seg.core.bundle import Bundle
from evit_seg.core.engine import CacheState, check_shapes
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.manifest import Variant
import numpy as np

DEVICES = ('cpu', 'cuda')
PRECISIONS = ('fp32', 'fp16')


class TorchEngine:
    """A loaded TorchScript program whose answer to one grey frame fits the manifest."""

    name = 'torchscript'
    cache = CacheState()

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int = 0,
                 provider: str = 'cpu') -> None:
        self.precision = variant.precision
        self.input_hw = variant.input_hw
        self.stride = variant.stride
        if provider not in DEVICES:
            raise ConfigError(f'engine.provider: the engine torchscript runs on '
                              f'{" or ".join(DEVICES)}, got {provider!r}')
        if variant.precision not in PRECISIONS:
            raise ConfigError(f'engine.precision: the engine torchscript runs '
                              f'{" and ".join(PRECISIONS)}, {variant.file} is '
                              f'{variant.precision!r}; set engine.precision to another variant '
                              'of the bundle')
        self._torch = _import_torch(provider)
        self._device = provider
        if threads:
            self._torch.set_num_threads(threads)  # of the process: torch has one setting for all
        self._module: Optional[Any] = _open(self._torch, bundle.folder / variant.file, provider)
        self.provider = self._try(variant, len(bundle.manifest.label_map))

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) to float32 logits (C, h, w)."""
        if self._module is None:
            raise BundleError('the engine was closed; load it again')
        logits_CHW: np.ndarray = self._run(image_HWC).float().cpu().numpy()[0]
        return logits_CHW

    def close(self) -> None:
        """Free the program."""
        self._module = None

    def _run(self, image_HWC: np.ndarray) -> Any:
        torch = self._torch
        # torch takes no negative strides and warns of read-only memory, which it only reads.
        image_NHWC = np.require(image_HWC[None], requirements=('C', 'W'))
        with torch.inference_mode():
            return self._module(torch.from_numpy(image_NHWC).to(self._device))  # type: ignore

    def _try(self, variant: Variant, num_classes: int) -> str:
        """Run a grey frame, since the file tells no shapes; returns the device that answered."""
        try:
            answer = self._run(np.full((*self.input_hw, 3), 127, np.uint8))
        except (RuntimeError, NotImplementedError) as error:
            if self.precision == 'fp16' and self._device == 'cpu':
                raise ConfigError(
                    f'engine.precision: torch {self._torch.__version__} cannot compute fp16 '
                    f'({variant.file}) on this CPU; set engine.precision: fp32, or '
                    f'engine.provider: cuda: {_last_line(error)}') from error
            raise BundleError(f'{variant.file} failed on a frame of {self.input_hw[0]}x'
                              f'{self.input_hw[1]}: {_last_line(error)}; export it again '
                              '(offline_train export --torchscript)') from error
        if not isinstance(answer, self._torch.Tensor):
            raise BundleError(f'{variant.file}: expected one tensor of logits, got '
                              f'{type(answer).__name__}')
        check_shapes(variant, num_classes, 'uint8', None, list(answer.shape))
        return str(answer.device)


def _import_torch(provider: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ConfigError('engine torchscript: the Python package torch is not installed; '
                          'pip install torch') from error
    if provider == 'cuda' and not torch.cuda.is_available():
        raise ConfigError(f'engine.provider: torch {torch.__version__} finds no CUDA device here; '
                          'set engine.provider: cpu, or install the build for this CUDA')
    return torch


def _open(torch: Any, path: Path, device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)  # deprecated, and still asked for
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise BundleError(f'torch {torch.__version__} cannot load {path}: {_last_line(error)}; '
                          'export it for this version (offline_train export --torchscript)'
                          ) from error


def _last_line(error: Exception) -> str:
    """Return what went wrong without the program's listing that torch puts before it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
