# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
From a box in the image to a place on the ground: latitude, longitude and an honest radius.

The ground is taken to be a horizontal plane `height_m` below the camera; a slope or a roof is an
error of the height. The radius holds the whole region: it is how far the region reaches from the
place given, plus a circle that holds the true place in at least 95 % of all cases, if the errors
of position, height, heading and tilt are independent and normal with the standard deviations
given. What the camera flies between the image and the newest position is not in it.
"""
from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, List, Sequence, Tuple

import cv2
from evit_seg.core.errors import EvitSegError
import numpy as np

CIRCLE_95 = math.sqrt(-2 * math.log(0.05))
"""Radius of the circle that holds 95 % of a round two-dimensional normal distribution, sigma 1."""
MIN_DEPRESSION_DEG = 10.0
"""Rays less steep are refused: they end more than 5.7 heights away, where no ground is flat."""
WGS84_A_M = 6378137.0
WGS84_F = 1 / 298.257223563
_E2 = WGS84_F * (2 - WGS84_F)
_B_M = WGS84_A_M * (1 - WGS84_F)
Vector = Tuple[float, float, float]


class NotGeotagged(EvitSegError):
    """A region that has no place on the ground; the message says why."""


@dataclass(frozen=True)
class Camera:
    """
    A pinhole in pixels of the image: focal lengths and principal point, and its distortion.

    Pixel centres have whole coordinates. `model` and `distortion` are CameraInfo's: plumb_bob,
    rational_polynomial or equidistant; no coefficients, or only zeros, for none.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    model: str = ''
    distortion: Tuple[float, ...] = ()

    def rays(self, points: Sequence[Tuple[float, float]]) -> List[Vector]:
        """
        Return the directions of image points (x, y): right, down, and 1 along the axis.

        NotGeotagged for a distortion model that is not known or cannot be undone there.
        """
        if any(self.distortion):
            return self._undistorted(np.array(points, np.float64).reshape(-1, 1, 2))
        return [((x - self.cx_px) / self.fx_px, (y - self.cy_px) / self.fy_px, 1.0)
                for x, y in points]

    def _undistorted(self, points_N12: np.ndarray) -> List[Vector]:
        k_33 = np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1]])
        coefficients, zero = np.array(self.distortion), np.zeros(3)
        if self.model not in ('plumb_bob', 'rational_polynomial', 'equidistant'):
            raise NotGeotagged("the calibration's distortion model: expected plumb_bob, "
                               f'rational_polynomial or equidistant, got {self.model!r}')
        lens: Any = cv2.fisheye if self.model == 'equidistant' else cv2
        try:
            found_N12 = lens.undistortPoints(points_N12, k_33, coefficients)
            rays_N13 = np.concatenate([found_N12, np.ones((len(found_N12), 1, 1))], axis=2)
            back, _ = lens.projectPoints(rays_N13, zero, zero, k_33, coefficients)
        except cv2.error as error:
            raise NotGeotagged(f'the calibration has {len(self.distortion)} coefficients, which '
                               f'{self.model} does not take; calibrate the camera') from error
        if not np.abs(back.reshape(points_N12.shape) - points_N12).max() < 1.0:  # NaN fails too
            raise NotGeotagged("the calibration's distortion cannot be undone where the region "
                               'lies; calibrate the camera out to its edges')
        return [(float(x), float(y), float(z)) for x, y, z in rays_N13.reshape(-1, 3)]


@dataclass(frozen=True)
class Pose:
    """
    Where the camera is and how it looks when the image is taken.

    Heading is of the nose, clockwise from true north. `pitch_deg` is the angle of the camera's
    axis below the horizon, 90 straight down; `yaw_deg` is the turn of the image's top against
    the nose, clockwise. The altitude is left out: it shifts a place by a millionth of the
    offset for every 6 m.
    """

    latitude_deg: float
    longitude_deg: float
    height_m: float
    heading_deg: float
    pitch_deg: float = 90.0
    yaw_deg: float = 0.0


@dataclass(frozen=True)
class PoseErrors:
    """
    Standard deviations: of the position along each of east and north, height, heading, tilt.

    Tilt is about each of the two level axes: one across the line of sight, one along it.
    """

    position_m: float
    height_m: float
    heading_deg: float
    tilt_deg: float


