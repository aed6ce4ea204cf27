# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of frames and labels: by hand, and against a search over all assignments."""
from __future__ import annotations

import itertools

from evit_seg.replay import truth
from evit_seg.replay.truth import MaskMatcher, pair_stamps
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np


def test_equal_stamps_pair_in_any_order():
    assert pair_stamps([10, 20, 30], [30, 10, 99]) == {0: 1, 2: 0}


def test_one_nanosecond_off_is_no_pair_unless_tolerated():
    assert pair_stamps([10], [11]) == {}
    assert pair_stamps([10], [11], tolerance_ns=1) == {0: 0}


def test_the_nearest_pair_goes_first():
    # 0-8 is within the tolerance too, but 10-8 is nearer
    assert pair_stamps([0, 10], [8], tolerance_ns=10) == {1: 0}


def test_repeated_stamps_pair_one_to_one():
    assert pair_stamps([5, 5, 5], [5, 5]) == {0: 0, 1: 1}


STAMPS = st.lists(st.integers(0, 30), max_size=6)


@settings(deadline=None)
@given(STAMPS, STAMPS, st.integers(0, 5))
def test_pairs_are_valid_and_nothing_more_could_be_added(image_ns, truth_ns, tolerance_ns):
    pairs = pair_stamps(image_ns, truth_ns, tolerance_ns)
    assert len(set(pairs.values())) == len(pairs)
    for i, j in itertools.product(range(len(image_ns)), range(len(truth_ns))):
        near = abs(image_ns[i] - truth_ns[j]) <= tolerance_ns
        if pairs.get(i) == j:
            assert near
        elif near:
            assert i in pairs or j in pairs.values()


def mask(value: int) -> np.ndarray:
    return np.full((2, 2), value, np.uint8)


@settings(deadline=None)
@given(st.permutations([(kind, i) for kind in 'pt' for i in range(4)]))
def test_partners_meet_whatever_the_order(order):
    matcher = MaskMatcher({0: 3, 1: 2, 2: 1})  # image 3 and truth 0 have no partner
    met = []
    for kind, index in order:
        if kind == 'p':
            partner = matcher.add_prediction(index, mask(index))
            met += [] if partner is None else [(index, int(partner[0, 0]))]
        else:
            partner = matcher.add_truth(index, mask(index))
            met += [] if partner is None else [(int(partner[0, 0]), index)]
    assert sorted(met) == [(0, 3), (1, 2), (2, 1)]
    assert matcher.lost == 0


def test_labels_far_from_their_frames_are_given_up_and_counted(monkeypatch):
    monkeypatch.setattr(truth, 'WAITING_LIMIT', 2)
    matcher = MaskMatcher({i: i for i in range(5)})
    for i in range(5):
        assert matcher.add_prediction(i, mask(i)) is None
    assert matcher.lost == 3
    assert [matcher.add_truth(i, mask(i)) is not None for i in range(5)] == \
        [False, False, False, True, True]
    assert matcher.lost == 3


def test_what_cannot_be_decoded_frees_its_partner():
    matcher = MaskMatcher({0: 0, 1: 1})
    matcher.add_truth(0, mask(0))
    matcher.give_up_image(0)
    assert matcher.add_prediction(0, mask(0)) is None
    matcher.give_up_truth(1)
    assert matcher.add_prediction(1, mask(1)) is None
    matcher.give_up_truth(7)
