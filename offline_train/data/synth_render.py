# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Rendering of one frame: ground through the homography, shadows, solid things, smoke, look."""
from __future__ import annotations

from functools import partial
from typing import Callable, List, Sequence, Tuple

import cv2
import numpy as np
from offline_train.data.synth_camera import Camera
from offline_train.data.synth_draw import (
    cast_shadow,
    draw_parts,
    Part,
    part_points,
    Picture,
)
from offline_train.data.synth_look import apply_look
from offline_train.data.synth_noise import GSD_M
from offline_train.data.synth_palette import class_ids
from offline_train.data.synth_world import World

Thing = Tuple[float, Callable[[Picture], None]]  # distance in metres, and how to draw it

_SMALL_PX = 960
"""Frames narrower than this are drawn at twice their size and reduced, as a camera would."""


def render(world: World, camera: Camera, time_s: float, rng: np.random.Generator) -> Picture:
    """
    Return the frame of a world seen by a camera at a time; `rng` is the sensor's noise.

    Beyond its edge the ground is mirrored. Colours are RGB; ids and instance numbers are exact.
    """
    factor = 2 if camera.width_px < _SMALL_PX else 1
    picture = _draw(world, camera.scaled(factor), time_s)
    if factor > 1:
        size = (camera.width_px, camera.height_px)
        picture = Picture(cv2.resize(picture.rgb, size, interpolation=cv2.INTER_AREA),
                          np.ascontiguousarray(picture.ids[::factor, ::factor]),
                          np.ascontiguousarray(picture.instances[::factor, ::factor]))
    picture.rgb = apply_look(picture.rgb, camera, world.look, rng)
    return picture


def _draw(world: World, camera: Camera, time_s: float) -> Picture:
    size = (camera.width_px, camera.height_px)
    matrix = camera.ground_homography(GSD_M)
    rgb = cv2.warpPerspective(world.ground.rgb, matrix, size, flags=cv2.INTER_LINEAR,
                              borderMode=cv2.BORDER_REFLECT)
    ids = cv2.warpPerspective(world.ground.ids, matrix, size, flags=cv2.INTER_NEAREST,
                              borderMode=cv2.BORDER_REFLECT)
    picture = Picture(rgb, ids, np.zeros(ids.shape, np.int32))
    things, shades = _things_in_view(world, camera, time_s)
    if shades:
        shadow = np.zeros(ids.shape, np.uint8)
        for parts in shades:
            cast_shadow(shadow, camera, parts, world.sun_reach)
        _darken(picture.rgb, cv2.GaussianBlur(shadow, (3, 3), 0), world.look.shadow)
    for _, draw in sorted(things, key=lambda item: -item[0]):
        draw(picture)
    for fire in world.fires:
        fire.draw_smoke(picture, camera, time_s)
    return picture


def _darken(rgb_HWC: np.ndarray, shadow_HW: np.ndarray, light: float) -> None:
    where = np.nonzero(shadow_HW)
    keep = 1.0 - (1.0 - light) / 255.0 * shadow_HW[where].astype(np.float32)
    rgb_HWC[where] = rgb_HWC[where] * keep[:, None]


def _things_in_view(world: World, camera: Camera,
                    time_s: float) -> Tuple[List[Thing], List[Sequence[Part]]]:
    """Return the solid things near the view, and the parts of those that cast shadows."""
    ids = class_ids()
    sun_rad = world.ground.sun_rad
    things: List[Thing] = []
    for house in world.buildings:
        away = _distance(camera, house.east_m, house.south_m, 16.0)
        if away >= 0:
            things.append((away, partial(house.draw, camera=camera, sun_rad=sun_rad)))
    solids: List[Tuple[Sequence[float], float, Sequence[Part], int, int]] = []
    for person in world.people:
        solids.append((person.place(time_s), 6.0, person.parts(time_s), ids['person'],
                       person.instance))
    for vehicle in world.vehicles:
        parts = vehicle.parts(time_s, sun_rad)
        solids.append((part_points(parts[-1])[0], 9.0, parts, ids['vehicle'], vehicle.instance))
    for parts in world.clutter:
        solids.append((part_points(parts[0])[0], 4.0, parts, ids['background'], 0))
    shades: List[Sequence[Part]] = []
    for spot, reach_m, body, class_id, instance in solids:
        away = _distance(camera, float(spot[0]), float(spot[1]), reach_m)
        if away >= 0:
            shades.append(body)
            things.append((away, partial(draw_parts, camera=camera, parts=body,
                                         class_id=class_id, instance=instance)))
    for fire in world.fires:
        away = _distance(camera, fire.east_m, fire.south_m, 10.0)
        if away >= 0:
            things.append((away - 0.5, partial(fire.draw, camera=camera, time_s=time_s)))
    return things, shades


def _distance(camera: Camera, east_m: float, south_m: float, reach_m: float) -> float:
    """Return the distance in metres, or -1 when a thing of that reach cannot be in view."""
    pixels, depth = camera.project(np.array([[east_m, south_m, 0.0]]))
    margin = reach_m * camera.focal_px / max(float(depth[0]), 1.0)
    inside = (pixels[0] > -margin).all() and (
        pixels[0] < (camera.width_px + margin, camera.height_px + margin)).all()
    if depth[0] < 1.0 or not inside:
        return -1.0
    return float(np.hypot(camera.east_m - east_m, camera.south_m - south_m))
