# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Colours of the synthetic world: each class has likely ones, and all classes share a pool.

Sharing is the point: were every class of one colour, a network would learn colours, not shapes.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Dict, Tuple

from evit_seg.core.labels import load_label_map
import numpy as np

Rgb = Tuple[float, float, float]

_SHARED: Tuple[Rgb, ...] = (
    (120, 95, 70), (150, 125, 95), (92, 74, 60), (176, 160, 132), (128, 128, 128),
    (98, 100, 104), (168, 168, 166), (205, 205, 205), (70, 68, 66), (104, 112, 88),
    (88, 104, 112), (142, 108, 88), (150, 150, 140), (74, 84, 74), (190, 182, 168),
)
_LIKELY: Dict[str, Tuple[Rgb, ...]] = {
    'avalanche': ((225, 230, 236), (205, 210, 216), (188, 186, 184), (160, 152, 142)),
    'building': ((150, 70, 52), (165, 92, 70), (98, 98, 104), (130, 120, 110), (190, 185, 178),
                 (70, 84, 104), (84, 110, 92), (206, 202, 196), (112, 60, 50)),
    'rubble': ((150, 140, 130), (128, 110, 98), (110, 100, 95), (165, 150, 138), (90, 82, 78)),
    'debris': ((118, 92, 66), (96, 78, 60), (136, 118, 98), (120, 116, 110), (84, 72, 62)),
    'water': ((58, 84, 92), (70, 98, 80), (112, 96, 70), (48, 66, 84), (136, 120, 92),
              (40, 56, 60), (96, 112, 118), (92, 92, 84)),
    'ice': ((214, 222, 228), (190, 202, 208), (228, 228, 226), (172, 176, 174)),
    'lava': ((44, 40, 40), (60, 50, 46), (74, 70, 70), (36, 32, 34), (92, 80, 72)),
    'pyroclastic': ((142, 136, 128), (118, 112, 106), (164, 156, 146), (96, 92, 90),
                    (176, 172, 168)),
    'road': ((92, 92, 94), (112, 110, 108), (70, 72, 76), (140, 134, 126), (160, 148, 126)),
    'grass': ((92, 112, 58), (118, 126, 70), (80, 100, 62), (140, 132, 82), (104, 104, 66)),
    'soil': ((128, 98, 68), (108, 82, 60), (150, 120, 88), (92, 76, 62), (134, 122, 110)),
    'sand': ((196, 176, 138), (178, 160, 128), (164, 150, 126), (206, 194, 168)),
    'forest': ((52, 72, 40), (66, 80, 46), (84, 92, 50), (110, 92, 48), (58, 66, 50)),
    'field': ((120, 112, 66), (98, 108, 58), (140, 120, 84), (150, 140, 96), (86, 74, 56)),
    'snow': ((226, 230, 236), (210, 214, 220), (196, 198, 204)),
    'rock': ((120, 116, 112), (98, 94, 92), (140, 132, 122), (108, 98, 88)),
}


@lru_cache(maxsize=1)
def class_ids() -> Dict[str, int]:
    """Return the id of every class by its slug, from the LPCV 2023 label map."""
    return {entry.slug: entry.id for entry in load_label_map()}


def pick_colour(rng: np.random.Generator, kind: str, shared: float = 0.22) -> np.ndarray:
    """Return a base colour, RGB float (3,): one of `kind`'s own, or with odds `shared` any."""
    pool = _SHARED if rng.random() < shared else _LIKELY[kind]
    base = np.asarray(pool[rng.integers(len(pool))], np.float64)
    brightness = rng.uniform(0.78, 1.2)
    cast = rng.uniform(0.93, 1.07, 3)
    return np.clip(base * brightness * cast, 8, 248)
