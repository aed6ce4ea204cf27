# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Would the alerts have come, how soon, and how many were false: the report's `events`.

Recall, false alerts and the time an alert was on with nobody there belong together: an alert that
never goes out misses nobody and is never false.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from evit_seg.core.alerts import Alert, AlertRule
from evit_seg.core.appearances import active_spans, covered_minutes, ScoredFrame
from evit_seg.replay.annotations import time_on, TimeOn
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.event_truth import EventTally, EventTimes, EventTruth, SeenSpan
from evit_seg.replay.observer import SeenFrame
import numpy as np

NO_TRUTH = ('no ground truth for events (true boxes or marked times): no recall, no time to '
            'alert, no false alerts; only how often and how long alerts were on')


@dataclass
class FrameLog:
    """Stamps and names of the processed frames."""

    first_ns: int = 0
    stamps_ns: list[int] = field(default_factory=list)
    names: list[tuple[str, float] | None] = field(default_factory=list)

    def add(self, seen: SeenFrame) -> None:
        """Take one more frame."""
        self.first_ns = seen.first_ns
        self.stamps_ns.append(seen.stamp_ns)
        self.names.append(seen.name)

    def minutes(self, truth: EventTruth | None) -> float:
        """Return the time that the frames cover which the truth knows."""
        return covered_minutes(self._known(truth))

    def flight_s(self, truth: EventTruth | None) -> float:
        """Return the time up to the last of these frames: what shares of time are of."""
        stamps_ns = self._known(truth)
        return sum(max(0, after - before)
                   for before, after in zip(stamps_ns, stamps_ns[1:])) / 1e9

    def _known(self, truth: EventTruth | None) -> list[int]:
        return [stamp_ns for stamp_ns, name in zip(self.stamps_ns, self.names, strict=True)
                if truth is None or truth.knows(name)]

    def scored(self, alerts: Sequence[tuple[Alert, ...]], truth: EventTruth | None
               ) -> list[ScoredFrame]:
        """Return the frames that the truth knows (all, without one) with their alerts."""
        return [ScoredFrame(*(name or (f'#{index}', (stamp_ns - self.first_ns) / 1e9)), stamp_ns,
                            active)
                for index, (stamp_ns, name, active)
                in enumerate(zip(self.stamps_ns, self.names, alerts, strict=True))
                if truth is None or truth.knows(name)]


