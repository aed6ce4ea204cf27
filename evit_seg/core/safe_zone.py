# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The largest circle of landable classes in the picture: where a drone may think of landing.

A mask tells what a surface is, not whether it is flat, firm or empty of wires: a zone is a
proposal for whoever decides, never a permission. So every doubt counts against a place. It was
free in each of the last `confirm_n` frames at the same spot of the picture; the circle keeps
clear of the whole area of every other cell, of cells the network is not sure of, and of the
picture's border, behind which nobody knows; around hazards it keeps a margin.

On the network's grid, not at 1080p, and there on squares of the source picture, so that a circle
is a circle.
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
from typing import Deque, List, NamedTuple, Optional, Tuple

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.geo import Camera, geotag, on_ground, Pose, PoseErrors
from evit_seg.core.labels import LabelMap
from evit_seg.core.preprocess import Geometry
import numpy as np

FREE, BLOCKED, HAZARD = 0, 1, 2
"""What a square is; of several frames or cells the largest counts."""
LANDABLE = ('background', 'road_railway_bridge')
KEEP_SHARE = 0.8
"""The last centre is kept while its circle has this share of the largest one's radius."""
RIM_POINTS = 64
_NEARLY_WHOLE = 1e-6  # grid cells; keeps floor and ceil from tripping over the last bit


@dataclass(frozen=True)
class ZoneRule:
    """
    What a zone must be; ConfigError if a value is out of its range.

    `free` are the ids one may land on, `hazards` those that the circle stays `margin_px` away
    from; every other class only may not lie in it. A cell of less than `min_confidence` is
    blocked. Pixels are the source's.
    """

    free: Tuple[int, ...]
    hazards: Tuple[int, ...] = ()
    min_radius_px: float = 24.0
    margin_px: float = 16.0
    min_confidence: float = 0.5
    confirm_n: int = 5

    def __post_init__(self) -> None:
        for name, low, high in (('min_radius_px', 1, 1e5), ('margin_px', 0, 1e5),
                                ('min_confidence', 0, 1), ('confirm_n', 1, 100)):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails too
                raise ConfigError(f'safe_zone.{name}: expected {low} to {high:g}, got {value!r}')
        if not self.free:
            raise ConfigError('safe_zone.classes: expected at least one class to land on, '
                              'got none')


def zone_ids(labels: LabelMap, landable: Tuple[str, ...],
             alert_slugs: Tuple[str, ...]) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """
    Return the ids of the landable classes and of the hazards: what is rare or raises alerts.

    LabelMapMismatch for a landable class that the label map lacks; ConfigError for one that is a
    hazard as well.
    """
    free = tuple(labels.by_slug(slug).id for slug in landable)
    hazards = tuple(c.id for c in labels if c.rare or c.slug in alert_slugs)
    for entry in labels:
        if entry.id in free and entry.id in hazards:
            raise ConfigError(f'safe_zone.classes: {entry.slug!r} is rare or raises alerts, so '
                              'it is nothing to land on')
    return free, hazards


class SafeZone(NamedTuple):
    """A circle in source pixels, whose centres have whole coordinates."""

    x: float
    y: float
    radius_px: float


class ZoneAnswer(NamedTuple):
    """The zone of a frame, or None and why there is none."""

    zone: Optional[SafeZone]
    note: str


class GroundZone(NamedTuple):
    """
    A zone on the ground: where its centre is (WGS-84), how sure that is, and how far it reaches.

    `error_m` is the radius of a circle that holds the true place of the centre in 95 % of all
    cases; `radius_m` the distance from the centre to the nearest point of the rim.
    """

    latitude_deg: float
    longitude_deg: float
    error_m: float
    radius_m: float


