# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Harmless ground (class Background): grass, soil, sand, forest, fields, snow, rock."""
from __future__ import annotations

from typing import Callable, Dict

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
    value_noise,
)
from offline_train.data.synth_palette import pick_colour


def grass(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return meadow: fine tufts over broad tones."""
    base = pick_colour(rng, 'grass', 0.2)
    tufts = value_noise(rng, size_hw, px(0.22))
    level = 0.5 + 0.16 * fractal(rng, size_hw, px(9.0), 3) + 0.12 * tufts \
        + 0.08 * grain(rng, size_hw)
    other = shade(base, 1.0) * rng.uniform(0.85, 1.15, 3)
    return ramp(level, (shade(base, 0.62), base, shade(other, 1.35)))


def soil(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return bare earth: mottled, with fine clods."""
    base = pick_colour(rng, 'soil', 0.3)
    level = 0.5 + 0.2 * fractal(rng, size_hw, px(4.0), 4, 0.55) + 0.07 * grain(rng, size_hw)
    return ramp(level, (shade(base, 0.65), base, shade(base, 1.3)))


def sand(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return sand: nearly smooth, faint long waves."""
    base = pick_colour(rng, 'sand', 0.2)
    waves = fractal(rng, size_hw, px(1.2), 2, stretch=3.0, angle_rad=rng.uniform(0, np.pi))
    level = 0.5 + 0.14 * fractal(rng, size_hw, px(10.0), 2) + 0.05 * waves \
        + 0.035 * grain(rng, size_hw)
    return ramp(level, (shade(base, 0.75), base, shade(base, 1.22)))


def forest(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return tree crowns seen from above: round, leafy, dark between."""
    labels, edge = cells(rng, size_hw, px(rng.uniform(2.6, 4.2)), 0.9)
    leaves = fractal(rng, size_hw, px(0.7), 3, 0.8)
    edge = np.maximum(edge + px(0.45) * leaves, 0)
    dome = np.sqrt(np.minimum(edge, px(1.6)) / px(1.6))
    light = relief(cv2.GaussianBlur(dome, (0, 0), 2.0), sun_rad, 3.0)
    level = 0.1 + 0.36 * dome + 0.12 * light + 0.22 * leaves + per_cell(rng, labels, -0.1, 0.12)
    base = pick_colour(rng, 'forest', 0.1)
    return ramp(level, (shade(base, 0.25), base, shade(base, 1.7)))


def field(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return a tilled or planted field: straight even rows."""
    angle, period = rng.uniform(0, np.pi), px(rng.uniform(0.7, 1.4))
    y, x = np.mgrid[0:size_hw[0], 0:size_hw[1]].astype(np.float32)
    across = (x * np.float32(np.sin(angle)) - y * np.float32(np.cos(angle))) \
        + px(0.15) * value_noise(rng, size_hw, px(1.5))
    rows = np.sin(across * np.float32(2 * np.pi / period))
    level = 0.5 + rng.uniform(0.12, 0.22) * rows + 0.1 * fractal(rng, size_hw, px(5.0), 3) \
        + 0.06 * grain(rng, size_hw)
    base = pick_colour(rng, 'field', 0.2)
    other = pick_colour(rng, 'soil', 0.2) if rng.random() < 0.5 else shade(base, 0.6)
    return ramp(level, (shade(other, 0.8), base, shade(base, 1.3)))


def snow(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return untouched snow: smooth, faint drifts."""
    base = pick_colour(rng, 'snow', 0.1)
    drift = fractal(rng, size_hw, px(8.0), 2, stretch=2.5, angle_rad=rng.uniform(0, np.pi))
    level = 0.55 + 0.14 * drift + 0.05 * fractal(rng, size_hw, px(1.5), 2) \
        + 0.02 * grain(rng, size_hw)
    return ramp(level, (shade(base, 0.78), base, shade(base, 1.1)))


def rock(rng: np.random.Generator, size_hw: Size, sun_rad: float) -> np.ndarray:
    """Return gravel or bare rock: coarse grain, no single stone stands out."""
    base = pick_colour(rng, 'rock', 0.2)
    rough = fractal(rng, size_hw, px(0.5), 3, 0.7)
    level = 0.5 + 0.14 * fractal(rng, size_hw, px(6.0), 2) + 0.14 * rough \
        + 0.08 * grain(rng, size_hw)
    return ramp(level, (shade(base, 0.6), base, shade(base, 1.4)))


TERRAINS: Dict[str, Callable[[np.random.Generator, Size, float], np.ndarray]] = {
    'grass': grass, 'soil': soil, 'sand': sand, 'forest': forest, 'field': field, 'snow': snow,
    'rock': rock,
}
"""Kinds of Background ground by name."""
