# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a companion says, by values worked out by hand; times are passed in."""
from __future__ import annotations

import math

from evit_seg.core.companion_link import (
    ACTIVE,
    alert_text,
    Altitude,
    BOOT,
    CRITICAL,
    INFO,
    NodeWatch,
    Place,
    place_of,
    plain,
    SEVERE,
    severity_of,
    SnapshotGate,
    STANDBY,
    STATE_CRITICAL,
    TERMINATION,
    Text,
    TEXT_BYTES,
    TextQueue,
    TEXTS_WAITING,
    WARNING,
)
from hypothesis import given
from hypothesis import strategies as st
import pytest

OK, WARN, ERROR, STALE = range(4)
PLACED = {'alert_id': 'person-3', 'lat': '46.8426071 1.0', 'lon': '-91.9945599 2.0',
          'radius_m': '7.5 nan'}


def test_the_text_of_an_alert():
    assert alert_text('raised', WARN, PLACED) == Text(
        WARNING, 'seg: person-3 raised 46.84261,-91.99456 8m')
    assert alert_text('cleared', OK, PLACED).severity == INFO
    assert alert_text('raised', WARN, {'alert_id': 'person-3', 'lat': '', 'lon': '',
                                       'radius_m': ''}).text == 'seg: person-3 raised'
    assert alert_text('reset', OK, {}).text == 'seg: alert reset'


def test_a_long_class_is_shortened_and_the_place_stays_whole():
    text = alert_text('raised', WARN, {**PLACED, 'alert_id': 'debris_mud_rock_flow-12'}).text
    assert text == 'seg: debris_mud_~-12 raised 46.84261,-91.99456 8m'
    assert len(text.encode()) == TEXT_BYTES == 49


@given(st.text(), st.floats(-90, 90), st.floats(-180, 180), st.floats(0, 1e4))
def test_no_text_is_too_long_and_no_coordinate_is_cut(alert_id, lat, lon, radius_m):
    values = {'alert_id': alert_id, 'lat': repr(lat), 'lon': repr(lon), 'radius_m': repr(radius_m)}
    text = alert_text('raised', WARN, values).text
    assert text.isascii()
    assert len(text) <= 49
    assert f'{lat:.5f},{lon:.5f} {radius_m:.0f}m' in text


@given(st.text())
def test_plain_text_fits(text):
    short = plain(text)
    assert short.isascii()
    assert len(short) <= 49
    assert short == text or not text.isascii() or short.endswith('...')


@pytest.mark.parametrize('change', [
    {'lat': 'nan'}, {'lat': ''}, {'lat': '91'}, {'lon': '-180.5'}, {'lon': 'x'},
    {'radius_m': 'inf'}, {'radius_m': '-1'}, {'radius_m': 'nan'}])
def test_a_place_that_cannot_be_flown_to_is_none(change):
    assert place_of(PLACED) == Place(46.8426071, -91.9945599, 7.5)
    assert place_of({**PLACED, **change}) is None


def test_severities():
    assert [severity_of(level) for level in (OK, WARN, ERROR, STALE)] == [
        INFO, WARNING, SEVERE, CRITICAL]


def watch(terminal_after_s=15.0):
    return NodeWatch(3.0, terminal_after_s, 60.0, started_s=100.0)


def test_the_start_is_boot_until_the_grace_and_the_silence_are_over():
    node = watch()
    assert node.judge(100.0).state == BOOT
    assert node.judge(163.0).state == BOOT
    assert node.judge(163.1).state == STATE_CRITICAL
    assert node.judge(175.0).state == STATE_CRITICAL
    assert node.judge(175.1).state == TERMINATION


def test_silence_is_critical_then_terminal_and_ends_with_the_next_report():
    node = watch()
    node.hear(110.0, OK, 'running: nobody there, no alert is active')
    assert node.judge(113.0).state == ACTIVE
    assert node.judge(113.5) == (STATE_CRITICAL, ERROR, 'node silent for 4 s')
    assert node.judge(125.0).state == STATE_CRITICAL
    assert node.judge(125.1).state == TERMINATION
    node.hear(200.0, OK, 'running')
    assert node.judge(200.0).state == ACTIVE


