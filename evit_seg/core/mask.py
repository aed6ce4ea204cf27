# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Logits on the network's grid -> class-id mask and confidence at the wanted size."""
from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np

from evit_seg.core.errors import ConfigError
from evit_seg.core.preprocess import Geometry


def _axis(geometry, axis, out):
    grid, size, offset = geometry.grid_hw[axis], geometry.input_hw[axis], geometry.offset_yx[axis]
    step = np.float32(grid * geometry.content_px(axis) / (size * out))
    shift = np.float32(offset * grid / size - 0.5)
    centre = np.arange(out) + 0.5
    at = np.maximum((centre * np.float64(step) + np.float64(shift)).astype(np.float32), 0)
    low = np.minimum(at.astype(np.intp), grid - 1)
    high = np.minimum(low + 1, grid - 1)
    w_high = np.clip(at - low.astype(np.float32), 0, 1).astype(np.float32)
    return low, high, np.float32(1) - w_high, w_high


def _lerp(a, b, wa, wb):
    return (a.astype(np.float64) * wa + b * wb).astype(np.float32)


def textbook_mask(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int]
                  ) -> np.ndarray:
    """Interpolate every class at every pixel, then argmax; the definition of the mask."""
    logits = np.asarray(logits_CHW, np.float32)
    if logits.ndim != 3 or logits.shape[1:] != geometry.grid_hw:
        raise ConfigError(f'expected logits (C, {geometry.grid_hw!r}), got {logits.shape!r}')
    y0, y1, v0, v1 = _axis(geometry, 0, out_hw[0])
    x0, x1, u0, u1 = _axis(geometry, 1, out_hw[1])
    out = np.empty(out_hw, np.uint8)
    for y in range(0, out_hw[0], 32):
        part = slice(y, y + 32)
        top, bottom = logits[:, y0[part]], logits[:, y1[part]]
        out[part] = _lerp(_lerp(top[:, :, x0], top[:, :, x1], u0, u1),
                          _lerp(bottom[:, :, x0], bottom[:, :, x1], u0, u1),
                          v0[part, None], v1[part, None]).argmax(0)
    return out


def upscale_argmax(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int]
                   ) -> np.ndarray:
    """Return the class-id mask, uint8 (H, W): bilinear, then argmax, lowest id on ties."""
    return textbook_mask(logits_CHW, geometry, out_hw)


def confidence(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int],
               temperature: float = 1.0) -> np.ndarray:
    """Return max softmax(logits / T) as uint8 (H, W): bilinear from the grid, x 255 rounded."""
    scaled = np.asarray(logits_CHW, np.float32) / np.float32(temperature)
    best = (1 / np.exp(scaled - scaled.max(0)).sum(0)).astype(np.float32)
    for axis in (0, 1):
        if geometry.offset_yx[axis] or geometry.content_px(axis) != geometry.input_hw[axis]:
            low, high, w_low, w_high = _axis(geometry, axis, out_hw[axis])
            weights = (w_low[:, None], w_high[:, None]) if axis == 0 else (w_low, w_high)
            best = best.take(low, axis) * weights[0] + best.take(high, axis) * weights[1]
    grown = cv2.resize(best, (out_hw[1], out_hw[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(grown, alpha=255.0)
