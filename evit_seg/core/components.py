# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The objects of a truth mask: a mean over pixels hides that the small people are the ones missed.

An object is a connected component (8 neighbours) of one class in the truth, at the size that is
compared: two people who touch are one object, one cut by the image's edge is what can be seen of
it.
"""
from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np


def component_hits(truth_HW: np.ndarray, predicted_HW: np.ndarray, class_id: int
                   ) -> Tuple[np.ndarray, np.ndarray]:
    """
    Return the objects of one class: their areas, and how much of each is predicted as the class.

    Both masks hold class ids of one size; both results are int64 (objects,), pixels.
    """
    truth = truth_HW == class_id
    if not truth.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    number, labels_HW, stats, _ = cv2.connectedComponentsWithStats(
        truth.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    areas_px = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)  # row 0 is all that is no object
    hit_px = np.bincount(labels_HW[predicted_HW == class_id], minlength=number)[1:]
    return areas_px, hit_px.astype(np.int64)
