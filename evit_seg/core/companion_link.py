# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What a companion computer tells its autopilot: texts, a state, a proposed place, snapshots.

Nothing here knows ROS or reads a clock: times are passed in, in seconds of a steady clock.
Severities, states and limits are MAVLink's (common.xml, minimal.xml).
"""
from __future__ import annotations

from dataclasses import dataclass
import itertools
import math
from typing import List, Mapping, NamedTuple, Optional, Tuple

OK, WARN, ERROR = 0, 1, 2
"""Levels of diagnostic_msgs/DiagnosticStatus; above them is STALE."""
CRITICAL, SEVERE, WARNING, INFO = 2, 3, 4, 6
"""Of MAV_SEVERITY, the lower the worse; SEVERE is its ERROR."""
BOOT, STANDBY, ACTIVE, STATE_CRITICAL, TERMINATION = 1, 3, 4, 5, 8
"""Of MAV_STATE."""
STATE_NAMES = {BOOT: 'boot', STANDBY: 'standby', ACTIVE: 'active', STATE_CRITICAL: 'critical',
               TERMINATION: 'flight termination'}
TEXT_BYTES = 49
"""STATUSTEXT has 50 bytes for its text, of which MAVROS makes the last one a zero."""
TEXTS_WAITING = 20
ALTITUDE_MAX_AGE_S = 5.0
SENDER = 'seg: '


class Text(NamedTuple):
    """One STATUSTEXT."""

    severity: int
    text: str


class Place(NamedTuple):
    """Where an alert's first region lies (WGS-84), and the circle that holds it."""

    latitude_deg: float
    longitude_deg: float
    radius_m: float


class Judgement(NamedTuple):
    """What is to be said of the watched node: its MAV_STATE, a level and one sentence."""

    state: int
    level: int
    sentence: str


def severity_of(level: int) -> int:
    """Return the MAV_SEVERITY of a diagnostic level."""
    return {OK: INFO, WARN: WARNING, ERROR: SEVERE}.get(level, CRITICAL)


def plain(text: str) -> str:
    """Return `text` as it can be sent: ASCII, at most TEXT_BYTES; '...' where it was cut."""
    ascii_only = text.encode('ascii', 'replace').decode()
    return ascii_only if len(ascii_only) <= TEXT_BYTES else ascii_only[:TEXT_BYTES - 3] + '...'


def place_of(values: Mapping[str, str]) -> Optional[Place]:
    """Return the place of an event's first region; None where it has none that can be flown to."""
    numbers: List[float] = []
    for key in ('lat', 'lon', 'radius_m'):
        try:
            numbers.append(float(values.get(key, '').split(' ')[0]))
        except ValueError:
            return None
    place = Place(*numbers)
    fits = (abs(place.latitude_deg) <= 90 and abs(place.longitude_deg) <= 180
            and 0 <= place.radius_m < math.inf)  # NaN fits nowhere
    return place if fits else None


def alert_text(kind: str, level: int, values: Mapping[str, str]) -> Text:
    """
    Return the text for an alert event, such as 'seg: person-3 raised 46.84261,-91.99456 8m'.

    Never too long, and a coordinate is never cut: a place with a digit missing is another place.
    Where there is no room the name of the class is shortened ('debris~-12').
    """
    alert_id = values.get('alert_id', '').encode('ascii', 'replace').decode() or 'alert'
    place = place_of(values)
    tail = f' {kind}'
    if place is not None:
        tail += f' {place.latitude_deg:.5f},{place.longitude_deg:.5f} {place.radius_m:.0f}m'
    room = TEXT_BYTES - len(SENDER) - len(tail)
    if len(alert_id) > room:
        slug, dash, number = alert_id.rpartition('-')
        kept = room - len(dash + number) - 1
        alert_id = f'{slug[:kept]}~{dash}{number}' if slug and kept > 0 else alert_id[:room]
    return Text(severity_of(level), plain(f'{SENDER}{alert_id}{tail}'))


