# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Flicker, drop-outs and agreement with the truth, on grids that can be counted by eye."""
from __future__ import annotations

from types import SimpleNamespace

from evit_seg.core.labels import load_label_map
from evit_seg.core.preprocess import frame_geometry
from evit_seg.replay.flicker import Flicker
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from tiny_flight import BACKGROUND, cells, grown, PERSON, ROAD, RULE

LABELS = load_label_map()
GEOMETRY = frame_geometry((64, 64), (64, 64), 8, 'stretch')  # a grid of 8 x 8


def run(flicker, masks, truths=(), stamps_ns=None, evidence=(), first=0):
    """Show the observer a flight; truths: index -> grid."""
    for i, ids in enumerate(masks, first):
        mask = grown(ids)
        flicker.take_frame(SimpleNamespace(
            index=i, stamp_ns=stamps_ns[i] if stamps_ns else i * 10**8,
            result=SimpleNamespace(mask_HW=mask, geometry=GEOMETRY),
            regions={PERSON: [1] if i < len(evidence) and evidence[i] == 'x' else []}))
        if i in truths:
            flicker.take_pair(i, grown(truths[i]), mask)
    return flicker.section()


def classes_of(section):
    return {row['slug']: row for row in section['classes']}


def test_flicker_by_hand():
    # The person has 2 cells, then 1, then 2, then 2 others; the rest is road.
    masks = [cells((1, 1), (1, 2), other=ROAD), cells((1, 1), other=ROAD),
             cells((1, 1), (1, 2), other=ROAD), cells((5, 5), (5, 6), other=ROAD)]
    section = run(Flicker(LABELS, [RULE]), masks)
    assert (section['grid_hw'], section['frame_pairs'], section['truth_pairs']) == ([8, 8], 3, 0)
    rows = classes_of(section)
    # cells before and after: 2 + 1, 1 + 2, 2 + 2; changed: 1, 1 and 2 gone + 2 come
    person = rows['person']
    assert (person['cells'], person['changed_cells']) == (10, 6)
    assert person['flicker'] == pytest.approx(6 / 10)
    # the road has what the person has not, of 64 cells in each of the 6 frames compared
    road = rows['road_railway_bridge']
    assert (road['cells'], road['changed_cells']) == (6 * 64 - 10, 6)
    assert (rows['vehicle']['cells'], rows['vehicle']['flicker']) == (0, None)
    assert (section['consistency'], person['beyond_truth']) == (None, None)
    assert 'compare bundles on one bag' in section['note']


def test_what_changed_in_the_truth_is_no_flicker():
    # The person walks one cell to the right in the truth, and the mask follows a frame late.
    truths = {0: cells((2, 2)), 1: cells((2, 3)), 2: cells((2, 4))}
    masks = [cells((2, 2)), cells((2, 2)), cells((2, 3))]
    section = run(Flicker(LABELS, [RULE]), masks, truths)
    person = classes_of(section)['person']
    # Frames 0-1: the truth changes in 2 cells, the mask in none. Frames 1-2: the truth changes in
    # (2,3) and (2,4), the mask in (2,2) and (2,3): (2,3) in both, (2,2) beyond the truth.
    assert (section['truth_pairs'], section['compared_cells']) == (2, 128)
    assert section['consistent_cells'] == (64 - 2) + (64 - 2)
    assert section['consistency'] == pytest.approx(124 / 128)
    assert (person['truth_cells'], person['changed_beyond_truth_cells']) == (4, 1)
    assert person['beyond_truth'] == 1 / 4
    assert (person['cells'], person['changed_cells']) == (4, 2)
    follows = classes_of(run(Flicker(LABELS, [RULE]), list(truths.values()), truths))['person']
    assert (follows['flicker'], follows['beyond_truth']) == (1.0, 0.0)


def test_cells_without_truth_are_not_compared():
    unlabelled = cells((2, 2))
    unlabelled[:4] = 255
    section = run(Flicker(LABELS, [RULE]), [cells((2, 2)), cells()],
                  {0: unlabelled, 1: cells()})
    assert (section['compared_cells'], section['consistency']) == (32, 1.0)
    assert classes_of(section)['person']['truth_cells'] == 0


