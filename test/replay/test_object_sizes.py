# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Recall by the size of the objects: squares that can be counted."""
from __future__ import annotations

from pathlib import Path

from evit_seg.replay.annotations import Annotations
from evit_seg.replay.event_scores import EventScores
from evit_seg.replay.object_sizes import ObjectSizes
import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle
from tiny_flight import cells, pack, PERSON, report_of, RULE, write_boxes, write_flight


def masks_with(*squares):
    """Return truth and mask; squares: (row, column, side, rows that are predicted)."""
    truth, mask = (np.zeros((128, 128), np.uint8) for _ in range(2))
    for row, column, side, found in squares:
        truth[row:row + side, column:column + side] = PERSON
        mask[row:row + found, column:column + side] = PERSON
    return truth, mask


def components(*images):
    sizes = ObjectSizes([RULE], EventScores([RULE], None))
    for index, pair in enumerate(images):
        sizes.take_pair(index, *pair)
    section = sizes.section()
    assert (section['images'], section['note']) == (len(images), None)
    [row] = section['classes']
    assert row['appearances'] is None
    return row['components']


def test_recall_by_size_by_hand():
    rows = components(
        # 7 x 7 px with 1 of 7 rows (14 %) found; 8 x 8 with none; 10 x 10 with 1 of 10: a tenth
        masks_with((0, 0, 7, 1), (20, 0, 8, 0), (40, 0, 10, 1)),
        # 20 x 20 with 1 of 20 rows: 5 % is not enough; 64 x 64 with all
        masks_with((0, 0, 20, 1), (40, 40, 64, 64)))
    assert [(r['side_from_px'], r['side_to_px']) for r in rows] == [
        (0, 8), (8, 16), (16, 32), (32, 64), (64, None)]
    assert [(r['objects'], r['hits'], r['recall']) for r in rows] == [
        (1, 1, 1.0), (2, 1, 0.5), (1, 0, 0.0), (0, 0, None), (1, 1, 1.0)]
    assert [(r['pixels'], r['hit_pixels']) for r in rows] == [
        (49, 7), (164, 10), (400, 20), (0, 0), (4096, 4096)]
    assert [r['pixel_recall'] for r in rows] == [pytest.approx(7 / 49), pytest.approx(10 / 164),
                                                 pytest.approx(0.05), None, 1.0]


def test_people_who_touch_at_a_corner_are_one_object():
    rows = components(masks_with((0, 0, 5, 5), (5, 5, 5, 0)))
    assert (rows[0]['objects'], rows[0]['hits'], rows[0]['pixels']) == (1, 1, 50)


def test_appearances_by_height_need_boxes_and_no_masks(tmp_path):
    # A is 8 px high and found; B is never.
    bundle: Path = write_tiny_bundle(tmp_path / 'tiny')
    flight = write_flight(tmp_path / 'flight', [cells((1, 1))] * 10)
    write_boxes(flight, {'A': (range(10), 1, 1), 'B': (range(10), 6, 6)})
    report = report_of(pack(flight), bundle, min_height_px=8.0, annotations=Annotations.read(
        flight / 'objects.csv', flight / 'events.csv'))
    sizes = report['sizes']
    assert (sizes['images'], sizes['classes'][0]['components']) == (0, None)
    assert 'no truth masks' in sizes['note']
    rows = sizes['classes'][0]['appearances']
    assert rows[0] == {'height_from_px': 0, 'height_to_px': 16, 'appearances': 2, 'hits': 1,
                       'recall': 0.5}
    assert all((row['appearances'], row['recall']) == (0, None) for row in rows[1:])
    assert rows[-1]['height_to_px'] is None
