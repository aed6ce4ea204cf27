# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Textures of the area classes, (H, W, 3) uint8 RGB each: what tells them apart is their make.

Avalanche: sharp lumps with shadows. Debris: boulders and logs in streaked mud. Water: long
ripples and glints. Ice jam: pale plates with dark gaps. Lava: dark crust, glowing joints.
Pyroclastic flow: large round billows under streaks. Cracks: dark branching lines on bare soil.
"""
from __future__ import annotations

from typing import Callable, Dict, List, Tuple

import cv2
import numpy as np
from offline_train.data.synth_noise import (
    cells,
    fractal,
    grain,
    per_cell,
    px,
    ramp,
    relief,
    shade,
    Size,
    smoothstep,
    value_noise,
)
from offline_train.data.synth_palette import pick_colour

Texture = Callable[[np.random.Generator, Size, float], np.ndarray]


def avalanche(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return broken snow: angular lumps of half a metre to two, lit from the sun's side."""
    flow = rng.uniform(0, np.pi)
    labels, edge = cells(rng, size_hw, px(rng.uniform(0.8, 1.5)))
    height = np.minimum(edge, px(0.5)) / px(0.5) * per_cell(rng, labels, 0.2, 1.0)
    height += 0.7 * fractal(rng, size_hw, px(2.2), 4, 0.6, billow=True)
    light = relief(cv2.GaussianBlur(height, (3, 3), 0), sun_rad, 1.6)
    dirt = fractal(rng, size_hw, px(3.0), 3, stretch=5.0, angle_rad=flow)
    base = pick_colour(rng, 'avalanche', 0.12)
    level = 0.55 + 0.34 * light + 0.10 * dirt + 0.03 * grain(rng, size_hw)
    return ramp(level, (shade(base, 0.42), shade(base, 0.78), base, shade(base, 1.2)))


