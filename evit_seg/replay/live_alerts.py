# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's alert events, back from the words of ~/alert_events."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.errors import InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.regions import Region
import numpy as np


def events_of(stamp_ns: int, rows: Sequence[tuple[str, Mapping[str, str]]],
              labels: LabelMap) -> list[AlertEvent]:
    """
    Return the events of one message: (kind, values) rows under the stamp of their frame.

    The message holds the boxes one by one, but area and confidence of all regions together: each
    region gets an equal share of the area. InputError for values that are not as documented.
    """
    return [_event_of(stamp_ns, kind, values, labels) for kind, values in rows]


def _event_of(stamp_ns: int, kind: str, values: Mapping[str, str],
              labels: LabelMap) -> AlertEvent:
    try:
        boxes = [tuple(int(v) for v in box.split(',')) for box in values['bbox'].split()]
        share_px = float(values['pixels']) / max(1, len(boxes))
        confidence = float(values['confidence'])
        regions = tuple(Region(x, y, w, h, share_px, confidence) for x, y, w, h in boxes)
        entry = labels.by_slug(values['class'])
        alert = Alert(values['alert_id'], entry.id, entry.slug, regions,
                      _nanoseconds(values['first_seen']), _nanoseconds(values['last_seen']))
        return AlertEvent(kind, alert, values['state'], stamp_ns)
    except (KeyError, ValueError) as error:
        raise InputError(f'alert event {kind!r}: {error!r} in {dict(values)!r}') from error


def _nanoseconds(text: str) -> int:
    """Return exact ns of seconds written with nine decimals."""
    seconds, _, decimals = text.partition('.')
    return int(seconds) * 10**9 + int(decimals.ljust(9, '0'))


def alerts_on_mask(alerts: Sequence[Alert], mask_HW: np.ndarray,
                   min_pixels: Mapping[int, float]) -> tuple[Alert, ...]:
    """
    Return the active alerts with the regions their class has in this frame's own mask.

    For pictures only: an event's boxes are those of its frame, and the camera moves on. Regions
    below `min_pixels` (by class id) are left out; alerts without any are.
    """
    shown = []
    for alert in alerts:
        confidence = max((region.confidence for region in alert.regions), default=0.0)
        count, _, stats, _ = cv2.connectedComponentsWithStats(
            (mask_HW == alert.class_id).astype(np.uint8), connectivity=8)
        regions = tuple(
            Region(int(stats[i, 0]), int(stats[i, 1]), int(stats[i, 2]), int(stats[i, 3]),
                   float(stats[i, cv2.CC_STAT_AREA]), confidence)
            for i in range(1, count)
            if stats[i, cv2.CC_STAT_AREA] >= min_pixels.get(alert.class_id, 0.0))
        if regions:
            shown.append(Alert(alert.alert_id, alert.class_id, alert.slug, regions,
                               alert.first_seen_ns, alert.last_seen_ns))
    return tuple(shown)