def zone_squares(logits_CHW: np.ndarray, geometry: Geometry, rule: ZoneRule,
                 temperature: float) -> np.ndarray:
    """
    Return what each square of the source picture is: FREE, BLOCKED or HAZARD, uint8 (h, w).

    `logits_CHW` is float32 on the geometry's grid, `temperature` the manifest's T. The squares
    are as high and as wide as the smaller side of a grid cell (or a little less, so that they
    fill the picture); one that lies on two cells is what the worse one is.
    """
    logits = np.asarray(logits_CHW, np.float32)
    kinds = np.full(256, BLOCKED, np.uint8)
    kinds[list(rule.free)] = FREE
    kinds[list(rule.hazards)] = HAZARD
    cells_HW = kinds[logits.argmax(axis=0)]
    free = np.flatnonzero(cells_HW == FREE)
    columns = np.take(logits.reshape(len(logits), -1), free, axis=1)  # (C, free cells)
    with np.errstate(invalid='ignore'):  # logits that are not finite are no ground to land on
        odds = np.exp((columns - columns.max(axis=0)) / np.float32(temperature)).sum(axis=0)
        unsure = ~(1.0 / odds >= rule.min_confidence)  # NaN too
    cells_HW.reshape(-1)[free[unsure]] = BLOCKED
    side_px = min(geometry.input_hw[axis] / geometry.grid_hw[axis] / geometry.scale_yx[axis]
                  for axis in (0, 1))
    top, bottom = _cells_under(geometry, 0, side_px)
    left, right = _cells_under(geometry, 1, side_px)
    tall_HW: np.ndarray = np.maximum(cells_HW[top], cells_HW[bottom])
    squares_HW: np.ndarray = np.maximum(tall_HW[:, left], tall_HW[:, right])
    return squares_HW


def _cells_under(geometry: Geometry, axis: int,
                 side_px: float) -> Tuple[np.ndarray, np.ndarray]:
    """Return the first and the last grid cell that each square of an axis touches."""
    size_px = geometry.source_hw[axis]
    count = max(1, math.ceil(size_px / side_px - _NEARLY_WHOLE))
    edges_px = np.arange(count + 1) * (size_px / count)
    edges = (edges_px * geometry.scale_yx[axis] + geometry.offset_yx[axis]) \
        * (geometry.grid_hw[axis] / geometry.input_hw[axis])
    last = geometry.grid_hw[axis] - 1
    low = np.floor(edges[:-1] + _NEARLY_WHOLE).clip(0, last).astype(np.intp)
    high = (np.ceil(edges[1:] - _NEARLY_WHOLE) - 1).clip(0, last).astype(np.intp)
    return low, high


def largest_zone(squares_HW: np.ndarray, source_hw: Tuple[int, int], margin_px: float = 0.0,
                 near: Optional[SafeZone] = None) -> Optional[SafeZone]:
    """
    Return the largest circle around the centre of a square, None where nothing is free.

    It holds no part of a square that is not FREE, stays `margin_px` away from every HAZARD and
    lies in the picture. Of equal ones the nearest to the picture's centre, then the topmost, then
    the leftmost. With `near` its centre is kept as long as its circle there has KEEP_SHARE of the
    largest one's radius: a target that jumps is of no use.
    """
    rows, columns = squares_HW.shape
    side_y, side_x = source_hw[0] / rows, source_hw[1] / columns
    side_px = min(side_y, side_x)  # the two are equal but for rounding: the smaller is safe
    radius_HW = _clearance(squares_HW != FREE, border=True) * side_px
    hazard_HW = squares_HW == HAZARD
    if margin_px > 0 and hazard_HW.any():
        radius_HW = np.minimum(radius_HW,
                               _clearance(hazard_HW, border=False) * side_px - margin_px)
    largest = float(radius_HW.max())
    if not largest > 0:
        return None
    y_px = (np.arange(rows) + 0.5) * side_y - 0.5
    x_px = (np.arange(columns) + 0.5) * side_x - 0.5
    if near is not None:
        row = min(int((near.y + 0.5) / side_y), rows - 1)
        column = min(int((near.x + 0.5) / side_x), columns - 1)
        kept = float(radius_HW[row, column])
        if kept >= KEEP_SHARE * largest:
            return SafeZone(float(x_px[column]), float(y_px[row]), kept)
    ties = np.argwhere(radius_HW >= largest * (1 - 1e-6))
    off_centre = (y_px[ties[:, 0]] - (source_hw[0] - 1) / 2) ** 2 \
        + (x_px[ties[:, 1]] - (source_hw[1] - 1) / 2) ** 2
    row, column = ties[int(np.argmin(np.round(off_centre, 3)))]
    return SafeZone(float(x_px[column]), float(y_px[row]), float(radius_HW[row, column]))


