# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which ground-truth mask belongs to which frame, and holding one until the other comes."""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

WAITING_LIMIT = 128
"""Masks held for their partner; at 1280x720 this many take 120 MB."""

ALONE = -1
"""In place of a partner's index."""


def pair_stamps(image_ns: Sequence[int], truth_ns: Sequence[int],
                tolerance_ns: int = 0) -> dict[int, int]:
    """
    Return image index -> truth index of the pairs whose stamps differ by the tolerance or less.

    The nearest pair is taken first and each mask and frame is used once; among equal distances
    the earlier ones. Stamps may come in any order.
    """
    order = sorted(range(len(truth_ns)), key=lambda i: (truth_ns[i], i))
    sorted_ns = [truth_ns[i] for i in order]
    candidates = []
    for image_index, stamp_ns in enumerate(image_ns):
        low = bisect_left(sorted_ns, stamp_ns - tolerance_ns)
        high = bisect_right(sorted_ns, stamp_ns + tolerance_ns)
        candidates += [(abs(sorted_ns[i] - stamp_ns), image_index, order[i])
                       for i in range(low, high)]
    pairs: dict[int, int] = {}
    used: set[int] = set()
    for _, image_index, truth_index in sorted(candidates):
        if image_index not in pairs and truth_index not in used:
            pairs[image_index] = truth_index
            used.add(truth_index)
    return pairs


class MaskMatcher:
    """
    Brings predictions and truth masks together in whatever order the bag holds them.

    Both are uint8 (H, W). At most WAITING_LIMIT masks of either kind wait; of a bag that keeps
    its labels further than that from their frames the oldest are given up and counted in `lost`.
    """

    def __init__(self, pairs: dict[int, int]) -> None:
        images = np.fromiter(pairs.keys(), np.int64, len(pairs))
        truths = np.fromiter(pairs.values(), np.int64, len(pairs))
        self._truth_of = _partners(images, truths)
        self._image_of = _partners(truths, images)
        self._predictions: dict[int, np.ndarray] = {}
        self._truths: dict[int, np.ndarray] = {}
        self.lost = 0

    def add_prediction(self, image_index: int, mask_HW: np.ndarray) -> np.ndarray | None:
        """Return the truth of this prediction, or keep the prediction and return None."""
        truth_index = _partner(self._truth_of, image_index)
        if truth_index is None:
            return None
        if truth_index in self._truths:
            return self._truths.pop(truth_index)
        self._predictions[image_index] = mask_HW
        if len(self._predictions) > WAITING_LIMIT:
            self.give_up_image(next(iter(self._predictions)))
            self.lost += 1
        return None

    def image_of(self, truth_index: int) -> int | None:
        """Return the frame this truth belongs to, None where it has none."""
        return _partner(self._image_of, truth_index)

    def add_truth(self, truth_index: int, mask_HW: np.ndarray) -> np.ndarray | None:
        """Return the prediction for this truth, or keep the truth and return None."""
        image_index = _partner(self._image_of, truth_index)
        if image_index is None:
            return None
        if image_index in self._predictions:
            return self._predictions.pop(image_index)
        self._truths[truth_index] = mask_HW
        if len(self._truths) > WAITING_LIMIT:
            self.give_up_truth(next(iter(self._truths)))
            self.lost += 1
        return None

    def give_up_image(self, image_index: int) -> None:
        """Forget a frame that could not be decoded, and its truth."""
        self._forget(image_index, _partner(self._truth_of, image_index))

    def give_up_truth(self, truth_index: int) -> None:
        """Forget a label that could not be decoded, and its prediction."""
        self._forget(_partner(self._image_of, truth_index), truth_index)

    def _forget(self, image_index: int | None, truth_index: int | None) -> None:
        if image_index is None or truth_index is None:
            return
        self._truth_of[image_index] = self._image_of[truth_index] = ALONE
        self._predictions.pop(image_index, None)
        self._truths.pop(truth_index, None)


def _partners(indices: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Return the partner of each index as one array: a dictionary would take ten times as much."""
    table = np.full(int(indices.max(initial=ALONE)) + 1, ALONE, np.int64)
    table[indices] = partners
    return table


def _partner(table: np.ndarray, index: int) -> int | None:
    partner = int(table[index]) if index < len(table) else ALONE
    return None if partner == ALONE else partner
