# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from evit_seg.core.alerts import (
    ACTIVE,
    AlertRule,
    AlertTracker,
    CANDIDATE,
    IDLE,
    Region,
)
from evit_seg.core.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st
import pytest

PERSON, VEHICLE = 10, 13
HERE = Region(100, 100, 8, 8, 60.0, 0.9)
FAR = Region(900, 500, 8, 8, 60.0, 0.8)
SEEN, NOTHING = {PERSON: [HERE]}, {}


def seconds(value):
    return round(value * 1e9)


def person(**changes):
    return AlertRule(PERSON, 'person', **changes)


class Flight:
    """Feed a tracker at 5 frames/s from 100 s on, and keep what it answers."""

    def __init__(self, *rules):
        self.tracker = AlertTracker(rules or [person()])
        self.now_s = 100.0
        self.events = []

    def frame(self, regions, after_s=0.2):
        self.now_s += after_s
        events = self.tracker.update(seconds(self.now_s), regions)
        self.events += events
        return [event.kind for event in events]

    def frames(self, count, regions, after_s=0.2):
        return [kind for _ in range(count) for kind in self.frame(regions, after_s)]

    @property
    def state(self):
        return self.tracker.states()['person']


@pytest.fixture
def active():
    flight = Flight()
    assert flight.frames(3, SEEN) == ['raised']
    return flight


# -- raising ------------------------------------------------------------------------------------

def test_three_of_five_frames_raise():
    flight = Flight()
    assert flight.state == IDLE
    assert flight.frame(SEEN) == []
    assert flight.state == CANDIDATE
    assert flight.frames(2, NOTHING) == []
    assert flight.frame(SEEN) == []
    assert flight.frame(SEEN) == ['raised']
    assert flight.state == ACTIVE
    event = flight.events[0]
    assert event.stamp_ns == seconds(101.0)
    assert event.state == ACTIVE
    assert event.alert.first_seen_ns == seconds(100.2)
    assert event.alert.last_seen_ns == seconds(101.0)
    assert event.alert.regions == (HERE,)
    assert event.alert.slug == 'person' and event.alert.class_id == PERSON
    assert flight.tracker.active() == [event.alert]


def test_two_of_five_frames_do_not():
    flight = Flight()
    for _ in range(10):
        assert flight.frames(2, SEEN) == []
        assert flight.frames(3, NOTHING) == []
    assert flight.frames(5, NOTHING) == []
    assert flight.state == IDLE


def test_a_frame_without_evidence_never_raises():
    flight = Flight(person(confirm_k=3, confirm_n=3, clear_after_s=0.0, cooldown_s=0.0))
    flight.frames(3, SEEN)
    assert flight.frames(2, NOTHING) == ['cleared']
    flight.tracker.set_rules([person(confirm_k=1, confirm_n=3, cooldown_s=0.0)])
    assert flight.frame(NOTHING) == []


def test_other_classes_are_not_looked_at():
    flight = Flight()
    assert flight.frames(9, {VEHICLE: [HERE], PERSON: []}) == []


def test_classes_do_not_disturb_each_other():
    flight = Flight(person(), AlertRule(VEHICLE, 'vehicle', confirm_k=1))
    assert flight.frames(2, {PERSON: [HERE], VEHICLE: [FAR]}) == ['raised']
    assert flight.frame(SEEN) == ['raised']
    assert flight.frames(20, SEEN) == ['cleared']
    assert [event.alert.slug for event in flight.events] == ['vehicle', 'person', 'vehicle']
    assert [alert.slug for alert in flight.tracker.active()] == ['person']


# -- clearing -----------------------------------------------------------------------------------

def test_cleared_after_two_seconds_of_frames_without_evidence(active):
    assert active.frames(10, NOTHING) == []  # the first of them starts the clock
    assert active.frame(NOTHING) == ['cleared']
    assert active.state == IDLE and active.tracker.active() == []
    event = active.events[-1]
    assert event.state == IDLE
    assert event.stamp_ns == seconds(102.8)
    assert event.alert.last_seen_ns == seconds(100.6)
    assert event.alert.regions == (HERE,)
    assert active.frames(50, NOTHING) == []


@pytest.mark.parametrize('silence_s', [2.0, 10.0, 3600.0])
def test_silence_clears_nothing(active, silence_s):
    assert active.frame(NOTHING, after_s=silence_s) == []
    assert active.frame(NOTHING, after_s=silence_s) == []
    assert active.state == ACTIVE
    assert active.frame(NOTHING, after_s=silence_s) == ['cleared']


def test_evidence_starts_the_clock_anew(active):
    for _ in range(10):
        assert active.frames(9, NOTHING) == []
        assert active.frame(SEEN) == []
    assert active.state == ACTIVE


