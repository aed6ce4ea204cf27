# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A twentieth of the flood under gates and a fake clock: exact ages and counters, no real time."""
from __future__ import annotations

import array

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from node_child import balanced, Child  # noqa: E402, I100
import numpy as np  # noqa: E402
from ros_rig import FakeClock, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

HZ = 200
FRAMES = 600
PER_INFERENCE = HZ // 5
BURSTS = 5


def frame(clock, data):
    message = Image(height=1080, width=1920, encoding='rgb8', step=3 * 1920,
                    data=array.array('B', data))
    message.header.stamp.sec = clock.ns // 10 ** 9
    message.header.stamp.nanosec = clock.ns % 10 ** 9
    return message


def stamp_ns(mask):
    return mask.header.stamp.sec * 10 ** 9 + mask.header.stamp.nanosec


def test_the_age_of_an_answer_under_200_hz_of_1080p(rig):
    clock = FakeClock()
    node = rig.start_node(clock=clock, mask__size='network')
    masks = rig.record(Image, '/seg_node/mask')
    (camera,) = [s for s in node.subscriptions if s.topic_name == '/image_raw']
    data = np.zeros((1080, 1920, 3), np.uint8).tobytes()
    engine = rig.gates.engine
    engine.shut()
    before = engine.entered
    ages_s = []
    camera.callback(frame(clock, data))
    for number in range(1, FRAMES):
        if number % PER_INFERENCE == 1:
            inference = number // PER_INFERENCE + 1
            wait_until(lambda n=inference: engine.entered == before + n, 'a frame in the engine')
        clock.advance(1 / HZ)
        if number % PER_INFERENCE == 0:  # the engine is done as the next frame comes
            engine.let_through()
            wait_until(lambda n=number // PER_INFERENCE: len(masks) == n, 'a mask')
            ages_s.append((clock.ns - stamp_ns(masks[-1])) / 1e9)
            wait_until(lambda n=number // PER_INFERENCE: engine.entered == before + 1 + n,
                       'the newest frame in the engine')
        camera.callback(frame(clock, data))
        assert balanced(node.counters.snapshot())
    assert len(ages_s) == FRAMES // PER_INFERENCE - 1
    assert max(ages_s) <= 1 / 5 + 1 / HZ + 1e-6, ages_s
    assert min(ages_s) >= 1 / 5 - 1e-6, 'the clock was not the one the node was told'
    counts = node.counters.snapshot()
    assert (counts['received'], counts['processed']) == (FRAMES, len(ages_s))
    assert counts['replaced'] == FRAMES - len(ages_s) - counts['in_work']
    engine.open()
    rig.wait_count('in_work', 0)


def test_bursts_of_512x512_from_another_process(rig, tmp_path):
    # The engine stands at its gate for as long as a burst takes.
    node = rig.start_node(image__reliability='reliable', engine__hang_after_s=0.0)
    masks = rig.record(Image, '/seg_node/mask')
    engine = rig.gates.engine
    camera = Child('camera.py', {'height': 512, 'width': 512, 'reliable': True},
                   tmp_path / 'camera.log', rig.domain)
    try:
        camera.ask('meet')
        (listener,) = [s for s in node.subscriptions if s.topic_name == '/image_raw']
        wait_until(lambda: listener.get_publisher_count() > 0, 'the node to know the camera')
        engine.shut()
        for _ in range(BURSTS):
            camera.tell('burst', frames=FRAMES // BURSTS)
            received = rig.count('received')
            wait_until(lambda r=received: rig.count('received') > r, 'frames of the burst')
            assert balanced(node.counters.snapshot())
            engine.let_through()
            sent = camera.answer()['sent']
        engine.open()
        # Reliable and the last one kept: whatever is lost on the way, the newest frame is not.
        wait_until(lambda: masks and masks[-1].header.stamp.sec == sent, 'the newest frame')
    finally:
        camera.close()
    rig.wait_count('in_work', 0)
    counts = node.counters.snapshot()
    assert balanced(counts)
    assert counts['received'] <= sent == FRAMES
    assert counts['processed'] == len(masks) == counts['received'] - counts['replaced']
    stamps = [stamp_ns(mask) for mask in masks]
    assert stamps == sorted(set(stamps)), 'an answer per frame at most, in their order'
