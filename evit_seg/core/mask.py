# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Logits on the network's grid -> class-id mask and confidence at the wanted size."""
from __future__ import annotations

from typing import Tuple

import cv2
from evit_seg.core.bilinear import argmax_at, Axis, axis_table
from evit_seg.core.boundary import draw_boundaries
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import NOT_FLOOD
from evit_seg.core.preprocess import Geometry
import numpy as np

_UNSURE = 255  # no class id: the label of a grid point where two classes are as good as equal
_FINITE = 1e30  # logits beyond it (or NaN) leave no room for differences in float32
_ROUNDING = 2.0 ** -19  # bound on the error of a difference of two logits, see `_tolerance`


def upscale_argmax(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int]
                   ) -> np.ndarray:
    """
    Return the class-id mask: bilinear (align_corners=False), then argmax, lowest id on ties.

    `logits_CHW` is float (C, h, w) on the geometry's grid; the mask is uint8 (H, W), covers the
    source picture (a letterbox's padding is left out) and belongs to the caller. It equals
    `textbook_mask` in every pixel, but interpolates only where the corners of a grid cell
    disagree: a class that wins at all four corners wins everywhere between them.
    ConfigError: the logits are not on the grid, or the size is not positive.
    """
    logits = _checked(logits_CHW, geometry, out_hw)
    rows, cols, logits = _cut(logits, geometry, out_hw)
    peak = max(float(logits.max()), -float(logits.min()))
    if min(logits.shape[1:]) < 2 or not peak < _FINITE:
        return _every_pixel(logits, rows, cols)
    tolerance = _tolerance(peak)
    labels_HW = _sure_labels(logits, tolerance)
    corner = labels_HW[:-1, :-1]
    mixed = (corner != labels_HW[:-1, 1:]) | (corner != labels_HW[1:, :-1]) \
        | (corner != labels_HW[1:, 1:]) | (corner == _UNSURE)
    mixed &= (rows.size_px > 0)[:, None] & (cols.size_px > 0)
    mask_HW: np.ndarray = corner.take(cols.cell, axis=1).take(rows.cell, axis=0)
    draw_boundaries(mask_HW, logits, mixed, rows, cols, peak, tolerance)
    return mask_HW


def textbook_mask(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int]
                  ) -> np.ndarray:
    """
    Interpolate every class at every pixel, then argmax: the definition `upscale_argmax` keeps.

    Arguments and result as there. Slow; the arithmetic is in `evit_seg.core.bilinear`.
    """
    rows, cols, logits = _cut(_checked(logits_CHW, geometry, out_hw), geometry, out_hw)
    return _every_pixel(logits, rows, cols)


def confidence(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int],
               temperature: float = 1.0) -> np.ndarray:
    """
    Return how sure the network is: max softmax(logits / T) on the grid, then bilinear.

    Arguments as in `upscale_argmax`; uint8 (H, W), probability x 255 rounded.
    ConfigError also for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ConfigError(f'temperature: expected a positive number, got {temperature!r}')
    logits = _checked(logits_CHW, geometry, out_hw)
    spread = logits - logits.max(axis=0)
    spread /= np.float32(temperature)
    best_HW: np.ndarray = np.reciprocal(np.exp(spread, out=spread).sum(axis=0))
    for axis in (0, 1):
        # cv2.resize spans the whole grid: an axis with padding goes by the table instead.
        if geometry.content_px(axis) != geometry.input_hw[axis]:
            best_HW = _along(best_HW, axis_table(geometry, axis, out_hw[axis]), axis)
    grown = cv2.resize(best_HW, (out_hw[1], out_hw[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(grown, alpha=255.0)


def _checked(logits_CHW: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int]) -> np.ndarray:
    """Return the logits as float32 after a look at every shape."""
    logits = np.asarray(logits_CHW, np.float32)
    if logits.ndim != 3 or logits.shape[1:] != geometry.grid_hw \
            or not 1 <= logits.shape[0] <= NOT_FLOOD:
        raise ConfigError(f'expected logits of shape (classes, {geometry.grid_hw[0]}, '
                          f'{geometry.grid_hw[1]}) with at most {NOT_FLOOD} classes, got '
                          f'{logits.shape!r}; does the manifest name the right size and stride?')
    if min(out_hw) < 1:
        raise ConfigError(f'mask size: expected positive (height, width), got {out_hw!r}')
    return logits


def _cut(logits: np.ndarray, geometry: Geometry, out_hw: Tuple[int, int]
         ) -> Tuple[Axis, Axis, np.ndarray]:
    """Return both tables and the logits cut to the grid lines the mask sees."""
    rows = axis_table(geometry, 0, out_hw[0])
    cols = axis_table(geometry, 1, out_hw[1])
    return rows, cols, logits[:, rows.first:rows.first + rows.lines,
                              cols.first:cols.first + cols.lines]


def _tolerance(peak: float) -> np.float32:
    """
    Return the difference of two interpolated logits above which no rounding hides the winner.

    With u = 2^-24 and every |logit| <= peak, a pixel's logit carries at most 4 u peak of error in
    the definition's order of arithmetic, so a difference of two 8 u peak; the same difference as
    `evit_seg.core.boundary` computes it carries 10 u peak. Their sum stays below 2^-19 peak.
    """
    return np.float32(peak * _ROUNDING + 1e-30)


def _sure_labels(logits: np.ndarray, tolerance: np.float32) -> np.ndarray:
    """Return the winner of each grid point, uint8 (h, w); _UNSURE where another comes near it."""
    num_classes, height, width = logits.shape
    near = (logits >= logits.max(axis=0) - tolerance).reshape(num_classes, -1)
    ids_and_ones = np.stack([np.arange(num_classes), np.ones(num_classes)]).astype(np.float32)
    # One small matrix product is several times faster than argmax along the first axis.
    label, count = ids_and_ones @ near.astype(np.float32)
    label[count != 1] = _UNSURE
    labels_HW: np.ndarray = label.astype(np.uint8).reshape(height, width)
    return labels_HW


def _every_pixel(logits: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """Return the mask with every pixel interpolated, a line at a time."""
    mask_HW = np.empty((len(rows.cell), len(cols.cell)), np.uint8)
    x = np.arange(mask_HW.shape[1])
    for y, line in enumerate(mask_HW):
        line[:] = argmax_at(logits, rows, cols, np.full(len(x), y), x)
    return mask_HW


def _along(grid_HW: np.ndarray, table: Axis, axis: int) -> np.ndarray:
    """Return the grid interpolated along one axis by its table."""
    shape = (-1, 1) if axis == 0 else (1, -1)
    low, high = (grid_HW.take(line + table.first, axis) for line in (table.low, table.high))
    between: np.ndarray = low * table.w_low.reshape(shape) + high * table.w_high.reshape(shape)
    return between
