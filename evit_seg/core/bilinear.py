# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Bilinear interpolation of grid logits at mask pixels, to the last bit as torch does it.

`torch.nn.functional.interpolate(mode='bilinear', align_corners=False)` on an x86 CPU computes in
float32 with fused multiply-adds: along x `fma(left, w_left, right * w_right)` on the grid lines
above and below, then along y in the same way. A float64 product of two float32 is exact, so one
float64 multiply-add rounded to float32 gives the same bits.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from evit_seg.core.preprocess import Geometry
import numpy as np

_PIXELS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Axis:
    """
    One axis of the way from grid to mask; every index counts from the line `first`.

    `low`, `high`, `w_low`, `w_high`: (n,) the two grid lines of each mask pixel and their weights.
    `cell`: (n,) the cell, between lines `cell` and `cell + 1`, that the pixel is drawn with;
    `in_low`, `in_high`: (n,) its weights there, which differ from the above only beyond the last
    line. `start_px`, `size_px`: (cells,) the pixels of each cell; `start_at`: (cells,) where in
    the cell its first pixel lies, 0 to 1. Shared by all calls of one geometry: never written to.
    """

    first: int
    lines: int
    low: np.ndarray
    high: np.ndarray
    w_low: np.ndarray
    w_high: np.ndarray
    cell: np.ndarray
    in_low: np.ndarray
    in_high: np.ndarray
    start_px: np.ndarray
    size_px: np.ndarray
    start_at: np.ndarray
    px_per_cell: np.float32


@lru_cache(maxsize=32)
def axis_table(geometry: Geometry, axis: int, out: int) -> Axis:
    """Return the table of axis 0 (y) or 1 (x) for a mask of `out` pixels over the picture."""
    grid, size = geometry.grid_hw[axis], geometry.input_hw[axis]
    step = grid * geometry.content_px(axis) / (size * out)
    shift = geometry.offset_yx[axis] * grid / size - 0.5
    at = ((np.arange(out) + 0.5) * np.float64(np.float32(step)) + shift).astype(np.float32)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.intp), grid - 1)
    w_high = np.clip(at - low.astype(np.float32), np.float32(0), np.float32(1))
    w_low = np.float32(1) - w_high
    high = np.minimum(low + 1, grid - 1)
    # Lines that only the padding of a letterbox sees are cut away.
    first, lines = int(low[0]), int(high[-1] - low[0]) + 1
    low, high = low - first, high - first
    cell = np.minimum(low, max(lines - 2, 0))
    beyond = low > cell
    edges = np.searchsorted(cell, np.arange(max(lines, 2)))
    start_px = edges[:-1]
    start_at = (start_px + 0.5) * step + shift - first - np.arange(len(start_px))
    return Axis(first, lines, low, high, w_low, w_high, cell,
                np.where(beyond, np.float32(0), w_low), np.where(beyond, np.float32(1), w_high),
                start_px, np.diff(np.append(start_px, out)), start_at.astype(np.float32),
                np.float32(1 / step))


def argmax_at(logits_CHW: np.ndarray, rows: Axis, cols: Axis, y: np.ndarray, x: np.ndarray
              ) -> np.ndarray:
    """
    Return the winning class, uint8 (n,), of the mask pixels (y, x); lowest id on ties.

    `logits_CHW` is float32 and cut to the lines of `rows` and `cols`.
    """
    winner = np.empty(len(y), np.uint8)
    for begin in range(0, len(y), _PIXELS_AT_ONCE):
        part = slice(begin, begin + _PIXELS_AT_ONCE)
        py, px = y[part], x[part]
        w_left, w_right = cols.w_low[px], cols.w_high[px]
        above, below = (_fma(logits_CHW[:, line, cols.low[px]], w_left,
                             logits_CHW[:, line, cols.high[px]] * w_right)
                        for line in (rows.low[py], rows.high[py]))
        winner[part] = _fma(above, rows.w_low[py], below * rows.w_high[py]).argmax(0)
    return winner


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return float32 a * b + c with a single rounding."""
    exact: np.ndarray = a.astype(np.float64) * b + c
    return exact.astype(np.float32)
