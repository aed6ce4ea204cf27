# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Roads, gravel tracks and railways on the ground canvas; over water they become bridges."""
from __future__ import annotations

from typing import List, Tuple

import cv2
import numpy as np
from offline_train.data.synth_ground import Box, Ground
from offline_train.data.synth_noise import grain, px, shade, value_noise
from offline_train.data.synth_palette import class_ids, pick_colour


def paint_road(rng: np.random.Generator, ground: Ground, start_px: np.ndarray,
               angle_rad: float) -> np.ndarray:
    """
    Paint a road or a railway through the canvas; return its middle line (N, 2) in pixels.

    Where it crosses water it becomes a bridge with railings.
    """
    height, width = ground.size_px
    reach = float(np.hypot(height, width))
    t = np.arange(-reach, reach, px(1.0))
    sway = px(rng.uniform(0, 5)) * np.sin(t / px(rng.uniform(18, 40)) + rng.uniform(0, 6.3))
    line = np.stack([start_px[0] + t * np.cos(angle_rad) - sway * np.sin(angle_rad),
                     start_px[1] + t * np.sin(angle_rad) + sway * np.cos(angle_rad)], axis=1)
    near = (line > -px(8)).all(1) & (line < (width + px(8), height + px(8))).all(1)
    line = line[near]
    if len(line) < 4:
        return line
    railway = rng.random() < 0.3
    half = px(rng.uniform(1.6, 2.2) if railway else rng.uniform(2.4, 4.2))
    cover = np.zeros((height, width), np.uint8)
    corners = [np.round(line * 8).astype(np.int32)]
    cv2.polylines(cover, corners, False, 255, int(2 * half), cv2.LINE_8, 3)
    over = _bridge(ground, line, half, cover)
    base = pick_colour(rng, 'rock' if railway else 'road', 0.2)
    x0, y0, x1, y1 = _bounds(cover)
    part = cover[y0:y1, x0:x1] > 0
    rough = 0.16 if railway else rng.uniform(0.02, 0.08)
    level = 0.5 + 0.1 * value_noise(rng, part.shape, px(4.0)) + rough * grain(rng, part.shape)
    image = np.clip(base * (0.6 + 0.8 * level[..., None]), 0, 255).astype(np.uint8)
    _marks(rng, image, line - (x0, y0), half, railway)
    if over:
        for side in (-1, 1):
            _stroke(image, _beside(line - (x0, y0), side * (half - 3)), (225, 225, 220), 4)
    ground.blend((x0, y0, x1, y1), image, part, class_ids()['road_railway_bridge'], 0.8)
    return line


def _bounds(cover_HW: np.ndarray) -> Box:
    rows, cols = np.flatnonzero(cover_HW.any(1)), np.flatnonzero(cover_HW.any(0))
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def _bridge(ground: Ground, line: np.ndarray, half_px: float, cover_HW: np.ndarray) -> bool:
    ids = class_ids()
    wet = np.isin(ground.ids, [ids['flood_water_river_sea'], ids['ice_jam_flow']])
    if (wet & (cover_HW > 0)).sum() < px(4.0) ** 2:
        return False
    shadow = np.zeros_like(cover_HW)
    moved = line - np.array([np.cos(ground.sun_rad), np.sin(ground.sun_rad)]) * px(1.2)
    cv2.polylines(shadow, [np.round(moved).astype(np.int32)], False, 255, int(2 * half_px))
    dark = wet & (shadow > 0)
    ground.rgb[dark] = (ground.rgb[dark] * 0.5).astype(np.uint8)
    return True


def _beside(line: np.ndarray, offset_px: float) -> np.ndarray:
    ahead = np.gradient(line, axis=0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    return line + normal * offset_px


def _stroke(image: np.ndarray, line: np.ndarray, colour: Tuple[float, ...], width: int) -> None:
    cv2.polylines(image, [np.round(line * 8).astype(np.int32)], False, colour, width,
                  cv2.LINE_AA, 3)


def _marks(rng: np.random.Generator, image: np.ndarray, line: np.ndarray, half_px: float,
           railway: bool) -> None:
    if railway:
        left, right = _beside(line, -px(1.25)), _beside(line, px(1.25))
        steps = np.linspace(0, len(line) - 1, int(len(line) * 1.4))
        tone = tuple(float(v) for v in shade((95, 80, 70), rng.uniform(0.6, 1.7)))
        for at in steps:
            pair = [np.array([np.interp(at, np.arange(len(line)), way[:, c]) for c in (0, 1)])
                    for way in (left, right)]
            _stroke(image, np.stack(pair), tone, int(px(0.28)))
        for side in (-px(0.75), px(0.75)):
            _stroke(image, _beside(line, side), (60, 50, 46), 3)
            _stroke(image, _beside(line, side + 1), (190, 190, 195), 1)
        return
    white = tuple(float(v) for v in shade((235, 232, 220), rng.uniform(0.7, 1.05)))
    style = rng.choice(['marked', 'marked', 'edges', 'ruts'])
    if style == 'ruts':  # a gravel track: two worn lanes
        for side in (-0.45, 0.45):
            tone = tuple(float(v) for v in shade(image.mean((0, 1)), rng.uniform(0.7, 1.3)))
            _stroke(image, _beside(line, side * half_px), tone, int(px(0.5)))
        return
    lanes: List[float] = [-half_px + px(0.3), half_px - px(0.3)]
    for side in lanes:
        _stroke(image, _beside(line, side), white, 2)
    if style == 'marked':
        dash = int(rng.integers(2, 5))
        for start in range(0, len(line) - dash, 2 * dash):
            _stroke(image, line[start:start + dash], white, 3)
