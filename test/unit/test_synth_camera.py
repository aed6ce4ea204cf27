# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from offline_train.data.synth_camera import (
    Camera,
    FOCAL_LENGTH_MM,
    looking_at,
    SENSOR_WIDTH_MM,
)
from offline_train.data.synth_flight import Flight, FRAME_COLUMNS
from offline_train.data.synth_noise import GSD_M
import pytest


@pytest.mark.parametrize('yaw_deg', [0.0, 90.0, 215.0])
@pytest.mark.parametrize('pitch_deg', [-90.0, -60.0, -45.0])
def test_optical_axis_meets_the_ground_where_asked(yaw_deg, pitch_deg):
    camera = looking_at(30.0, 40.0, 35.0, yaw_deg, pitch_deg, (1280, 720))
    pixels, depth = camera.project(np.array([[30.0, 40.0, 0.0]]))
    assert pixels[0] == pytest.approx([639.5, 359.5], abs=1e-6)
    assert depth[0] == pytest.approx(35.0 / np.sin(np.radians(-pitch_deg)))


def test_yaw_turns_clockwise_from_north_and_pitch_lifts_the_view():
    north = Camera(50.0, 50.0, 30.0, 0.0, -60.0, 640, 360)
    pixels, _ = north.project(np.array([[50.0, 20.0, 0.0], [60.0, 20.0, 0.0]]))
    assert pixels[0, 0] == pytest.approx(319.5)  # straight ahead to the north
    assert pixels[1, 0] > pixels[0, 0]  # east is on the right
    east = Camera(50.0, 50.0, 30.0, 90.0, -60.0, 640, 360)
    pixels, depth = east.project(np.array([[80.0, 50.0, 0.0], [80.0, 50.0, -5.0]]))
    assert pixels[0, 0] == pytest.approx(319.5)
    assert depth[0] > 0
    assert pixels[1, 1] < pixels[0, 1]  # what stands up goes up in the image


def test_a_nadir_view_has_the_scale_its_focal_length_says():
    camera = Camera(0.0, 0.0, 40.0, 0.0, -90.0, 1280, 720)
    pixels, _ = camera.project(np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]]))
    expected = 10.0 * FOCAL_LENGTH_MM / SENSOR_WIDTH_MM * 1280 / 40.0
    assert pixels[1, 0] - pixels[0, 0] == pytest.approx(expected)


def test_ground_homography_agrees_with_projection():
    camera = Camera(20.0, 30.0, 33.0, 37.0, -58.0, 640, 360)
    canvas = np.array([100.0, 250.0])
    world = np.array([[*((canvas + 0.5) * GSD_M), 0.0]])
    mapped = camera.ground_homography(GSD_M) @ [*canvas, 1.0]
    assert mapped[:2] / mapped[2] == pytest.approx(camera.project(world)[0][0])


def test_frame_rows_hold_the_pose_in_degrees():
    flight = Flight(seed=3, seconds=10.0, rate_hz=5.0, size_wh=(640, 360))
    rows = [dict(zip(FRAME_COLUMNS, flight.frame_row(i, 'x.jpg'), strict=True))
            for i in (0, 40)]
    views = [flight.camera(flight.time_s(i)) for i in (0, 40)]
    radius_m = 6_371_000.0  # a sphere is within one per cent of the ellipsoid
    north = np.radians(float(rows[1]['latitude_deg']) - float(rows[0]['latitude_deg'])) * radius_m
    east = np.radians(float(rows[1]['longitude_deg'])
                      - float(rows[0]['longitude_deg'])) * radius_m
    assert north == pytest.approx(views[0].south_m - views[1].south_m, rel=0.01, abs=0.01)
    assert east == pytest.approx(views[1].east_m - views[0].east_m, rel=0.01)
    assert float(rows[1]['time_s']) == pytest.approx(8.0)
    assert float(rows[1]['relative_altitude_m']) == pytest.approx(views[1].height_m, abs=1e-3)
    assert rows[0]['file'] == 'x.jpg'
