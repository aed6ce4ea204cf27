# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Landing zones over a bag: how often there is one, how large, and whether it was really free.

With the node's defaults, or the parameters `safe_zone.*` of a file, so that these are the zones
that the node would have told of, had it worked on every frame.
"""
from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError, LabelMapMismatch
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, NOT_FLOOD
from evit_seg.core.safe_zone import (
    LANDABLE,
    SafeZone,
    zone_ids,
    zone_squares,
    ZoneRule,
    ZoneTracker,
)
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.alert_params import read_parameters
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.observer import SeenFrame
import numpy as np

PREFIX = 'safe_zone.'
STALE_AFTER = 'stale_after_s'
NODE_ONLY = ('publish', 'max_rate_hz')
TUNABLE = ('min_radius_px', 'margin_px', 'min_confidence', 'confirm_n')


class SafeZones:
    """
    The observer `safe_zone`; with a label map that lacks the classes it only says so.

    A zone is wrong where the truth has a pixel in it that is no class to land on; pixels without
    truth (255, 254) say nothing.
    """

    key = 'safe_zone'
    topics: Sequence[str] = ()

    def __init__(self, segmenter: Segmenter, rules: Sequence[AlertRule],
                 params: Path | None = None) -> None:
        self._labels = segmenter.label_map
        self._temperature = segmenter.manifest.temperature
        values = read_parameters(params) if params else {}
        self._stale_after_s = float(values.get(STALE_AFTER, 2.0))
        self._note = ''
        self._tracker: ZoneTracker | None = None
        try:
            self._tracker = ZoneTracker(zone_rule(values, self._labels, rules))
        except LabelMapMismatch as error:
            self._note = f'no zones were looked for: {error}'
        self._frames = 0
        self._zones: dict[int, SafeZone] = {}
        self._radii_px = array('f')
        self._least_px: dict[int, float] = {}
        self._jumps = 0
        self._last: SafeZone | None = None
        self._scored = self._wrong = 0
        self._wrong_by_class = np.zeros(256, np.int64)

    def take_message(self, message: BagMessage) -> None:
        """Take nothing: no topic is asked for."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Look for the zone of a frame."""
        if self._tracker is None:
            return
        result = seen.result
        squares_HW = zone_squares(result.logits_CHW, result.geometry, self._tracker.rule,
                                  self._temperature)
        zone = self._tracker.update(seen.stamp_ns, squares_HW, result.geometry.source_hw,
                                    self._stale_after_s).zone
        self._frames += 1
        radius_px = zone.radius_px if zone else 0.0
        second = (seen.stamp_ns - seen.first_ns) // 10 ** 9
        self._least_px[second] = min(radius_px, self._least_px.get(second, radius_px))
        if zone is not None:
            self._radii_px.append(radius_px)
            self._zones[seen.index] = zone
            if self._last is not None and np.hypot(zone.x - self._last.x, zone.y - self._last.y) \
                    > self._last.radius_px:
                self._jumps += 1
        self._last = zone

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Hold the frame's zone against the truth."""
        zone = self._zones.pop(index, None)
        if zone is None or self._tracker is None:
            return
        inside = pixels_in(zone, truth_HW)
        counts = np.bincount(inside, minlength=256)
        counts[[*self._tracker.rule.free, IGNORE_INDEX, NOT_FLOOD]] = 0
        self._scored += 1
        self._wrong += bool(counts.any())
        self._wrong_by_class += counts > 0

    def section(self) -> dict[str, Any]:
        """
        Return shares, radii over time and, with truth, how many zones were not free.

        `over_time` has the smallest radius of each second, 0 where a frame of it had no zone.
        """
        if self._tracker is None:
            return {'note': self._note}
        rule = self._tracker.rule
        radii_px = np.array(self._radii_px)
        slugs = self._labels.slugs
        return {
            'note': '', 'classes': [slugs[i] for i in rule.free],
            'hazards': [slugs[i] for i in rule.hazards],
            **{name: getattr(rule, name) for name in TUNABLE},
            'frames': self._frames, 'with_zone': len(radii_px),
            'share': _ratio(len(radii_px), self._frames),
            'radius_px': None if not radii_px.size else {
                f'p{p}': round(float(np.percentile(radii_px, p)), 1) for p in (5, 50, 95)},
            'jumps': self._jumps,
            'over_time': [{'t_s': second, 'radius_px': round(radius_px, 1)}
                          for second, radius_px in sorted(self._least_px.items())],
            'truth': None if not self._scored else {
                'zones': self._scored, 'not_free': self._wrong,
                'share_not_free': _ratio(self._wrong, self._scored),
                'by_class': {slug: int(self._wrong_by_class[i]) for i, slug in enumerate(slugs)
                             if self._wrong_by_class[i]}}}


def zone_lines(found: dict[str, Any] | None) -> list[str]:
    """Return the line to print of the section; none where there is none."""
    if not found:
        return []
    if found['note']:
        return [f'landing zones: {found["note"]}']
    line = f'landing zones: in {found["with_zone"]} of {found["frames"]} frames'
    if found['radius_px']:
        line += f', radius p50 {found["radius_px"]["p50"]:g} px'
    truth = found['truth']
    if truth:
        line += f'; {truth["not_free"]} of {truth["zones"]} not free by the truth'
        line += ''.join(f', {slug} in {count}' for slug, count in truth['by_class'].items())
    return [line]


def pixels_in(zone: SafeZone, mask_HW: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask of the source's size whose centres lie in the circle."""
    top, left = max(0, int(zone.y - zone.radius_px)), max(0, int(zone.x - zone.radius_px))
    box = mask_HW[top:int(zone.y + zone.radius_px) + 2, left:int(zone.x + zone.radius_px) + 2]
    y, x = np.ogrid[top:top + box.shape[0], left:left + box.shape[1]]
    return np.asarray(box[(y - zone.y) ** 2 + (x - zone.x) ** 2 < zone.radius_px ** 2])


def zone_rule(values: Mapping[str, Any], labels: LabelMap,
              rules: Sequence[AlertRule]) -> ZoneRule:
    """
    Return the rule of the parameters `safe_zone.*`, defaults where there are none.

    ConfigError for an unknown name or a value of the wrong type; LabelMapMismatch for a class to
    land on that the label map lacks.
    """
    given = {name[len(PREFIX):]: value for name, value in values.items()
             if name.startswith(PREFIX) and name[len(PREFIX):] not in NODE_ONLY}
    landable = given.pop('classes', list(LANDABLE))
    unknown = sorted(set(given) - set(TUNABLE))
    if unknown:
        raise ConfigError(f'unknown parameter {PREFIX + unknown[0]!r}; there are '
                          f'{", ".join(PREFIX + name for name in ("classes", *TUNABLE))}')
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f'{PREFIX}{name}: expected a number, got {value!r}')
    if not isinstance(landable, list):
        raise ConfigError(f'{PREFIX}classes: expected a list of slugs, got {landable!r}')
    free, hazards = zone_ids(labels, tuple(map(str, landable)),
                             tuple(rule.slug for rule in rules))
    return ZoneRule(free, hazards, **given)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
