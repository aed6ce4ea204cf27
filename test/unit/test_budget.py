# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The latency budget steps down when it must, back when it may, and never to and fro."""
from __future__ import annotations

from evit_seg.core.budget import BudgetRule, ladder, LatencyBudget, LONGEST_WAIT, Rung
from evit_seg.core.errors import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

RULE = BudgetRule(latency_ms=100, window_s=5, return_share=0.7, return_after_s=10)
LATENCY = st.floats(0, 400)


class Flight:
    """Frames `period_s` apart; `latency_ms` of each is given, by rung if it is a list."""

    def __init__(self, rule=RULE, rungs=4, period_s=0.25):
        self.budget = LatencyBudget(rule, rungs)
        self.period_s = period_s
        self.now_s = 1000.0
        self.steps = []

    def __call__(self, latency_ms, seconds):
        for _ in range(round(seconds / self.period_s)):
            self.now_s += self.period_s
            took_ms = latency_ms[self.budget.rung] if isinstance(latency_ms, list) else latency_ms
            if self.budget.add(self.now_s, took_ms):
                self.steps.append((self.now_s, self.budget.rung))
        return self.budget.rung


def test_the_ladder_goes_from_smaller_inputs_to_fewer_frames():
    assert ladder(3, 4) == (Rung(0, 1), Rung(1, 1), Rung(2, 1), Rung(2, 2), Rung(2, 3), Rung(2, 4))
    assert ladder(1, 1) == (Rung(0, 1),)


def test_one_step_for_a_window_over_the_budget():
    fly = Flight()
    assert fly(182, 5.0) == 0, 'the window begins with the first frame'
    assert fly(182, 0.25) == 1
    assert fly.budget.over_ms == 182
    assert fly(182, 5.0) == 1, 'it begins anew after a step'
    assert fly(182, 0.25) == 2


def test_frames_at_the_budget_are_within_it():
    assert Flight()(100, 60) == 0
    assert Flight()(100.1, 60) == 3


def test_no_more_than_one_in_twenty_may_be_late():
    fly = Flight(period_s=0.05)
    for _ in range(30):
        fly(50, 1.0)
        fly(150, 0.05)
    assert fly.steps == [] and fly.budget.p95_ms == 50
    for _ in range(30):
        fly(50, 0.45)
        fly(150, 0.05)
    assert fly.budget.rung > 0


def test_one_frame_alone_decides_nothing():
    fly = Flight(period_s=1.0)
    for _ in range(10):
        fly(50, 6)
        fly(5000, 1)
    assert fly.steps == []


def test_it_steps_back_after_the_wait_below_the_share():
    fly = Flight()
    fly(150, 5.25)
    assert fly(69, 10.5) == 1
    assert fly(69, 0.25) == 0
    assert fly.steps[1][0] - fly.steps[0][0] == pytest.approx(10.75)  # 3 frames make a p95


def test_between_the_share_and_the_budget_it_stays():
    fly = Flight()
    fly(150, 5.25)
    assert fly(71, 600) == 1
    assert fly(100, 600) == 1


def test_a_step_up_that_is_taken_back_doubles_the_wait():
    """The smaller input is fast enough to go back, the full one is not: 150 and 60 ms."""
    fly = Flight(rungs=2)
    fly([150, 60], 3600)
    ups = [time_s for time_s, rung in fly.steps if rung == 0]
    downs = [time_s for time_s, rung in fly.steps if rung == 1]
    waits_s = [up - down for up, down in zip(ups, downs)]
    wanted_s = [10 * min(2 ** number, LONGEST_WAIT) for number in range(len(ups))]
    assert len(ups) > 8
    assert waits_s == pytest.approx([wait + 0.75 for wait in wanted_s], abs=0.3)
    assert fly.budget.wait_s == 10 * LONGEST_WAIT


def test_a_step_up_that_holds_makes_the_wait_short_again():
    fly = Flight(rungs=2)
    fly([150, 60], 100)
    assert fly.budget.wait_s > 10
    fly([60, 60], 200)
    assert fly.budget.rung == 0 and fly.budget.wait_s == 10


def test_a_wait_of_nothing_is_a_window():
    fly = Flight(BudgetRule(100, 5, 0.7, 0), rungs=2)
    fly([150, 60], 1000)
    ups = [time_s for time_s, rung in fly.steps if rung == 0]
    assert len(ups) < 11


