# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The ground canvas: colours and class ids of a piece of flat land, painted region by region."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import cv2
import numpy as np
from offline_train.data.synth_hazards import draw_cracks, TEXTURES
from offline_train.data.synth_noise import fractal, grain, px, ramp, relief, shade, value_noise
from offline_train.data.synth_palette import class_ids, pick_colour
from offline_train.data.synth_terrain import TERRAINS

Box = Tuple[int, int, int, int]


@dataclass
class Ground:
    """Colours (H, W, 3) uint8 RGB and class ids (H, W) uint8, `GSD_M` metres a pixel."""

    rgb: np.ndarray
    ids: np.ndarray
    sun_rad: float

    @property
    def size_px(self) -> Tuple[int, int]:
        """Height and width of the canvas in pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    def blend(self, box: Box, colours_HWC: np.ndarray, cover_HW: np.ndarray,
              class_id: int, soft_px: float = 1.0) -> None:
        """Put a texture where `cover_HW` (bool) holds: colours with soft edges, hard ids."""
        x0, y0, x1, y1 = box
        alpha = cv2.GaussianBlur(cover_HW.astype(np.float32), (0, 0), soft_px)[..., None]
        under = self.rgb[y0:y1, x0:x1]
        under[:] = (under + alpha * (colours_HWC.astype(np.float32) - under) + 0.5)
        self.ids[y0:y1, x0:x1][cover_HW] = class_id

    def darken(self, outline_N2: np.ndarray, factor: float) -> None:
        """Cast a shadow: the polygon (canvas pixels) loses light, ids stay."""
        low = np.floor(outline_N2.min(0)).astype(int) - 4
        high = np.ceil(outline_N2.max(0)).astype(int) + 5
        x0, y0 = np.maximum(low, 0)
        x1, y1 = np.minimum(high, (self.size_px[1], self.size_px[0]))
        if x1 - x0 < 2 or y1 - y0 < 2:
            return
        cover = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(cover, [np.round(outline_N2 - (x0, y0)).astype(np.int32)], 255)
        cover = cv2.GaussianBlur(cover, (5, 5), 0)
        light = 1.0 - (1.0 - factor) / 255.0 * cover.astype(np.float32)
        self.rgb[y0:y1, x0:x1] = self.rgb[y0:y1, x0:x1] * light[..., None]


def new_ground(rng: np.random.Generator, size_hw: Tuple[int, int]) -> Ground:
    """Return land of one to three kinds of Background terrain in patches."""
    sun_rad = float(rng.uniform(0, 2 * np.pi))
    kinds = list(rng.permutation(sorted(TERRAINS)))[:int(rng.integers(2, 4))]
    ground = Ground(TERRAINS[kinds[0]](rng, size_hw, sun_rad), np.zeros(size_hw, np.uint8),
                    sun_rad)
    ids = class_ids()
    for kind in kinds[1:]:
        patches = value_noise(rng, size_hw, px(rng.uniform(18, 35)))
        patches += 0.15 * value_noise(rng, size_hw, px(2.5))
        cover = patches > rng.uniform(0.15, 0.4)
        ground.blend((0, 0, size_hw[1], size_hw[0]), TERRAINS[kind](rng, size_hw, sun_rad),
                     cover, ids['background'], px(rng.uniform(0.1, 0.6)))
    return ground


def paint_region(rng: np.random.Generator, ground: Ground, slug: str, centre_px: np.ndarray,
                 radius_px: float, angle_rad: float, stretch: float) -> None:
    """Paint one area class as a ragged ellipse, `stretch` times as long as wide."""
    reach = int(radius_px * max(stretch, 1.0) * 1.45)
    height, width = ground.size_px
    x0, y0 = max(int(centre_px[0]) - reach, 0), max(int(centre_px[1]) - reach, 0)
    x1, y1 = min(int(centre_px[0]) + reach, width), min(int(centre_px[1]) + reach, height)
    if x1 - x0 < 16 or y1 - y0 < 16:
        return
    size_hw = (y1 - y0, x1 - x0)
    image = TEXTURES[slug](rng, size_hw, ground.sun_rad)
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    dx, dy = x - np.float32(centre_px[0]), y - np.float32(centre_px[1])
    cos, sin = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    along = (dx * cos + dy * sin) / np.float32(radius_px * stretch)
    across = (dy * cos - dx * sin) / np.float32(radius_px)
    reach_HW = np.sqrt(along * along + across * across)
    ragged = fractal(rng, size_hw, radius_px * 0.6, 4, 0.5)
    if slug == 'cracks_fissure_subsidence':
        _paint_cracks(rng, ground, (x0, y0, x1, y1), image, reach_HW + 0.3 * ragged)
        return
    cover = reach_HW + 0.4 * ragged < 1.0
    _shore(rng, ground, (x0, y0, x1, y1), cover)
    soft = px(0.5) if slug == 'pyroclastic_flow' else px(0.1)
    ground.blend((x0, y0, x1, y1), image, cover, class_ids()[slug], soft)


def _shore(rng: np.random.Generator, ground: Ground, box: Box, cover_HW: np.ndarray) -> None:
    if rng.random() < 0.5:
        return
    x0, y0, x1, y1 = box
    rim = cv2.GaussianBlur(cover_HW.astype(np.float32), (0, 0), px(0.5))
    tone = np.float32(rng.uniform(0.6, 1.15))
    ground.rgb[y0:y1, x0:x1] = np.clip(
        ground.rgb[y0:y1, x0:x1] * (1 + (tone - 1) * rim[..., None]), 0, 255)


def _paint_cracks(rng: np.random.Generator, ground: Ground, box: Box, image: np.ndarray,
                  reach_HW: np.ndarray) -> None:
    x0, y0, x1, y1 = box
    if rng.random() < 0.75:  # else broken open in the land as it lies, without bare soil around
        ground.blend(box, image, reach_HW < 1.1, class_ids()['background'], px(0.8))
    image[:] = ground.rgb[y0:y1, x0:x1]
    lines = draw_cracks(rng, image, ground.sun_rad)
    lines[reach_HW > 1.0] = 0
    away = cv2.distanceTransform(255 - lines, cv2.DIST_L2, 3)
    ground.blend(box, image, away < px(0.4), class_ids()['background'])
    side = int(px(2.4)) | 1
    band = cv2.morphologyEx((away < px(1.0)).astype(np.uint8), cv2.MORPH_CLOSE,
                            cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    ground.ids[y0:y1, x0:x1][band > 0] = class_ids()['cracks_fissure_subsidence']


def paint_river(rng: np.random.Generator, ground: Ground, slug: str, start_px: np.ndarray,
                angle_rad: float, width_px: float) -> None:
    """Paint one area class as a winding band through the whole canvas."""
    height, width = ground.size_px
    reach = float(np.hypot(height, width))
    t = np.linspace(-reach, reach, 200)
    sway = width_px * 0.8 * np.sin(t / px(rng.uniform(16, 30)) + rng.uniform(0, 6.3))
    ways = np.stack([start_px[0] + t * np.cos(angle_rad) - sway * np.sin(angle_rad),
                     start_px[1] + t * np.sin(angle_rad) + sway * np.cos(angle_rad)], axis=1)
    inside = (ways > -width_px).all(1) & (ways < (width + width_px, height + width_px)).all(1)
    if inside.sum() < 2:
        return
    low = np.maximum(ways[inside].min(0) - width_px * 1.4, 0).astype(int)
    high = np.minimum(ways[inside].max(0) + width_px * 1.4, (width, height)).astype(int)
    if (high - low < 16).any():
        return
    size_hw = (int(high[1] - low[1]), int(high[0] - low[0]))
    centre = np.full(size_hw, 255, np.uint8)
    cv2.polylines(centre, [np.round(ways - low).astype(np.int32)], False, 0, 1)
    away = cv2.distanceTransform(centre, cv2.DIST_L2, 3) / np.float32(width_px / 2)
    cover = away + 0.35 * fractal(rng, size_hw, width_px * 0.5, 4) < 1.0
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    _shore(rng, ground, box, cover)
    ground.blend(box, TEXTURES[slug](rng, size_hw, ground.sun_rad), cover, class_ids()[slug],
                 px(0.12))


def scatter_bushes(rng: np.random.Generator, ground: Ground, count: int) -> None:
    """Draw bushes, stones and single trees with shadows on Background ground."""
    height, width = ground.size_px
    background = class_ids()['background']
    for _ in range(count):
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        if ground.ids[y, x] != background:
            continue
        kind = str(rng.choice(['forest', 'forest', 'rock']))
        radius = px(rng.uniform(0.3, 2.2) if kind == 'forest' else rng.uniform(0.15, 0.5))
        _bush(rng, ground, x, y, radius, kind)


def _bush(rng: np.random.Generator, ground: Ground, x: int, y: int, radius_px: float,
          kind: str) -> None:
    reach = int(radius_px * 1.5) + 3
    height, width = ground.size_px
    if not (reach < x < width - reach and reach < y < height - reach):
        return
    box = (x - reach, y - reach, x + reach, y + reach)
    v, u = np.mgrid[-reach:reach, -reach:reach].astype(np.float32)
    ragged = value_noise(rng, u.shape, max(radius_px * 0.5, 2.0)) * np.float32(radius_px * 0.35)
    dome = np.float32(radius_px) - np.sqrt(u * u + v * v) + ragged
    cover = dome > 0
    if (ground.ids[box[1]:box[3], box[0]:box[2]][cover] != class_ids()['background']).any():
        return
    away = (-np.cos(ground.sun_rad), -np.sin(ground.sun_rad))
    turns = np.linspace(0, 2 * np.pi, 14)
    round_N2 = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radius_px
    ground.darken(round_N2 + (x, y) + np.array(away) * radius_px * 0.55, 0.55)
    light = relief(np.sqrt(np.maximum(dome, 0)), ground.sun_rad, 0.8)
    level = 0.5 + 0.3 * light + (0.14 if kind == 'forest' else 0.05) * grain(rng, u.shape)
    base = pick_colour(rng, kind, 0.2)
    ground.blend(box, ramp(level, (shade(base, 0.4), base, shade(base, 1.6))), cover,
                 class_ids()['background'], 0.7)
