# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Recall by object size, by hand and against a flood fill in plain Python."""
from __future__ import annotations

import json

from evit_seg.core.labels import LabelClass, LabelMap, load_label_map
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from offline_train.scoring.object_recall import (
    object_counts,
    ObjectRecall,
    SIZES_PX,
    watched_classes,
)
import pytest

PERSON = 10


def paint(shape, *boxes):
    """Return a mask of 0 with boxes (top, left, height, width) of Person."""
    mask_HW = np.zeros(shape, np.uint8)
    for top, left, height, width in boxes:
        mask_HW[top:top + height, left:left + width] = PERSON
    return mask_HW


@pytest.mark.parametrize(('area_px', 'bin_index'), [
    (1, 0), (15, 0), (16, 1), (63, 1), (64, 2), (255, 2), (256, 3), (1023, 3), (1024, 4),
    (5000, 4)])
def test_an_object_is_in_the_bin_of_its_area(area_px, bin_index):
    truth = np.zeros((60, 100), np.uint8)
    truth.ravel()[:area_px] = PERSON
    counts = object_counts(truth, np.zeros_like(truth), PERSON)
    assert counts[bin_index].tolist() == [1, 0, 0, area_px, 0]
    assert counts.sum() == 1 + area_px


@pytest.mark.parametrize(('rows', 'hit', 'touched'), [(0, 0, 0), (1, 0, 1), (2, 1, 1), (4, 1, 1)])
def test_half_of_the_pixels_is_a_hit_and_one_is_a_touch(rows, hit, touched):
    truth = paint((8, 8), (0, 0, 4, 4))
    predicted = paint((8, 8), (0, 0, rows, 4))
    assert object_counts(truth, predicted, PERSON)[1].tolist() == [1, hit, touched, 16, 4 * rows]


def test_one_pixel_below_half_is_no_hit():
    truth = paint((8, 8), (0, 0, 5, 5))
    predicted = paint((8, 8), (0, 0, 2, 5), (2, 0, 1, 2))
    assert object_counts(truth, predicted, PERSON)[1].tolist() == [1, 0, 1, 25, 12]
    predicted[2, 2] = PERSON
    assert object_counts(truth, predicted, PERSON)[1].tolist() == [1, 1, 1, 25, 13]


def test_corners_connect_and_other_classes_separate():
    truth = paint((8, 8), (0, 0, 4, 4), (4, 4, 2, 2))
    assert object_counts(truth, truth, PERSON)[:, 0].tolist() == [0, 1, 0, 0, 0]
    truth = paint((8, 8), (0, 0, 2, 8))
    truth[:, 3] = 255
    assert object_counts(truth, paint((8, 8), (0, 0, 8, 3)), PERSON)[0].tolist() == [
        2, 1, 1, 14, 6]


def test_what_is_predicted_beside_an_object_changes_nothing():
    truth = paint((8, 8), (0, 0, 4, 4))
    everywhere = np.full((8, 8), PERSON, np.uint8)
    assert object_counts(truth, everywhere, PERSON)[1].tolist() == [1, 1, 1, 16, 16]


def test_watched_are_the_rare_classes_and_person_and_vehicle():
    assert [c.slug for c in watched_classes(load_label_map())] == ['fire_flare', 'person',
                                                                   'vehicle']
    unmarked = LabelMap(tuple(LabelClass(i, slug, slug, (i, i, i), slug == 'boat') for i, slug
                              in enumerate(('road', 'vehicle', 'boat', 'person'))))
    assert [c.slug for c in watched_classes(unmarked)] == ['vehicle', 'boat', 'person']


def test_images_add_up_and_empty_bins_have_no_recall():
    recall = ObjectRecall(load_label_map())
    small, large = paint((40, 40), (0, 0, 3, 3)), paint((40, 40), (0, 0, 20, 20))
    for truth, predicted in ((small, small), (small, 0 * small), (large, small)):
        recall.add(truth, predicted)
    rows = json.loads(json.dumps(recall.result(), allow_nan=False))['person']
    assert rows[0] == {'min_px': 1, 'max_px': 15, 'objects': 2, 'hit': 1, 'touched': 1,
                       'pixels': 18, 'hit_pixels': 9, 'recall': 0.5, 'touched_recall': 0.5,
                       'pixel_recall': 0.5}
    assert rows[3] == {'min_px': 256, 'max_px': 1023, 'objects': 1, 'hit': 0, 'touched': 1,
                       'pixels': 400, 'hit_pixels': 9, 'recall': 0.0, 'touched_recall': 1.0,
                       'pixel_recall': 9 / 400}
    assert rows[4]['max_px'] is None and rows[4]['recall'] is None
    assert rows[4]['pixel_recall'] is None


def slow_objects(truth_HW):
    """Return the objects of Person as sets of pixels, by a flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(truth_HW == PERSON)}
    while left:
        found, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            found.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        yield found


MASKS = hnp.arrays(np.uint8, (9, 16), elements=st.sampled_from([0, PERSON, PERSON, 13]))


@given(MASKS, MASKS)
def test_against_a_flood_fill(truth, predicted):
    expected = np.zeros((len(SIZES_PX), 5), np.int64)
    for found in slow_objects(truth):
        hit = sum(predicted[at] == PERSON for at in found)
        size = max(i for i, least in enumerate(SIZES_PX) if len(found) >= least)
        expected[size] += [1, hit / len(found) >= 0.5, hit > 0, len(found), hit]
    assert object_counts(truth, predicted, PERSON).tolist() == expected.tolist()
