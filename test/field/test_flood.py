# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A camera of 200 Hz and an engine of 5 frames/s, in real time: between processes and in one.

At a twentieth nothing here depends on speed: the counters balance and every call is answered.
The age of an answer under a fake clock stands in test_flood_gated.py.
"""
from __future__ import annotations

import contextlib
import queue
import threading
import time

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from evit_seg.core.machine import percentiles_ms  # noqa: E402, I100
from node_child import balanced, Child, Client, growth_percent, TRANSPORT  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_rig import DEADLINE_S, wait_until  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

HZ = 200.0
SECONDS = 60
INFERENCE_MS = 200.0
PERIOD_MS = 1e3 / HZ
SLACK_MS = 50.0
"""Allowed for 99 of 100 answers beyond the longest inference measured and one period."""
SLACK_AT_MOST_MS = INFERENCE_MS
"""Allowed for each: a frame that waits behind another one is older by more than that."""
CALL_EVERY_S = 0.05


class Watch:
    """Looks at a flooded node from outside: calls, counters, memory, the age of its answers."""

    def __init__(self, child, client):
        self.calls_ms = {'enable': [], 'set_parameters': [], 'get_parameters': []}
        self.rss_mb = []
        self.snapshots = 0
        self.unbalanced = []
        self.ages_ms = []
        self._child = child
        self._services = {
            'enable': (client.service(SetBool, '/seg_node/enable'), self._enable),
            'set_parameters': (client.service(SetParameters, '/seg_node/set_parameters'),
                               self._set_parameters),
            'get_parameters': (client.service(GetParameters, '/seg_node/get_parameters'),
                               self._get_parameters)}
        self._calls = 0
        client.listen(self._take)
        self.look()  # the first answers wait until both sides know each other
        for values in (*self.calls_ms.values(), self.rss_mb):
            values.clear()

    def _take(self, mask):
        stamp = mask.header.stamp
        self.ages_ms.append((time.time_ns() - stamp.sec * 10 ** 9 - stamp.nanosec) / 1e6)

    @staticmethod
    def _enable(_):
        return SetBool.Request(data=True)

    @staticmethod
    def _set_parameters(number):
        return SetParameters.Request(parameters=[
            Parameter('stale_after_s', value=2.0 + number % 3).to_parameter_msg()])

    @staticmethod
    def _get_parameters(_):
        return GetParameters.Request(names=['stale_after_s', 'model'])

    def look(self):
        """Make one call of each kind and take a snapshot."""
        self._calls += 1
        for name, (service, request) in self._services.items():
            answered = threading.Event()
            begun_s = time.monotonic()
            future = service.call_async(request(self._calls))
            future.add_done_callback(lambda _, answered=answered: answered.set())
            assert answered.wait(DEADLINE_S), f'no answer of {name}'
            self.calls_ms[name].append((time.monotonic() - begun_s) * 1e3)
            assert future.result() is not None
        counts = self._child.counts()
        self.snapshots += 1
        if not balanced(counts):
            self.unbalanced.append(counts)
        self.rss_mb.append(self._child.held()['rss_mb'])

    def numbers(self, sent, seconds):
        """Return what was seen, when the flood is over and the last frame was answered."""
        wait_until(lambda: self._child.counts()['in_work'] == 0, 'the last frame')
        counts = self._child.counts()
        inference_ms = self._child.ask('longest_inference')['ms']
        ages_ms = percentiles_ms(self.ages_ms)
        calls_ms = {name: percentiles_ms(values) for name, values in self.calls_ms.items()}
        return {
            'sent': sent, 'seconds': round(seconds, 2), 'offered_hz': round(sent / seconds, 1),
            'received_hz': round(counts['received'] / seconds, 1),
            'answered_hz': round(counts['processed'] / seconds, 2),
            'transport_loss_percent': round((1 - counts['received'] / sent) * 100, 2),
            'counts': counts, 'snapshots': self.snapshots, 'unbalanced': len(self.unbalanced),
            'answers_seen': len(self.ages_ms), 'answer_age_ms': ages_ms,
            'longest_inference_ms': round(inference_ms, 1), 'period_ms': PERIOD_MS,
            'age_p99_beyond_both_ms': round(ages_ms['p99'] - inference_ms - PERIOD_MS, 1),
            'age_max_beyond_both_ms': round(ages_ms['max'] - inference_ms - PERIOD_MS, 1),
            'calls_ms': calls_ms,
            **{f'{name}_p99_ms': value['p99'] for name, value in calls_ms.items()},
            'rss_mb': [round(value, 1) for value in self.rss_mb[::max(len(self.rss_mb) // 10, 1)]],
            'rss_growth_percent': growth_percent(self.rss_mb, slice(
                len(self.rss_mb) // 20, len(self.rss_mb) // 10 + 1))}


def look_until(watch, over):
    """Look at the node every now and then until the camera is done."""
    while not over.wait(CALL_EVERY_S):
        watch.look()
    watch.look()


ALWAYS = {'unbalanced': ('==', 0), 'answers_seen': ('>=', 1)}
AT_SCALE = {'offered_hz': ('>=', 0.95 * HZ), 'age_p99_beyond_both_ms': ('<=', SLACK_MS),
            'age_max_beyond_both_ms': ('<=', SLACK_AT_MOST_MS),
            'rss_growth_percent': ('<', 5.0), 'enable_p99_ms': ('<', 100.0),
            'set_parameters_p99_ms': ('<', 100.0), 'get_parameters_p99_ms': ('<', 100.0)}


@pytest.fixture
def flooded(start_host):
    """Return a node with a slow engine, and what looks at it."""
    child = start_host(period_s=INFERENCE_MS / 1e3)
    client = Client(child.domain)
    yield child, Watch(child, client)
    client.close()


def test_200_hz_of_512x512_from_another_process(field, flooded, tmp_path):
    child, watch = flooded
    seconds = field.scaled(SECONDS)
    camera = Child('camera.py', {'height': 512, 'width': 512, 'reliable': False},
                   tmp_path / 'camera.log', child.domain)
    try:
        camera.ask('meet')
        over, played = threading.Event(), queue.Queue()
        camera.tell('play', hz=HZ, seconds=seconds)

        def wait_for_camera():
            with contextlib.suppress(AssertionError):
                played.put(camera.answer())
            over.set()
        threading.Thread(target=wait_for_camera, daemon=True).start()
        look_until(watch, over)
        numbers = watch.numbers(**played.get(timeout=DEADLINE_S))
    finally:
        camera.close()
    numbers.update(size='512x512', transport=TRANSPORT, engine_ms=INFERENCE_MS)
    field.hold('flood: between processes', numbers, ALWAYS, AT_SCALE)


def test_200_hz_of_1080p_straight_into_the_callback(field, flooded):
    child, watch = flooded
    seconds = field.scaled(SECONDS)
    child.ask('feed', hz=HZ, seconds=seconds, height=1080, width=1920)
    deadline_s = time.monotonic() + seconds
    over = threading.Event()
    threading.Timer(seconds, over.set).start()
    look_until(watch, over)
    assert time.monotonic() >= deadline_s
    numbers = watch.numbers(**child.ask('fed'))
    assert numbers['sent'] == numbers['counts']['received']
    numbers.update(size='1920x1080', engine_ms=INFERENCE_MS)
    field.hold('flood: callback', numbers, ALWAYS, AT_SCALE)
