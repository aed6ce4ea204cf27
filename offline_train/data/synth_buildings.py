# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Houses: whole ones, and broken ones in rubble.

A whole house has a closed roof with straight tile rows and a ridge. A damaged one has holes, a
broken outline, burnt patches or only its walls left, and lies in angular rubble of the same class.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import cv2
import numpy as np
from offline_train.data.synth_actors import Colour, colour_of
from offline_train.data.synth_camera import Camera
from offline_train.data.synth_draw import draw_flat, draw_parts, Facet, Part, Picture
from offline_train.data.synth_ground import Ground
from offline_train.data.synth_noise import (
    fractal,
    grain,
    GSD_M,
    px,
    ramp,
    shade,
    value_noise,
)
from offline_train.data.synth_palette import class_ids, pick_colour


@dataclass(frozen=True)
class Building:
    """A house: footprint (metres, radians), wall height, roof picture and wall colours."""

    east_m: float
    south_m: float
    turn_rad: float
    length_m: float
    width_m: float
    height_m: float
    roof_HWC: np.ndarray  # (H, W, 4) uint8 RGBA, GSD_M a pixel
    wall: Colour
    window: Colour
    damaged: bool
    wall_tops: List[float]  # share of the height each wall still has, jagged when damaged

    def corners(self, grow_m: float = 0.0) -> np.ndarray:
        """Return the footprint as (4, 2) corners, east and south in metres."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
        local = signs * (self.length_m / 2 + grow_m, self.width_m / 2 + grow_m)
        cos, sin = np.cos(self.turn_rad), np.sin(self.turn_rad)
        return np.array([self.east_m, self.south_m]) + np.stack(
            [local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos], 1)

    def draw(self, picture: Picture, camera: Camera, sun_rad: float) -> None:
        """Draw the walls that face the camera, then the roof above them."""
        slug = 'building_damaged' if self.damaged else 'building_undamaged'
        class_id = class_ids()[slug]
        walls = self._walls(camera, sun_rad)
        if walls:
            draw_parts(picture, camera, walls, class_id, 0)
        base = self.corners(0.0 if self.damaged else 0.3)
        axis_u, axis_v = base[1] - base[0], base[3] - base[0]
        shape = self.roof_HWC.shape
        draw_flat(picture, camera, np.array([*base[0], -self.height_m]),
                  np.array([*(axis_u / shape[1]), 0.0]), np.array([*(axis_v / shape[0]), 0.0]),
                  self.roof_HWC, class_id)

    def _walls(self, camera: Camera, sun_rad: float) -> List[Part]:
        base = self.corners()
        parts: List[Part] = []
        for side in range(4):
            first, second = base[side], base[(side + 1) % 4]
            outward = np.array([second[1] - first[1], first[0] - second[0]])
            to_eye = camera.centre[:2] - first
            if outward @ to_eye <= 0:
                continue
            light = 0.62 + 0.28 * np.cos(np.arctan2(outward[1], outward[0]) - sun_rad)
            top = self.height_m * self.wall_tops[side]
            parts.append(_upright(first, second, 0.0, top, self.wall, light, 0.0))
            length = float(np.linalg.norm(second - first))
            count = max(int(length / 2.4), 1)
            for storey in range(int(top // 2.7)):
                for number in range(count):
                    a = (number + 0.3) / count
                    b = (number + 0.7) / count
                    parts.append(_upright(first + a * (second - first),
                                          first + b * (second - first), storey * 2.7 + 0.9,
                                          storey * 2.7 + 2.1, self.window, light, -0.05))
        return parts


def _upright(first: np.ndarray, second: np.ndarray, low_m: float, high_m: float, colour: Colour,
             light: float, nearer: float) -> Facet:
    # 'nearer' lifts the window a hair out of its wall so that it is drawn after it
    normal = np.array([second[1] - first[1], first[0] - second[0]])
    shift = -nearer * normal / max(float(np.linalg.norm(normal)), 1e-6)
    points = np.array([[*(first + shift), -low_m], [*(second + shift), -low_m],
                       [*(second + shift), -high_m], [*(first + shift), -high_m]])
    return Facet(points, colour_of(np.array(colour) * light))


def _roof(rng: np.random.Generator, length_m: float, width_m: float,
          sun_rad: float, turn_rad: float) -> np.ndarray:
    """Return a closed roof (H, W, 4): gabled with tile rows, or flat with a rim and boxes."""
    height, width = int(width_m / GSD_M), int(length_m / GSD_M)
    base = pick_colour(rng, 'building', 0.25)
    if rng.random() < 0.72:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        rows = (y / np.float32(px(rng.uniform(0.3, 0.5)))) % 1.0
        rows = np.where(rows < 0.25, -0.18, 0.04)
        if rng.random() < 0.5:
            seams = (x / np.float32(px(rng.uniform(0.5, 0.9)))) % 1.0
            rows = rows + np.where(seams < 0.12, -0.14, 0.0)
        slope = np.float32(np.sin(sun_rad - turn_rad) * 0.2)
        side = np.where(y < height / 2, -slope, slope)
        level = 0.5 + rows + side + 0.05 * grain(rng, (height, width)) \
            + 0.06 * value_noise(rng, (height, width), px(1.5))
        image = ramp(level, (shade(base, 0.4), base, shade(base, 1.5)))
        ridge = tuple(float(v) for v in shade(base, 1.35))
        cv2.line(image, (0, height // 2), (width, height // 2), ridge, 3)
        if rng.random() < 0.6:
            _box_on_roof(rng, image, px(0.8))
    else:
        level = 0.5 + 0.08 * fractal(rng, (height, width), px(3.0), 3) \
            + 0.03 * grain(rng, (height, width))
        image = ramp(level, (shade(base, 0.6), base, shade(base, 1.3)))
        rim = tuple(float(v) for v in shade(base, 1.4))
        cv2.rectangle(image, (1, 1), (width - 2, height - 2), rim, 4)
        cv2.rectangle(image, (5, 5), (width - 6, height - 6),
                      tuple(float(v) for v in shade(base, 0.5)), 1)
        for _ in range(int(rng.integers(2, 6))):
            _box_on_roof(rng, image, px(rng.uniform(0.8, 1.6)))
    return np.dstack([image, np.full((height, width), 255, np.uint8)])


def _box_on_roof(rng: np.random.Generator, image: np.ndarray, side_px: float) -> None:
    x, y = (int(rng.uniform(0.15, 0.75) * n) for n in (image.shape[1], image.shape[0]))
    side = int(side_px)
    cv2.rectangle(image, (x + 4, y + 4), (x + side + 5, y + side + 5), (40.0, 40.0, 40.0), -1)
    tone = tuple(float(v) for v in pick_colour(rng, 'rubble', 0.5))
    cv2.rectangle(image, (x, y), (x + side, y + side), tone, -1)


def _break_roof(rng: np.random.Generator, roof_HWC: np.ndarray, bare: bool) -> np.ndarray:
    """Return the roof with holes, bitten edges and burnt patches, or only the walls' tops."""
    size_hw = roof_HWC.shape[:2]
    roof = roof_HWC.copy()
    if bare:  # no roof at all: rooms, open to the sky
        keep = np.zeros(size_hw, np.uint8)
        thick = int(px(0.45))
        cv2.rectangle(keep, (0, 0), (size_hw[1] - 1, size_hw[0] - 1), 255, thick)
        for _ in range(int(rng.integers(1, 4))):
            x, y = int(rng.uniform(0.2, 0.8) * size_hw[1]), int(rng.uniform(0.2, 0.8) * size_hw[0])
            cv2.line(keep, (x, 0), (x, size_hw[0]), 255, thick)
            if rng.random() < 0.6:
                cv2.line(keep, (0, y), (size_hw[1], y), 255, thick)
        keep[fractal(rng, size_hw, px(2.0), 3) > 0.25] = 0
        roof[..., :3] = shade(pick_colour(rng, 'rubble', 0.3), 1.1).astype(np.uint8)
        roof[..., 3] = keep
        return roof
    torn = fractal(rng, size_hw, px(2.4), 4, 0.6)
    y, x = np.mgrid[0:size_hw[0], 0:size_hw[1]].astype(np.float32)
    rim = np.minimum(np.minimum(x, size_hw[1] - x), np.minimum(y, size_hw[0] - y)) / px(1.6)
    open_HW = torn - 0.25 * np.minimum(rim, 1.0) > rng.uniform(-0.1, 0.05)
    burnt = value_noise(rng, size_hw, px(2.5)) > 0.1
    roof[burnt, :3] = (roof[burnt, :3] * 0.35).astype(np.uint8)
    near_hole = cv2.dilate(open_HW.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    roof[near_hole, :3] = (roof[near_hole, :3] * 0.5).astype(np.uint8)
    roof[..., 3] = np.where(open_HW, 0, 255)
    beams = np.zeros(size_hw, np.uint8)
    for at in np.arange(px(0.6), size_hw[1], px(rng.uniform(1.0, 1.6))):
        cv2.line(beams, (int(at), 0), (int(at + rng.normal(0, 4)), size_hw[0]), 255, 3)
    show = open_HW & (beams > 0) & (value_noise(rng, size_hw, px(1.5)) > -0.2)
    roof[show] = (104, 84, 64, 255)
    return roof


def new_building(rng: np.random.Generator, east_m: float, south_m: float, damaged: bool,
                 sun_rad: float) -> Building:
    """Return a house of random size; a damaged one has lost roof, walls or both."""
    length, width = float(rng.uniform(7, 15)), float(rng.uniform(6, 10))
    height = float(rng.uniform(2.8, 6.5))
    turn = float(rng.uniform(0, np.pi))
    roof = _roof(rng, length, width, sun_rad, turn)
    tops = [1.0, 1.0, 1.0, 1.0]
    if damaged:
        roof = _break_roof(rng, roof, bool(rng.random() < 0.4))
        height *= float(rng.uniform(0.45, 0.9))
        tops = [float(v) for v in rng.uniform(0.4, 1.0, 4)]
    wall = colour_of(pick_colour(rng, 'rubble' if damaged else 'building', 0.4) * 1.05)
    window = colour_of(np.array([44.0, 52, 60]) * rng.uniform(0.5, 1.4))
    return Building(east_m, south_m, turn, length, width, height, roof, wall, window, damaged,
                    tops)


def ground_of_building(rng: np.random.Generator, ground: Ground, building: Building,
                       reach: np.ndarray) -> None:
    """Paint what a house does to the ground: its shadow, and rubble when it is damaged."""
    foot = building.corners() / GSD_M
    top = foot + reach / GSD_M * building.height_m * (0.7 if building.damaged else 1.0)
    ground.darken(cv2.convexHull(np.concatenate([foot, top]).astype(np.float32))[:, 0], 0.5)
    if not building.damaged:
        return
    outline = building.corners(1.2) / GSD_M
    low = np.maximum(outline.min(0).astype(int) - int(px(2)), 0)
    high = np.minimum(outline.max(0).astype(int) + int(px(2)), ground.size_px[::-1])
    if (high - low < 16).any():
        return
    size_hw = (int(high[1] - low[1]), int(high[0] - low[0]))
    cover = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(cover, [np.round(outline - low).astype(np.int32)], 255)
    soft = cv2.GaussianBlur(cover, (0, 0), px(0.7)).astype(np.float32) / 255.0
    part = soft + 0.35 * fractal(rng, size_hw, px(2.0), 3) > 0.5
    ground.blend((int(low[0]), int(low[1]), int(high[0]), int(high[1])),
                 _rubble(rng, size_hw), part, class_ids()['building_damaged'], 1.0)


def _rubble(rng: np.random.Generator, size_hw: Tuple[int, int]) -> np.ndarray:
    """Return rubble: straight-edged slabs, planks and dust, every which way."""
    base = pick_colour(rng, 'rubble', 0.3)
    level = 0.45 + 0.2 * fractal(rng, size_hw, px(1.2), 4, 0.7) + 0.08 * grain(rng, size_hw)
    image = ramp(level, (shade(base, 0.4), base, shade(base, 1.4)))
    accent = pick_colour(rng, 'building', 0.2)
    for _ in range(int(size_hw[0] * size_hw[1] / px(1.0) ** 2 * 0.9)):
        centre = (float(rng.uniform(0, size_hw[1])), float(rng.uniform(0, size_hw[0])))
        plank = rng.random() < 0.3
        sides = (px(rng.uniform(1.0, 2.6)), px(0.16)) if plank else \
            (px(rng.uniform(0.25, 1.1)), px(rng.uniform(0.2, 0.8)))
        angle = float(rng.uniform(0, 180))
        tone = shade(accent if rng.random() < 0.35 else base, rng.uniform(0.7, 1.6))
        for shift, colour in ((3.0, shade(tone, 0.25)), (0.0, tone)):
            spot = ((centre[0] + shift, centre[1] + shift), sides, angle)
            cv2.fillPoly(image, [np.round(cv2.boxPoints(spot) * 8).astype(np.int32)],
                         tuple(float(c) for c in colour), cv2.LINE_AA, 3)
    return image
