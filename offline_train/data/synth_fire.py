# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Fire: flickering tongues of flame (class Fire) under half-clear smoke (no class of its own)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import cv2
import numpy as np
from offline_train.data.synth_camera import Camera
from offline_train.data.synth_draw import Picture
from offline_train.data.synth_noise import fractal, smoothstep, value_noise
from offline_train.data.synth_palette import class_ids

_ROWS, _COLS = 72, 60


@dataclass(frozen=True)
class Fire:
    """One flame: base (metres east, south, up), size in metres, its own noise and smoke."""

    instance: int
    east_m: float
    south_m: float
    base_m: float
    width_m: float
    height_m: float
    speed: float
    warmth: float
    noise_HW: np.ndarray
    smoke_HW: np.ndarray
    smoke_tone: float
    wind: np.ndarray

    def draw(self, picture: Picture, camera: Camera, time_s: float) -> None:
        """Draw the flame at a time."""
        box = self._box(camera)
        if box is None:
            return
        x0, y0, width, height = box
        colours, alpha = self._flame(time_s)
        alpha = np.clip(cv2.resize(alpha, (width, height)), 0, 1)
        colours = cv2.resize(colours, (width, height))
        picture.paste(colours, alpha, x0, y0, class_ids()['fire_flare'], self.instance)

    def draw_smoke(self, picture: Picture, camera: Camera, time_s: float) -> None:
        """Veil the colours downwind of the flame; class ids stay as they are."""
        box = self._box(camera)
        if box is None:
            return
        x0, y0, width, height = box
        size = int(max(width, height) * 2.6)
        if size < 6 or size > 4000:
            return
        turn = np.roll(self.smoke_HW, int(time_s * 14), axis=0)
        veil = cv2.resize(turn, (size, size)) * cv2.resize(_puff(), (size, size))
        left = x0 + width // 2 - size // 2 + int(self.wind[0] * size * 0.3)
        top = y0 + height // 2 - size // 2 + int(self.wind[1] * size * 0.3) - int(size * 0.12)
        shape = picture.ids.shape
        x1, y1 = min(left + size, shape[1]), min(top + size, shape[0])
        u0, v0 = max(-left, 0), max(-top, 0)
        if x1 <= left + u0 or y1 <= top + v0:
            return
        part = picture.rgb[top + v0:y1, left + u0:x1]
        alpha = veil[v0:y1 - top, u0:x1 - left, None]
        part[:] = part + alpha * (np.float32(self.smoke_tone) - part.astype(np.float32))

    def _box(self, camera: Camera) -> Optional[Tuple[int, int, int, int]]:
        """Return the flame's place in the frame (x, y, width, height), None if out of reach."""
        place = np.array([[self.east_m, self.south_m, -self.base_m],
                          [self.east_m, self.south_m, -self.base_m - self.height_m]])
        pixels, depth = camera.project(place)
        if depth.min() < 1.0:
            return None
        width = self.width_m * camera.focal_px / depth[0]
        height = max(float(pixels[0, 1] - pixels[1, 1]) + width * 0.3, width * 0.9)
        if width < 2 or np.abs(pixels).max() > 20000:
            return None
        return (round(float(pixels[0, 0] - width / 2)),
                round(float(pixels[0, 1] + width * 0.2 - height)), round(float(width)),
                round(float(height)))

    def _flame(self, time_s: float) -> Tuple[np.ndarray, np.ndarray]:
        """Return colours (H, W, 3) and cover (H, W) 0-1, both float32, at a time."""
        up = np.linspace(1.0, 0.0, _ROWS, dtype=np.float32)[:, None]
        across = np.linspace(-1.0, 1.0, _COLS, dtype=np.float32)[None, :]
        drift = np.roll(self.noise_HW, -int(time_s * self.speed * _ROWS), axis=0)
        noise = drift[:_ROWS, :_COLS]
        sway = 0.25 * up * np.float32(np.sin(5.0 * time_s * self.speed + self.instance))
        wide = 0.85 * np.sqrt(np.minimum(up * 6 + 0.15, 1.0)) * (1.0 - up) ** 0.6 + 0.05
        heat = 1.0 - np.abs(across + sway + 0.25 * noise * up) / wide
        heat = heat + (0.3 + 0.7 * up) * noise * 0.9 - 0.15 * up
        heat *= smoothstep(0.0, 0.06, 1.0 - np.abs(across)) * smoothstep(0.0, 0.05, 1.0 - up)
        alpha = smoothstep(0.02, 0.16, heat)
        glow = np.clip(heat * 1.3, 0, 1)
        red = 150 + 105 * np.minimum(glow * 2.5, 1)
        green = 30 + 215 * glow ** 1.1 * self.warmth
        blue = 10 + 190 * np.clip(glow - 0.45, 0, 1) ** 1.2
        return np.stack([np.broadcast_to(c, heat.shape) for c in (red, green, blue)],
                        axis=-1).astype(np.float32), alpha.astype(np.float32)


def _puff() -> np.ndarray:
    line = np.linspace(-1.0, 1.0, 64, dtype=np.float32)
    radius = np.sqrt(line[:, None] ** 2 + line[None, :] ** 2)
    return np.clip(1.0 - radius, 0, 1)


def new_fire(rng: np.random.Generator, instance: int, east_m: float, south_m: float,
             base_m: float) -> Fire:
    """Return a flame of one to four metres with its smoke."""
    width = float(rng.uniform(1.2, 4.0))
    noise = fractal(rng, (_ROWS * 4, _COLS), 16, 3, 0.6)
    smoke = np.clip(0.35 + 0.6 * value_noise(rng, (64, 64), 14), 0, 1) * rng.uniform(0.15, 0.5)
    turn = rng.uniform(0, 2 * np.pi)
    return Fire(instance, east_m, south_m, base_m, width, width * float(rng.uniform(0.9, 1.7)),
                float(rng.uniform(0.8, 1.6)), float(rng.uniform(0.75, 1.0)), noise,
                smoke.astype(np.float32), float(rng.uniform(30, 190)),
                np.array([np.cos(turn), np.sin(turn)]))
