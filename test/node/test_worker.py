# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The slot and its thread, without ROS."""
from __future__ import annotations

import threading

from evit_seg.ros.worker import Worker
import pytest

DEADLINE_S = 30.0


class Bench:
    """A worker whose work waits at a gate, and a record of what became of each item."""

    def __init__(self):
        self.taken, self.done, self.dropped = [], [], []
        self._entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.worker = Worker(self._work, self.dropped.append)

    def _work(self, item):
        self.taken.append(item)
        self._entered.release()
        assert self.gate.acquire(timeout=DEADLINE_S)
        self.done.append(item)

    def wait_taken(self):
        assert self._entered.acquire(timeout=DEADLINE_S)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    for _ in range(10):
        bench.gate.release()
    assert bench.worker.stop(DEADLINE_S)


def test_the_newest_item_wins(bench):
    bench.worker.offer('a')
    bench.wait_taken()
    for item in 'bcd':
        bench.worker.offer(item)
    assert bench.dropped == ['replaced', 'replaced']
    bench.gate.release()
    bench.wait_taken()
    assert bench.taken == ['a', 'd']


def test_an_action_runs_between_two_items_in_the_workers_thread(bench):
    bench.worker.offer('a')
    bench.wait_taken()
    bench.worker.offer('b')
    answers = []

    def act():
        return list(bench.taken), list(bench.done), threading.current_thread().name
    caller = threading.Thread(target=lambda: answers.append(bench.worker.between(act)))
    caller.start()
    while not bench.worker._actions:  # the caller waits from here on
        threading.Event().wait(0.001)
    bench.gate.release()
    caller.join(DEADLINE_S)
    bench.wait_taken()
    assert answers == [(['a'], ['a'], 'seg_worker')]


def test_what_an_action_raises_comes_out_at_the_caller(bench):
    with pytest.raises(ZeroDivisionError):
        bench.worker.between(lambda: 1 / 0)
    assert bench.worker.between(lambda: 7) == 7


def test_stop_finishes_the_item_in_hand_and_drops_the_waiting_one(bench):
    bench.worker.offer('a')
    bench.wait_taken()
    bench.worker.offer('b')
    assert not bench.worker.stop(0.0), 'the item in hand is not finished yet'
    assert bench.dropped == ['stopped']
    bench.worker.offer('c')
    assert bench.dropped == ['stopped', 'stopped']
    bench.gate.release()
    assert bench.worker.stop(DEADLINE_S)
    assert bench.done == ['a']
    assert bench.worker.between(lambda: 'in this thread') == 'in this thread'


def test_an_abandoned_thread_takes_nothing_more(bench):
    bench.worker.offer('a')
    bench.wait_taken()
    bench.worker.offer('b')
    old, order = bench.worker._thread, []
    bench.worker.abandon(lambda: order.append(list(bench.taken)))
    bench.wait_taken()
    assert (order, bench.taken) == ([['a']], ['a', 'b']), 'first the action, then what waited'
    for _ in range(2):
        bench.gate.release()
    old.join(DEADLINE_S)
    assert not old.is_alive()
    bench.worker.offer('c')
    bench.wait_taken()
    bench.gate.release()
    assert bench.worker.between(lambda: sorted(bench.done)) == ['a', 'b', 'c']


def test_who_waits_for_an_action_is_answered_when_a_stopped_worker_is_abandoned(bench):
    bench.worker.offer('a')
    bench.wait_taken()
    answers, skipped = [], []
    caller = threading.Thread(
        target=lambda: answers.append(bench.worker.between(lambda: 'answered')))
    caller.start()
    while not bench.worker._actions:
        threading.Event().wait(0.001)
    assert not bench.worker.stop(0.0)
    bench.worker.abandon(lambda: skipped.append(1))
    assert bench.worker.stop(DEADLINE_S)
    caller.join(DEADLINE_S)
    assert (answers, skipped) == (['answered'], [])
