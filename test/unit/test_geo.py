# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Places on the ground: by hand, against tables, by simulated errors, and on a real flight."""
from __future__ import annotations

from dataclasses import replace
import math

import cv2
from evit_seg.core.geo import (
    Camera,
    geotag,
    MIN_DEPRESSION_DEG,
    NotGeotagged,
    place_at,
    Pose,
    PoseErrors,
)
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

CAMERA = Camera(1000.0, 1000.0, 639.5, 359.5)
NONE = PoseErrors(0.0, 0.0, 0.0, 0.0)
ERRORS = PoseErrors(2.0, 2.0, 5.0, 2.0)
EQUATOR = Pose(0.0, 0.0, 100.0, 0.0)
M_PER_DEG_NORTH, M_PER_DEG_EAST = 110574.3, 111319.5
"""At the equator, from the tables of the ellipsoid."""


def pixel(u, v):
    """Return the box of one pixel: its centre is the point (u, v)."""
    return (u, v, 1, 1)


def offset_m(box, pose, camera=CAMERA):
    """Return (east, north) of a box's place, for a pose at the equator."""
    tag = geotag(box, camera, pose, NONE)
    return tag.longitude_deg * M_PER_DEG_EAST, tag.latitude_deg * M_PER_DEG_NORTH


@pytest.mark.parametrize('heading_deg, yaw_deg, at_px, east_north_m', [
    (0, 0, (639.5, 359.5), (0, 0)),
    (0, 0, (639.5, 259.5), (0, 10)),  # up in the image is ahead, 100 m / 1000 px each
    (0, 0, (739.5, 359.5), (10, 0)),
    (90, 0, (639.5, 259.5), (10, 0)),
    (90, 0, (739.5, 359.5), (0, -10)),
    (-180, 0, (739.5, 259.5), (-10, -10)),
    (0, 90, (639.5, 259.5), (10, 0)),
    (270, -45, (639.5, 259.5), (-math.sqrt(50), -math.sqrt(50)))])
def test_straight_down_by_hand(heading_deg, yaw_deg, at_px, east_north_m):
    pose = replace(EQUATOR, heading_deg=heading_deg, yaw_deg=yaw_deg)
    assert offset_m(pixel(*at_px), pose) == pytest.approx(east_north_m, abs=1e-3)


@pytest.mark.parametrize('pitch_deg, at_px, ahead_right_m', [
    (45, (639.5, 359.5), (100, 0)),
    (30, (639.5, 359.5), (100 * math.sqrt(3), 0)),
    (45, (639.5, 359.5 + 1000), (0, 0)),  # the ray 45 degrees below the axis
    (45, (639.5, 359.5 - 500), (300, 0)),  # tan of the rest: (1 - 0.5) / (1 + 0.5)
    (45, (639.5 + 100, 359.5), (100, 10 * math.sqrt(2)))])  # 100 sqrt(2) m along the axis
def test_a_pitched_camera_by_hand(pitch_deg, at_px, ahead_right_m):
    north, east = ahead_right_m
    pose = replace(EQUATOR, pitch_deg=pitch_deg)
    assert offset_m(pixel(*at_px), pose) == pytest.approx((east, north), abs=1e-2)


def test_focal_lengths_and_the_principal_point_are_the_cameras():
    camera = Camera(500.0, 2000.0, 100.0, 50.0)
    assert offset_m(pixel(150.0, 50.0 - 100.0), EQUATOR, camera) == pytest.approx((10, 5),
                                                                                  abs=1e-3)


def test_the_centre_of_a_box_counts_from_pixel_edges():
    assert offset_m((639, 359, 2, 2), EQUATOR) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize('latitude_deg, km_per_deg_north, km_per_deg_east', [
    (0, 110.574, 111.320), (15, 110.649, 107.551), (30, 110.852, 96.486), (45, 111.132, 78.847),
    (60, 111.412, 55.800), (75, 111.618, 28.902), (-45, 111.132, 78.847)])
def test_degrees_are_as_long_as_tables_of_wgs84_say(latitude_deg, km_per_deg_north,
                                                    km_per_deg_east):
    latitude, longitude = place_at(latitude_deg, 10.0, 0.0, 100.0)
    assert (latitude - latitude_deg) * km_per_deg_north * 1e3 == pytest.approx(100, rel=1e-4)
    assert longitude == pytest.approx(10.0, abs=1e-12)
    latitude, longitude = place_at(latitude_deg, 10.0, -100.0, 0.0)
    assert (longitude - 10.0) * km_per_deg_east * 1e3 == pytest.approx(-100, rel=1e-4)
    assert latitude == pytest.approx(latitude_deg, abs=1e-7)


