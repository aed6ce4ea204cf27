# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The flight as a time line: which alert was on, what was in view, how sure the network was."""
from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.certainty import Certainty
from evit_seg.replay.observer import SeenFrame
from evit_seg.replay.time_line import frames_per_point, thinned, thinned_times
import numpy as np


class FrameLine:
    """Makes the section `frames`; times are seconds since the bag's first image."""

    key = 'frames'

    def __init__(self, rules: Sequence[AlertRule], certainty: Certainty) -> None:
        self._rules = rules
        self._certainty = certainty
        self._first_ns = 0
        self._stamps_ns = array('q')
        self._confidence = array('f')
        self._share = {rule.slug: array('f') for rule in rules}
        self._open: dict[str, tuple[str, int]] = {}  # alert id -> class, since when
        self._on: dict[str, list[tuple[int, int, str]]] = {rule.slug: [] for rule in rules}
        self._stamp_of: dict[int, int] = {}
        self._truth: dict[int, frozenset[str]] = {}
        self._kinds: dict[frozenset[str], frozenset[str]] = {}

    @property
    def topics(self) -> Sequence[str]:
        """Return that it wants no topics of its own."""
        return ()

    def take_message(self, message: BagMessage) -> None:
        """Take nothing: no topic was asked for."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Note the frame's alerts and shares."""
        self._first_ns = seen.first_ns
        self._stamps_ns.append(seen.stamp_ns)
        self._stamp_of[seen.index] = seen.stamp_ns
        self._confidence.append(self._certainty(seen))
        mask_HW = seen.result.mask_HW
        counts = np.bincount(mask_HW.reshape(-1), minlength=256)
        for rule in self._rules:
            self._share[rule.slug].append(counts[rule.class_id] / mask_HW.size)
        active = {alert.alert_id: alert.slug for alert in seen.active}
        for alert_id in [name for name in self._open if name not in active]:
            self._close(alert_id, seen.stamp_ns)
        for alert_id, slug in active.items():
            self._open.setdefault(alert_id, (slug, seen.stamp_ns))

    def _close(self, alert_id: str, stamp_ns: int) -> None:
        slug, since_ns = self._open.pop(alert_id)
        # A stamp that goes back ends the alerts of its epoch: they lasted until the frame before.
        until_ns = stamp_ns if stamp_ns >= since_ns or len(self._stamps_ns) < 2 \
            else self._stamps_ns[-2]
        self._on[slug].append((since_ns, until_ns, alert_id))

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Note which of the alert classes truly were in view."""
        there = np.bincount(truth_HW.reshape(-1), minlength=256)
        kinds = frozenset(rule.slug for rule in self._rules if there[rule.class_id])
        self._truth[index] = self._kinds.setdefault(kinds, kinds)  # a few sets, shared by frames

    def section(self) -> dict[str, Any]:
        """Return the time line with 500 points at most; spans and alerts are complete."""
        for alert_id in list(self._open):
            self._close(alert_id, self._stamps_ns[-1])
        first_ns = self._first_ns
        times_s = [(stamp_ns - first_ns) / 1e9 for stamp_ns in self._stamps_ns]
        every = frames_per_point(len(times_s))
        classes = {
            slug: {'share': thinned(share, every, max),
                   'on': [{'from_s': _seconds(since_ns, first_ns), 'alert_id': alert_id,
                           'to_s': _seconds(until_ns, first_ns)}
                          for since_ns, until_ns, alert_id in self._on[slug]],
                   'in_view': self._in_view(slug, first_ns)}
            for slug, share in self._share.items()}
        return {'every': every, 't_s': thinned_times(times_s, every),
                'confidence': thinned(self._confidence, every, min), 'classes': classes}

    def _in_view(self, slug: str, first_ns: int) -> list[dict[str, float]] | None:
        """Return the spans whose labels hold the class, both ends included; None without any."""
        if not self._truth:
            return None
        return view_spans(((self._stamp_of[index], slug in self._truth[index])
                           for index in sorted(self._truth)), first_ns)


def view_spans(frames: Iterable[tuple[int, bool]], first_ns: int) -> list[dict[str, float]]:
    """Return the runs of frames, (stamp in ns, was it in view), in which it was; both ends."""
    spans: list[dict[str, float]] = []
    inside = False
    for stamp_ns, there in frames:
        now_s = _seconds(stamp_ns, first_ns)
        if there and inside and now_s >= spans[-1]['to_s']:
            spans[-1]['to_s'] = now_s
        elif there:
            spans.append({'from_s': now_s, 'to_s': now_s})
        inside = there
    return spans


def _seconds(stamp_ns: int, first_ns: int) -> float:
    return round((stamp_ns - first_ns) / 1e9, 3)
