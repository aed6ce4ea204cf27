# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Recall of the classes that raise alerts by the size of what is to be found: the report's `sizes`.

By the side of the objects in the truth masks, sqrt of their area in source pixels, and by the
height of the appearances where there are true boxes. An object counts as hit when a tenth of it is
predicted as its class: an alert needs a region there, not its outline.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.components import component_hits
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.event_scores import EventScores
from evit_seg.replay.event_truth import SeenSpan
from evit_seg.replay.observer import SeenFrame
import numpy as np

SIDES_PX = (0, 8, 16, 32, 64)
"""Smallest sqrt(area) of each bucket; the last has no upper end."""
HEIGHTS_PX = (0, 16, 32, 64, 128)
HIT_SHARE = 0.1


class ObjectSizes:
    """Makes the report's `sizes`; memory does not grow with the frames."""

    key = 'sizes'
    topics: tuple[str, ...] = ()

    def __init__(self, rules: Sequence[AlertRule], events: EventScores) -> None:
        self._rules = rules
        self._events = events
        self._images = 0
        # objects, hits, pixels, hit pixels of each class and bucket
        self._counts = np.zeros((len(rules), len(SIDES_PX), 4), np.int64)

    def take_message(self, message: BagMessage) -> None:
        """Nothing: it asks for no topic."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Nothing: it waits for the frame's truth."""

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Look for the objects of one frame's truth."""
        self._images += 1
        for rule, counts in zip(self._rules, self._counts, strict=True):
            areas_px, hit_px = component_hits(truth_HW, mask_HW, rule.class_id)
            buckets = np.searchsorted(np.square(SIDES_PX), areas_px, side='right') - 1
            columns = (np.ones_like(areas_px), hit_px >= HIT_SHARE * areas_px, areas_px, hit_px)
            for column, values in enumerate(columns):
                np.add.at(counts[:, column], buckets, values)

    def section(self) -> dict[str, Any] | None:
        """Return the report's `sizes`; None without any ground truth that has sizes."""
        heights = [[span for span in events.tally.spans if span.height_px is not None]
                   if events.tally else [] for _, events in self._events.scores()]
        boxes = self._events.has_boxes
        if not self._images and not boxes:
            return None
        note = None if self._images else 'no truth masks: only the appearances have sizes'
        return {'hit_share': HIT_SHARE, 'images': self._images, 'note': note, 'classes': [
            {'slug': rule.slug, 'class_id': rule.class_id,
             'components': _components(counts) if self._images else None,
             'appearances': _appearances(spans) if boxes else None}
            for rule, counts, spans in zip(self._rules, self._counts, heights, strict=True)]}


def _components(counts: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for low, high, row in zip(SIDES_PX, (*SIDES_PX[1:], None), counts.tolist(), strict=True):
        objects, hits, pixels, hit_pixels = row
        rows.append({'side_from_px': low, 'side_to_px': high, 'objects': objects, 'hits': hits,
                     'recall': hits / objects if objects else None, 'pixels': pixels,
                     'hit_pixels': hit_pixels,
                     'pixel_recall': hit_pixels / pixels if pixels else None})
    return rows


def _appearances(spans: Sequence[SeenSpan]) -> list[dict[str, Any]]:
    rows = []
    buckets = np.digitize([span.height_px or 0.0 for span in spans], HEIGHTS_PX) - 1
    for bucket, (low, high) in enumerate(zip(HEIGHTS_PX, (*HEIGHTS_PX[1:], None), strict=True)):
        inside = [span for span, at in zip(spans, buckets, strict=True) if at == bucket]
        hits = sum(span.hit for span in inside)
        rows.append({'height_from_px': low, 'height_to_px': high, 'appearances': len(inside),
                     'hits': hits, 'recall': hits / len(inside) if inside else None})
    return rows
