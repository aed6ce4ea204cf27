# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The thresholds of one class's alert: what counts as evidence, and how much of it."""
from __future__ import annotations

from dataclasses import dataclass
import math

from evit_seg.core.errors import ConfigError


@dataclass(frozen=True)
class AlertRule:
    """
    When a class raises an alert; ConfigError if a value is out of its range.

    A processed frame holds evidence when a connected region has at least `min_pixels` (at source
    size) and a mean probability of the class of at least `min_confidence`. `confirm_k` of the
    last `confirm_n` processed frames with evidence raise the alert, `clear_after_s` of processed
    frames without any clear it, and evidence within `cooldown_s` after that reopens it.
    `logit_bias` is added to the class's logits, for alerts only: positive finds more.
    """

    class_id: int
    slug: str
    min_pixels: float = 20.0
    min_confidence: float = 0.5
    confirm_k: int = 3
    confirm_n: int = 5
    clear_after_s: float = 2.0
    cooldown_s: float = 5.0
    logit_bias: float = 0.0

    def __post_init__(self) -> None:
        limits = (('class_id', 0, 253), ('min_pixels', 0, math.inf), ('min_confidence', 0, 1),
                  ('confirm_n', 1, 1000), ('confirm_k', 1, self.confirm_n),
                  ('clear_after_s', 0, 1e6), ('cooldown_s', 0, 1e6), ('logit_bias', -1e3, 1e3))
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails too
                raise ConfigError(f'alert.{self.slug}.{name}: expected {low} to {high}, '
                                  f'got {value!r}')
