# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The landing zone: hand-made pictures, and every circle against a search by brute force."""
from __future__ import annotations

import itertools
import math

from evit_seg.core.errors import ConfigError, LabelMapMismatch
from evit_seg.core.geo import Camera, NotGeotagged, place_at, Pose, PoseErrors
from evit_seg.core.labels import load_label_map
from evit_seg.core.preprocess import frame_geometry
from evit_seg.core.safe_zone import (
    BLOCKED,
    FREE,
    HAZARD,
    KEEP_SHARE,
    LANDABLE,
    largest_zone,
    SafeZone,
    zone_ids,
    zone_on_ground,
    zone_squares,
    ZoneRule,
    ZoneTracker,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest

BACKGROUND, WATER, PERSON, ROAD = 0, 7, 10, 12
RULE = ZoneRule((BACKGROUND, ROAD), (6, PERSON, 13))


def logits_of(ids_HW, sure=8.0):
    logits_CHW = np.zeros((14, *ids_HW.shape), np.float32)
    np.put_along_axis(logits_CHW, ids_HW[None].astype(np.int64), sure, axis=0)
    return logits_CHW


def to_square(y, x, row, column):
    """Return how far the point is from the area of a square, both in squares."""
    return math.hypot(max(abs(y - row - 0.5) - 0.5, 0), max(abs(x - column - 0.5) - 0.5, 0))


def clear_radius(squares_HW, row, column, margin):
    """Return the radius of the circle around a square's centre, in squares, by its definition."""
    rows, columns = squares_HW.shape
    y, x = row + 0.5, column + 0.5
    radius = min(y, x, rows - y, columns - x)
    for r, c in itertools.product(range(rows), range(columns)):
        if squares_HW[r, c] != FREE:
            radius = min(radius, to_square(y, x, r, c))
        if squares_HW[r, c] == HAZARD:
            radius = min(radius, to_square(y, x, r, c) - margin)
    return radius


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)),
              elements=st.sampled_from([FREE, FREE, FREE, BLOCKED, HAZARD])),
       st.sampled_from([0.0, 0.5, 1.5]), st.sampled_from([1.0, 4.0]))
def test_the_zone_is_the_one_of_a_brute_force_search(squares_HW, margin, side_px):
    rows, columns = squares_HW.shape
    source_hw = (round(rows * side_px), round(columns * side_px))
    zone = largest_zone(squares_HW, source_hw, margin * side_px)
    best = {(r, c): clear_radius(squares_HW, r, c, margin)
            for r, c in itertools.product(range(rows), range(columns))}
    largest = max(best.values())
    if largest <= 0:
        assert zone is None
        return
    assert zone.radius_px == pytest.approx(largest * side_px, rel=1e-6)
    ties = [place for place, radius in best.items() if radius > largest * (1 - 1e-6)]
    row, column = min(ties, key=lambda p: ((p[0] - (rows - 1) / 2) ** 2
                                           + (p[1] - (columns - 1) / 2) ** 2, p))
    assert (zone.y, zone.x) == ((row + 0.5) * side_px - 0.5, (column + 0.5) * side_px - 0.5)


@given(st.integers(16, 300), st.integers(16, 300), st.sampled_from(['stretch', 'letterbox']),
       st.integers(0, 2 ** 31))
def test_no_pixel_of_a_blocked_cell_lies_in_the_zone(height, width, resize, seed):
    """By the mask at the camera's size: its pixels lie in the cells they are upscaled from."""
    geometry = frame_geometry((height, width), (64, 96), 8, resize)
    cells_HW = np.random.default_rng(seed).choice(
        [BACKGROUND, WATER, PERSON], size=geometry.grid_hw, p=[0.94, 0.04, 0.02])
    squares_HW = zone_squares(logits_of(cells_HW), geometry, RULE, 1.0)
    zone = largest_zone(squares_HW, (height, width), 5.0)
    if zone is None:
        return
    rows, columns = (np.minimum(((np.arange(size) + 0.5) * geometry.scale_yx[axis]
                                 + geometry.offset_yx[axis]) / 8,
                                geometry.grid_hw[axis] - 1).astype(int)
                     for axis, size in ((0, height), (1, width)))
    mask_HW = cells_HW[rows][:, columns]
    y, x = np.indices(mask_HW.shape)
    distance_HW = np.hypot(y - zone.y, x - zone.x)
    assert (mask_HW[distance_HW < zone.radius_px - 1e-6] == BACKGROUND).all()
    hazard = mask_HW == PERSON
    assert not hazard.any() or distance_HW[hazard].min() >= zone.radius_px + 5.0 - 1e-6
    assert zone.radius_px <= min(zone.y + 0.5, zone.x + 0.5, height - 0.5 - zone.y,
                                 width - 0.5 - zone.x) + 1e-6


def squares_of(ids_HW, source_hw=(64, 64), rule=RULE, **options):
    return zone_squares(logits_of(ids_HW, **options), frame_geometry(source_hw, (64, 64), 8,
                                                                     'stretch'), rule, 1.0)


