# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
When somebody was visible: from true boxes, or from times that a person wrote down.

The times are a CSV `class,from,to` with the class's slug, both ends included. A time is one of

    12.5                          seconds since the bag's first frame (below 1e9)
    1700000000250000000           a stamp in ns (1e15 or more)
    2026-05-01T09:30:12.5+02:00   ISO 8601; without an offset it is UTC

A class without a row is not scored: nobody has said that it was looked for. A row with neither
time, such as `person,,`, says just that: looked for, and never there.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import ClassVar, Protocol

from evit_seg.core.alerts import AlertRule
from evit_seg.core.appearances import (
    active_spans,
    read_rows,
    score_appearances,
    ScoredFrame,
    time_to_alert,
)
from evit_seg.core.labels import LabelMap
from evit_seg.replay.annotations import Annotations
import numpy as np

_SECONDS_BELOW, _STAMPS_FROM = 10**9, 10**15
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class SeenSpan:
    """An appearance and what became of it; times in stamps, ns, both ends included."""

    instance: str | None
    from_ns: int
    to_ns: int
    height_px: float | None
    hit: bool
    time_to_alert_s: float | None
    already_on: bool


@dataclass(frozen=True)
class EventTally:
    """
    The alerts of one class against the truth; `in_view` says per frame if the class was there.

    `left_out` counts the times it was visible too small or too shortly for an appearance.
    """

    spans: tuple[SeenSpan, ...]
    left_out: int
    false_alerts: int
    in_view: list[bool]


class EventTruth(Protocol):
    """Who was there, and when."""

    @property
    def kind(self) -> str:
        """Return 'boxes' or 'spans'."""

    @property
    def definition(self) -> str:
        """Return what a hit is, in one sentence."""

    def annotates(self, slug: str) -> bool:
        """Return whether anything is known of the class."""

    def knows(self, name: tuple[str, float] | None) -> bool:
        """Return whether a frame of this stem and time can be scored."""

    def tally(self, frames: Sequence[ScoredFrame], rule: AlertRule, first_ns: int) -> EventTally:
        """Return what became of the appearances of the rule's class."""


@dataclass(frozen=True)
class BoxTruth:
    """objects.csv (and events.csv): the definition of `core.appearances`; the whole truth."""

    annotations: Annotations
    min_height_px: float
    kind: ClassVar[str] = 'boxes'

    @property
    def definition(self) -> str:
        """Return what a hit is, in one sentence."""
        return ('true boxes: an appearance is an instance visible at '
                f'{self.min_height_px:g} px or more in confirm_n frames running; it is hit when '
                'within its span + confirm_n frames an alert had a region that overlaps its box; '
                'a false alert overlapped no box of its class')

    def annotates(self, slug: str) -> bool:
        """Return True: a class without a box was never there."""
        return True

    def knows(self, name: tuple[str, float] | None) -> bool:
        """Return whether frames.csv has the frame."""
        return name is not None

    def tally(self, frames: Sequence[ScoredFrame], rule: AlertRule, first_ns: int) -> EventTally:
        """Return what became of the appearances of the rule's class."""
        score = score_appearances(frames, self.annotations.objects, rule.slug,
                                  min_height_px=self.min_height_px, confirm_n=rule.confirm_n,
                                  events=self.annotations.events)
        stamp_of = {frame.name: frame.stamp_ns for frame in frames}
        spans = tuple(SeenSpan(a.instance, stamp_of[a.first_frame], stamp_of[a.last_frame],
                               a.max_height_px, a.hit, a.time_to_alert_s, a.already_on)
                      for a in score.appearances)
        return EventTally(spans, score.left_out, score.false_alerts,
                          self.annotations.in_view(frames, rule.slug))


