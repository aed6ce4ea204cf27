# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Seeded building blocks of the synthetic textures: noise, cells, relief, colour ramps."""
from __future__ import annotations

from typing import Sequence, Tuple, Union

import cv2
import numpy as np

Size = Tuple[int, int]
Colour = Union[Sequence[float], np.ndarray]

GSD_M = 0.08
"""Metres of ground per pixel of the world's canvas."""


def px(metres: float) -> float:
    """Return a length on the canvas in pixels."""
    return metres / GSD_M


def rng_for(*key: int) -> np.random.Generator:
    """Return the generator of one thing, named by whole numbers (seed, kind, index, ...)."""
    return np.random.default_rng(np.random.SeedSequence(list(key)))


def value_noise(rng: np.random.Generator, size_hw: Size, cell_px: float, stretch: float = 1.0,
                angle_rad: float = 0.0) -> np.ndarray:
    """
    Return smooth noise (H, W) float32, zero mean, about -1 to 1, features of `cell_px`.

    `stretch` > 1 draws the features out along the direction `angle_rad`.
    """
    height, width = size_hw
    cell_px = max(cell_px, 1.0)
    if stretch == 1.0:
        grid_hw = (int(np.ceil(height / cell_px)) + 3, int(np.ceil(width / cell_px)) + 3)
        grid = rng.uniform(-1.0, 1.0, grid_hw).astype(np.float32)
        full = cv2.resize(grid, None, fx=cell_px, fy=cell_px, interpolation=cv2.INTER_CUBIC)
        y0, x0 = (int(v) for v in rng.uniform(0.5, 1.5, 2) * cell_px)
        return np.ascontiguousarray(full[y0:y0 + height, x0:x0 + width])
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    along, across = cell_px * stretch, cell_px
    reach = float(np.hypot(height, width))
    grid_hw = (int(reach / across) + 4, int(reach / along) + 4)
    grid = rng.uniform(-1.0, 1.0, grid_hw).astype(np.float32)
    to_grid = np.array([[cos / along, sin / along, 0.0], [-sin / across, cos / across, 0.0]])
    middle = to_grid[:, :2] @ (width / 2.0, height / 2.0)
    to_grid[:, 2] = (grid_hw[1] / 2.0, grid_hw[0] / 2.0) - middle
    return cv2.warpAffine(grid, to_grid, (width, height),
                          flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REFLECT)


def fractal(rng: np.random.Generator, size_hw: Size, cell_px: float, octaves: int = 4,
            gain: float = 0.5, stretch: float = 1.0, angle_rad: float = 0.0,
            billow: bool = False) -> np.ndarray:
    """
    Return the sum of octaves of noise (H, W) float32, scaled to about -1 to 1.

    `billow` folds each octave (1 - 2 |n|): round lumps with sharp valleys between them.
    """
    total = np.zeros(size_hw, np.float32)
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        cell = cell_px / 2.0 ** octave
        if cell < 1.0:
            break
        layer = value_noise(rng, size_hw, cell, stretch, angle_rad)
        if billow:
            layer = 1.0 - 3.0 * np.abs(layer)
        total += weight * layer
        norm += weight
        weight *= gain
    return total / norm


def grain(rng: np.random.Generator, size_hw: Size) -> np.ndarray:
    """Return fine white noise (H, W) float32, standard deviation 1, tiled from a small square."""
    tile = rng.standard_normal((256, 256), np.float32)
    smooth = np.asarray(cv2.GaussianBlur(tile, (3, 3), 0.6))
    smooth = smooth / np.float32(smooth.std())
    repeat = (-(-size_hw[0] // 256), -(-size_hw[1] // 256))
    return np.ascontiguousarray(np.tile(smooth, repeat)[:size_hw[0], :size_hw[1]])


def relief(height_HW: np.ndarray, sun_azimuth_rad: float, strength: float) -> np.ndarray:
    """Return the shading (H, W) of a height field lit from one side, about -1 to 1."""
    dx = cv2.Sobel(height_HW, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(height_HW, cv2.CV_32F, 0, 1, ksize=3)
    slope = dx * np.float32(np.cos(sun_azimuth_rad)) + dy * np.float32(np.sin(sun_azimuth_rad))
    return np.tanh(slope * np.float32(strength))


def cells(rng: np.random.Generator, size_hw: Size, cell_px: float,
          jitter: float = 0.9) -> Tuple[np.ndarray, np.ndarray]:
    """Return Voronoi cells: labels (H, W) int32 from 0, and distance to the cell's edge in px."""
    height, width = size_hw
    rows, cols = int(height / cell_px) + 2, int(width / cell_px) + 2
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float32)
    y += rng.uniform(-0.5, 0.5, y.shape).astype(np.float32) * jitter
    x += rng.uniform(-0.5, 0.5, x.shape).astype(np.float32) * jitter
    x[1::2] += 0.5
    seeds_y = np.clip((y * cell_px).astype(int), 0, height - 1).ravel()
    seeds_x = np.clip((x * cell_px).astype(int), 0, width - 1).ravel()
    board = np.full(size_hw, 255, np.uint8)
    board[seeds_y, seeds_x] = 0
    _, labels = cv2.distanceTransformWithLabels(board, cv2.DIST_L2, 5,
                                                labelType=cv2.DIST_LABEL_CCOMP)
    edge = np.full(size_hw, 255, np.uint8)
    edge[:, 1:][labels[:, 1:] != labels[:, :-1]] = 0
    edge[1:][labels[1:] != labels[:-1]] = 0
    return labels, cv2.distanceTransform(edge, cv2.DIST_L2, 3)


def per_cell(rng: np.random.Generator, labels_HW: np.ndarray, low: float,
             high: float) -> np.ndarray:
    """Return one random value per cell, spread over its pixels, (H, W) float32."""
    table = rng.uniform(low, high, int(labels_HW.max()) + 1).astype(np.float32)
    return table[labels_HW]


def ramp(level_HW: np.ndarray, stops: Sequence[Colour]) -> np.ndarray:
    """Return colours (H, W, 3) uint8: level 0 is the first of `stops`, level 1 the last."""
    at = np.linspace(0.0, 1.0, 256)
    knots = np.linspace(0.0, 1.0, len(stops))
    table = np.stack([np.interp(at, knots, [s[c] for s in stops]) for c in range(3)], axis=-1)
    index = np.clip(level_HW * 255.0, 0, 255).astype(np.uint8)
    return cv2.LUT(cv2.merge([index, index, index]),
                   np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, 3))


def shade(colour: Colour, factor: float) -> np.ndarray:
    """Return the colour made lighter or darker, float (3,), clipped to 0-255."""
    return np.clip(np.asarray(colour, np.float64) * factor, 0, 255)


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """Return 0 below `low`, 1 above `high`, and a smooth way between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