@dataclass(frozen=True)
class GeoTag:
    """A place on the ground (WGS-84) and the radius around it, as the module says."""

    latitude_deg: float
    longitude_deg: float
    radius_m: float


def geotag(box_xywh: Tuple[float, float, float, float], camera: Camera, pose: Pose,
           errors: PoseErrors) -> GeoTag:
    """
    Return the place of the centre of a box (x, y, w, h in pixels of the image).

    NotGeotagged where a corner of the box is not at least MIN_DEPRESSION_DEG below the horizon,
    or the tilt's error may lift it to the horizon, or the camera is not above the ground.
    """
    if not pose.height_m > 0:
        raise NotGeotagged(f'the height is {pose.height_m:.1f} m, the camera must be above the '
                           'ground')
    x, y, w, h = box_xywh
    left, top, right, bottom = x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5
    axes = _axes(pose)
    rays = [_combined(ray, axes) for ray in camera.rays([
        ((left + right) / 2, (top + bottom) / 2), (left, top), (right, top), (left, bottom),
        (right, bottom)])]
    _check_depression(rays)
    centre, *corners = (_on_ground(ray, pose.height_m) for ray in rays)
    reach_m = max(math.hypot(east - centre[0], north - centre[1]) for east, north in corners)
    latitude_deg, longitude_deg = place_at(pose.latitude_deg, pose.longitude_deg, *centre)
    return GeoTag(latitude_deg, longitude_deg,
                  reach_m + _circle_95_m(rays[0], centre, pose, errors))


def on_ground(points: Sequence[Tuple[float, float]], camera: Camera,
              pose: Pose) -> List[Tuple[float, float]]:
    """
    Return where points (x, y) of the image lie on the ground: (east, north) in m from the camera.

    NotGeotagged where one is not at least MIN_DEPRESSION_DEG below the horizon.
    """
    axes = _axes(pose)
    rays = [_combined(ray, axes) for ray in camera.rays(points)]
    _check_depression(rays)
    return [_on_ground(ray, pose.height_m) for ray in rays]


def _check_depression(rays: Sequence[Vector]) -> None:
    flattest_deg = min(math.degrees(math.atan2(-ray[2], math.hypot(ray[0], ray[1])))
                       for ray in rays)
    if flattest_deg < MIN_DEPRESSION_DEG:
        raise NotGeotagged(f'the region reaches up to {flattest_deg:.1f} degrees below the '
                           f'horizon, geotags take at least {MIN_DEPRESSION_DEG:g}; pitch the '
                           'camera down (geo.pitch_deg)')


def _axes(pose: Pose) -> Tuple[Vector, Vector, Vector]:
    """Return the image's right, the image's down and the camera's axis (east, north, up)."""
    azimuth, pitch = math.radians(pose.heading_deg + pose.yaw_deg), math.radians(pose.pitch_deg)
    sine, cosine, drop, level = (math.sin(azimuth), math.cos(azimuth), math.sin(pitch),
                                 math.cos(pitch))
    return ((cosine, -sine, 0.0), (-drop * sine, -drop * cosine, -level),
            (level * sine, level * cosine, -drop))


def _combined(weights: Vector, vectors: Sequence[Vector]) -> Vector:
    """Return the sum of three vectors, each times its weight."""
    (a, b, c), (u, v, w) = weights, vectors
    return (a * u[0] + b * v[0] + c * w[0], a * u[1] + b * v[1] + c * w[1],
            a * u[2] + b * v[2] + c * w[2])


def _on_ground(ray: Vector, height_m: float) -> Tuple[float, float]:
    """Return where a ray that goes down meets the ground: (east, north) in m from the camera."""
    east, north, up = ray
    return east / -up * height_m, north / -up * height_m