@dataclass(frozen=True)
class Moment:
    """A time as it was written: a stamp, or since the bag's first frame; ns."""

    ns: int
    since_first: bool

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Read one of the three ways; ValueError for another."""
        try:
            number = Decimal(text)
        except InvalidOperation:
            try:
                moment = datetime.fromisoformat(text.strip().replace('Z', '+00:00'))
            except ValueError:
                number = Decimal('NaN')
            else:
                if moment.tzinfo is None:
                    moment = moment.replace(tzinfo=timezone.utc)
                since = moment - _EPOCH
                return cls(((since.days * 86400 + since.seconds) * 10**6
                            + since.microseconds) * 1000, False)
        if number.is_finite() and 0 <= number < _SECONDS_BELOW:
            return cls(round(number * 10**9), True)
        if number.is_finite() and _STAMPS_FROM <= number < 2**63 and number == int(number):
            return cls(int(number), False)
        raise ValueError(f'a time is seconds since the first frame (0 to 1e9), a stamp in ns '
                         f'(a whole number from 1e15) or ISO 8601, got {text!r}')

    def stamp_ns(self, first_ns: int) -> int:
        """Return the stamp in a bag whose first frame has the stamp `first_ns`."""
        return self.ns + first_ns if self.since_first else self.ns


@dataclass(frozen=True)
class EventTimes:
    """Spans that somebody marked: an alert that is on anywhere in one has found it."""

    file: str
    rows: tuple[tuple[str, Moment | None, Moment | None], ...]
    kind: ClassVar[str] = 'spans'
    definition: ClassVar[str] = (
        'marked times: an appearance is a marked span of at least confirm_n frames; it is hit '
        'when an alert was on within it + confirm_n frames, wherever in the image; a false alert '
        'was on in no marked span + confirm_n frames')

    @classmethod
    def read(cls, path: Path) -> EventTimes:
        """Read the CSV; InputError says the line that is wrong."""
        return cls(path.name, tuple(read_rows(path, ('class', 'from', 'to'), _read_row)))

    @classmethod
    def of_bag(cls, place: Path, bag: Path) -> EventTimes | None:
        """Read the CSV, or of a folder `<bag's stem>.csv`; None where that is not there."""
        if not place.is_dir():
            return cls.read(place)
        own = place / f'{bag.stem}.csv'
        return cls.read(own) if own.is_file() else None

    def check(self, label_map: LabelMap) -> None:
        """Raise LabelMapMismatch for a class that the label map lacks."""
        for slug, _, _ in self.rows:
            label_map.by_slug(slug)

    def annotates(self, slug: str) -> bool:
        """Return whether the class has a row."""
        return any(row[0] == slug for row in self.rows)

    def knows(self, name: tuple[str, float] | None) -> bool:
        """Return True: every frame has a stamp."""
        return True

    def outside(self, stamps_ns: Sequence[int], first_ns: int) -> int:
        """Return how many spans hold none of the stamps."""
        return sum(not len(inside) for slug in sorted({row[0] for row in self.rows})
                   for inside in self._inside(slug, stamps_ns, first_ns))

    def tally(self, frames: Sequence[ScoredFrame], rule: AlertRule, first_ns: int) -> EventTally:
        """Return what became of the appearances of the rule's class."""
        stamps_ns = [frame.stamp_ns for frame in frames]
        alerts = active_spans(frames, rule.slug)
        on = {index for span in alerts for index in span}
        inside = self._inside(rule.slug, stamps_ns, first_ns)
        expected: set[int] = set()  # frames in which an alert is none too many
        spans = []
        for indices in inside:
            if not len(indices):
                continue
            first, last = int(indices[0]), int(indices[-1])
            reach = range(first, min(last + rule.confirm_n + 1, len(frames)))
            expected.update(reach)
            if len(indices) >= rule.confirm_n:
                hit = next((index for index in reach if index in on), None)
                spans.append(SeenSpan(None, stamps_ns[first], stamps_ns[last], None,
                                      hit is not None,
                                      *time_to_alert(stamps_ns, alerts, first, hit)))
        in_view = np.zeros(len(frames), bool)
        for indices in inside:
            in_view[indices] = True
        false_alerts = sum(expected.isdisjoint(span) for span in alerts)
        return EventTally(tuple(spans), len(inside) - len(spans), false_alerts, in_view.tolist())

    def _inside(self, slug: str, stamps_ns: Sequence[int], first_ns: int) -> list[np.ndarray]:
        """Return for each span of the class the indices of the frames in it, in order."""
        clock = np.array(stamps_ns, np.int64)
        return [np.flatnonzero((clock >= start.stamp_ns(first_ns))
                               & (clock <= end.stamp_ns(first_ns)))
                for row_slug, start, end in self.rows
                if row_slug == slug and start is not None and end is not None]


def _read_row(row: dict[str, str]) -> tuple[str, Moment | None, Moment | None]:
    if not row['from'].strip() and not row['to'].strip():
        return row['class'].strip(), None, None
    start, end = Moment.parse(row['from']), Moment.parse(row['to'])
    if start.since_first == end.since_first and start.ns > end.ns:
        raise ValueError('expected from before to')
    return row['class'].strip(), start, end