def test_the_date_line_is_a_place_like_any_other():
    assert place_at(0.0, 179.9999, 100.0, 0.0)[1] == pytest.approx(
        -179.9999 + (100 / M_PER_DEG_EAST - 0.0002), abs=1e-8)
    assert place_at(0.0, -179.9999, -100.0, 0.0)[1] == pytest.approx(
        179.9999 - (100 / M_PER_DEG_EAST - 0.0002), abs=1e-8)
    assert place_at(0.0, 350.0, 0.0, 0.0)[1] == pytest.approx(-10.0)


def test_the_poles_are_places_like_any_other():
    down_the_other_side = place_at(89.9999, 30.0, 0.0, 30.0)  # the pole is 11.17 m away
    assert down_the_other_side == pytest.approx((90 - (30 - 11.169) / 111694, -150.0), abs=1e-6)
    # At the pole itself, "north" is the way on along the meridian that the position names.
    assert place_at(-90.0, 0.0, 0.0, 111.694) == pytest.approx((-89.999, 0.0), abs=1e-7)
    assert place_at(90.0, 0.0, 111.694, 0.0) == pytest.approx((89.999, 90.0), abs=1e-7)


def test_without_errors_the_radius_is_the_reach_of_the_region():
    box = (639.5 + 100, 200, 60, 80)  # 6 m by 8 m on the ground
    assert geotag(box, CAMERA, EQUATOR, NONE).radius_m == pytest.approx(5.0, abs=1e-6)


CIRCLE = 2.4477468
"""Radius of 95 % of a normal distribution in the plane: the root of -2 ln 0.05."""


@pytest.mark.parametrize('errors, at_px, radius_m', [
    (PoseErrors(2.0, 0, 0, 0), (639.5, 359.5), CIRCLE * 2),
    (PoseErrors(0, 3.0, 0, 0), (639.5, 359.5), 0.0),  # straight below, height shifts nothing
    (PoseErrors(0, 3.0, 0, 0), (839.5, 359.5), CIRCLE * 3 * 0.2),
    (PoseErrors(0, 0, 4.0, 0), (839.5, 359.5), 2 * 20 * math.sin(math.radians(CIRCLE * 2))),
    (PoseErrors(0, 0, 0, 2.0), (639.5, 359.5), 100 * math.tan(math.radians(CIRCLE * 2))),
    (PoseErrors(2.0, 0, 0, 1.0), (639.5, 359.5),
     math.hypot(CIRCLE * 2, 100 * math.tan(math.radians(CIRCLE * 1))))])
def test_each_error_alone_by_hand(errors, at_px, radius_m):
    pixel_reach_m = math.hypot(0.05, 0.05)
    tag = geotag(pixel(*at_px), CAMERA, EQUATOR, errors)
    assert tag.radius_m == pytest.approx(radius_m + pixel_reach_m, rel=1e-3)


@pytest.mark.parametrize('pitch_deg, at_px', [(90, (639.5, 359.5)), (90, (1270.0, 10.0)),
                                              (45, (639.5, 359.5)), (45, (100.0, 100.0)),
                                              (25, (900.0, 359.5))])
def test_the_radius_holds_the_true_place_in_95_percent(pitch_deg, at_px):
    told = Pose(0.0, 0.0, 60.0, 30.0, pitch_deg=pitch_deg)
    tag = geotag(pixel(*at_px), CAMERA, told, ERRORS)
    place = np.array([tag.longitude_deg * M_PER_DEG_EAST, tag.latitude_deg * M_PER_DEG_NORTH])
    rng = np.random.default_rng(7)
    number = 4000
    east, north = rng.normal(0, ERRORS.position_m, (2, number))
    height = told.height_m + rng.normal(0, ERRORS.height_m, number)
    heading = np.radians(told.heading_deg + rng.normal(0, ERRORS.heading_deg, number))
    along, across = np.radians(rng.normal(0, ERRORS.tilt_deg, (2, number)))
    # The true camera, by another way than the code: a ray in the frame right, ahead, up, pitched
    # about "right" by the true pitch, rolled about "ahead", then turned to the true heading.
    x, y = (at_px[0] - 639.5) / 1000, (at_px[1] - 359.5) / 1000
    pitch = math.radians(told.pitch_deg) + along
    ahead = np.cos(pitch) - y * np.sin(pitch)
    up = -np.sin(pitch) - y * np.cos(pitch)
    right, up = x * np.cos(across) + up * np.sin(across), up * np.cos(across) - x * np.sin(across)
    scale = height / -up
    true = np.stack([
        east + scale * (right * np.cos(heading) + ahead * np.sin(heading)),
        north + scale * (ahead * np.cos(heading) - right * np.sin(heading))])
    inside = np.linalg.norm(true - place[:, None], axis=0) <= tag.radius_m
    assert inside.mean() >= 0.945, '1.5 standard deviations of 4000 draws are 0.005'
    # Not too large either: at half the radius it would hold far less.
    assert (np.linalg.norm(true - place[:, None], axis=0) <= tag.radius_m / 2).mean() < 0.9