def test_a_free_picture_gives_its_middle():
    zone = largest_zone(squares_of(np.full((8, 8), ROAD)), (64, 64))
    # Of the four squares around the middle the first one; three and a half squares to the border.
    assert zone == SafeZone(27.5, 27.5, 28.0)


def test_somebody_in_the_middle_is_given_room():
    ids_HW = np.full((9, 9), BACKGROUND)
    ids_HW[4, 4] = PERSON
    squares_HW = squares_of(ids_HW[:8, :8])
    assert squares_HW[4, 4] == HAZARD and (np.delete(squares_HW.ravel(), 36) == FREE).all()
    free, wide = (largest_zone(squares_HW, (64, 64), margin) for margin in (0, 16.0))
    # Squares of 8 px; the person takes 32 to 40 in both axes. Nearest corner of it from (20, 20)
    # is (32, 32): 12 sqrt 2 = 16.97 < 20 to the border. Without a margin (1, 1) holds no more.
    assert free == SafeZone(19.5, 19.5, pytest.approx(12 * math.sqrt(2)))
    assert wide.radius_px == pytest.approx(12.0)  # (12, 12): 12 to the border, 28 - 16 = 12.3
    assert math.hypot(32 - wide.x - 0.5, 32 - wide.y - 0.5) >= wide.radius_px + 16


def test_where_nothing_is_free_there_is_no_zone():
    assert largest_zone(squares_of(np.full((8, 8), WATER)), (64, 64)) is None
    assert largest_zone(squares_of(np.full((8, 8), PERSON)), (64, 64), 16.0) is None


def test_a_margin_may_leave_no_place_in_a_free_picture():
    ids_HW = np.full((8, 8), BACKGROUND)
    ids_HW[4, 4] = PERSON
    assert largest_zone(squares_of(ids_HW), (64, 64), 60.0) is None


def test_cells_the_network_is_not_sure_of_are_blocked():
    # One logit of 1 among 14 of 0: p = e / (e + 13) = 0.17.
    unsure = np.full((8, 8), BACKGROUND)
    assert (squares_of(unsure, sure=1.0) == BLOCKED).all()
    easy = ZoneRule((BACKGROUND,), min_confidence=0.17)
    assert (squares_of(unsure, rule=easy, sure=1.0) == FREE).all()
    assert (squares_of(unsure, rule=ZoneRule((BACKGROUND,), min_confidence=0.18),
                       sure=1.0) == BLOCKED).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_logits_that_are_not_finite_are_no_ground_to_land_on(value):
    logits_CHW = np.full((14, 8, 8), value, np.float32)
    geometry = frame_geometry((64, 64), (64, 64), 8, 'stretch')
    rule = ZoneRule((BACKGROUND,), min_confidence=0.0)
    assert (zone_squares(logits_CHW, geometry, rule, 1.0) == BLOCKED).all()


def test_a_wide_picture_squeezed_into_a_square_input_has_square_squares():
    ids_HW = np.full((8, 8), BACKGROUND)
    ids_HW[:, 4:] = WATER
    squares_HW = squares_of(ids_HW, (64, 128))
    assert squares_HW.shape == (8, 16)
    assert (squares_HW[:, :8] == FREE).all() and (squares_HW[:, 8:] == BLOCKED).all()
    assert largest_zone(squares_HW, (64, 128)).radius_px == 28.0


def frame_with(*places):
    squares_HW = np.full((8, 8), FREE, np.uint8)
    for row, column in places:
        squares_HW[row, column] = HAZARD
    return squares_HW


def tracker_of(**options):
    return ZoneTracker(ZoneRule((BACKGROUND,), **{'min_radius_px': 1, 'margin_px': 0,
                                                  'confirm_n': 3, **options}))


def fly(tracker, frames, step_ns=100_000_000, start_ns=0, **options):
    return [tracker.update(start_ns + i * step_ns, frame, (64, 64), **options)
            for i, frame in enumerate(frames)]


def test_a_zone_was_free_in_each_of_the_last_frames():
    answers = fly(tracker_of(), [frame_with()] * 4)
    assert [answer.zone is not None for answer in answers] == [False, False, True, True]
    assert answers[0].note == 'no zone: 1 of the 3 frames that confirm one were seen'
    assert answers[3].note == ''


def test_who_was_there_in_one_frame_keeps_the_place_blocked_for_the_next_two():
    tracker = tracker_of(margin_px=100)
    answers = fly(tracker, [frame_with()] * 3 + [frame_with((4, 4))] + [frame_with()] * 3)
    assert [answer.zone is not None for answer in answers[2:]] == [True, False, False, False, True]
    assert answers[3].note == 'no zone: no place was free of other classes for 3 frames'