# -- reopening ----------------------------------------------------------------------------------

def test_evidence_within_the_cooldown_reopens_the_same_alert(active):
    active.frames(11, NOTHING)
    assert active.frame({PERSON: [FAR]}, after_s=4.9) == ['raised']
    first, cleared, again = active.events
    assert again.alert.alert_id == cleared.alert.alert_id == first.alert.alert_id
    assert again.alert.first_seen_ns == first.alert.first_seen_ns
    assert again.alert.regions == (FAR,)
    assert again.alert.last_seen_ns == again.stamp_ns


def test_after_the_cooldown_it_is_another_alert(active):
    active.frames(11, NOTHING)
    assert active.frame(SEEN, after_s=5.1) == []
    assert active.frames(2, SEEN) == ['raised']
    assert active.events[-1].alert.alert_id != active.events[0].alert.alert_id


# -- updates ------------------------------------------------------------------------------------

def test_a_new_region_updates_at_once_and_a_lost_one_after_confirm_n_frames(active):
    assert active.frame({PERSON: [HERE, FAR]}) == ['updated']
    assert active.events[-1].alert.regions == (HERE, FAR)
    assert active.frames(4, SEEN) == []
    assert active.tracker.active()[0].regions == (HERE,)  # the list is always the newest
    assert active.frame(SEEN) == ['updated']
    assert active.frames(20, SEEN) == []


def test_flicker_motion_and_growth_are_no_news(active):
    active.frame({PERSON: [HERE, FAR]})
    for step in range(20):
        moved = Region(100 + 10 * step, 100, 8 + step % 3, 8, 60.0 + step, 0.6)
        regions = [moved] if step % 2 else [moved, FAR]
        assert active.frame({PERSON: regions}) == []


def test_a_far_jump_is_news(active):
    assert active.frame({PERSON: [FAR]}) == ['updated']


# -- stamps -------------------------------------------------------------------------------------

def test_going_back_is_a_new_epoch(active):
    assert active.frame(SEEN, after_s=-1.5) == ['reset']
    event = active.events[-1]
    assert event.state == IDLE
    assert event.stamp_ns == seconds(99.1)
    assert event.alert.alert_id == active.events[0].alert.alert_id
    assert active.state == CANDIDATE  # the frame is the first of the new epoch
    assert active.frames(2, SEEN) == ['raised']
    assert active.events[-1].alert.alert_id != event.alert.alert_id


def test_an_epoch_forgets_the_cooldown_and_the_history(active):
    active.frames(11, NOTHING)
    assert active.frame(SEEN, after_s=-50) == []
    assert active.frame(SEEN) == []
    assert active.frame(SEEN, after_s=-50) == []
    assert active.frame(SEEN) == []
    assert active.frame(SEEN) == ['raised']


def test_jitter_of_a_second_is_tolerated(active):
    for after_s in (-1.0, 1.2, -0.5, 0.7):
        assert active.frame(SEEN, after_s) == []
    assert active.state == ACTIVE
    assert active.tracker.active()[0].last_seen_ns == seconds(active.now_s)


def test_jitter_does_not_add_up_to_an_epoch_or_to_absence(active):
    for _ in range(100):
        assert active.frame(NOTHING, after_s=-0.5) == []
        assert active.frame(NOTHING, after_s=0.5) == []
    assert active.state == ACTIVE  # no time has passed


# -- rules --------------------------------------------------------------------------------------

@pytest.mark.parametrize(('field', 'value'), [
    ('class_id', -1), ('class_id', 254), ('min_pixels', -1), ('min_confidence', 1.1),
    ('min_confidence', float('nan')), ('confirm_k', 0), ('confirm_k', 6), ('confirm_n', 0),
    ('clear_after_s', -0.1), ('cooldown_s', float('inf')), ('logit_bias', float('nan'))])
def test_rules_are_checked(field, value):
    with pytest.raises(ConfigError, match=rf'alert\.person\.{field}: expected .*, got'):
        AlertRule(**{'class_id': PERSON, 'slug': 'person', field: value})


def test_one_rule_per_class():
    with pytest.raises(ConfigError, match='one rule per class'):
        AlertTracker([person(), person(confirm_k=1)])


def test_live_rules_keep_the_alert_and_the_history(active):
    assert active.tracker.set_rules([person(clear_after_s=1.0)]) == []
    assert active.frames(6, NOTHING) == ['cleared']
    assert active.events[0].alert.alert_id == active.events[-1].alert.alert_id
    flight = Flight(person(confirm_k=5, confirm_n=9))
    flight.frames(4, SEEN)
    flight.tracker.set_rules([person(confirm_k=3, confirm_n=3)])
    assert flight.frame(SEEN) == ['raised']