def _clearance(taken_HW: np.ndarray, border: bool) -> np.ndarray:
    """
    Return how far each square's centre is from the nearest taken square's area, in squares.

    Exact, by a lattice of twice the density: the nearest point of a square to the centre of
    another one is a corner or the middle of an edge. 0 for taken squares; with `border` the
    picture's edges are taken too.
    """
    rows, columns = taken_HW.shape
    lattice = np.zeros((2 * rows + 1, 2 * columns + 1), np.uint8)
    lattice[1::2, 1::2] = taken_HW
    lattice = np.asarray(cv2.dilate(lattice, np.ones((3, 3), np.uint8)))
    if border:
        lattice[0] = lattice[-1] = 1
        lattice[:, 0] = lattice[:, -1] = 1
    far = cv2.distanceTransform(1 - lattice, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far[1::2, 1::2], np.float64) / 2


def zone_on_ground(zone: SafeZone, camera: Camera, pose: Pose, errors: PoseErrors) -> GroundZone:
    """
    Return where a zone lies, if the ground is a level plane below the camera.

    NotGeotagged as for `geotag`, for any point of the rim. Errors of height and tilt move the
    place and stretch the radius; only the place's error is given.
    """
    tag = geotag((zone.x, zone.y, 1.0, 1.0), camera, pose, errors)
    angles = [2 * math.pi * i / RIM_POINTS for i in range(RIM_POINTS)]
    rim = [(zone.x + zone.radius_px * math.cos(angle), zone.y + zone.radius_px * math.sin(angle))
           for angle in angles]
    centre, *around = on_ground([(zone.x, zone.y), *rim], camera, pose)
    radius_m = min(math.hypot(east - centre[0], north - centre[1]) for east, north in around)
    return GroundZone(tag.latitude_deg, tag.longitude_deg, tag.radius_m, radius_m)


class ZoneTracker:
    """
    Follows the zone from frame to frame; a zone it gives is free in the frame just taken.

    Frames further apart than `max_gap_s`, a stamp that goes back and squares of another size start
    anew: what was seen long ago proves nothing.
    """

    def __init__(self, rule: ZoneRule) -> None:
        self.rule = rule
        self._seen: Deque[np.ndarray] = deque(maxlen=rule.confirm_n)
        self._newest_ns = 0
        self._zone: Optional[SafeZone] = None

    def update(self, stamp_ns: int, squares_HW: np.ndarray, source_hw: Tuple[int, int],
               max_gap_s: float = 2.0) -> ZoneAnswer:
        """Take the squares of a processed frame; return the zone, or why there is none."""
        if self._seen and (self._seen[-1].shape != squares_HW.shape
                           or not 0 <= stamp_ns - self._newest_ns <= max_gap_s * 1e9):
            self._seen.clear()
        self._newest_ns = stamp_ns
        self._seen.append(squares_HW)
        answer = self._answer(source_hw)
        self._zone = answer.zone
        return answer

    def _answer(self, source_hw: Tuple[int, int]) -> ZoneAnswer:
        rule, seen = self.rule, len(self._seen)
        if seen < rule.confirm_n:
            return ZoneAnswer(None, f'no zone: {seen} of the {rule.confirm_n} frames that '
                                    'confirm one were seen')
        every: List[np.ndarray] = list(self._seen)
        worst_HW = np.maximum.reduce(every)
        zone = largest_zone(worst_HW, source_hw, rule.margin_px, self._zone)
        if zone is None:
            return ZoneAnswer(None, 'no zone: no place was free of other classes for '
                                    f'{rule.confirm_n} frames')
        if zone.radius_px < rule.min_radius_px and self._zone is not None:
            zone = largest_zone(worst_HW, source_hw, rule.margin_px) or zone
        if zone.radius_px < rule.min_radius_px:
            return ZoneAnswer(None, f'no zone: the largest free circle has {zone.radius_px:.1f} '
                                    f'px, expected {rule.min_radius_px:g} or more')
        return ZoneAnswer(zone, '')
