# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction
import json
import math

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import LabelClass, LabelMap, load_label_map
from evit_seg.core.metrics import (
    confusion_matrix,
    dataset_scores,
    flood_counts,
    flood_iou,
    lpcv_dice,
    lpcv_score,
    paper_score,
    resize_truth,
    ScoreAccumulator,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

LPCV = load_label_map()

# Two images of 2x4 pixels and three classes, worked out by hand.
TRUTH_1 = np.array([[0, 0, 1, 1], [0, 0, 255, 254]], np.uint8)
MASK_1 = np.array([[0, 0, 1, 0], [0, 2, 1, 1]], np.uint8)
TRUTH_2 = np.zeros((2, 4), np.uint8)
MASK_2 = np.zeros((2, 4), np.uint8)
MATRIX_1 = [[3, 0, 1], [1, 1, 0], [0, 0, 0]]
MATRIX_BOTH = [[11, 0, 1], [1, 1, 0], [0, 0, 0]]


def both():
    return confusion_matrix(TRUTH_1, MASK_1, 3) + confusion_matrix(TRUTH_2, MASK_2, 3)


def test_rows_are_the_truth_and_255_and_254_are_out():
    matrix = confusion_matrix(TRUTH_1, MASK_1, 3)
    assert matrix.tolist() == MATRIX_1
    assert matrix.dtype == np.int64


def test_dataset_scores_by_hand():
    scores = dataset_scores(both())
    assert both().tolist() == MATRIX_BOTH
    # Class 2 was predicted but is not in the truth: no IoU, not in the mean, a miss of class 0.
    assert scores['iou'] == [11 / 13, 1 / 2, None]
    assert scores['dice'] == [22 / 24, 2 / 3, None]
    assert scores['precision'] == [11 / 12, 1.0, 0.0]
    assert scores['recall'] == [11 / 12, 1 / 2, None]
    assert scores['miou'] == pytest.approx((11 / 13 + 1 / 2) / 2)
    assert scores['mean_dice'] == pytest.approx((22 / 24 + 2 / 3) / 2)
    assert scores['accuracy'] == pytest.approx(12 / 14)


def test_lpcv_dice_by_hand():
    # Image 1: classes 0 (2*3 / (4+4)), 1 (2*1 / (2+1)), 2 (0 / 1); image 2: class 0 only.
    first = lpcv_dice(confusion_matrix(TRUTH_1, MASK_1, 3))
    assert first == pytest.approx((6 / 8 + 2 / 3 + 0) / 3)
    assert lpcv_dice(confusion_matrix(TRUTH_2, MASK_2, 3)) == 1.0
    accumulator = ScoreAccumulator(3)
    accumulator.add(TRUTH_1, MASK_1)
    accumulator.add(TRUTH_2, MASK_2)
    result = accumulator.result(three_classes())
    assert result['lpcv']['dice'] == pytest.approx((first + 1.0) / 2)
    assert result['dataset']['miou'] == pytest.approx((11 / 13 + 1 / 2) / 2)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_one_false_pixel_of_an_absent_class_costs_the_image_k_of_k_plus_1(k):
    truth = np.repeat(np.arange(k, dtype=np.uint8), 10000)[None]
    mask = truth.copy()
    mask[0, 0] = 13
    assert lpcv_dice(confusion_matrix(truth, mask, 14)) == pytest.approx(k / (k + 1), abs=1e-4)


def test_nothing_to_compare():
    empty = confusion_matrix(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 3)
    assert math.isnan(lpcv_dice(empty))
    scores = dataset_scores(empty)
    assert scores['miou'] is None and scores['accuracy'] is None
    assert scores['iou'] == [None] * 3


def test_images_without_truth_are_not_in_lpcvs_mean():
    accumulator = ScoreAccumulator(3)
    accumulator.add(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    accumulator.add(TRUTH_2, MASK_2)
    result = accumulator.result(three_classes())
    assert result['images'] == 2
    assert result['lpcv'] == {'dice': 1.0, 'images': 1, 'score': None}


def test_flood_is_binary_and_254_is_not_flood():
    truth = np.array([[7, 7, 254, 254, 255, 0]], np.uint8)
    mask = np.array([[7, 0, 7, 3, 7, 7]], np.uint8)
    assert flood_counts(truth, mask) == (1, 2, 1)
    assert flood_iou((1, 2, 1)) == 0.25
    assert flood_iou((0, 0, 0)) is None
    assert confusion_matrix(truth, mask, 14).sum() == 3


def test_flood_iou_is_over_all_images():
    accumulator = ScoreAccumulator(14)
    accumulator.add(np.full((1, 4), 7, np.uint8), np.array([[7, 7, 7, 0]], np.uint8))
    accumulator.add(np.full((1, 4), 254, np.uint8), np.array([[7, 0, 0, 0]], np.uint8))
    result = accumulator.result(LPCV)
    assert result['flood_iou'] == 3 / 5
    assert result['compared_px'] == 4


def test_scores_by_time():
    assert paper_score(0.6, 0.25) == pytest.approx(2.4)
    assert lpcv_score(0.514, 0.0068) == pytest.approx(75.6, abs=0.1)  # ModelTC in LPCV 2023
    accumulator = ScoreAccumulator(3)
    accumulator.add(TRUTH_2, MASK_2)
    result = accumulator.result(three_classes(), seconds_per_image=0.5)
    assert (result['paper_score'], result['lpcv']['score']) == (2.0, 2.0)
    assert accumulator.result(three_classes())['paper_score'] is None
    with pytest.raises(ConfigError, match='above 0'):
        paper_score(0.6, 0.0)


def three_classes(**slugs):
    return LabelMap(tuple(LabelClass(i, f'c{i}', slugs.get(f'c{i}', f'c{i}'), (i, i, i))
                          for i in range(3)))


def test_the_result_is_json_with_a_row_per_class():
    accumulator = ScoreAccumulator(3)
    accumulator.add(TRUTH_1, MASK_1)
    result = json.loads(json.dumps(accumulator.result(three_classes()), allow_nan=False))
    assert result['flood_iou'] is None  # another label map has no flood
    assert result['classes'][2] == {
        'id': 2, 'name': 'c2', 'slug': 'c2', 'iou': None, 'dice': None, 'precision': 0.0,
        'recall': None, 'truth_px': 0, 'predicted_px': 1}
    with pytest.raises(ConfigError, match='expected 3 classes, got 14'):
        accumulator.result(LPCV)


@pytest.mark.parametrize(('truth', 'mask', 'message'), [
    (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r'\(2, 3\) and \(3, 2\)'),
    (np.full((2, 2), 14, np.uint8), np.zeros((2, 2), np.uint8), 'truth: expected class ids 0 to'),
    (np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), 'prediction: .*got 255 to 255'),
    (np.zeros((2, 2), np.int8), np.full((2, 2), -1, np.int8), 'prediction: .*got -1'),
    (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), 'truth: expected .*float64'),
    (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), 'one size')])
