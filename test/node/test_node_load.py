# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
An engine slower than the camera: bounded age, exact counters, a node that still answers.

Gates and a fake clock stand in for time: nothing here measures or sleeps.
"""
from __future__ import annotations

import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from lifecycle_msgs.msg import Transition  # noqa: E402, I100
from rcl_interfaces.srv import GetParameters  # noqa: E402
from ros_rig import FakeClock, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

PERIOD_S = 1 / 30
INFERENCE_S = 0.2


def test_output_age_is_one_inference_and_one_period_at_most(rig):
    clock = FakeClock()
    rig.start_node(clock=clock)
    masks = rig.record(Image, '/seg_node/mask')
    publish = rig.camera()
    image_HWC, _ = painted_frame()
    engine = rig.gates.engine
    engine.shut()
    before = engine.entered
    ages_s = []
    publish(raw_message(image_HWC, clock.ns))
    wait_until(lambda: engine.entered == before + 1, 'the first frame in the engine')
    to_next_frame_s = PERIOD_S
    for inference in range(1, 7):
        left_s = INFERENCE_S
        while to_next_frame_s <= left_s:  # the camera goes on while the engine is at work
            clock.advance(to_next_frame_s)
            left_s -= to_next_frame_s
            to_next_frame_s = PERIOD_S
            publish(raw_message(image_HWC, clock.ns))
            assert rig.node.counters.balanced()
        clock.advance(left_s)
        to_next_frame_s -= left_s
        engine.let_through()
        wait_until(lambda n=inference: len(masks) == n, 'a mask')
        stamp = masks[-1].header.stamp
        ages_s.append((clock.ns - stamp.sec * 10 ** 9 - stamp.nanosec) / 1e9)
        wait_until(lambda n=inference: engine.entered == before + 1 + n, 'the newest frame')
    assert max(ages_s) <= INFERENCE_S + PERIOD_S + 1e-6, ages_s
    assert min(ages_s) >= INFERENCE_S - 1e-6, 'the clock was not the one the node was told'
    reported_ms = rig.node.pipeline.stages.summary()['stamp to publish'].p95_ms
    assert reported_ms <= (INFERENCE_S + PERIOD_S) * 1e3 + 1e-3
    counts = rig.node.counters.snapshot()
    assert counts['processed'] == 6
    assert counts['in_work'] == 1
    assert counts['received'] == 6 + 1 + counts['replaced'] == 37
    engine.open()
    rig.wait_count('in_work', 0)
    assert rig.node.counters.balanced()


def test_the_node_answers_while_the_engine_is_at_work(rig):
    rig.start_node()
    publish = rig.camera()
    image_HWC, _ = painted_frame()
    engine = rig.gates.engine
    engine.shut()
    publish(raw_message(image_HWC))
    wait_until(lambda: rig.node.pipeline.started_s is not None, 'the frame in the engine')
    publish(raw_message(image_HWC))
    # The engine answers no sooner than its gate opens: so these answers did not wait for it.
    assert rig.set_parameters(stale_after_s=3.0)[0].successful
    got = rig.call(GetParameters, '/seg_node/get_parameters',
                   GetParameters.Request(names=['stale_after_s']))
    assert got.values[0].double_value == 3.0
    assert rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=False)).success
    assert rig.count('processed') == 0
    publish(raw_message(image_HWC))  # refused at the door
    assert rig.count('disabled') == 1
    engine.open()
    rig.wait_count('in_work', 0)
    counts = rig.node.counters.snapshot()
    # The frame that waited in the slot was not worked on after the node was switched off.
    assert (counts['processed'], counts['disabled'], counts['received']) == (1, 2, 3)
    assert rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=True)).success
    publish(raw_message(image_HWC))
    rig.wait_count('processed', 2)


def test_every_kind_of_end_is_counted_once(rig):
    clock = FakeClock()
    rig.start_node(clock=clock, image__max_age_s=1.0)
    publish = rig.camera()
    image_HWC, _ = painted_frame()
    engine = rig.gates.engine
    engine.shut()
    publish(raw_message(image_HWC, clock.ns))
    wait_until(lambda: rig.node.pipeline.started_s is not None, 'the frame in the engine')
    for _ in range(3):
        publish(raw_message(image_HWC, clock.ns))                    # two of them replaced
    publish(raw_message(image_HWC, clock.ns - 2 * 10 ** 9))          # too old
    publish(raw_message(image_HWC, clock.ns, encoding='hsv8'))       # replaces, then malformed
    rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=False))
    publish(raw_message(image_HWC, clock.ns))                        # disabled
    assert rig.node.counters.snapshot() == {
        'received': 7, 'in_work': 2, 'processed': 0, 'replaced': 3, 'too_old': 1, 'malformed': 0,
        'disabled': 1, 'failed': 0, 'skipped': 0}
    rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=True))
    engine.open()
    rig.wait_count('in_work', 0)
    assert rig.node.counters.snapshot() == {
        'received': 7, 'in_work': 0, 'processed': 1, 'replaced': 3, 'too_old': 1, 'malformed': 1,
        'disabled': 1, 'failed': 0, 'skipped': 0}


def test_a_frame_that_waits_when_the_node_is_deactivated_is_counted(rig):
    rig.start_node()
    publish = rig.camera()
    engine = rig.gates.engine
    engine.shut()
    publish(raw_message(painted_frame()[0]))
    wait_until(lambda: rig.node.pipeline.started_s is not None, 'the frame in the engine')
    publish(raw_message(painted_frame()[0]))
    engine.open()
    assert rig.change_state(Transition.TRANSITION_DEACTIVATE)
    counts = rig.node.counters.snapshot()
    assert counts['in_work'] == 0
    assert counts['processed'] + counts['disabled'] == counts['received'] == 2