@dataclass(frozen=True)
class ClassEvents:
    """The alerts of one class; `tally` is None where nothing is known of the class."""

    alerts: int
    minutes: float
    times: TimeOn
    tally: EventTally | None

    @property
    def hits(self) -> list[SeenSpan]:
        """Return the appearances that were hit."""
        return [span for span in self.tally.spans if span.hit] if self.tally else []

    @property
    def recall(self) -> float | None:
        """Return the share of the appearances that were hit; None without any."""
        return ratio(len(self.hits), len(self.tally.spans)) if self.tally else None

    @property
    def false_alerts_per_min(self) -> float | None:
        """Return false alerts per minute; None without ground truth or time."""
        return ratio(self.tally.false_alerts, self.minutes) if self.tally else None

    @property
    def idle_share(self) -> float | None:
        """Return the share of the time with none in view in which an alert was on."""
        return ratio(self.times.idle_s, self.times.empty_s) if self.tally else None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers that events and curves share."""
        tally, times = self.tally, self.times
        return {
            'appearances': len(tally.spans) if tally else None,
            'hits': len(self.hits) if tally else None, 'recall': self.recall,
            'alerts': self.alerts, 'alerts_per_min': ratio(self.alerts, self.minutes),
            'false_alerts': tally.false_alerts if tally else None,
            'false_alerts_per_min': self.false_alerts_per_min,
            'on_s': times.on_s, 'on_share': ratio(times.on_s, times.flight_s),
            'empty_s': times.empty_s if tally else None,
            'idle_s': times.idle_s if tally else None, 'idle_share': self.idle_share}


def score_class(frames: Sequence[ScoredFrame], rule: AlertRule, truth: EventTruth | None,
                first_ns: int) -> ClassEvents:
    """Score the alerts of one class; `frames` as `FrameLog.scored` gives them for this truth."""
    tally = truth.tally(frames, rule, first_ns) \
        if truth is not None and truth.annotates(rule.slug) else None
    in_view = tally.in_view if tally else [False] * len(frames)
    return ClassEvents(len(active_spans(frames, rule.slug)),
                       covered_minutes([frame.stamp_ns for frame in frames]),
                       time_on(frames, rule.slug, in_view), tally)


class EventScores:
    """Makes the report's `events`; keeps the active alerts of every frame."""

    key = 'events'
    topics: tuple[str, ...] = ()

    def __init__(self, rules: Sequence[AlertRule], truth: EventTruth | None) -> None:
        self._rules = rules
        self._truth = truth
        self._log = FrameLog()
        self._active: list[tuple[Alert, ...]] = []

    def take_message(self, message: BagMessage) -> None:
        """Nothing: it asks for no topic."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Keep which alerts are on."""
        self._log.add(seen)
        self._active.append(seen.active)

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Nothing: alerts are not scored by masks."""

    @property
    def has_boxes(self) -> bool:
        """Return whether the truth is of boxes, which have heights."""
        return self._truth is not None and self._truth.kind == 'boxes'

    def scores(self) -> list[tuple[AlertRule, ClassEvents]]:
        """Return the score of every class with a rule."""
        frames = self._log.scored(self._active, self._truth)
        return [(rule, score_class(frames, rule, self._truth, self._log.first_ns))
                for rule in self._rules]

    def section(self) -> dict[str, Any]:
        """Return the report's `events`."""
        scores = self.scores()
        return {'truth': self._truth.kind if self._truth else None,
                'definition': self._truth.definition if self._truth else None,
                'note': '; '.join(self._notes()) or None,
                'minutes': self._log.minutes(self._truth),
                'flight_s': self._log.flight_s(self._truth),
                'classes': [self._class(rule, events) for rule, events in scores]}

    def _notes(self) -> Iterator[str]:
        if self._truth is None:
            yield NO_TRUTH
            return
        blind = [rule.slug for rule in self._rules if not self._truth.annotates(rule.slug)]
        if blind:
            yield f'no times are given for {", ".join(blind)}: not scored'
        if isinstance(self._truth, EventTimes):
            slugs = {rule.slug for rule in self._rules}
            idle = sorted({row[0] for row in self._truth.rows} - slugs)
            if idle:
                yield f'{", ".join(idle)} has times but raises no alerts: not scored'
            outside = self._truth.outside(self._log.stamps_ns, self._log.first_ns)
            if outside:
                yield f'{outside} of the marked spans of {self._truth.file} hold no frame of ' \
                      'this bag'

    def _class(self, rule: AlertRule, events: ClassEvents) -> dict[str, Any]:
        tally, hits = events.tally, events.hits
        times_s = [span.time_to_alert_s for span in hits if span.time_to_alert_s is not None]
        row = {'slug': rule.slug, 'class_id': rule.class_id, 'annotated': tally is not None,
               **events.to_dict(), 'left_out': None, 'already_on': None, 'time_to_alert_s': None,
               'times_s': None, 'idle_of_on_share': None, 'spans': None}
        if tally is not None:
            row.update(
                left_out=tally.left_out, already_on=sum(span.already_on for span in hits),
                time_to_alert_s=time_quantiles(times_s), times_s=times_s,
                idle_of_on_share=ratio(events.times.idle_s, events.times.on_s),
                spans=[self._span(span) for span in tally.spans])
        return row

    def _span(self, span: SeenSpan) -> dict[str, Any]:
        return {'instance': span.instance, 'from_s': (span.from_ns - self._log.first_ns) / 1e9,
                'to_s': (span.to_ns - self._log.first_ns) / 1e9, 'height_px': span.height_px,
                'hit': span.hit, 'time_to_alert_s': span.time_to_alert_s,
                'already_on': span.already_on}


def time_quantiles(times_s: Sequence[float]) -> dict[str, Any]:
    """Return count, median, p90 and max of times to alert; None of none."""
    if not times_s:
        return {'count': 0, 'median': None, 'p90': None, 'max': None}
    median_s, p90_s = np.quantile(times_s, (0.5, 0.9))
    return {'count': len(times_s), 'median': float(median_s), 'p90': float(p90_s),
            'max': max(times_s)}


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return part / whole; None where one of them is not known, or the whole is 0."""
    return part / whole if part is not None and whole else None