class NodeWatch:
    """
    What is to be thought of the watched node, from its reports and from its silence.

    Silent for `critical_after_s` it is critical, for `terminal_after_s` it has terminated (0:
    never that). Before its first report it has `start_grace_s` from `started_s` on.
    """

    def __init__(self, critical_after_s: float, terminal_after_s: float, start_grace_s: float,
                 started_s: float) -> None:
        self._critical_after_s = critical_after_s
        self._terminal_after_s = terminal_after_s
        # As if it had reported when its grace ends: from there its silence counts.
        self._heard_s = started_s + start_grace_s
        self._reported: Optional[Judgement] = None
        self._told: Tuple[int, int] = (BOOT, OK)

    def hear(self, now_s: float, level: int, sentence: str) -> None:
        """Take a report of the node about itself."""
        self._heard_s = now_s
        self._reported = Judgement(_state_of(level, sentence), level, sentence)

    def judge(self, now_s: float) -> Judgement:
        """Return what holds now."""
        silent_s = now_s - self._heard_s
        if self._terminal_after_s and silent_s > self._terminal_after_s:
            return Judgement(TERMINATION, ERROR, f'node silent for {silent_s:.0f} s')
        if silent_s > self._critical_after_s:
            return Judgement(STATE_CRITICAL, ERROR, f'node silent for {silent_s:.0f} s')
        if self._reported is None:
            return Judgement(BOOT, OK, 'waiting for the first report of the node')
        return self._reported

    def news(self, now_s: float) -> Optional[Text]:
        """Return the text that is due when what holds has changed since the last call."""
        now = self.judge(now_s)
        # 'degraded' is told by ~/mode.
        key = (now.state, OK if now.state == ACTIVE else now.level)
        if key == self._told:
            return None
        self._told = key
        severity = CRITICAL if now.state == TERMINATION else severity_of(now.level)
        return Text(severity, plain(SENDER + now.sentence))


def _state_of(level: int, sentence: str) -> int:
    """Return the MAV_STATE for a node's own report; the sentences are those of its diagnostics."""
    if level == OK or (level == WARN and sentence.startswith('degraded')):
        return ACTIVE
    if level == WARN and sentence.startswith('not running'):  # inactive or switched off on purpose
        return STANDBY
    return STATE_CRITICAL


class TextQueue:
    """
    Texts that wait for their turn on a narrow link, at most one in `min_interval_s`.

    The worst goes first. Of more than TEXTS_WAITING the oldest of the least severe is dropped.
    """

    def __init__(self, min_interval_s: float) -> None:
        self.dropped = 0
        self._min_interval_s = min_interval_s
        self._free_s = -math.inf
        self._numbers = itertools.count()
        self._waiting: List[Tuple[int, int, Text]] = []

    def put(self, text: Text) -> None:
        """Let a text wait."""
        self._waiting.append((text.severity, next(self._numbers), text))
        if len(self._waiting) > TEXTS_WAITING:
            self._waiting.remove(max(self._waiting, key=lambda entry: (entry[0], -entry[1])))
            self.dropped += 1

    def take(self, now_s: float) -> Optional[Text]:
        """Return the text that may be sent now; None while there is none or it is too early."""
        if not self._waiting or now_s < self._free_s:
            return None
        worst = min(self._waiting)
        self._waiting.remove(worst)
        self._free_s = now_s + self._min_interval_s
        return worst[2]


@dataclass(frozen=True)
class Altitude:
    """
    The altitude above home that a proposed waypoint gets.

    set_m: that altitude, 0 for the present one; min_m: it is never lower.
    """

    set_m: float
    min_m: float

    def choose(self, now_s: float, present: Optional[Tuple[float, float]]) -> Optional[float]:
        """
        Return the altitude in m; None where it should be the present one and that is unknown.

        `present` is (when it came in s, m above home); too old, it counts as unknown.
        """
        if self.set_m:
            return max(self.set_m, self.min_m)
        if present is None or now_s - present[0] > ALTITUDE_MAX_AGE_S \
                or not math.isfinite(present[1]):
            return None
        return max(present[1], self.min_m)


class SnapshotGate:
    """
    When a snapshot is asked for: at most once in `min_interval_s`, and none is forgotten.

    One that is wanted too early is asked for at the end of the interval: the recorder keeps what
    came since, and a second one at once would only cut the first in two.
    """

    def __init__(self, min_interval_s: float) -> None:
        self._min_interval_s = min_interval_s
        self._free_s = -math.inf
        self._wanted = False

    def want(self) -> None:
        """Note that a snapshot is wanted."""
        self._wanted = True

    def take(self, now_s: float) -> bool:
        """Tell whether one is to be asked for now; the next waits for the interval."""
        if not self._wanted or now_s < self._free_s:
            return False
        self._wanted = False
        self._free_s = now_s + self._min_interval_s
        return True
