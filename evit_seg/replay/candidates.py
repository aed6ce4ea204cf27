# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What alerts would have come under other thresholds, after one pass of the network.

Every region that the loosest thresholds let through is kept, 29 bytes each; core's own tracker
then runs over those that given thresholds leave. Bias and temperature stay the rule's: with
another bias the regions would be others.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
import hashlib

from evit_seg.core.alerts import Alert, AlertRule, AlertTracker
from evit_seg.core.regions import find_regions, Region
from evit_seg.replay.observer import SeenFrame
import numpy as np

_ROW = np.dtype([('frame', np.uint32), ('rule', np.uint8), ('x', np.uint16), ('y', np.uint16),
                 ('w', np.uint16), ('h', np.uint16), ('pixels', np.float64),
                 ('confidence', np.float64)])
_SOME = (Region(0, 0, 1, 1, 1.0, 1.0),)


class CandidateLog:
    """The regions of all frames that the rules let through with their loosest thresholds."""

    def __init__(self, rules: Sequence[AlertRule], loosest: Sequence[AlertRule],
                 temperature: float) -> None:
        self._rules = rules
        self._loosest = loosest
        self._temperature = temperature
        self._rows = bytearray()
        self._stamps_ns: list[int] = []

    def add(self, seen: SeenFrame) -> None:
        """Take one more frame."""
        found = find_regions(seen.result.logits_CHW, seen.result.geometry, self._loosest,
                             self._temperature)
        rows = [(len(self._stamps_ns), number, r.x, r.y, r.w, r.h, r.pixels, r.confidence)
                for number, rule in enumerate(self._loosest) for r in found[rule.class_id]]
        self._rows += np.array(rows, _ROW).tobytes()
        self._stamps_ns.append(seen.stamp_ns)

    def fingerprint(self, rule: AlertRule) -> bytes:
        """Return what is the same for thresholds that let the same regions through."""
        return hashlib.sha256(np.packbits(self._passing([rule])).tobytes()).digest()

    def replay(self, rules: Sequence[AlertRule]) -> list[tuple[Alert, ...]]:
        """
        Return the active alerts of every frame under other thresholds.

        `rules` are some of the log's with other `min_pixels` and `min_confidence`, none looser
        than the loosest: under the log's own rules the alerts are those of the run. The tracker
        is shown that there is a region, not which: that decides all but 'updated' events, and to
        tell whether regions came or went takes longer than all the rest.
        """
        tracker, active = AlertTracker(rules), []
        latest: dict[int, tuple[Region, ...]] = {}
        for stamp_ns, regions in zip(self._stamps_ns, self._evidence(rules), strict=True):
            latest.update(regions)
            tracker.update(stamp_ns, dict.fromkeys(regions, _SOME))
            active.append(tuple(
                Alert(alert.alert_id, alert.class_id, alert.slug, latest[alert.class_id],
                      alert.first_seen_ns, alert.last_seen_ns) for alert in tracker.active()))
        return active

    def _evidence(self, rules: Sequence[AlertRule]) -> Iterator[dict[int, tuple[Region, ...]]]:
        """Yield the regions of each frame that count as evidence, by class id."""
        rows = self._table()[self._passing(rules)]
        ends = np.searchsorted(rows['frame'], np.arange(len(self._stamps_ns)), side='right')
        start = 0
        for end in ends.tolist():
            regions: dict[int, tuple[Region, ...]] = {}
            for _, number, *region in rows[start:end].tolist():
                class_id = self._rules[number].class_id
                regions[class_id] = (*regions.get(class_id, ()), Region(*region))
            start = end
            yield regions

    def _passing(self, rules: Sequence[AlertRule]) -> np.ndarray:
        """Return which rows count as evidence of their class."""
        rows = self._table()
        numbers = {rule.class_id: number for number, rule in enumerate(self._rules)}
        holds = np.zeros(len(rows), bool)
        for rule in rules:
            holds |= ((rows['rule'] == numbers[rule.class_id])
                      & (rows['pixels'] >= rule.min_pixels)
                      & (rows['confidence'] >= rule.min_confidence))
        return holds

    def _table(self) -> np.ndarray:
        return np.frombuffer(bytes(self._rows), _ROW)


def loosen(rule: AlertRule, min_confidence: float, min_pixels: float) -> AlertRule:
    """Return the rule with thresholds that are at most these, and at most its own."""
    return replace(rule, min_confidence=min(rule.min_confidence, min_confidence),
                   min_pixels=min(rule.min_pixels, min_pixels))
