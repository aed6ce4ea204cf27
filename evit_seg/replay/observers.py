# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What looks on in every run of bag_eval."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.annotations import Annotations
from evit_seg.replay.certainty import Certainty
from evit_seg.replay.event_scores import EventScores
from evit_seg.replay.event_truth import BoxTruth, EventTimes, EventTruth
from evit_seg.replay.flicker import Flicker
from evit_seg.replay.frame_line import FrameLine
from evit_seg.replay.object_sizes import ObjectSizes
from evit_seg.replay.observer import Observer
from evit_seg.replay.recommended import MAX_FALSE_PER_MIN
from evit_seg.replay.safe_zones import SafeZones
from evit_seg.replay.threshold_curves import ThresholdCurves
from evit_seg.replay.worst import WorstFrames


def standard_observers(segmenter: Segmenter, rules: Sequence[AlertRule], image_count: int, *,
                       annotations: Annotations | None = None, min_height_px: float = 12.0,
                       event_times: EventTimes | None = None,
                       max_false_per_min: float = MAX_FALSE_PER_MIN,
                       pictures: bool = False,
                       params: Path | None = None) -> list[Observer]:
    """
    Return new observers for one run over a bag of `image_count` images.

    annotations, min_height_px: true boxes, as given to `evaluate`. event_times: marked times
    instead. max_false_per_min: bound of the recommended thresholds. pictures: whether the worst
    frames come with theirs, for a page. params: the file with `safe_zone.*`.
    ConfigError for both kinds of truth; LabelMapMismatch for marked times of an unknown class.
    """
    truth = event_truth(segmenter, annotations, min_height_px, event_times)
    events = EventScores(rules, truth)
    certainty = Certainty(segmenter.manifest.temperature)
    return [events,
            ThresholdCurves(rules, truth, segmenter.manifest.temperature, max_false_per_min),
            ObjectSizes(rules, events),
            Flicker(segmenter.label_map, rules),
            FrameLine(rules, certainty),
            WorstFrames(segmenter.label_map, rules, certainty, pictures=pictures),
            SafeZones(segmenter, rules, params)]


def event_truth(segmenter: Segmenter, annotations: Annotations | None, min_height_px: float,
                event_times: EventTimes | None) -> EventTruth | None:
    """Return who was there, from boxes or marked times; None where nobody has said."""
    if annotations is not None and event_times is not None:
        raise ConfigError('expected true boxes (--objects) or marked times (--event-times), got '
                          'both')
    if event_times is not None:
        event_times.check(segmenter.label_map)
        return event_times
    return BoxTruth(annotations, min_height_px) if annotations is not None else None