def test_at_the_end_of_the_ladder_it_says_so():
    fly = Flight(rungs=2)
    fly(182, 10)
    assert not fly.budget.exhausted
    fly(182, 1)
    assert fly.budget.exhausted and fly.budget.over_ms == 182
    fly(300, 10)
    assert fly.budget.over_ms == 182, 'said once'
    fly(90, 20)
    assert fly.budget.exhausted, 'not before it is well below'
    fly(60, 8)
    assert not fly.budget.exhausted
    fly = Flight(rungs=1)
    assert fly(182, 6) == 0
    assert fly.budget.exhausted


def test_an_engine_slower_than_the_window_is_noticed():
    fly = Flight(period_s=8.0)
    assert fly(8000, 24) == 1
    assert fly(8000, 24) == 2


def test_a_silent_stream_changes_nothing():
    fly = Flight()
    fly(150, 4.5)
    fly.now_s += 3600
    assert fly(150, 5) == 0, 'the window began anew'
    assert fly(150, 0.25) == 1
    fly(60, 9)
    fly.now_s += 3600
    assert fly(60, 10.5) == 1, 'silence is no time below the share'
    assert fly(60, 0.25) == 0


def test_a_rule_or_a_ladder_that_is_changed():
    fly = Flight()
    fly(150, 30)
    assert fly.budget.rung == 3
    fly.budget.use(RULE, 3)
    assert fly.budget.rung == 2
    fly.budget.use(BudgetRule(0), 3)
    assert fly.budget.rung == 0 and fly(5000, 60) == 0
    fly.budget.use(RULE, 3)
    fly(150, 6)
    fly.budget.restart()
    assert fly.budget.rung == 0 and fly.budget.p95_ms is None


@pytest.mark.parametrize('wrong', [{'latency_ms': -1}, {'window_s': 0}, {'return_share': 1},
                                   {'return_after_s': float('nan')}])
def test_values_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f'budget.{name}: expected'):
        BudgetRule(**wrong)


STREAM = st.lists(st.tuples(st.floats(0.01, 8), LATENCY), max_size=200)


def replay(stream, rule=RULE, rungs=4):
    budget, now_s, rungs_seen, step_times_s = LatencyBudget(rule, rungs), 0.0, [], []
    for gap_s, latency_ms in stream:
        now_s += gap_s
        before = budget.rung
        assert budget.add(now_s, latency_ms) == (budget.rung != before)
        if budget.rung != before:
            assert abs(budget.rung - before) == 1
            step_times_s.append(now_s)
        rungs_seen.append(budget.rung)
    return rungs_seen, step_times_s


@settings(deadline=None)  # a slow machine is no mistake
@given(STREAM, st.integers(1, 6), st.floats(0.5, 10))
def test_one_rung_at_a_time_and_one_step_in_a_window(stream, rungs, window_s):
    seen, times_s = replay(stream, BudgetRule(100, window_s, 0.7, 2), rungs)
    assert all(0 <= rung < rungs for rung in seen)
    assert all(later - earlier >= window_s for earlier, later in zip(times_s, times_s[1:]))


@settings(deadline=None)
@given(STREAM)
def test_the_same_frames_give_the_same_steps(stream):
    assert replay(stream) == replay(stream)


@settings(deadline=None)
@given(STREAM)
def test_without_a_budget_it_is_always_the_full_input(stream):
    assert set(replay(stream, BudgetRule(0))[0]) <= {0}


@settings(deadline=None)
@given(LATENCY, LATENCY, st.floats(0.02, 2), st.integers(1, 5))
def test_under_constant_load_it_goes_one_way(before_ms, constant_ms, period_s, rungs):
    fly = Flight(rungs=rungs, period_s=period_s)
    fly(before_ms, 30)
    fly.steps.clear()
    first = fly.budget.rung
    fly(constant_ms, 10)  # what came before leaves the window
    second = fly.budget.rung
    fly.steps.clear()
    fly(constant_ms, 120)
    seen = [second, *(rung for _, rung in fly.steps)]
    assert seen in (sorted(seen), sorted(seen, reverse=True)), (first, seen)
    if constant_ms > 100:
        assert fly.budget.rung == rungs - 1
    if constant_ms < 70:
        assert fly.budget.rung == 0


@settings(deadline=None)
@given(st.floats(101, 400), st.floats(0, 69), st.integers(20, 400))
def test_the_same_load_makes_it_try_ever_more_seldom(full_ms, small_ms, minutes):
    fly = Flight(rungs=2, period_s=1.0)
    fly([full_ms, small_ms], minutes)
    fly([full_ms, small_ms], 60 * 30)
    ups = [time_s for time_s, rung in fly.steps if rung == 0]
    gaps_s = [later - earlier for earlier, later in zip(ups, ups[1:])]
    assert all(later >= earlier for earlier, later in zip(gaps_s, gaps_s[1:]))