def test_what_is_no_mask_is_said(truth, mask, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(truth, mask, 14)


def test_a_refused_image_changes_nothing():
    accumulator = ScoreAccumulator(3)
    with pytest.raises(InputError):
        accumulator.add(np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8))
    assert accumulator.images == 0 and accumulator.matrix.sum() == 0


# -- resizing the truth -------------------------------------------------------------------------

def test_the_truth_is_resized_to_its_nearest_pixel_centre():
    truth = np.arange(6, dtype=np.uint8)[None]
    assert resize_truth(truth, (1, 2)).tolist() == [[1, 4]]
    assert resize_truth(truth, (2, 12)).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]] * 2
    assert resize_truth(truth, (1, 6)) is truth
    with pytest.raises(ConfigError, match='1x1'):
        resize_truth(truth, (0, 5))


@given(st.integers(1, 40), st.integers(1, 40))
def test_resizing_picks_the_nearest_centre(old, new):
    picked = resize_truth(np.arange(old, dtype=np.uint8)[None], (1, new))[0]
    for index, source in enumerate(picked):
        centre = Fraction(2 * index + 1, 2 * new)  # as a part of the width
        distance = abs(centre - Fraction(2 * int(source) + 1, 2 * old))
        assert distance <= Fraction(1, 2 * old)


# -- against plain Python -----------------------------------------------------------------------

CLASSES = 4


def slow_scores(images):
    """All scores of (truth, mask) pairs, pixel by pixel in sets: no matrix anywhere."""
    truth_px = [(i, p, int(t)) for i, (truth, _) in enumerate(images)
                for p, t in enumerate(truth.ravel())]
    mask_px = {(i, p): int(m) for i, (_, mask) in enumerate(images)
               for p, m in enumerate(mask.ravel())}
    kept = [(i, p, t) for i, p, t in truth_px if t not in (254, 255)]

    def sets(c, image=None):
        truth = {(i, p) for i, p, t in kept if t == c and image in (None, i)}
        mask = {(i, p) for i, p, _ in kept if mask_px[i, p] == c and image in (None, i)}
        return truth, mask

    ious = [Fraction(len(t & m), len(t | m)) for t, m in map(sets, range(CLASSES)) if t]
    per_image = []
    for image in range(len(images)):
        pairs = [sets(c, image) for c in range(CLASSES)]
        dice = [Fraction(2 * len(t & m), len(t) + len(m)) for t, m in pairs if t or m]
        if dice:
            per_image.append(sum(dice) / len(dice))
    flood_truth = {(i, p) for i, p, t in truth_px if t == 2}
    flood_mask = {(i, p) for i, p, t in truth_px if t != 255 and mask_px[i, p] == 2}
    union = flood_truth | flood_mask
    return (sum(ious) / len(ious) if ious else None,
            sum(per_image) / len(per_image) if per_image else None,
            Fraction(len(flood_truth & flood_mask), len(union)) if union else None)


MASKS = hnp.arrays(np.uint8, (3, 4), elements=st.integers(0, CLASSES - 1))
TRUTHS = hnp.arrays(np.uint8, (3, 4),
                    elements=st.integers(0, CLASSES - 1) | st.sampled_from([254, 255]))


@given(st.lists(st.tuples(TRUTHS, MASKS), max_size=4))
def test_against_plain_python(images):
    accumulator = ScoreAccumulator(CLASSES, flood_id=2)
    for truth, mask in images:
        accumulator.add(truth, mask)
    slugs = ('land', 'road', 'flood', 'person')
    label_map = LabelMap(tuple(LabelClass(i, s, s, (0, 0, 0)) for i, s in enumerate(slugs)))
    result = accumulator.result(label_map)
    got = (result['dataset']['miou'], result['lpcv']['dice'], result['flood_iou'])
    for value, expected in zip(got, slow_scores(images)):
        assert (value is None) == (expected is None)
        assert value is None or value == pytest.approx(float(expected))
