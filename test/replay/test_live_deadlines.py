# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every wait of a live run ends, and its error names what was waited for."""
from __future__ import annotations

import subprocess
import threading

from evit_seg.core.errors import InputError
from evit_seg.replay import live_report, node_process, recording
from evit_seg.replay.recording import Recording
import numpy as np
import pytest

MASK = np.zeros((2, 2), np.uint8)
LONG_S = 60.0


def counts(received: int, in_work: int = 0) -> dict[str, str]:
    return {'frames received': str(received), 'frames in_work': str(in_work)}


def sent(frames: int) -> Recording:
    record = Recording()
    for index in range(frames):
        record.note_sent(index, (0, index, 'camera'), 0.0)
    return record


def waiting(record: Recording, index: int, seconds: float) -> tuple[threading.Thread, list[bool]]:
    """Wait for an answer in a thread; it is under way when this returns."""
    answers: list[bool] = []
    begun = threading.Event()
    wait_for = record.changed.wait_for

    def announced(predicate, timeout=None):
        predicate()
        begun.set()
        return wait_for(predicate, timeout)
    record.changed.wait_for = announced
    thread = threading.Thread(
        target=lambda: answers.append(record.wait_for_answer(index, seconds)), daemon=True)
    thread.start()
    assert begun.wait(LONG_S)
    return thread, answers


def test_lockstep_goes_on_with_the_answer():
    record = sent(2)
    thread, answers = waiting(record, 1, LONG_S)
    record.note_mask((0, 1, 'camera'), MASK, 1.0)
    thread.join(LONG_S)
    assert answers == [True]


def test_lockstep_goes_on_when_the_node_has_dropped_the_frame():
    record = sent(2)
    record.note_report('before', counts(2))
    thread, answers = waiting(record, 1, LONG_S)
    record.note_report('at work', counts(2, 1))
    record.note_report('done', counts(2))
    assert thread.is_alive()  # its mask may still be under way
    record.note_report('still done', counts(2))
    thread.join(LONG_S)
    assert answers == [False]


def test_a_frame_that_never_arrived_is_waited_for_to_the_deadline_once():
    record = sent(1)
    record.note_report('nothing came', counts(0))
    assert record.wait_for_answer(0, 0.05) is False
    record.note_sent(1, (0, 1, 'camera'), 0.0)
    thread, answers = waiting(record, 1, LONG_S)
    for _ in range(2):
        record.note_report('the second one was unreadable', counts(1))
    thread.join(LONG_S)
    assert answers == [False]


def test_a_node_that_falls_silent_is_given_up(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(recording.time, 'monotonic', lambda: now_s[0])
    record = Recording()
    record.note_report('running: nobody there', counts(0))
    now_s[0] += 59.0
    record.check_alive(60.0)
    now_s[0] += 2.0
    with pytest.raises(InputError, match=r'waited 61 s for a report of seg_node on '
                                         r'/diagnostics.* its last one: running: nobody there'):
        record.check_alive(60.0)


class Stuck:
    """A process that not even SIGKILL ends."""

    pid = 17

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        pass

    def wait(self, seconds: float) -> int:
        raise subprocess.TimeoutExpired('seg_node', seconds)


def test_a_process_that_cannot_be_killed_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(node_process.sys, 'executable', '/bin/true')
    node = node_process.NodeProcess([], namespace='/x', image_topic='/y', environment={},
                                    log=tmp_path / 'node.log')
    node.stop()
    monkeypatch.setattr(node, '_process', Stuck())
    with pytest.raises(node_process.NodeFailed, match=r'process 17.* of SIGKILL'):
        node.kill()


def test_the_counts_explain_every_frame():
    record = sent(9)
    for index in range(3):
        record.note_mask((0, index, 'camera'), MASK, 1.0)
    record.note_report('said', {
        'frames received': '8', 'frames in_work': '0', 'frames processed': '4',
        'frames replaced': '2', 'frames too_old': '1', 'frames malformed': '1'})
    found = live_report._counts(record, 12)
    assert found['not_sent'] == 3
    assert found['lost_on_the_way'] == 1
    assert found['masks_lost_on_the_way'] == 1
    assert found['unexplained'] == 0
    reasons = sum(count for name, count in found['node'].items()
                  if name not in ('received', 'processed'))
    assert found['images'] == found['not_sent'] + found['lost_on_the_way'] + reasons + \
        found['masks_lost_on_the_way'] + found['answered'] + found['unexplained']
    record.note_report('said', {'frames received': '10', 'frames in_work': '0',
                                'frames processed': '4'})
    assert live_report._counts(record, 12)['unexplained'] == 6
    assert 'somebody else publishes there' in ' '.join(live_report._notes(record))


def test_the_age_of_the_newest_mask():
    record = Recording()
    for index, (sent_s, at_s) in enumerate(((1.0, 1.1), (1.2, 1.3), (1.4, 1.5))):
        record.note_sent(index, (0, index, 'camera'), sent_s)
        if index != 1:
            record.note_mask((0, index, 'camera'), MASK, at_s)
    assert live_report._ages_ms(record)['max'] == pytest.approx(500)  # of frame 0 at 1.5 s
    assert live_report._ages_ms(sent(2)) is None
