# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Frame in, class-id mask out: the one call that the node, the replay and the training share."""
from __future__ import annotations

from dataclasses import dataclass
import time
from typing import Callable, Dict, Optional, Tuple

from evit_seg.core.bundle import Bundle, find_bundle, open_bundle, select_variant
from evit_seg.core.engine import Engine, load_engine
from evit_seg.core.errors import BundleError, LabelMapMismatch
from evit_seg.core.mask import confidence as grid_confidence
from evit_seg.core.mask import upscale_argmax
from evit_seg.core.preprocess import Geometry, preprocess
import numpy as np


@dataclass(frozen=True)
class SegResult:
    """
    What one frame gave.

    mask_HW: uint8 class ids, plain argmax, never 255. confidence_HW: uint8, 255 is certain, None
    unless asked for. logits_CHW: float32 at the network's grid. stage_ms: milliseconds of `pre`,
    `infer` and `post`.
    """

    mask_HW: np.ndarray
    confidence_HW: Optional[np.ndarray]
    logits_CHW: np.ndarray
    geometry: Geometry
    stage_ms: Dict[str, float]


class Segmenter:
    """A bundle and its engine; not thread-safe: one frame at a time."""

    def __init__(self, bundle: Bundle, engine: Engine,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.bundle = bundle
        self.engine = engine
        self.manifest = bundle.manifest
        self.label_map = bundle.manifest.label_map
        self._clock = clock

    @classmethod
    def open(cls, name_or_path: str, *,  # noqa: A003
             engine: str = 'onnxruntime', threads: int = 0,
             provider: str = 'cpu', precision: Optional[str] = None,
             height: Optional[int] = None) -> Segmenter:
        """Verify a bundle and load its engine; see `open_bundle` and `load_engine` for errors."""
        bundle = open_bundle(find_bundle(str(name_or_path)))
        variant = select_variant(bundle, engine, precision=precision, height=height)
        return cls(bundle, load_engine(bundle, engine, variant=variant, threads=threads,
                                       provider=provider))

    def __call__(self, image_HWC: np.ndarray, colour: str = 'rgb', *,
                 mask_hw: Optional[Tuple[int, int]] = None,
                 confidence: bool = False) -> SegResult:
        """
        Segment one frame.

        image_HWC: uint8 (H, W, 3), `colour` 'rgb' or 'bgr'. mask_hw: (height, width) of the
        mask, the frame's own when None. LabelMapMismatch when the engine answers with another
        number of classes than the label map has; BundleError when its grid has another shape.
        """
        start_s = self._clock()
        spec = self.manifest.input
        network_HWC, geometry = preprocess(
            image_HWC, colour, input_hw=self.engine.input_hw, stride=self.engine.stride,
            resize=spec.resize, colour_wanted=spec.colour)
        ready_s = self._clock()
        logits_CHW = self.engine.infer(network_HWC)
        answered_s = self._clock()
        self._check(logits_CHW, geometry)
        out_hw = mask_hw or geometry.source_hw
        mask_HW = upscale_argmax(logits_CHW, geometry, out_hw)
        confidence_HW = grid_confidence(logits_CHW, geometry, out_hw, self.manifest.temperature) \
            if confidence else None
        end_s = self._clock()
        stage_ms = {'pre': (ready_s - start_s) * 1e3, 'infer': (answered_s - ready_s) * 1e3,
                    'post': (end_s - answered_s) * 1e3}
        return SegResult(mask_HW, confidence_HW, logits_CHW, geometry, stage_ms)

    def _check(self, logits_CHW: np.ndarray, geometry: Geometry) -> None:
        if logits_CHW.ndim != 3 or logits_CHW.shape[1:] != geometry.grid_hw:
            raise BundleError(f'expected logits of (classes, {geometry.grid_hw[0]}, '
                              f'{geometry.grid_hw[1]}), the engine gave {logits_CHW.shape}')
        if logits_CHW.shape[0] != len(self.label_map):
            raise LabelMapMismatch(f'the engine answers with {logits_CHW.shape[0]} classes, the '
                                   f'label map has {len(self.label_map)}')

    def warm_up(self, runs: int = 3) -> float:
        """
        Run grey frames so that the first real one does not pay for allocations.

        Returns the seconds that the slowest one took.
        """
        grey_HWC = np.full((*self.engine.input_hw, 3), 127, np.uint8)
        return max(sum(self(grey_HWC).stage_ms.values()) for _ in range(runs)) / 1e3

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()
