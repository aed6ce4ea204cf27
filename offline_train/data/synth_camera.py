# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The drone's camera: pose, projection, and the homography of the flat ground.

World axes are metres east, south and down from the ground canvas's upper left corner, so that a
camera looking straight down with yaw 0 has image axes equal to world axes. Ground is down = 0.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Tuple

import numpy as np

FOCAL_LENGTH_MM = 12.3
SENSOR_WIDTH_MM = 13.2


@dataclass(frozen=True)
class Camera:
    """A pose (metres, degrees) with an image size (pixels); pitch -90 looks straight down."""

    east_m: float
    south_m: float
    height_m: float
    yaw_deg: float
    pitch_deg: float
    width_px: int
    height_px: int

    @property
    def focal_px(self) -> float:
        """Focal length in pixels of this image size."""
        return FOCAL_LENGTH_MM / SENSOR_WIDTH_MM * self.width_px

    @cached_property
    def centre(self) -> np.ndarray:
        """Position in world axes, (3,) metres."""
        return np.array([self.east_m, self.south_m, -self.height_m])

    @cached_property
    def rotation(self) -> np.ndarray:
        """Rows are the image's right, down and forward axes in world axes, (3, 3)."""
        tilt = np.radians(90.0 + self.pitch_deg)
        yaw = np.radians(self.yaw_deg)
        rows = np.array([[1.0, 0.0, 0.0],
                         [0.0, np.cos(tilt), np.sin(tilt)],
                         [0.0, -np.sin(tilt), np.cos(tilt)]])
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0],
                         [np.sin(yaw), np.cos(yaw), 0.0],
                         [0.0, 0.0, 1.0]])
        return rows @ turn.T

    @property
    def intrinsics(self) -> np.ndarray:
        """Matrix K for pixel indices (the centre of the first pixel is 0, 0), (3, 3)."""
        return np.array([[self.focal_px, 0.0, self.width_px / 2.0 - 0.5],
                         [0.0, self.focal_px, self.height_px / 2.0 - 0.5],
                         [0.0, 0.0, 1.0]])

    def project(self, points_N3: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return pixel positions (N, 2) and depths (N,) in metres of world points (N, 3)."""
        rays = (np.asarray(points_N3, np.float64) - self.centre) @ self.rotation.T
        depth = np.maximum(rays[:, 2], 0.1)
        pixels = rays[:, :2] / depth[:, None] * self.focal_px
        return pixels + (self.width_px / 2.0 - 0.5, self.height_px / 2.0 - 0.5), rays[:, 2]

    def plane_homography(self, origin: np.ndarray, axis_u: np.ndarray,
                         axis_v: np.ndarray) -> np.ndarray:
        """
        Return the matrix from plane coordinates (u, v) to pixels, (3, 3).

        A plane point is origin + u axis_u + v axis_v, all in world metres.
        """
        turned = self.rotation @ np.stack([axis_u, axis_v, origin - self.centre], axis=1)
        return self.intrinsics @ turned

    def ground_homography(self, gsd_m: float) -> np.ndarray:
        """Return the matrix from canvas pixel indices to image pixel indices, (3, 3)."""
        half = gsd_m / 2.0
        return self.plane_homography(np.array([half, half, 0.0]), np.array([gsd_m, 0.0, 0.0]),
                                     np.array([0.0, gsd_m, 0.0]))

    def scaled(self, factor: int) -> Camera:
        """Return the same view with `factor` times as many pixels a side."""
        return Camera(self.east_m, self.south_m, self.height_m, self.yaw_deg, self.pitch_deg,
                      self.width_px * factor, self.height_px * factor)


def looking_at(east_m: float, south_m: float, height_m: float, yaw_deg: float, pitch_deg: float,
               size_wh: Tuple[int, int]) -> Camera:
    """Return the camera whose optical axis meets the ground at the given point."""
    reach = height_m / np.tan(np.radians(-pitch_deg))
    yaw = np.radians(yaw_deg)
    return Camera(east_m - reach * np.sin(yaw), south_m + reach * np.cos(yaw), height_m,
                  yaw_deg, pitch_deg, size_wh[0], size_wh[1])
