# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Alerts: the state machine that makes regions of a class, frame by frame, into alerts.

    IDLE -> CANDIDATE -> ACTIVE -> IDLE

Nothing here reads a clock: the image stamps passed in are the only time there is, so replaying a
bag twice gives the same alerts.
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
import itertools
import math
from typing import (
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from evit_seg.core.alert_rule import AlertRule
from evit_seg.core.errors import ConfigError
from evit_seg.core.regions import find_regions, Region

__all__ = ['ACTIVE', 'CANDIDATE', 'EPOCH_BACK_S', 'IDLE', 'Alert', 'AlertEvent', 'AlertRule',
           'AlertTracker', 'Region', 'find_regions']

EPOCH_BACK_S = 1.0
"""A stamp further back than this starts a new epoch: a bag that loops, a clock that was set."""
IDLE, CANDIDATE, ACTIVE = 'IDLE', 'CANDIDATE', 'ACTIVE'
"""The states of a class: nothing seen, evidence that does not suffice yet, alert."""


@dataclass(frozen=True)
class Alert:
    """
    An alert as of one frame.

    `regions` are those of the newest processed frame with evidence, whose stamp is
    `last_seen_ns`; `first_seen_ns` is the stamp of the oldest evidence that confirmed it.
    """

    alert_id: str
    class_id: int
    slug: str
    regions: Tuple[Region, ...]
    first_seen_ns: int
    last_seen_ns: int


@dataclass(frozen=True)
class AlertEvent:
    """
    A change: 'raised', 'updated' (a region came or went), 'cleared' or 'reset' (new epoch).

    `state` is the class's state after it, `stamp_ns` the stamp of the frame that brought it.
    """

    kind: str
    alert: Alert
    state: str
    stamp_ns: int


class AlertTracker:
    """The alerts of all classes; not thread-safe, the worker that segments feeds it."""

    def __init__(self, rules: Sequence[AlertRule]) -> None:
        self._tracks: Dict[int, _Track] = {}
        self._newest_ns: Optional[int] = None
        self._numbers = itertools.count(1)
        self.set_rules(rules)

    def set_rules(self, rules: Sequence[AlertRule]) -> List[AlertEvent]:
        """
        Use other thresholds from the next frame on; history and active alerts are kept.

        A class that is no longer among the rules is forgotten; if its alert was active a 'reset'
        event is returned, as nobody saw that the object is gone. ConfigError if a class has two
        rules; the old rules then stay.
        """
        wanted = {rule.class_id: rule for rule in rules}
        if len(wanted) != len(rules):
            raise ConfigError('alert classes: expected one rule per class, got '
                              f'{[rule.slug for rule in rules]!r}')
        events = [AlertEvent('reset', track.alert, IDLE, track.alert.last_seen_ns)
                  for class_id, track in self._tracks.items()
                  if class_id not in wanted and track.alert and track.state == ACTIVE]
        tracks = {class_id: self._tracks.get(class_id) or _Track(rule, self._numbers)
                  for class_id, rule in wanted.items()}
        for class_id, rule in wanted.items():
            tracks[class_id].use(rule)
        self._tracks = tracks
        return events

    def update(self, stamp_ns: int, regions: Mapping[int, Sequence[Region]]) -> List[AlertEvent]:
        """
        Take one processed frame; return what changed, in the order of the rules.

        `stamp_ns` is the image's stamp. `regions` are the regions with evidence by class id, as
        `find_regions` returns them; classes without a rule are not looked at. A stamp older than
        the newest by up to EPOCH_BACK_S is a frame that took no time; by more, it is the first
        frame of a new epoch, and active alerts are 'reset'.
        """
        events: List[AlertEvent] = []
        newest_ns = stamp_ns if self._newest_ns is None else self._newest_ns
        if newest_ns - stamp_ns > EPOCH_BACK_S * 1e9:
            newest_ns = stamp_ns
            resets = (track.reset(stamp_ns) for track in self._tracks.values())
            events += [event for event in resets if event is not None]
        elapsed_ns = max(0, stamp_ns - newest_ns)
        self._newest_ns = newest_ns + elapsed_ns
        for class_id, track in self._tracks.items():
            seen = tuple(regions.get(class_id, ()))
            event = track.see(seen, stamp_ns, self._newest_ns) if seen \
                else track.miss(stamp_ns, self._newest_ns, elapsed_ns)
            if event is not None:
                events.append(event)
        return events

    def active(self) -> List[Alert]:
        """Return the active alerts in the order of the rules."""
        return [track.alert for track in self._tracks.values()
                if track.alert and track.state == ACTIVE]

    def states(self) -> Dict[str, str]:
        """Return IDLE, CANDIDATE or ACTIVE for each class slug."""
        return {track.rule.slug: track.state for track in self._tracks.values()}


class _Track:
    """
    The history of one class.

    `now_ns` is the newest stamp of the epoch, which never runs backwards; `stamp_ns` is the
    frame's own and may, by a little.
    """

    def __init__(self, rule: AlertRule, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._forget()
        self.use(rule)

    def _forget(self) -> None:
        self.state = IDLE
        self.alert: Optional[Alert] = None  # the active one, or the last one while it cools down
        self._history: Deque[Tuple[int, bool]] = deque()  # stamp, evidence; confirm_n frames
        self._recent: Deque[Tuple[Region, ...]] = deque()  # of confirm_n frames with evidence
        self._misses = 0
        self._absent_ns = 0
        self._cleared_ns = 0

    def use(self, rule: AlertRule) -> None:
        self.rule = rule
        self._trim()

    def _trim(self) -> None:
        for window in (self._history, self._recent):
            while len(window) > self.rule.confirm_n:
                window.popleft()

    def reset(self, stamp_ns: int) -> Optional[AlertEvent]:
        """Forget everything; whoever was told of an alert is told that it is void."""
        event = None
        if self.alert is not None and self.state == ACTIVE:
            event = AlertEvent('reset', self.alert, IDLE, stamp_ns)
        self._forget()
        return event

    def see(self, seen: Tuple[Region, ...], stamp_ns: int, now_ns: int) -> Optional[AlertEvent]:
        """Take a processed frame with evidence."""
        self._misses = self._absent_ns = 0
        self._history.append((stamp_ns, True))
        self._trim()
        if self.alert is not None and self.state == ACTIVE:
            self.alert = replace(self.alert, regions=seen, last_seen_ns=stamp_ns)
            return self._event('updated', stamp_ns) if self._changed(seen) else None
        evidence_ns = [at_ns for at_ns, evidence in self._history if evidence]
        if self.alert is not None and now_ns - self._cleared_ns <= self.rule.cooldown_s * 1e9:
            self.alert = replace(self.alert, regions=seen, last_seen_ns=stamp_ns)
        elif len(evidence_ns) >= self.rule.confirm_k:
            alert_id = f'{self.rule.slug}-{next(self._numbers)}'
            self.alert = Alert(alert_id, self.rule.class_id, self.rule.slug, seen,
                               evidence_ns[0], stamp_ns)
        else:
            self.state = CANDIDATE
            return None
        self.state = ACTIVE
        self._recent = deque([seen])
        return self._event('raised', stamp_ns)

    def miss(self, stamp_ns: int, now_ns: int, elapsed_ns: int) -> Optional[AlertEvent]:
        """
        Take a processed frame without evidence, `elapsed_ns` after the frame before it.

        Time counts from the first such frame on: before it nobody looked. A gap between two
        frames counts for at most half of clear_after_s: however long a silence, it takes a third
        look to clear (a second one where clear_after_s is 0). Frames slower than that clear an
        alert later, never too early.
        """
        self._history.append((stamp_ns, False))
        self._trim()
        if self.state == CANDIDATE and not any(evidence for _, evidence in self._history):
            self.state = IDLE
        if self.state != ACTIVE:
            return None
        clear_after_ns = self.rule.clear_after_s * 1e9
        self._misses += 1
        if self._misses > 1:
            self._absent_ns += min(elapsed_ns, math.ceil(clear_after_ns / 2))
        if self._misses == 1 or self._absent_ns < clear_after_ns:
            return None
        self.state = IDLE
        self._cleared_ns = now_ns
        return self._event('cleared', stamp_ns)

    def _event(self, kind: str, stamp_ns: int) -> AlertEvent:
        if self.alert is None:
            raise RuntimeError(f'{kind!r} event of {self.rule.slug!r} without an alert')
        return AlertEvent(kind, self.alert, self.state, stamp_ns)

    def _changed(self, seen: Tuple[Region, ...]) -> bool:
        """
        Remember the regions; return whether one came or one went.

        One came if it is near no region of the last confirm_n frames with evidence. One went if
        none near it was seen in the confirm_n frames after it. So a region that flickers, moves
        with the camera or changes its size is no news.
        """
        came = not all(_near_any(region, self._recent) for region in seen)
        self._recent.append(seen)
        went = False
        if len(self._recent) > self.rule.confirm_n:
            leaving = self._recent.popleft()
            went = not all(_near_any(region, self._recent) for region in leaving)
        return came or went


def _near_any(region: Region, frames: Iterable[Sequence[Region]]) -> bool:
    return any(_near(region, other) for regions in frames for other in regions)


def _near(one: Region, other: Region) -> bool:
    """
    Return whether the boxes overlap when each is grown by its longer side all around.

    So a small object may move by about twice its size from frame to frame and stay itself.
    """
    reach = max(one.w, one.h) + max(other.w, other.h)
    return (one.x - reach < other.x + other.w and other.x - reach < one.x + one.w
            and one.y - reach < other.y + other.h and other.y - reach < one.y + one.h)
