# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing of solid things into a frame: anti-aliased colours, hard masks, instance numbers."""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from offline_train.data.synth_camera import Camera

_FINE = 4
"""Sub-pixels a side while drawing one thing; reduced by averaging."""


@dataclass(frozen=True)
class Capsule:
    """A thick rounded stick between two world points (metres)."""

    start: np.ndarray
    end: np.ndarray
    radius_m: float
    colour: Tuple[float, float, float]


@dataclass(frozen=True)
class Facet:
    """A flat polygon of world points (N, 3)."""

    points: np.ndarray
    colour: Tuple[float, float, float]


Part = Union[Capsule, Facet]


@dataclass
class Picture:
    """A frame in the making: colours RGB uint8, class ids uint8, instance numbers int32."""

    rgb: np.ndarray
    ids: np.ndarray
    instances: np.ndarray

    def paste(self, colours_HWC: np.ndarray, alpha_HW: np.ndarray, x0: int, y0: int,
              class_id: int, instance: int) -> None:
        """Lay a patch over the frame: blended by alpha (0-1), ids where alpha reaches half."""
        height, width = self.ids.shape
        left, top = max(x0, 0), max(y0, 0)
        right = min(x0 + alpha_HW.shape[1], width)
        bottom = min(y0 + alpha_HW.shape[0], height)
        if right <= left or bottom <= top:
            return
        part = np.s_[top - y0:bottom - y0, left - x0:right - x0]
        here = np.s_[top:bottom, left:right]
        alpha = alpha_HW[part][..., None]
        under = self.rgb[here]
        under[:] = np.clip(under + alpha * (colours_HWC[part] - under.astype(np.float32)) + 0.5,
                           0, 255)
        solid = alpha_HW[part] >= 0.5
        self.ids[here][solid] = class_id
        self.instances[here][solid] = instance


def draw_parts(picture: Picture, camera: Camera, parts: Sequence[Part], class_id: int,
               instance: int) -> None:
    """Draw the parts of one thing, far ones first, with smooth edges."""
    points = np.concatenate([part_points(part) for part in parts])
    pixels, depth = camera.project(points)
    if depth.min() < 1.0:
        return
    pad = 3 + int(max((_radius(p) for p in parts), default=0) * camera.focal_px / depth.min())
    low = np.floor(pixels.min(0)).astype(int) - pad
    high = np.ceil(pixels.max(0)).astype(int) + pad + 1
    height, width = picture.ids.shape
    low = np.maximum(low, (-pad, -pad))
    high = np.minimum(high, (width + pad, height + pad))
    if (high - low < 2).any():
        return
    fine = _FINE if (high - low).max() < 400 else 2
    size = (int(high[1] - low[1]) * fine, int(high[0] - low[0]) * fine)
    canvas = np.zeros((*size, 3), np.uint8)
    cover = np.zeros(size, np.uint8)
    for part, place, scale in _ordered(parts, pixels, depth, camera.focal_px):
        # (place + 0.5 - low) * fine - 0.5: from pixel centres to sub-pixel centres
        spots = (place + 0.5 - low) * fine - 0.5
        colour = tuple(float(c) for c in part.colour)
        if isinstance(part, Capsule):
            thick = max(round(2 * part.radius_m * scale * fine), 1)
            ends = [tuple(int(v) for v in np.round(p * 8)) for p in spots]
            cv2.line(canvas, ends[0], ends[1], colour, thick, cv2.LINE_8, 3)
            cv2.line(cover, ends[0], ends[1], 255, thick, cv2.LINE_8, 3)
        else:
            outline = [np.round(spots * 8).astype(np.int32)]
            cv2.fillPoly(canvas, outline, colour, cv2.LINE_8, 3)
            cv2.fillPoly(cover, outline, 255, cv2.LINE_8, 3)
    small = (int(high[0] - low[0]), int(high[1] - low[1]))
    alpha = cv2.resize(cover.astype(np.float32) / 255.0, small, interpolation=cv2.INTER_AREA)
    colours = cv2.resize(canvas.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    picture.paste(colours / np.maximum(alpha, 1e-3)[..., None], alpha, int(low[0]), int(low[1]),
                  class_id, instance)


def cast_shadow(shadow_HW: np.ndarray, camera: Camera, parts: Sequence[Part],
                reach: np.ndarray) -> None:
    """
    Draw the ground shadow of a thing into `shadow_HW` (uint8, 255 = full shadow).

    `reach` is the shadow's shift (east, south) in metres per metre of height.
    """
    for part in parts:
        points = part_points(part).copy()
        points[:, :2] += -points[:, 2:3] * reach
        points[:, 2] = 0.0
        pixels, depth = camera.project(points)
        if depth.min() < 1.0 or np.abs(pixels).max() > 16000:
            continue
        spots = np.round(pixels * 8).astype(np.int32)
        if isinstance(part, Capsule):
            thick = max(round(float(2 * part.radius_m * camera.focal_px / depth.mean())), 1)
            cv2.line(shadow_HW, tuple(int(v) for v in spots[0]), tuple(int(v) for v in spots[1]),
                     255, thick, cv2.LINE_AA, 3)
        else:
            cv2.fillPoly(shadow_HW, [spots], 255, cv2.LINE_AA, 3)


def draw_flat(picture: Picture, camera: Camera, origin: np.ndarray, axis_u: np.ndarray,
              axis_v: np.ndarray, patch_HWC: np.ndarray, class_id: int) -> None:
    """Draw a flat textured patch (H, W, 4) uint8 RGBA: pixel (u, v) is at origin + u, v axes."""
    height, width = patch_HWC.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    world = origin + corners[:, :1] * axis_u + corners[:, 1:] * axis_v
    box = visible_box(camera, world)
    if box is None:
        return
    x0, y0, x1, y1 = box
    matrix = camera.plane_homography(origin, axis_u, axis_v)
    matrix = np.array([[1.0, 0, -x0], [0, 1.0, -y0], [0, 0, 1.0]]) @ matrix
    patch = cv2.warpPerspective(patch_HWC, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    picture.paste(patch[..., :3].astype(np.float32), patch[..., 3].astype(np.float32) / 255.0,
                  x0, y0, class_id, 0)


def visible_box(camera: Camera, world_N3: np.ndarray) -> Optional[Tuple[int, int, int, int]]:
    """Return the part of the frame the points span (x0, y0, x1, y1), or None if out of view."""
    pixels, depth = camera.project(world_N3)
    if depth.min() < 1.0:
        return None
    low = np.maximum(np.floor(pixels.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 2,
                      (camera.width_px, camera.height_px))
    if (high - low < 1).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def part_points(part: Part) -> np.ndarray:
    """Return the world points a part is made of, (N, 3)."""
    return np.stack([part.start, part.end]) if isinstance(part, Capsule) else part.points


def _radius(part: Part) -> float:
    return part.radius_m if isinstance(part, Capsule) else 0.0


def _ordered(parts: Sequence[Part], pixels: np.ndarray, depth: np.ndarray,
             focal_px: float) -> List[Tuple[Part, np.ndarray, float]]:
    rows: List[Tuple[float, Part, np.ndarray, float]] = []
    at = 0
    for part in parts:
        count = 2 if isinstance(part, Capsule) else len(part.points)
        away = float(depth[at:at + count].mean())
        rows.append((away - _radius(part), part, pixels[at:at + count], focal_px / away))
        at += count
    rows.sort(key=lambda row: -row[0])
    return [row[1:] for row in rows]
