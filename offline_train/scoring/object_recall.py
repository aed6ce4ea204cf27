# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Recall by object size: a mean over pixels hides that the small people are the ones that are missed.

An object is one of `core.components`. It is hit when at least half of its pixels are predicted as
its class. Half, because less would not mark where it is and more would punish outlines, which are
uncertain by a pixel or two: of a person of 5x5 pixels 16 lie on the outline. It is touched when
any of its pixels is; an alert needs no more. Neither asks what is predicted beside the object:
that is the class's precision.
"""
from __future__ import annotations

from typing import Any, Dict, List

from evit_seg.core.components import component_hits
from evit_seg.core.labels import LabelClass, LabelMap
import numpy as np

SIZES_PX = (1, 16, 64, 256, 1024)
"""Smallest area of each bin; the last has no upper end."""
ALWAYS_WATCHED = ('person', 'vehicle')
_COLUMNS = ('objects', 'hit', 'touched', 'pixels', 'hit_pixels')


def watched_classes(label_map: LabelMap) -> List[LabelClass]:
    """Return the classes marked rare, and Person and Vehicle whether they are or not."""
    return [c for c in label_map if c.rare or c.slug in ALWAYS_WATCHED]


def object_counts(truth_HW: np.ndarray, predicted_HW: np.ndarray, class_id: int) -> np.ndarray:
    """
    Return what became of the objects of one class in one image, int64 (bins, 5).

    Both masks hold class ids of one size. A row per bin of `SIZES_PX`: objects, those hit, those
    touched, their pixels, and how many of these are predicted as the class.
    """
    counts = np.zeros((len(SIZES_PX), len(_COLUMNS)), np.int64)
    areas_px, hit_px = component_hits(truth_HW, predicted_HW, class_id)
    bins = np.searchsorted(SIZES_PX, areas_px, side='right') - 1
    columns = (np.ones_like(areas_px), 2 * hit_px >= areas_px, hit_px > 0, areas_px, hit_px)
    for column, values in enumerate(columns):
        np.add.at(counts[:, column], bins, values)
    return counts


class ObjectRecall:
    """Sum `object_counts` of the watched classes; memory does not grow with the images."""

    def __init__(self, label_map: LabelMap) -> None:
        self._classes = watched_classes(label_map)
        self._counts = [np.zeros((len(SIZES_PX), len(_COLUMNS)), np.int64)
                        for _ in self._classes]

    def add(self, truth_HW: np.ndarray, predicted_HW: np.ndarray) -> None:
        """Add one image: masks of one size."""
        for entry, counts in zip(self._classes, self._counts, strict=True):
            counts += object_counts(truth_HW, predicted_HW, entry.id)

    def result(self) -> Dict[str, List[Dict[str, Any]]]:
        """
        Return a row per bin for each class's slug, as JSON can hold it.

        `recall` is of objects that are hit, `touched_recall` of those touched, `pixel_recall` of
        pixels; None in a bin without objects. `max_px` is the bin's largest area, None if open.
        """
        return {entry.slug: [_row(index, counts[index]) for index in range(len(SIZES_PX))]
                for entry, counts in zip(self._classes, self._counts, strict=True)}


def _row(index: int, counts: np.ndarray) -> Dict[str, Any]:
    row: Dict[str, Any] = {'min_px': SIZES_PX[index],
                           'max_px': SIZES_PX[index + 1] - 1 if index + 1 < len(SIZES_PX)
                           else None}
    row.update({name: int(value) for name, value in zip(_COLUMNS, counts, strict=True)})
    for name, part, whole in (('recall', 'hit', 'objects'), ('touched_recall', 'touched',
                              'objects'), ('pixel_recall', 'hit_pixels', 'pixels')):
        row[name] = row[part] / row[whole] if row[whole] else None
    return row
