# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How sure the network was of a frame as a whole."""
from __future__ import annotations

from evit_seg.replay.observer import SeenFrame
import numpy as np


class Certainty:
    """
    The mean over a frame of max softmax(logits / T), 0 to 1.

    Of the grid cells in the picture, not in the padding. Several observers may ask for the same
    frame; it is worked out once.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._newest: tuple[int, float] | None = None

    def __call__(self, seen: SeenFrame) -> float:
        """Return the value of this frame; 0 where the logits are not finite."""
        if self._newest is None or self._newest[0] != seen.index:
            y0, y1, x0, x1 = seen.result.geometry.content_cells()
            logits_CHW = np.asarray(seen.result.logits_CHW[:, y0:y1, x0:x1], np.float32)
            spread_CHW = (logits_CHW - logits_CHW.max(axis=0)) / np.float32(self._temperature)
            mean = float((1.0 / np.exp(spread_CHW).sum(axis=0)).mean())
            self._newest = seen.index, mean if np.isfinite(mean) else 0.0
        return self._newest[1]
