# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from evit_seg.core.alerts import AlertRule
from evit_seg.core.appearances import ObjectBox, VisibleSpan
from evit_seg.core.errors import InputError
from evit_seg.core.preprocess import Geometry
import numpy as np
from offline_train.tune_alerts import FlightLogits, read_frame_rows, try_rule
import pytest

PERSON = 1
GRID = (8, 16)


@pytest.fixture
def flight():
    """
    Return 20 frames at 10 Hz, 32x64 px, stride 4, two classes.

    A person in frames 0-9 at grid cell (2, 3) with a margin of 1.0 over the background; a false
    one in frames 14-19 at (6, 12) with a margin of 0.5.
    """
    logits = []
    for index in range(20):
        frame = np.zeros((2, *GRID), np.float16)
        frame[0] = 4.0
        if index < 10:
            frame[PERSON, 2, 3] = 5.0
        if index >= 14:
            frame[PERSON, 6, 12] = 4.5
        logits.append(frame)
    names = tuple(f'frame_{index:06d}' for index in range(20))
    times_s = tuple(index / 10 for index in range(20))
    objects = tuple(ObjectBox(name, 'person', '1', 12, 8, 3, 14) for name in names[:10])
    geometry = Geometry((32, 64), (32, 64), GRID, (1.0, 1.0), (0.0, 0.0))
    return FlightLogits(names, times_s, tuple(logits), geometry, objects,
                        (VisibleSpan('person', '1', 0.0, 0.9, 14.0),))


def rule(confidence, bias=0.0):
    return AlertRule(PERSON, 'person', 10.0, confidence, 3, 5, clear_after_s=0.2, cooldown_s=0.0,
                     logit_bias=bias)


def test_a_low_threshold_hits_and_raises_a_false_alert(flight):
    trial = try_rule([flight], rule(0.5), 1.0, 12.0)
    assert (trial.hits, trial.appearances, trial.false_alerts) == (1, 1, 1)
    assert trial.recall == 1.0
    assert trial.false_per_minute == pytest.approx(30.0)  # one in two seconds
    assert trial.idle_share == pytest.approx(6 / 10)  # frames 10, 11, 12 until it clears; 16-19


def test_a_higher_threshold_keeps_the_hit_alone(flight):
    trial = try_rule([flight, flight], rule(0.7), 1.0, 12.0)
    assert (trial.hits, trial.appearances, trial.false_alerts) == (2, 2, 0)


def test_a_negative_bias_loses_both(flight):
    trial = try_rule([flight], rule(0.5, bias=-2.0), 1.0, 12.0)
    assert (trial.hits, trial.false_alerts, trial.recall) == (0, 0, 0.0)


def test_a_flight_without_times_is_named(tmp_path):
    path = Path(tmp_path / 'frames.csv')
    path.write_text('file\na.jpg\n', encoding='utf-8')
    with pytest.raises(InputError, match=r'frames\.csv: expected a CSV with file and time_s'):
        read_frame_rows(path)
