# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Mutated messages: none takes the node down, each is counted where it belongs.

A failing case is left in build/field/ as the message's CDR form beside what it did; its number
and the seed make it again (camera_cases.Cases).
"""
from __future__ import annotations

from collections import Counter
import contextlib
import json
from pathlib import Path
import queue
import subprocess
import sys

import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from camera_cases import Cases, EITHER  # noqa: E402, I100
import cv2  # noqa: E402
from evit_seg.ros.convert import jpeg_message  # noqa: E402
from fuzz_decode import MEMORY_MB, save  # noqa: E402
from node_child import balanced, Client  # noqa: E402
from ros_rig import DEADLINE_S, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

HERE = Path(__file__).resolve().parent
FAILURES = HERE.parents[1] / 'build' / 'field'
SEED = 20261120
DECODED = 20_000
LIVE = {'raw': 1_200, 'compressed': 800}
BINS = {'processed': 'answered', 'malformed': 'malformed'}


def test_mutated_messages_are_decoded_or_refused(field, tmp_path):
    progress, count = tmp_path / 'case', field.scaled(DECODED)
    done = subprocess.run(
        [sys.executable, str(HERE / 'fuzz_decode.py'), str(SEED), str(count), str(FAILURES),
         str(progress)], cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        fallen = int(progress.read_text())
        name = save(Cases(SEED).make(fallen), FAILURES, f'exit code {done.returncode}')
        pytest.fail(f'decode fell over case {fallen}, {name}: {done.stderr[-3000:]}')
    numbers = json.loads(done.stdout)
    numbers['seed'] = SEED
    numbers['wrong'] = len(numbers['failures'])
    numbers['memory_growth_mb'] = round(numbers['memory_peak_mb'] - numbers['memory_before_mb'], 1)
    numbers['kinds_and_ends'] = len(numbers['ends'])
    field.hold('fuzz: decode', numbers, {
        'decoded': ('==', count), 'wrong': ('==', 0), 'kinds_and_ends': ('>=', 8),
        'memory_growth_mb': ('<', MEMORY_MB)}, {})


def good_frame(transport, stamp_s):
    """Return a frame that must be answered; its stamp is its name."""
    image_HWC, _ = painted_frame()
    if transport == 'raw':
        return raw_message(image_HWC, stamp_ns=stamp_s * 10 ** 9)
    header = Header(frame_id='cam')
    header.stamp.sec = stamp_s
    return jpeg_message(header, cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), 90)


class LiveFuzz:
    """One transport: a case, its bin, and a good frame that must be answered after it."""

    def __init__(self, child, transport):
        self.ends = Counter()
        self.wrong = []
        self.unreadable = 0
        self._child = child
        self._transport = transport
        self._client = Client(child.domain)
        self._masks = queue.Queue()
        self._client.listen(self._masks.put)
        kind, suffix = ((Image, '') if transport == 'raw' else (CompressedImage, '/compressed'))
        self._camera = self._client.camera(kind, f'/image_raw{suffix}')
        self._stamp_s = 10
        # Until both sides know each other, frames and masks are lost.
        wait_until(self._first_mask, 'the first mask')

    def _first_mask(self):
        self._send_good()
        with contextlib.suppress(queue.Empty):
            return self._masks.get(timeout=0.1)

    def _send_good(self):
        self._stamp_s += 1
        self._camera.publish(good_frame(self._transport, self._stamp_s))

    def settle(self):
        """Return the counters when no frame is on its way any more."""
        self.answer_good()
        wait_until(lambda: self._child.counts()['in_work'] == 0, 'the worker to be idle')
        return self._child.counts()

    def answer_good(self):
        """Send a good frame and wait for its mask."""
        self._send_good()
        while self._masks.get(timeout=DEADLINE_S).header.stamp.sec != self._stamp_s:
            continue

    def arrived(self, received):
        """Return the counters when `received` frames came and all were worked on."""
        latest = {}

        def at_rest():
            latest.update(self._child.counts())
            return latest['received'] >= received and latest['in_work'] == 0
        wait_until(at_rest, f'frame {received}')
        return dict(latest)

    def run(self, cases, count):
        before = self.settle()
        number = 0
        while sum(self.ends.values()) < count:
            case = cases.make(number, self._kind(number))
            number += 1
            try:
                after = self._one(case, before)
            except BaseException as error:
                name = save(case, FAILURES, f'{type(error).__name__}: {error}')
                raise AssertionError(f'case {case.number}, {name}: {error}') from error
            before = after

    def _kind(self, number):
        """Return the same shares of fields and bytes as in decode."""
        if self._transport == 'raw':
            return 'image bytes' if number % 3 == 0 else 'image fields'
        return 'compressed bytes' if number % 2 else 'compressed fields'

    def _one(self, case, before):
        self._camera.publish(case.wire)
        if case.message is None:
            self.unreadable += 1
            self.answer_good()
            after = self.arrived(before['received'] + 1)
            assert after['received'] == before['received'] + 1, 'ROS delivered what it cannot read'
            return after
        middle = self.arrived(before['received'] + 1)
        changed = [name for name, value in middle.items() if value != before[name]]
        (name,) = set(changed) - {'received'}
        end = BINS.get(name, name)
        self.ends[f'{case.kind}: {end}'] += 1
        if end not in BINS.values() or case.fate not in (end, EITHER):
            self.wrong.append(save(case, FAILURES, f'counted as {changed}'))
        self.answer_good()
        after = self.arrived(middle['received'] + 1)
        assert after['processed'] == middle['processed'] + 1
        assert balanced(after), after
        return after

    def close(self):
        self._client.close()


def test_mutated_messages_sent_to_the_live_node(field, start_host):
    ends, wrong, unreadable, growths_mb = Counter(), [], 0, []
    for transport, share in LIVE.items():
        child = start_host(image__transport=transport, image__reliability='reliable',
                           image__scale_16bit=4095.0)
        fuzz = LiveFuzz(child, transport)
        try:
            fuzz.settle()
            before_mb = child.held()['rss_mb']
            fuzz.run(Cases(SEED, scale_16bit=4095.0), field.scaled(share))
        finally:
            fuzz.close()
        growths_mb.append(round(child.held()['rss_mb'] - before_mb, 1))
        assert child.close() == 0
        ends.update(fuzz.ends)
        wrong += fuzz.wrong
        unreadable += fuzz.unreadable
    numbers = {'sent': sum(ends.values()), 'not_a_message_for_ros': unreadable, 'seed': SEED,
               'ends': dict(sorted(ends.items())), 'failures': wrong, 'wrong': len(wrong),
               'rss_growth_mb': growths_mb, 'rss_growth_max_mb': max(growths_mb)}
    field.hold('fuzz: live node', numbers, {
        'sent': ('==', field.scaled(sum(LIVE.values()))), 'wrong': ('==', 0)},
        {'rss_growth_max_mb': ('<', 64)})
