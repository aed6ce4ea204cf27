# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's modes over the time of the bag."""
from __future__ import annotations

from evit_seg.replay.live_modes import ModeTimeline

S = 1_000_000_000


def row(t_s, source, mode, reason=''):
    return {'t_s': t_s, 'source': source, 'mode': mode, 'reason': reason}


def test_each_source_is_told_when_it_changes():
    modes = ModeTimeline()
    assert not modes.known
    modes.note_mode(0, 'nominal')
    assert modes.known
    modes.note_report(9 * S, True, 'running: waiting for the first frame')
    modes.note_report(11 * S, True, 'running: active alerts: person-1')
    modes.note_mode(12 * S, 'degraded: every 2nd frame: 95 % of the frames took up to 90 ms')
    modes.note_report(13 * S, False, 'degraded: every 2nd frame: 95 % took up to 90 ms')
    modes.note_report(14 * S, False, 'no frames for 2.1 s: nobody publishes on /image')
    modes.note_report(15 * S, False, 'no frames for 3.1 s: nobody publishes on /image')
    modes.note_mode(16 * S, 'nominal')
    modes.note_mode(17 * S, 'nominal')
    assert modes.rows(10 * S) == [
        row(0.0, 'mode', 'nominal'),
        row(0.0, 'diagnostics', 'nominal', 'running: waiting for the first frame'),
        row(2.0, 'mode', 'degraded', 'every 2nd frame: 95 % of the frames took up to 90 ms'),
        row(3.0, 'diagnostics', 'degraded', 'every 2nd frame: 95 % took up to 90 ms'),
        row(4.0, 'diagnostics', 'no frames', 'nobody publishes on /image'),
        row(6.0, 'mode', 'nominal')]


def test_another_reason_to_be_degraded_is_a_change_of_mode():
    modes = ModeTimeline()
    modes.note_mode(S, 'degraded: input 32x32 instead of 64x64')
    modes.note_mode(2 * S, 'degraded: every 2nd frame')
    assert [entry['reason'] for entry in modes.rows(S)] == ['input 32x32 instead of 64x64',
                                                            'every 2nd frame']


def test_silence_after_the_bag_is_no_news():
    modes = ModeTimeline()
    modes.note_report(S, True, 'running: nobody there, no alert is active')
    modes.end()
    modes.note_report(4 * S, False, 'no frames for 2.5 s: why')
    modes.note_mode(5 * S, 'degraded: late')
    assert [(entry['t_s'], entry['mode']) for entry in modes.rows(S)] == [
        (0.0, 'nominal'), (4.0, 'degraded')]