def test_truth_of_every_other_frame_gives_no_pairs():
    masks = [cells((1, 1))] * 4
    section = run(Flicker(LABELS, [RULE]), masks, {0: masks[0], 2: masks[2]})
    assert (section['frame_pairs'], section['truth_pairs']) == (3, 0)


def test_truth_may_come_long_after_its_frame():
    flicker = Flicker(LABELS, [RULE])
    masks = [cells((1, 1)), cells(), cells((1, 1))]
    run(flicker, masks)
    for i, mask in enumerate(masks):
        flicker.take_pair(i, grown(cells((1, 1))), grown(mask))
    person = classes_of(flicker.section())['person']
    assert (person['truth_cells'], person['changed_beyond_truth_cells']) == (2, 2)


def test_a_new_epoch_is_not_compared_with_the_old():
    stamps = [10**10, 10**10 + 10**8, 10**8, 2 * 10**8]  # back by 10 s: a bag that loops
    masks = [cells((1, 1)), cells((1, 1)), cells((6, 6)), cells((6, 6))]
    section = run(Flicker(LABELS, [RULE]), masks, dict(enumerate(masks)), stamps, 'x..x')
    assert (section['frame_pairs'], section['truth_pairs']) == (2, 2)
    assert classes_of(section)['person']['changed_cells'] == 0
    assert section['alert_classes'][0]['dropouts_2'] == 0


@pytest.mark.parametrize('evidence,ones,twos', [
    ('xx.xx..xx...xx', 1, 1), ('..x..', 0, 0), ('x.x.x', 2, 0), ('x..x.x..', 1, 1), ('', 0, 0)])
def test_drop_outs_by_hand(evidence, ones, twos):
    section = run(Flicker(LABELS, [RULE]), [cells()] * 20, evidence=evidence)
    [row] = section['alert_classes']
    assert (row['dropouts_1'], row['dropouts_2']) == (ones, twos)
    assert row['evidence_frames'] == evidence.count('x')
    # 20 frames of 0.1 s
    assert row['dropouts_per_min'] == pytest.approx((ones + twos) * 30)


def test_letterboxed_frames_are_compared_without_the_padding():
    geometry = frame_geometry((32, 64), (64, 64), 8, 'letterbox')
    flicker = Flicker(LABELS, [RULE])
    for i, ids in enumerate([cells((1, 1)), cells((1, 2))]):
        flicker.take_frame(SimpleNamespace(
            index=i, stamp_ns=i, regions={},
            result=SimpleNamespace(mask_HW=grown(ids)[:32], geometry=geometry)))
    section = flicker.section()
    assert section['grid_hw'] == [4, 8]
    rows = classes_of(section)
    assert (rows['person']['changed_cells'], rows['person']['cells']) == (2, 2)
    assert sum(row['cells'] for row in rows.values()) == 64


MASKS = st.lists(st.lists(st.sampled_from([BACKGROUND, PERSON, ROAD]), min_size=64, max_size=64),
                 min_size=2, max_size=4)


@settings(deadline=None, max_examples=40)
@given(MASKS)
def test_a_mask_that_is_the_truth_agrees_with_it_and_flickers_by_one_minus_dice(grids):
    masks = [np.array(grid, np.uint8).reshape(8, 8) for grid in grids]
    section = run(Flicker(LABELS, [RULE]), masks, dict(enumerate(masks)))
    assert section['consistency'] == 1.0
    for row in section['classes']:
        assert row['changed_beyond_truth_cells'] == 0
        pairs = [(a == row['class_id'], b == row['class_id'])
                 for a, b in zip(masks, masks[1:], strict=False)]
        whole = sum(int(a.sum() + b.sum()) for a, b in pairs)
        common = sum(int((a & b).sum()) for a, b in pairs)
        assert row['flicker'] == (pytest.approx(1 - 2 * common / whole) if whole else None)
