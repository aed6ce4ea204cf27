# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Geotags on a real flight: a ground point seen from two places is one place."""
from __future__ import annotations

import csv
import math
from pathlib import Path

from evit_seg.core.geo import Camera, geotag, Pose, PoseErrors
import numpy as np
import pytest

BRIGHTON = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'brighton_beach'
ERRORS = PoseErrors(2.0, 2.0, 5.0, 2.0)
"""The defaults of geo.*_error_*."""
SENSOR_WIDTH_MM = 6.2
# The same ground point in a frame and in the next one, x y x y in pixels: matched features that
# one homography carries over (SIFT and RANSAC), three per pair, far apart.
SEEN_TWICE = {
    '0018': ((787, 354, 748, 641), (979, 15, 962, 315), (1195, 398, 1151, 714)),
    '0019': ((970, 378, 958, 636), (1196, 6, 1170, 247), (1017, 65, 993, 315)),
    '0020': ((1272, 99, 1265, 347), (178, 290, 169, 584), (1132, 434, 1133, 690)),
    '0021': ((1218, 450, 1207, 714), (1239, 10, 1227, 268), (1241, 14, 1229, 271)),
    '0022': ((1015, 23, 1008, 294), (1209, 365, 1195, 650), (1269, 7, 1264, 285)),
    '0023': ((1167, 664, 609, 588), (1014, 185, 493, 106), (1272, 170, 753, 108)),
    '0024': ((430, 296, 393, 36), (1220, 636, 1235, 215), (410, 714, 464, 442)),
    '0025': ((430, 408, 410, 141), (1238, 539, 1222, 273), (1208, 277, 1190, 8)),
    '0026': ((443, 675, 417, 410), (1223, 466, 1206, 217), (1235, 686, 1217, 440)),
    '0027': ((1189, 277, 1183, 58), (417, 410, 400, 137), (1230, 702, 1202, 501)),
    '0028': ((161, 624, 136, 370), (1258, 643, 1250, 398), (260, 705, 240, 452)),
    '0029': ((812, 613, 351, 674), (1189, 220, 794, 301), (825, 189, 402, 252)),
    '0030': ((1235, 15, 1236, 364), (151, 8, 181, 241), (947, 384, 913, 688)),
    '0031': ((1248, 379, 1231, 630), (31, 18, 7, 274), (301, 309, 273, 562)),
    '0032': ((775, 396, 750, 644), (260, 61, 224, 321), (847, 8, 815, 251)),
    '0033': ((1121, 22, 1103, 250), (34, 170, 9, 451), (194, 12, 165, 284)),
    '0034': ((1145, 285, 1137, 528), (38, 50, 17, 318), (912, 20, 900, 265)),
}
TOP_TO_TAIL = ('0024', '0025', '0026', '0027', '0028', '0029')
"""On the way back the images' top is at the tail. The flight's metadata do not say so (the yaw of
the gimbal is the drone's, its roll 0, the orientation 1); the next test shows it."""


def brighton_rows():
    if not BRIGHTON.is_dir():
        pytest.skip(f'{BRIGHTON} is not there')
    with (BRIGHTON / 'frames.csv').open(encoding='utf-8') as stream:
        return {row['file'][4:8]: row for row in csv.DictReader(stream)}


def brighton_tag(row, at_px):
    focal_px = float(row['focal_length_mm']) / SENSOR_WIDTH_MM * 1280
    pose = Pose(float(row['latitude_deg']), float(row['longitude_deg']),
                float(row['relative_altitude_m']), float(row['yaw_deg']),
                pitch_deg=-float(row['gimbal_pitch_deg']),
                yaw_deg=180.0 if row['file'][4:8] in TOP_TO_TAIL else 0.0)
    return geotag((*at_px, 1, 1), Camera(focal_px, focal_px, 639.5, 359.5), pose, ERRORS)


def distance_m(one, other):
    """Return the distance of two tags by the lengths of a degree at 46.84 north."""
    return math.hypot((one.latitude_deg - other.latitude_deg) * 111168.0,
                      (one.longitude_deg - other.longitude_deg) * 76283.0)


def test_the_way_back_of_the_real_flight_has_its_images_turned():
    rows = brighton_rows()
    for name, following in zip(sorted(rows), sorted(rows)[1:]):
        first, second = np.array(SEEN_TWICE[name], float)[:2]
        before, after = second[:2] - first[:2], second[2:] - first[2:]
        content_deg = math.degrees(math.atan2(*after[::-1]) - math.atan2(*before[::-1]))
        nose_deg = float(rows[following]['yaw_deg']) - float(rows[name]['yaw_deg'])
        # What lies on the ground turns against the drone.
        unexplained_deg = (content_deg + nose_deg + 180) % 360 - 180
        turned = (name in TOP_TO_TAIL) != (following in TOP_TO_TAIL)
        assert abs(abs(unexplained_deg) - 180 * turned) < 10


@pytest.mark.parametrize('name', sorted(SEEN_TWICE))
def test_a_ground_point_seen_twice_lies_within_the_radius(name):
    rows = brighton_rows()
    following = f'{int(name) + 1:04}'
    for x, y, next_x, next_y in SEEN_TWICE[name]:
        one = brighton_tag(rows[name], (x, y))
        other = brighton_tag(rows[following], (next_x, next_y))
        assert distance_m(one, other) <= min(one.radius_m, other.radius_m)
        assert max(one.radius_m, other.radius_m) < 12, 'a radius that says something, from 40 m'
