# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

from evit_seg.core.health import FrameCounters, OUTCOMES, StageTimes
from hypothesis import given
from hypothesis import strategies as st
import pytest


@given(st.lists(st.sampled_from(['arrive', *OUTCOMES])))
def test_counters_balance_after_every_step(steps):
    counters = FrameCounters()
    waiting = 0
    for step in steps:
        if step == 'arrive':
            counters.arrive()
            waiting += 1
        elif waiting:
            counters.finish(step)
            waiting -= 1
        else:
            with pytest.raises(ValueError, match='without a frame in work'):
                counters.finish(step)
        assert counters.balanced()
    counts = counters.snapshot()
    assert counts['in_work'] == waiting
    assert counts['received'] == steps.count('arrive')


def test_unknown_outcome_is_refused_and_counts_nothing():
    counters = FrameCounters()
    counters.arrive()
    with pytest.raises(ValueError, match="got 'lost'"):
        counters.finish('lost')
    assert counters.snapshot()['in_work'] == 1
    assert counters.balanced()


def test_balanced_is_a_check_and_not_a_tautology():
    counters = FrameCounters()
    counters.arrive()
    counters._ended['processed'] += 1  # a frame counted twice
    assert not counters.balanced()


def test_counters_are_exact_under_threads():
    counters = FrameCounters()
    start = threading.Barrier(len(OUTCOMES))
    unbalanced = []

    def work(outcome):
        start.wait(timeout=10)
        for _ in range(500):
            counters.arrive()
            counters.finish(outcome)
            if not counters.balanced():
                unbalanced.append(outcome)

    threads = [threading.Thread(target=work, args=(outcome,)) for outcome in OUTCOMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert not unbalanced
    assert counters.snapshot() == {'received': 500 * len(OUTCOMES), 'in_work': 0,
                                   **dict.fromkeys(OUTCOMES, 500)}


def test_stage_percentiles_are_of_the_last_window():
    times = StageTimes(window=100)
    for duration_ms in range(1000):
        times.add({'infer': duration_ms})
    summary = times.summary()['infer']
    assert summary.samples == 100
    assert summary.p50_ms == pytest.approx(949.5)  # the middle of 900..999
    assert summary.p95_ms == pytest.approx(994.05)


def test_stages_need_not_come_together():
    times = StageTimes()
    times.add({'pre': 1.0, 'infer': 2.0})
    times.add({'infer': 4.0, 'publish': 7.0})
    summary = times.summary()
    assert {stage: s.samples for stage, s in summary.items()} == {
        'pre': 1, 'infer': 2, 'publish': 1}
    assert summary['infer'].p50_ms == 3.0
    times.clear()
    assert times.summary() == {}


def test_window_must_hold_something():
    with pytest.raises(ValueError, match='at least 1'):
        StageTimes(window=0)