@pytest.mark.parametrize('pose, box, errors, said', [
    (replace(EQUATOR, pitch_deg=0.0), pixel(639.5, 359.5), NONE, 'up to -0.0 degrees below'),
    (replace(EQUATOR, pitch_deg=10.0), pixel(639.5, 300.0), NONE,
     'geotags take at least 10'),
    (replace(EQUATOR, pitch_deg=12.0), (600, 300, 80, 120), NONE, 'the region reaches up to'),
    (replace(EQUATOR, pitch_deg=12.0), pixel(639.5, 359.5), PoseErrors(0, 0, 0, 6.0),
     'a tilt error of 6 degrees'),
    (replace(EQUATOR, height_m=0.0), pixel(639.5, 359.5), NONE, 'the height is 0.0 m'),
    (replace(EQUATOR, height_m=-3.0), pixel(639.5, 359.5), NONE, 'the height is -3.0 m')])
def test_what_has_no_place_on_the_ground(pose, box, errors, said):
    with pytest.raises(NotGeotagged) as caught:
        geotag(box, CAMERA, pose, errors)
    assert said in str(caught.value)


def test_the_least_depression_is_as_stated():
    for over_deg, taken in ((0.2, True), (-0.2, False)):
        pose = replace(EQUATOR, pitch_deg=MIN_DEPRESSION_DEG + over_deg)
        try:
            geotag(pixel(639.5, 359.5), CAMERA, pose, NONE)
        except NotGeotagged:
            assert not taken
        else:
            assert taken


@pytest.mark.parametrize('model, distortion', [
    ('plumb_bob', (-0.25, 0.08, 0.001, -0.0005, 0.0)),
    ('rational_polynomial', (0.3, 0.05, 0.0, 0.0, 0.01, 0.6, 0.1, 0.0)),
    ('equidistant', (-0.02, 0.004, 0.0, 0.0))])
def test_distortion_is_undone(model, distortion):
    k_33 = np.array([[1000.0, 0, 639.5], [0, 1000.0, 359.5], [0, 0, 1]])
    point = np.array([[[0.4, -0.2, 1.0]]])  # 40 m right, 20 m ahead, from 100 m
    project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    image_point, _ = project(point, np.zeros(3), np.zeros(3), k_33, np.array(distortion))
    u, v = image_point.reshape(2)
    assert abs(u - 1039.5) > 5, 'the distortion is to be seen'
    camera = replace(CAMERA, model=model, distortion=distortion)
    assert offset_m(pixel(float(u), float(v)), EQUATOR, camera) == pytest.approx((40, 20),
                                                                                 abs=1e-2)


@pytest.mark.parametrize('model, distortion, said', [
    ('omni', (0.1,), "got 'omni'"),
    ('equidistant', (0.1, 0.0, 0.0), 'has 3 coefficients, which equidistant does not take'),
    ('plumb_bob', (0.1, 0.0, 0.0), 'has 3 coefficients, which plumb_bob does not take'),
    ('plumb_bob', (-0.9, 0.0, 0.0, 0.0, 0.0), 'cannot be undone')])
def test_distortion_that_cannot_be_undone_is_said(model, distortion, said):
    camera = replace(CAMERA, model=model, distortion=distortion)
    with pytest.raises(NotGeotagged) as caught:
        geotag(pixel(1279.0, 719.0), camera, EQUATOR, NONE)
    assert said in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(latitude_deg=st.floats(-90, 90), longitude_deg=st.floats(-360, 360),
       height_m=st.floats(-10, 20000), heading_deg=st.floats(-720, 720),
       pitch_deg=st.floats(0, 90), yaw_deg=st.floats(-180, 180),
       box=st.tuples(st.floats(0, 1279), st.floats(0, 719), st.floats(0, 640),
                     st.floats(0, 360)))
def test_any_pose_gives_a_place_or_a_reason(box, **pose):
    try:
        tag = geotag(box, CAMERA, Pose(**pose), ERRORS)
    except NotGeotagged as reason:
        assert str(reason)
        return
    assert abs(tag.latitude_deg) <= 90
    assert abs(tag.longitude_deg) <= 180
    assert CIRCLE * ERRORS.position_m * 0.999 <= tag.radius_m < 1e6
