# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What every engine can do, and how one is loaded; engine modules are imported on demand."""
from __future__ import annotations

from typing import FrozenSet, NamedTuple, Optional, Protocol, Tuple

from evit_seg.core.bundle import Bundle, select_variant
from evit_seg.core.cpu_pinning import on_cpus, parse_cpus
from evit_seg.core.errors import BundleError, ConfigError, LabelMapMismatch
from evit_seg.core.manifest import Variant
import numpy as np

ENGINES = ('onnxruntime', 'openvino', 'torchscript')


class CacheState(NamedTuple):
    """What became of an engine's cache, in words; empty where the engine keeps none."""

    text: str = ''
    failed: bool = False


class Engine(Protocol):
    """
    A loaded network; `provider` is the one really in use.

    cache: the compiled network that was found or built, for engines that keep one on disk.
    """

    name: str
    provider: str
    precision: str
    input_hw: Tuple[int, int]
    stride: int
    cache: CacheState

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) in the manifest's colour order to float32 logits (C, h, w)."""

    def close(self) -> None:
        """Free the network; the engine cannot be used afterwards."""


class PinnedEngine:
    """An engine whose threads, the caller's while it computes among them, stay on some CPUs."""

    def __init__(self, engine: Engine, cpus: FrozenSet[int]) -> None:
        self.name = engine.name
        self.provider = engine.provider
        self.precision = engine.precision
        self.input_hw = engine.input_hw
        self.stride = engine.stride
        self.cache = engine.cache
        self._engine = engine
        self._cpus = cpus

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) to float32 logits (C, h, w)."""
        with on_cpus(self._cpus):
            return self._engine.infer(image_HWC)

    def close(self) -> None:
        """Free the network."""
        self._engine.close()


def load_engine(bundle: Bundle, name: str = 'onnxruntime', *, variant: Optional[Variant] = None,
                threads: int = 0, provider: str = 'cpu', cpus: str = '',
                cache_dir: str = '') -> Engine:
    """
    Load a variant of a bundle, the first that fits when none is given.

    `threads` is the number of CPU threads (0: one for each of `cpus`, or all cores), `cpus` where
    they run ('0-2,5'; empty: anywhere), `cache_dir` the folder of compiled networks (empty:
    $XDG_CACHE_HOME/evit_seg or ~/.cache/evit_seg). ConfigError for an engine, a provider or a
    CPU that is not there; nothing else is taken in its place. LabelMapMismatch when the
    network's number of classes is not the label map's.
    """
    if name not in ENGINES:
        raise ConfigError(f'engine.name: there is no engine {name!r}; there are {ENGINES}')
    variant = variant or select_variant(bundle, name)
    pinned = parse_cpus(cpus)
    with on_cpus(pinned):
        engine = _load(bundle, name, variant, threads or len(pinned), provider, cache_dir)
    return PinnedEngine(engine, pinned) if pinned else engine


def _load(bundle: Bundle, name: str, variant: Variant, threads: int, provider: str,
          cache_dir: str) -> Engine:
    if name == 'openvino':
        from evit_seg.core.engine_openvino import OpenVinoEngine
        return OpenVinoEngine(bundle, variant, threads=threads, provider=provider)
    if name == 'torchscript':
        from evit_seg.core.engine_torch import TorchEngine
        return TorchEngine(bundle, variant, threads=threads, provider=provider)
    from evit_seg.core.engine_onnx import OnnxEngine
    return OnnxEngine(bundle, variant, threads=threads, provider=provider, cache_dir=cache_dir)


def check_shapes(variant: Variant, num_classes: int, dtype: str, input_shape: object,
                 output_shape: object) -> None:
    """
    Hold a network's shapes against the manifest; None stands for one that is not known.

    BundleError for another size, LabelMapMismatch for another number of classes.
    """
    height, width, stride = variant.height, variant.width, variant.stride
    wanted = [1, height, width, 3]
    if input_shape is not None and (dtype != 'uint8' or input_shape != wanted):
        raise BundleError(f'{variant.file}: expected input uint8 {wanted}, got {dtype} '
                          f'{input_shape}')
    grid = [height // stride, width // stride]
    if not isinstance(output_shape, list) or len(output_shape) != 4 or output_shape[2:] != grid:
        raise BundleError(f'{variant.file}: expected logits 1x{num_classes}x{grid[0]}x{grid[1]} '
                          f'(stride {stride}), got {output_shape}')
    if output_shape[1] != num_classes:
        raise LabelMapMismatch(
            f'{variant.file} answers with {output_shape[1]} classes, the label map of its '
            f'manifest has {num_classes}: they do not belong together')
