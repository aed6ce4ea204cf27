# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What every engine can do, and how one is loaded; engine modules are imported on demand."""
from __future__ import annotations

from typing import Optional, Protocol, Tuple

from evit_seg.core.bundle import Bundle, select_variant
from evit_seg.core.errors import ConfigError
from evit_seg.core.manifest import Variant
import numpy as np

ENGINES = ('onnxruntime',)


class Engine(Protocol):
    """A loaded network; `provider` is the one really in use."""

    name: str
    provider: str
    precision: str
    input_hw: Tuple[int, int]
    stride: int

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        """Map uint8 (H, W, 3) in the manifest's colour order to float32 logits (C, h, w)."""

    def close(self) -> None:
        """Free the network; the engine cannot be used afterwards."""


def load_engine(bundle: Bundle, name: str = 'onnxruntime', *, variant: Optional[Variant] = None,
                threads: int = 0, provider: str = 'cpu') -> Engine:
    """
    Load a variant of a bundle, the first that fits when none is given.

    `threads` is the number of CPU threads (0: all cores). ConfigError for an engine or a
    provider that is not there; nothing else is taken in its place. LabelMapMismatch when the
    network's number of classes is not the label map's.
    """
    if name not in ENGINES:
        raise ConfigError(f'engine.name: there is no engine {name!r}; there are {ENGINES}')
    from evit_seg.core.engine_onnx import OnnxEngine
    return OnnxEngine(bundle, variant or select_variant(bundle, name),
                      threads=threads, provider=provider)
