# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Recall and false alerts over the alert thresholds, and a setting per class: the report's `curves`.

The network runs once; the thresholds are tried on the regions it left.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.candidates import CandidateLog, loosen
from evit_seg.replay.event_scores import FrameLog, score_class
from evit_seg.replay.event_truth import EventTruth
from evit_seg.replay.observer import SeenFrame
from evit_seg.replay.recommended import (
    class_curve,
    criterion,
    MAX_FALSE_PER_MIN,
    parameter_yaml,
)
import numpy as np

CONFIDENCES = tuple(round(0.2 + 0.05 * step, 2) for step in range(16))  # 0.2 to 0.95
PIXEL_FACTORS = (0.5, 1.0, 2.0, 4.0)
"""Sizes that are tried, times the rule's `min_pixels`."""


class ThresholdCurves:
    """Makes the report's `curves`; keeps the regions that the loosest setting lets through."""

    key = 'curves'
    topics: tuple[str, ...] = ()

    def __init__(self, rules: Sequence[AlertRule], truth: EventTruth | None, temperature: float,
                 max_false_per_min: float = MAX_FALSE_PER_MIN) -> None:
        if not max_false_per_min >= 0:
            raise ConfigError('max_false_per_min: expected 0 or more false alerts per minute, '
                              f'got {max_false_per_min!r}')
        self._rules = rules
        self._truth = truth
        self._max_false_per_min = max_false_per_min
        loosest = [loosen(rule, min(CONFIDENCES), rule.min_pixels * min(PIXEL_FACTORS))
                   for rule in rules]
        self._candidates = CandidateLog(rules, loosest, temperature)
        self._log = FrameLog()

    def take_message(self, message: BagMessage) -> None:
        """Nothing: it asks for no topic."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Keep the regions that could become alerts."""
        self._log.add(seen)
        self._candidates.add(seen)

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Nothing: alerts are not scored by masks."""

    def section(self) -> dict[str, Any]:
        """Return the report's `curves`."""
        classes = [class_curve(rule.slug, rule.class_id, self._points(rule),
                               self._max_false_per_min) for rule in self._rules]
        return {'truth': self._truth.kind if self._truth else None,
                'note': None if self._truth else
                'no ground truth for events: the curves say how often and how long alerts would '
                'be on; no setting is recommended',
                'minutes': self._log.minutes(self._truth),
                'flight_s': self._log.flight_s(self._truth),
                'max_false_per_min': self._max_false_per_min,
                'criterion': criterion(self._max_false_per_min), 'classes': classes,
                'yaml': parameter_yaml(classes)}

    def _points(self, rule: AlertRule) -> list[dict[str, Any]]:
        known: dict[bytes, dict[str, Any]] = {}
        points = []
        for setting in _grid(rule):
            fingerprint = self._candidates.fingerprint(setting)
            if fingerprint not in known:
                frames = self._log.scored(self._candidates.replay([setting]), self._truth)
                known[fingerprint] = score_class(frames, setting, self._truth,
                                                 self._log.first_ns).to_dict()
            points.append({'min_confidence': setting.min_confidence,
                           'min_pixels': setting.min_pixels, 'shipped': setting == rule,
                           **known[fingerprint]})
        return points


def _grid(rule: AlertRule) -> list[AlertRule]:
    """Return the settings to try, the rule itself among them, by size and then confidence."""
    confidences = sorted({*CONFIDENCES, rule.min_confidence})
    sizes = sorted({rule.min_pixels * factor for factor in PIXEL_FACTORS})
    return [replace(rule, min_confidence=confidence, min_pixels=size)
            for size in sizes for confidence in confidences]