def debris(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return a mud or rock flow: streaked mud with boulders and logs that cast shadows."""
    flow = rng.uniform(0, np.pi)
    streak = fractal(rng, size_hw, px(0.8), 4, 0.6, stretch=6.0, angle_rad=flow)
    light = relief(streak, sun_rad, 1.2)
    base = pick_colour(rng, 'debris')
    level = 0.5 + 0.22 * streak + 0.16 * light + 0.05 * grain(rng, size_hw)
    mud = ramp(level, (shade(base, 0.5), base, shade(base, 1.4)))
    stone = shade(base, rng.uniform(0.85, 1.35)) * 0.7 + pick_colour(rng, 'rock', 0.3) * 0.3
    area_m2 = size_hw[0] * size_hw[1] / px(1.0) ** 2
    for _ in range(int(area_m2 * rng.uniform(0.25, 0.5))):
        _boulder(rng, mud, stone, sun_rad, px(0.2 + rng.exponential(0.25)))
    for _ in range(int(area_m2 * rng.uniform(0.0, 0.025))):
        _log(rng, mud, flow + rng.normal(0, 0.5), sun_rad)
    return mud


def _boulder(rng: np.random.Generator, image: np.ndarray, colour: np.ndarray, sun_rad: float,
             radius_px: float) -> None:
    radius_px = min(radius_px, px(1.4))
    x, y = rng.uniform(0, image.shape[1]), rng.uniform(0, image.shape[0])
    count = int(rng.integers(5, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = radius_px * rng.uniform(0.7, 1.15, count)
    outline = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    away = np.array([-np.cos(sun_rad), -np.sin(sun_rad)])
    tone = shade(colour, rng.uniform(0.75, 1.3))
    _polygon(image, outline + away * radius_px * 0.55, shade(tone, 0.3))
    _polygon(image, outline, shade(tone, 0.75))
    _polygon(image, (outline - (x, y)) * 0.62 + (x, y) - away * radius_px * 0.25,
             shade(tone, 1.22))


def _log(rng: np.random.Generator, image: np.ndarray, angle_rad: float, sun_rad: float) -> None:
    start = np.array([rng.uniform(0, image.shape[1]), rng.uniform(0, image.shape[0])])
    end = start + px(rng.uniform(2.0, 6.0)) * np.array([np.cos(angle_rad), np.sin(angle_rad)])
    width = int(px(rng.uniform(0.2, 0.4)))
    tone = np.array([110.0, 88.0, 66.0]) * rng.uniform(0.7, 1.5)
    away = -np.array([np.cos(sun_rad), np.sin(sun_rad)]) * width * 0.7
    _line(image, start + away, end + away, shade(tone, 0.35), width)
    _line(image, start, end, tone, width)


def _polygon(image: np.ndarray, points_N2: np.ndarray, colour: np.ndarray) -> None:
    cv2.fillPoly(image, [np.round(points_N2 * 16).astype(np.int32)],
                 tuple(float(c) for c in colour), cv2.LINE_AA, 4)


def _line(image: np.ndarray, start: np.ndarray, end: np.ndarray, colour: np.ndarray,
          width_px: int) -> None:
    first, second = ((int(v) for v in np.round(p * 16)) for p in (start, end))
    cv2.line(image, tuple(first), tuple(second), tuple(float(c) for c in colour),
             max(width_px, 1), cv2.LINE_AA, 4)


def water(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return water: smooth large tones, ripples across the wind, glints, at times mud clouds."""
    wind = rng.uniform(0, np.pi)
    broad = fractal(rng, size_hw, px(14.0), 2)
    ripple = fractal(rng, size_hw, px(rng.uniform(0.35, 0.8)), 2, 0.5, stretch=4.5,
                     angle_rad=wind)
    base = pick_colour(rng, 'water', 0.15)
    contrast = rng.uniform(0.16, 0.3)
    level = 0.42 + 0.14 * broad + contrast * ripple
    image = ramp(level, (shade(base, 0.6), base, shade(base, 1.3), shade(base, 1.7) + 25))
    patches = smoothstep(-0.2, 0.5, value_noise(rng, size_hw, px(5.0)))
    glint = smoothstep(0.34, 0.5, ripple * (0.55 + 0.6 * patches)) * rng.uniform(0.3, 0.95)
    return _blend(image, np.array([238.0, 242.0, 246.0]), glint)


def ice_jam(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return ice floes: pale flat plates of one to four metres with dark water between them."""
    labels, edge = cells(rng, size_hw, px(rng.uniform(1.6, 3.2)), 1.0)
    small, small_edge = cells(rng, size_hw, px(rng.uniform(0.5, 0.8)))
    crushed = per_cell(rng, labels, 0.0, 1.0) < rng.uniform(0.1, 0.3)
    edge = np.where(crushed, small_edge * 0.8, edge)
    gap = px(rng.uniform(0.08, 0.2))
    plate = smoothstep(gap * 0.6, gap * 1.4, edge + 0.8 * value_noise(rng, size_hw, px(0.4)))
    tone = np.where(crushed, per_cell(rng, small, 0.3, 0.9), per_cell(rng, labels, 0.35, 1.0))
    rim = np.exp(-np.square((edge - gap * 1.8) / (gap * 0.8)))
    level = tone + 0.25 * rim + 0.10 * fractal(rng, size_hw, px(1.5), 3) \
        + 0.03 * grain(rng, size_hw)
    base = pick_colour(rng, 'ice', 0.08)
    image = ramp(level, (shade(base, 0.62), shade(base, 0.95), shade(base, 1.2)))
    deep = shade(pick_colour(rng, 'water', 0.3), rng.uniform(0.3, 0.6))
    return _blend(image, deep, 1.0 - plate)


def lava(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return lava: wrinkled dark crust broken by a net of joints that glow, bright or dull."""
    labels, edge = cells(rng, size_hw, px(rng.uniform(1.3, 3.0)), 1.0)
    bend = value_noise(rng, size_hw, px(0.6)) * px(0.12)
    fine = fractal(rng, size_hw, px(0.7), 3, 0.6, billow=True)
    crust = 0.4 + 0.25 * relief(fine, sun_rad, 1.0) + 0.1 * fine \
        + per_cell(rng, labels, -0.12, 0.12) + 0.04 * grain(rng, size_hw)
    base = pick_colour(rng, 'lava', 0.1)
    image = ramp(crust, (shade(base, 0.35), base, shade(base, 1.8)))
    hot = smoothstep(-0.5, 0.5, value_noise(rng, size_hw, px(9.0)) + rng.uniform(-0.1, 0.6))
    width = px(rng.uniform(0.1, 0.25))
    joint = np.exp(-np.maximum(edge + bend, 0) / width) * (0.3 + 0.7 * hot)
    vivid = rng.uniform(0.35, 1.0)
    glow = np.array([235.0, 80.0, 22.0]) * vivid + np.array([120.0, 52.0, 40.0]) * (1 - vivid)
    image = _blend(image, glow, np.clip(joint * 1.3, 0, 1))
    core = np.array([255.0, 190.0, 70.0]) * vivid + glow * (1 - vivid)
    return _blend(image, core, smoothstep(0.55, 0.95, joint) * vivid)


def pyroclastic(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return a pyroclastic flow: soft round billows of metres, streaked along the flow."""
    flow = rng.uniform(0, np.pi)
    lumps = fractal(rng, size_hw, px(rng.uniform(4.0, 6.5)), 4, 0.55, billow=True)
    lumps = cv2.GaussianBlur(lumps, (0, 0), 2.0)
    light = relief(lumps, sun_rad, rng.uniform(1.6, 2.6))
    streak = fractal(rng, size_hw, px(0.7), 2, stretch=14.0, angle_rad=flow)
    base = pick_colour(rng, 'pyroclastic')
    level = 0.5 + 0.2 * lumps + 0.26 * light + 0.14 * streak
    image = ramp(level, (shade(base, 0.5), shade(base, 0.85), shade(base, 1.1),
                         shade(base, 1.4)))
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def cracked_soil(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return bare soil without the cracks themselves, which `draw_cracks` adds."""
    base = pick_colour(rng, 'soil' if rng.random() < 0.7 else 'grass')
    level = 0.5 + 0.22 * fractal(rng, size_hw, px(2.5), 4, 0.6) + 0.06 * grain(rng, size_hw)
    return ramp(level, (shade(base, 0.65), base, shade(base, 1.3)))


def draw_cracks(rng: np.random.Generator, image: np.ndarray,
                sun_rad: float) -> np.ndarray:
    """Draw branching fissures into a texture; return where they are, (H, W) uint8 0 or 255."""
    lines = np.zeros(image.shape[:2], np.uint8)
    height, width = image.shape[:2]
    main = rng.uniform(0, np.pi)
    todo: List[Tuple[np.ndarray, float, float, float]] = []
    for _ in range(int(rng.integers(4, 8))):
        start = np.array([width, height]) * rng.uniform(0.25, 0.75, 2)
        for way in (main, main + np.pi):
            todo.append((start, way + rng.normal(0, 0.25), px(rng.uniform(0.25, 0.6)),
                         0.75 * max(width, height)))
    while todo:
        point, heading, thick, length = todo.pop()
        travelled = 0.0
        while travelled < length and thick > 1.2:
            step = px(rng.uniform(0.5, 1.2))
            heading += rng.normal(0, 0.4)
            end = point + step * np.array([np.cos(heading), np.sin(heading)])
            _line(lines, point, end, np.full(3, 255.0), round(thick))
            point, travelled, thick = end, travelled + step, thick * rng.uniform(0.93, 1.01)
            if rng.random() < 0.16 and len(todo) < 36:
                side = heading + rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.2)
                todo.append((point, side, thick * 0.7, length * 0.35))
    jagged = np.round(value_noise(rng, (height, width), 6.0) * 3).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    lines = np.asarray(cv2.remap(lines, x + jagged, y - jagged, cv2.INTER_LINEAR))
    shift = np.array([[1, 0, -2.5 * np.cos(sun_rad)], [0, 1, -2.5 * np.sin(sun_rad)]], np.float32)
    lip = np.asarray(cv2.warpAffine(lines, shift, (width, height)))
    image[:] = _blend(image, np.clip(image.mean((0, 1)) * 1.5, 0, 250), lip / 255.0 * 0.6)
    depth = rng.uniform(0.1, 0.35)
    image[:] = _blend(image, image.mean((0, 1)) * depth, lines / 255.0)
    return np.where(lines > 127, 255, 0).astype(np.uint8)


def _blend(image: np.ndarray, colour: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    alpha = alpha_HW.astype(np.float32)[..., None]
    mixed = image + alpha * (np.asarray(colour, np.float32) - image)
    return np.clip(mixed, 0, 255).astype(np.uint8)


TEXTURES: Dict[str, Texture] = {
    'avalanche': avalanche,
    'cracks_fissure_subsidence': cracked_soil,
    'debris_mud_rock_flow': debris,
    'flood_water_river_sea': water,
    'ice_jam_flow': ice_jam,
    'lava_flow': lava,
    'pyroclastic_flow': pyroclastic,
}
"""The area classes by slug; any of them can be a blob, a tongue or a river."""