def test_a_circle_that_is_too_small_is_none():
    tracker = tracker_of(min_radius_px=29, confirm_n=1)
    (answer,) = fly(tracker, [frame_with()])
    assert answer == (None, 'no zone: the largest free circle has 28.0 px, expected 29 or more')


def test_the_zone_stays_while_it_is_nearly_the_largest():
    def blocked_left(columns):
        squares_HW = np.full((20, 40), FREE, np.uint8)
        squares_HW[:, :columns] = BLOCKED
        return squares_HW
    tracker = tracker_of(confirm_n=1)
    first = tracker.update(0, blocked_left(0), (160, 320)).zone
    closer = tracker.update(1, blocked_left(11), (160, 320)).zone
    assert (first.x, closer.x) == (155.5, 155.5)
    assert KEEP_SHARE * 76 <= closer.radius_px < first.radius_px == 76
    moved = tracker.update(2, blocked_left(13), (160, 320)).zone
    assert moved.x > closer.x and moved.radius_px == 76


def test_a_kept_centre_does_not_hide_a_zone_that_is_large_enough():
    tracker = tracker_of(confirm_n=1, min_radius_px=70)
    tracker.update(0, np.full((20, 40), FREE, np.uint8), (160, 320))
    squares_HW = np.full((20, 40), FREE, np.uint8)
    squares_HW[:, :11] = BLOCKED
    assert tracker.update(1, squares_HW, (160, 320)).zone.radius_px == 76


@pytest.mark.parametrize('gap_ns', [2_100_000_000, -1])
def test_after_a_gap_or_a_stamp_that_goes_back_it_starts_anew(gap_ns):
    tracker = tracker_of()
    assert fly(tracker, [frame_with()] * 3)[-1].zone
    assert fly(tracker, [frame_with()], start_ns=200_000_000 + gap_ns)[0].zone is None


def test_after_another_grid_it_starts_anew():
    tracker = tracker_of()
    fly(tracker, [frame_with()] * 3)
    assert tracker.update(300_000_000, np.zeros((4, 4), np.uint8), (64, 64)).zone is None


def test_metres_straight_down():
    camera = Camera(100.0, 100.0, 31.5, 31.5)
    pose = Pose(46.8, -92.0, 50.0, 0.0)
    errors = PoseErrors(2.0, 0.0, 0.0, 0.0)
    ground = zone_on_ground(SafeZone(41.5, 31.5, 20.0), camera, pose, errors)
    # 50 m above the ground a pixel is 0.5 m; 10 pixels right of the axis is east, heading north.
    assert ground.radius_m == pytest.approx(10.0)
    assert (ground.latitude_deg, ground.longitude_deg) == pytest.approx(
        place_at(46.8, -92.0, 5.0, 0.0), abs=1e-9)
    assert ground.error_m == pytest.approx(2.0 * math.sqrt(-2 * math.log(0.05)), abs=0.36)


def test_metres_of_a_tilted_camera_are_those_of_the_nearest_point_of_the_rim():
    camera = Camera(100.0, 100.0, 31.5, 31.5)
    ground = zone_on_ground(SafeZone(31.5, 31.5, 10.0), camera, Pose(0, 0, 30.0, 90.0, 60.0),
                            PoseErrors(0, 0, 0, 0))
    # By hand: the axis meets the ground at 30 / tan 60 = 17.32 m, the pixel 10 below it, which is
    # atan 0.1 = 5.711 degrees steeper, at 30 / tan 65.711 = 13.54 m; across, the axis is
    # 30 / sin 60 = 34.64 m long, so that 10 px are 3.46 m: the nearer of the two.
    assert ground.radius_m == pytest.approx(3.4641, rel=5e-3)


def test_a_zone_that_reaches_to_the_horizon_has_no_metres():
    camera = Camera(100.0, 100.0, 31.5, 31.5)
    with pytest.raises(NotGeotagged, match='below the horizon'):
        zone_on_ground(SafeZone(31.5, 31.5, 30.0), camera, Pose(0, 0, 30.0, 0.0, 20.0),
                       PoseErrors(0, 0, 0, 0))


def test_the_ids_of_a_label_map():
    labels = load_label_map()
    assert zone_ids(labels, LANDABLE, ('flood_water_river_sea',)) == (
        (BACKGROUND, ROAD), (6, WATER, PERSON, 13))
    with pytest.raises(LabelMapMismatch, match="no class 'road'"):
        zone_ids(labels, ('road',), ())
    with pytest.raises(ConfigError, match="'person' is rare or raises alerts"):
        zone_ids(labels, ('person',), ())


@pytest.mark.parametrize('changes, said', [
    ({'free': ()}, 'at least one class'), ({'confirm_n': 0}, 'safe_zone.confirm_n: expected 1'),
    ({'margin_px': float('nan')}, 'safe_zone.margin_px')])
def test_a_rule_refuses_what_makes_no_sense(changes, said):
    with pytest.raises(ConfigError, match=said):
        ZoneRule(**{'free': (0,), **changes})
