# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The look of a camera and its weather: exposure, white balance, haze, vignette, noise, blur."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import cv2
import numpy as np
from offline_train.data.synth_camera import Camera


@dataclass(frozen=True)
class Look:
    """One flight's photometry; drawn once per world, not per frame."""

    mix_34: np.ndarray  # exposure, white balance and saturation as a colour matrix, float32
    contrast: float
    shadow: float  # light left in a full shadow
    haze_per_m: float
    haze_rgb: np.ndarray
    vignette: float
    blur_px: float  # at 1280 pixels of width
    noise: float  # standard deviation at 1280 pixels of width, 0-255
    jpeg_quality: int


def new_look(rng: np.random.Generator) -> Look:
    """Return a look drawn at random."""
    balance = np.clip(rng.normal(1.0, 0.045, 3), 0.9, 1.1)
    exposure = float(np.exp(rng.normal(-0.04, 0.14)))
    saturation = float(rng.uniform(0.55, 1.15))
    grey = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
    mix = exposure * balance[:, None] * mix
    contrast = float(rng.uniform(0.8, 1.12))
    matrix = np.concatenate([mix * contrast, np.full((3, 1), 110 * (1 - contrast))], axis=1)
    return Look(matrix.astype(np.float32), contrast, float(rng.uniform(0.42, 0.7)),
                float(rng.choice([0.0, rng.uniform(0.0005, 0.003)])),
                rng.uniform(165, 220) * rng.uniform(0.95, 1.05, 3), float(rng.uniform(0.0, 0.3)),
                float(rng.uniform(0.3, 1.1)), float(rng.uniform(1.0, 5.0)),
                int(rng.integers(78, 96)))


def apply_look(rgb_HWC: np.ndarray, camera: Camera, look: Look,
               rng: np.random.Generator) -> np.ndarray:
    """Return the frame as the camera would give it, (H, W, 3) uint8 RGB."""
    height, width = rgb_HWC.shape[:2]
    share = width / 1280.0
    image = cv2.transform(rgb_HWC, look.mix_34)
    sigma = look.blur_px * share
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (5, 5), sigma)
    keep, haze = _veil(camera, look)
    plane = image.astype(np.float32)
    plane *= keep[..., None]
    if look.haze_per_m:
        plane += haze[..., None] * look.haze_rgb.astype(np.float32)
    strength = look.noise * min(share, 1.0)
    tile = rng.standard_normal((128, 131, 3), np.float32) * np.float32(strength)
    for y in range(0, height, 128):
        for x in range(0, width, 131):
            part = plane[y:y + 128, x:x + 131]
            part += tile[:part.shape[0], :part.shape[1]]
    return cv2.convertScaleAbs(np.maximum(plane, 0))


def _veil(camera: Camera, look: Look) -> Tuple[np.ndarray, np.ndarray]:
    """Return how much light of the scene and of the haze arrives, (H, W) float32 each."""
    height, width = camera.height_px, camera.width_px
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None]
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :]
    down = camera.rotation[:, 2]  # the world's down axis in image axes
    steep = (y * np.float32(down[1]) + np.float32(camera.focal_px * down[2]))
    away_m = camera.height_m * camera.focal_px / np.maximum(steep, 1.0)
    clear = np.exp(-look.haze_per_m * away_m).astype(np.float32)
    radius = (x * x + y * y) / np.float32(width * width / 4 + height * height / 4)
    light = 1.0 - np.float32(look.vignette) * radius
    return light * clear, light * (1.0 - clear)
