# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Alerts under other thresholds, from what one pass kept, against core run again."""
from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from evit_seg.core.alerts import AlertRule, AlertTracker
from evit_seg.core.preprocess import frame_geometry
from evit_seg.core.regions import find_regions
from evit_seg.replay.candidates import CandidateLog, loosen
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

GEOMETRY = frame_geometry((12, 12), (6, 6), 1, 'stretch')
TEMPERATURE = 1.5
RULES = [AlertRule(2, 'two', min_pixels=8, min_confidence=0.5, confirm_k=2, confirm_n=3,
                   clear_after_s=0.3, cooldown_s=0.4, logit_bias=0.5),
         AlertRule(1, 'one', min_pixels=4, min_confidence=0.6, confirm_k=1, confirm_n=2,
                   clear_after_s=0.2, cooldown_s=0.0)]


def alerts_of(frames, rules):
    """Return the active alerts of every frame as a run has them."""
    tracker, active = AlertTracker(rules), []
    for stamp_ns, logits_CHW in frames:
        tracker.update(stamp_ns, find_regions(logits_CHW, GEOMETRY, rules, TEMPERATURE))
        active.append(tuple(tracker.active()))
    return active


def log_of(frames):
    log = CandidateLog(RULES, [loosen(rule, 0.3, 2.0) for rule in RULES], TEMPERATURE)
    for stamp_ns, logits_CHW in frames:
        log.add(SimpleNamespace(stamp_ns=stamp_ns, result=SimpleNamespace(
            logits_CHW=logits_CHW, geometry=GEOMETRY)))
    return log


@st.composite
def flights(draw):
    """Draw frames with few kinds of cells, so that alerts come and go; a stamp may go back."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 25))
    steps = rng.choice([0, 50, 100, 300, -60, -2000], count, p=[.05, .2, .5, .15, .07, .03])
    stamps = 10**10 + np.cumsum(steps) * 10**6
    busy = draw(st.floats(0.0, 1.0))
    frames = []
    for stamp_ns in stamps.tolist():
        logits = rng.normal(0, 1.5, (3, 6, 6)).astype(np.float32)
        logits[0] += 6 * (rng.random((6, 6)) > 0.4 * busy * rng.integers(0, 2))
        frames.append((stamp_ns, logits))
    return frames


@settings(deadline=None, max_examples=60)
@given(flights(), st.sampled_from([(0.3, 2.0), (0.3, 8.0), (0.5, 8.0), (0.65, 5.0), (0.9, 2.0)]))
def test_other_thresholds_give_what_core_would_have_given(frames, thresholds):
    log = log_of(frames)
    # with the thresholds that ran, all classes at once: the run's own alerts, ids and all
    assert log.replay(RULES) == alerts_of(frames, RULES)
    for rule in RULES:
        other = replace(rule, min_confidence=thresholds[0], min_pixels=thresholds[1])
        assert log.replay([other]) == alerts_of(frames, [other])


def test_the_flights_above_do_raise_and_clear_alerts():
    rng = np.random.default_rng(5)
    frames = []
    for i in range(30):
        logits = rng.normal(0, 1.5, (3, 6, 6)).astype(np.float32)
        logits[0] += 6 if i % 10 > 4 else 0
        frames.append((i * 100_000_000, logits))
    active = log_of(frames).replay(RULES)
    assert {alert.alert_id for alerts in active for alert in alerts} >= {'two-1', 'one-2'}
    assert () in active


def test_thresholds_that_let_the_same_through_have_one_fingerprint():
    logits = np.zeros((3, 6, 6), np.float32)
    logits[0] = 9.0
    # one region, 16 px; its p = 1 / (1 + 2 exp(-(3 + 0.5) / 1.5)) = 0.84
    logits[:, :2, :2] = np.array([0, 0, 3])[:, None, None]
    log = log_of([(0, logits)])
    prints = [log.fingerprint(replace(RULES[0], min_confidence=c)) for c in (0.4, 0.8, 0.9)]
    assert prints[0] == prints[1] != prints[2]
