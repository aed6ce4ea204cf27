# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Find images that are the same, or nearly, so that no split is tested on what another learned.

The difference hash of an image is 64 bits: whether each of 8x9 cells is darker than its right
neighbour. Frames of one place a moment apart differ in few bits; unrelated ones in about 32.
"""
from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np

HASH_BITS = 64
MIN_CONTRAST = 16
"""Grey levels between the darkest and brightest cell below which an image has no hash: fog and
open water would all look alike."""
_ROWS_AT_A_TIME = 2048


def difference_hash(image_HWC: np.ndarray) -> Optional[np.ndarray]:
    """Return the hash of a BGR uint8 image (H, W, 3) as bool (64,), None if it is too flat."""
    grey = cv2.cvtColor(image_HWC, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    if int(np.ptp(cells)) < MIN_CONTRAST:
        return None
    return np.asarray(cells[:, 1:] > cells[:, :-1]).ravel()


def equal_content(digests: Sequence[str]) -> Iterator[Tuple[int, int]]:
    """Yield (first, later) for each item whose digest an earlier one has; '' is skipped."""
    first_with: Dict[str, int] = {}
    for index, digest in enumerate(digests):
        if digest and first_with.setdefault(digest, index) != index:
            yield first_with[digest], index


def near_pairs(hashes: Sequence[Optional[np.ndarray]], groups: Sequence[int],
               max_bits: int) -> List[Tuple[int, int, int]]:
    """
    Return (index, index, bits that differ) of the pairs of different groups up to `max_bits`.

    For each item only its nearest one of a later group is named: a film of one place would give
    thousands of pairs.
    """
    kept = np.array([i for i, h in enumerate(hashes) if h is not None], np.int64)
    if not len(kept):
        return []
    # As +1 and -1 the scalar product of two hashes is 64 - 2 x (bits that differ).
    signs = np.stack([hashes[i] for i in kept]).astype(np.float32) * 2 - 1
    group = np.asarray(groups)[kept]
    found = []
    for start in range(0, len(kept), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        distance = (HASH_BITS - signs[rows] @ signs.T) / 2
        distance[group[rows, None] >= group[None]] = np.inf
        nearest = distance.argmin(axis=1)
        for row in np.flatnonzero(distance.min(axis=1) <= max_bits):
            found.append((int(kept[start + row]), int(kept[nearest[row]]),
                          int(distance[row, nearest[row]])))
    return found