def _circle_95_m(ray: Vector, centre: Tuple[float, float], pose: Pose,
                 errors: PoseErrors) -> float:
    """
    Return the radius of a circle that holds the true place in at least 95 % of all cases.

    Each error is tried at CIRCLE_95 sigma, to both sides, and the larger shift is taken: near
    the horizon a shift grows faster than its error, and a slope at zero would promise too much.
    The circle goes around the ellipse of all of them.
    """
    across = _axes(pose)[0]
    along = (-across[1], across[0], 0.0)
    shifts = [_on_ground(ray, CIRCLE_95 * errors.height_m)]  # it grows with the height
    for axis, sigma_deg in ((across, errors.tilt_deg), (along, errors.tilt_deg),
                            ((0.0, 0.0, 1.0), errors.heading_deg)):
        angle = CIRCLE_95 * math.radians(sigma_deg)
        both = [_turned(ray, axis, angle), _turned(ray, axis, -angle)]
        if max(turned[2] for turned in both) >= 0:
            raise NotGeotagged(f'a tilt error of {sigma_deg:g} degrees (geo.tilt_error_deg) may '
                               'lift the region to the horizon; pitch the camera down')
        places = [_on_ground(turned, pose.height_m) for turned in both]
        shifts.append(max(((east - centre[0], north - centre[1]) for east, north in places),
                          key=lambda shift: math.hypot(*shift)))
    east2 = sum(east * east for east, _ in shifts)
    north2 = sum(north * north for _, north in shifts)
    both2 = sum(east * north for east, north in shifts)
    longest2 = (east2 + north2) / 2 + math.hypot((east2 - north2) / 2, both2)  # eigenvalue
    return math.sqrt(longest2 + (CIRCLE_95 * errors.position_m) ** 2)


def _turned(ray: Vector, axis: Vector, angle: float) -> Vector:
    """Return a vector turned about a unit axis (Rodrigues' formula)."""
    (x, y, z), (a, b, c) = ray, axis
    cosine, sine = math.cos(angle), math.sin(angle)
    cross = (b * z - c * y, c * x - a * z, a * y - b * x)
    return _combined((cosine, sine, (a * x + b * y + c * z) * (1 - cosine)), (ray, cross, axis))


def place_at(latitude_deg: float, longitude_deg: float, east_m: float,
             north_m: float) -> Tuple[float, float]:
    """
    Return latitude and longitude (-180 to 180) of a point of the tangent plane at a place.

    Through earth-centred coordinates of the WGS-84 ellipsoid, so that the date line and the
    poles are places like any other. Back by Bowring's formula (1976), exact to far below 1 mm
    near the surface.
    """
    x0_m, y0_m, z0_m = _earth_centred_m(latitude_deg, longitude_deg)
    phi, lam = math.radians(latitude_deg), math.radians(longitude_deg)
    out_m = -math.sin(phi) * north_m  # along the meridian's direction outwards
    x_m = x0_m + math.cos(lam) * out_m - math.sin(lam) * east_m
    y_m = y0_m + math.sin(lam) * out_m + math.cos(lam) * east_m
    z_m = z0_m + math.cos(phi) * north_m
    from_axis_m = math.hypot(x_m, y_m)
    theta = math.atan2(z_m * WGS84_A_M, from_axis_m * _B_M)
    found = math.atan2(z_m + _E2 / (1 - _E2) * _B_M * math.sin(theta) ** 3,
                       from_axis_m - _E2 * WGS84_A_M * math.cos(theta) ** 3)
    return math.degrees(found), math.degrees(math.atan2(y_m, x_m))


def offset_m(latitude_deg: float, longitude_deg: float, to_latitude_deg: float,
             to_longitude_deg: float) -> Tuple[float, float]:
    """Return (east, north) in m of another place, in the tangent plane at the first one."""
    here, there = (_earth_centred_m(latitude_deg, longitude_deg),
                   _earth_centred_m(to_latitude_deg, to_longitude_deg))
    x_m, y_m, z_m = (other - own for own, other in zip(here, there))
    phi, lam = math.radians(latitude_deg), math.radians(longitude_deg)
    out_m = math.cos(lam) * x_m + math.sin(lam) * y_m
    return (math.cos(lam) * y_m - math.sin(lam) * x_m,
            math.cos(phi) * z_m - math.sin(phi) * out_m)


def _earth_centred_m(latitude_deg: float, longitude_deg: float) -> Vector:
    """Return the earth-centred coordinates of a point of the ellipsoid's surface."""
    phi, lam = math.radians(latitude_deg), math.radians(longitude_deg)
    across_m = WGS84_A_M / math.sqrt(1 - _E2 * math.sin(phi) ** 2)  # radius in the prime vertical
    return (across_m * math.cos(phi) * math.cos(lam), across_m * math.cos(phi) * math.sin(lam),
            across_m * (1 - _E2) * math.sin(phi))