def test_terminal_can_be_switched_off():
    node = watch(terminal_after_s=0.0)
    assert node.judge(1e6).state == STATE_CRITICAL


@pytest.mark.parametrize('level, sentence, state', [
    (OK, 'running: waiting for the first frame', ACTIVE),
    (WARN, 'degraded: every 2nd frame', ACTIVE),
    (WARN, 'not running: switched off through ~/enable', STANDBY),
    (WARN, 'no frames for 2.1 s: nobody', STATE_CRITICAL),
    (ERROR, 'not running: no bundle', STATE_CRITICAL),
    (STALE, 'running', STATE_CRITICAL)])
def test_the_state_follows_the_nodes_own_report(level, sentence, state):
    node = watch()
    node.hear(101.0, level, sentence)
    assert node.judge(101.0) == (state, level, sentence)


def test_news_are_told_once():
    node = watch()
    assert node.news(100.0) is None
    node.hear(101.0, OK, 'running: waiting for the first frame')
    assert node.news(101.0) == (INFO, 'seg: running: waiting for the first frame')
    node.hear(102.0, OK, 'running: nobody there, no alert is active')
    node.hear(102.0, WARN, 'degraded: every 2nd frame')  # ~/mode tells that
    assert node.news(102.0) is None
    node.hear(103.0, WARN, 'no frames for 2.1 s: nobody')
    assert node.news(103.0) == (WARNING, 'seg: no frames for 2.1 s: nobody')
    node.hear(104.0, WARN, 'no frames for 3.1 s: nobody')
    assert node.news(104.0) is None
    assert node.news(108.0) == (SEVERE, 'seg: node silent for 4 s')
    assert node.news(110.0) is None
    assert node.news(120.0) == (CRITICAL, 'seg: node silent for 16 s')


def test_the_worst_text_goes_first_one_in_each_interval():
    texts = TextQueue(1.0)
    for severity, words in ((INFO, 'a'), (WARNING, 'b'), (WARNING, 'c'), (CRITICAL, 'd')):
        texts.put(Text(severity, words))
    sent = [texts.take(now_s) for now_s in (10.0, 10.9, 11.0, 12.0, 13.0, 14.0)]
    assert [text and text.text for text in sent] == ['d', None, 'b', 'c', 'a', None]


def test_without_an_interval_all_go_at_once():
    texts = TextQueue(0.0)
    texts.put(Text(INFO, 'a'))
    texts.put(Text(INFO, 'b'))
    assert [texts.take(5.0).text, texts.take(5.0).text] == ['a', 'b']


def test_a_full_queue_drops_the_oldest_of_the_least_severe():
    texts = TextQueue(0.0)
    texts.put(Text(WARNING, 'kept'))
    for number in range(TEXTS_WAITING):
        texts.put(Text(INFO, str(number)))
    assert texts.dropped == 1
    taken = [texts.take(0.0).text for _ in range(TEXTS_WAITING)]
    assert taken == ['kept', *map(str, range(1, TEXTS_WAITING))]
    assert texts.take(0.0) is None


def test_the_altitude_of_a_waypoint():
    present = Altitude(set_m=0.0, min_m=10.0)
    assert present.choose(100.0, (95.0, 42.5)) == 42.5
    assert present.choose(100.1, (95.0, 42.5)) is None
    assert present.choose(100.0, None) is None
    assert present.choose(100.0, (100.0, math.nan)) is None
    assert present.choose(100.0, (100.0, 0.3)) == 10.0
    assert Altitude(set_m=30.0, min_m=10.0).choose(100.0, None) == 30.0
    assert Altitude(set_m=5.0, min_m=10.0).choose(100.0, None) == 10.0


def test_a_snapshot_that_is_wanted_too_early_waits_and_is_not_forgotten():
    gate = SnapshotGate(10.0)
    assert not gate.take(0.0)
    gate.want()
    assert gate.take(1.0)
    assert not gate.take(2.0)
    gate.want()
    gate.want()
    assert not gate.take(10.9)
    assert gate.take(11.0)
    assert not gate.take(30.0)