def test_a_class_without_a_rule_any_more_is_reset(active):
    (event,) = active.tracker.set_rules([AlertRule(VEHICLE, 'vehicle')])
    assert event.kind == 'reset' and event.alert.slug == 'person'
    assert active.tracker.active() == []
    assert active.frames(5, SEEN) == []


# -- properties ---------------------------------------------------------------------------------

RULES = st.integers(1, 6).flatmap(lambda n: st.builds(
    person, confirm_n=st.just(n), confirm_k=st.integers(1, n),
    clear_after_s=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]),
    cooldown_s=st.sampled_from([0.0, 0.5, 1.0, 5.0])))
PLACES = st.sampled_from([(), (HERE,), (FAR,), (HERE, FAR)])
STEPS_S = st.sampled_from([0.0, 0.03, 0.2, 0.2, 0.2, 1.0, 7.0])
FORWARD = st.lists(st.tuples(STEPS_S, PLACES), max_size=60)
ANYWHERE = st.lists(st.tuples(STEPS_S | st.sampled_from([-0.4, -1.0, -1.5, -100.0]), PLACES),
                    max_size=60)


def fly(rule, steps):
    """Yield (evidence, state before, kinds of the events, flight) frame by frame."""
    flight = Flight(rule)
    for after_s, places in steps:
        before = flight.state
        yield bool(places), before, flight.frame({PERSON: places}, after_s), flight


@given(RULES, FORWARD)
def test_active_by_the_last_of_k_frames_with_evidence(rule, steps):
    run = 0
    for evidence, _, _, flight in fly(rule, steps):
        run = run + 1 if evidence else 0
        if run >= rule.confirm_k:
            assert flight.state == ACTIVE


@given(RULES, FORWARD)
def test_never_raised_without_k_of_n_or_the_cooldown(rule, steps):
    window, known = [], set()
    for evidence, _, kinds, flight in fly(rule, steps):
        window = [*window, evidence][-rule.confirm_n:]
        if 'raised' in kinds:
            alert_id = flight.events[-1].alert.alert_id
            assert evidence
            assert sum(window) >= rule.confirm_k or alert_id in known
            known.add(alert_id)


@given(RULES, FORWARD)
def test_never_flaps_on_one_missing_frame(rule, steps):
    missed_before = False
    for evidence, _, kinds, _ in fly(rule, steps):
        if 'cleared' in kinds:
            assert missed_before and not evidence
        missed_before = not evidence


@given(RULES, FORWARD)
def test_cleared_only_by_time_spent_looking(rule, steps):
    absent_s, looking = 0.0, False
    for (after_s, _), (evidence, before, kinds, _) in zip(steps, fly(rule, steps)):
        absent_s = absent_s + after_s if looking and not evidence else 0.0
        looking = not evidence
        if 'cleared' in kinds:
            assert before == ACTIVE
            assert absent_s >= rule.clear_after_s - 1e-6


@given(RULES, st.integers(0, 5), FORWARD)
def test_cleared_in_the_end_at_any_steady_rate(rule, rate, steps):
    flight = Flight(rule)
    for after_s, places in steps:
        flight.frame({PERSON: places}, after_s)
    period_s = (0.03, 0.1, 0.2, 1.0, 2.0, 5.0)[rate]
    needed = 3 + int(rule.clear_after_s / period_s) + 1
    flight.frames(needed, NOTHING, period_s)
    assert flight.state != ACTIVE


@given(RULES, ANYWHERE)
def test_events_tell_the_whole_story(rule, steps):
    told, ids, epoch = None, set(), set()
    flight = Flight(rule)
    for after_s, places in steps:
        count = len(flight.events)
        flight.frame({PERSON: places}, after_s)
        for event in flight.events[count:]:
            alert_id = event.alert.alert_id
            if event.kind == 'raised':
                assert told is None
                assert alert_id not in ids or alert_id in epoch  # never an id of an older epoch
                told = alert_id
                ids.add(alert_id)
                epoch.add(alert_id)
            else:
                assert told == alert_id
                told = told if event.kind == 'updated' else None
                epoch = set() if event.kind == 'reset' else epoch
            assert event.state == (ACTIVE if told else IDLE)
        assert [alert.alert_id for alert in flight.tracker.active()] == ([told] if told else [])
        if told and places:
            assert flight.tracker.active()[0].regions == places


@given(RULES, ANYWHERE)
def test_a_replay_gives_the_same_alerts(rule, steps):
    first, second = Flight(rule), Flight(rule)
    for after_s, places in steps:
        first.frame({PERSON: places}, after_s)
    for after_s, places in steps:
        second.frame({PERSON: places}, after_s)
    assert first.events == second.events
