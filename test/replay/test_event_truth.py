# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Marked times against a count frame by frame, and how times may be written."""
from __future__ import annotations

from evit_seg.core.alerts import Alert, AlertRule
from evit_seg.core.appearances import ScoredFrame
from evit_seg.replay.event_scores import score_class
from evit_seg.replay.event_truth import EventTimes, Moment
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

FRAMES, CONFIRM_N = 30, 3
RULE = AlertRule(10, 'person', confirm_k=2, confirm_n=CONFIRM_N)
FIRST_NS = 5 * 10**15
SPANS = st.lists(st.tuples(st.integers(0, FRAMES), st.integers(0, FRAMES)).map(sorted),
                 max_size=4)
ON = st.lists(st.sampled_from([0, 0, 1, 1, 1, 2]), min_size=FRAMES, max_size=FRAMES)


def frames_of(numbers):
    """Return 10 Hz frames; numbers: of the alert that is on in each frame, 0 for none."""
    return [ScoredFrame(f'#{i}', i / 10, FIRST_NS + i * 10**8,
                        (Alert(f'person-{number}', 10, 'person', (), 0, 0),) if number else ())
            for i, number in enumerate(numbers)]


@settings(deadline=None)
@given(SPANS, ON)
def test_marked_times_against_a_count_frame_by_frame(spans, numbers):
    rows = tuple(('person', Moment(a * 10**8, True), Moment(b * 10**8, True)) for a, b in spans)
    events = score_class(frames_of(numbers), RULE,
                         EventTimes('t.csv', (*rows, ('person', None, None))), FIRST_NS)
    tally = events.tally

    inside = [[i for i in range(FRAMES) if a <= i <= b] for a, b in spans]
    long = [frames for frames in inside if len(frames) >= CONFIRM_N]
    assert len(tally.spans) == len(long) and tally.left_out == len(spans) - len(long)
    for span, frames in zip(tally.spans, long, strict=True):
        reach = [i for i in range(frames[0], frames[-1] + CONFIRM_N + 1) if i < FRAMES]
        on = [i for i in reach if numbers[i]]
        assert span.hit == bool(on)
        if on:
            raised = on[0]
            while raised and numbers[raised - 1] == numbers[on[0]]:
                raised -= 1
            assert span.already_on == (raised < frames[0])
            assert span.time_to_alert_s == pytest.approx(max(0, raised - frames[0]) / 10)
        else:
            assert (span.time_to_alert_s, span.already_on) == (None, False)

    starts = [i for i in range(FRAMES)
              if numbers[i] and (i == 0 or numbers[i - 1] != numbers[i])]
    assert events.alerts == len(starts)
    near = {i + late for frames in inside for i in frames for late in range(CONFIRM_N + 1)}
    false = 0
    for start in starts:
        end = start
        while end + 1 < FRAMES and numbers[end + 1] == numbers[start]:
            end += 1
        false += near.isdisjoint(range(start, end + 1))
    assert tally.false_alerts == false

    seen = {i for frames in inside for i in frames}
    steps = range(FRAMES - 1)
    assert events.times.on_s == pytest.approx(sum(bool(numbers[i]) for i in steps) / 10)
    assert events.times.empty_s == pytest.approx(sum(i not in seen for i in steps) / 10)
    assert events.times.idle_s == pytest.approx(
        sum(bool(numbers[i]) and i not in seen for i in steps) / 10)


@pytest.mark.parametrize(('text', 'stamp_ns'), [
    ('0', FIRST_NS), ('12.5', FIRST_NS + 12_500_000_000), ('0.000000001', FIRST_NS + 1),
    (' 3 ', FIRST_NS + 3 * 10**9), ('1700000000123456789', 1700000000123456789),
    ('2023-11-14T22:13:20Z', 1700000000 * 10**9), ('2023-11-14 22:13:20', 1700000000 * 10**9),
    ('2023-11-15T00:13:20.000001+02:00', 1700000000 * 10**9 + 1000)])
def test_how_a_time_may_be_written(text, stamp_ns):
    assert Moment.parse(text).stamp_ns(FIRST_NS) == stamp_ns


@pytest.mark.parametrize('text', ['', 'noon', '-1', '1e9', '1e14', '1e19', 'inf', 'nan',
                                  '1700000000123456789.5', '22:13:20'])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match='a time is seconds since the first frame'):
        Moment.parse(text)


def test_a_single_frame_covers_no_time():
    events = score_class(frames_of([1])[:1], RULE, None, FIRST_NS).to_dict()
    assert (events['alerts'], events['alerts_per_min'], events['on_share']) == (1, None, None)
