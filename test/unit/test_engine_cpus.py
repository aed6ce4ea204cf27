# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of CPUs, and the caller's thread: on them while the engine computes, free afterwards."""
from __future__ import annotations

import os
import threading

from evit_seg.core.cpu_pinning import format_cpus, on_cpus, parse_cpus
from evit_seg.core.engine import CacheState, PinnedEngine
from evit_seg.core.errors import ConfigError
from hypothesis import given, strategies
import pytest


@pytest.mark.parametrize('text, cpus', [
    ('', set()), ('  ', set()), ('3', {3}), ('0-2,5', {0, 1, 2, 5}), (' 1 , 3-3', {1, 3})])
def test_a_list_is_read(text, cpus):
    assert parse_cpus(text) == cpus


@given(strategies.frozensets(strategies.integers(0, 4095), min_size=1, max_size=40))
def test_what_is_written_is_read_back(cpus):
    assert parse_cpus(format_cpus(cpus)) == cpus


class Noting:
    """An engine that notes the CPUs its caller may use."""

    name, provider, precision, input_hw, stride = 'stub', 'none', 'fp32', (8, 8), 8
    cache = CacheState('found')

    def __init__(self):
        self.seen = []
        self.closed = False

    def infer(self, image_HWC):
        self.seen.append(os.sched_getaffinity(0))
        if image_HWC is None:
            raise ValueError('no image')
        return image_HWC

    def close(self):
        self.closed = True


def test_the_caller_is_pinned_while_it_computes_and_free_before_and_after():
    before = os.sched_getaffinity(0)
    one = frozenset({max(before)})
    inner = Noting()
    engine = PinnedEngine(inner, one)
    assert engine.infer('image') == 'image'
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ValueError, match='no image'):
        engine.infer(None)
    assert inner.seen == [one, one] and os.sched_getaffinity(0) == before
    assert (engine.name, engine.cache.text, engine.input_hw) == ('stub', 'found', (8, 8))
    engine.close()
    assert inner.closed


def test_threads_started_meanwhile_stay_there():
    before, seen, go = os.sched_getaffinity(0), [], threading.Event()

    def work():
        go.wait()
        seen.append(os.sched_getaffinity(0))
    thread = threading.Thread(target=work)
    with on_cpus(frozenset({max(before)})):
        thread.start()
    go.set()
    thread.join()
    assert seen == [{max(before)}] and os.sched_getaffinity(0) == before


def test_a_system_that_cannot_pin_says_so(monkeypatch):
    monkeypatch.delattr(os, 'sched_setaffinity')
    with on_cpus(frozenset()):
        pass
    with pytest.raises(ConfigError, match=r'engine\.cpus: this system cannot pin'), \
            on_cpus(frozenset({0})):
        pass
