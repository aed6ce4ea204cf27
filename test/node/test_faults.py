# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around the node in the field, and what the node does and says then."""
from __future__ import annotations

import os
import shutil
import threading

import numpy as np
import pytest
from tiny_bundle import anchor_colours, painted_frame, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402, I100
from lifecycle_msgs.msg import Transition  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from ros_rig import FakeClock, mask_of, raw_message, wait_until  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

PERSON = 10
START_NS = 1_700_000_000_000_000_000
SECOND_NS = 10 ** 9


def scene(person_px=24):
    """Return a frame of class 0 with a square of class Person."""
    image_HWC = np.full((64, 64, 3), anchor_colours()[0], np.uint8)
    image_HWC[16:16 + person_px, 16:16 + person_px] = anchor_colours()[PERSON]
    return image_HWC


def wait_said(rig, reports, sentence):
    """Wait until the node says so on /diagnostics."""
    rig.node.report()
    wait_until(lambda: reports and reports[-1].status[0].message == sentence,
               f'{sentence!r}, now {[report.status[0].message for report in reports[-2:]]}')


def test_a_camera_that_dies_and_returns(rig):
    clock = FakeClock()
    rig.start_node(clock=clock, alert__classes=['person'])
    reports = rig.record(DiagnosticArray, '/diagnostics')
    publish = rig.camera()
    for number in range(1, 4):
        publish(raw_message(scene(), START_NS + number * SECOND_NS))
        rig.wait_count('processed', number)
    wait_said(rig, reports, 'running: active alerts: person-1')
    (camera,) = [p for p in rig.client.publishers if p.topic_name == '/image_raw']
    rig.client.destroy_publisher(camera)
    wait_until(lambda: rig.node.count_publishers('/image_raw') == 0, 'the camera to be gone')
    clock.advance(60.0)
    wait_said(rig, reports, 'no frames for 60.0 s: nobody publishes /image_raw')
    assert len(rig.node.pipeline.active_alerts) == 1, 'silence is no evidence of absence'
    publish = rig.camera()
    publish(raw_message(scene(), START_NS + 63 * SECOND_NS))
    rig.wait_count('processed', 4)
    wait_said(rig, reports, 'running: active alerts: person-1')


def test_a_camera_that_changes_size_and_encoding_in_flight(rig):
    rig.start_node()
    masks = rig.record(Image, '/seg_node/mask')
    publish = rig.camera()
    for number, (hw, encoding, colour) in enumerate((
            ((64, 64), 'rgb8', slice(None)), ((48, 100), 'bgr8', slice(None, None, -1)),
            ((128, 32), 'rgb8', slice(None)), ((40, 40), 'mono8', slice(0, 1)),
            ((64, 64), 'rgba8', [0, 1, 2, 2]), ((64, 64), 'rgb8', slice(None))), 1):
        image_HWC, ids_HW = painted_frame(hw=hw)
        publish(raw_message(np.ascontiguousarray(image_HWC[..., colour]), encoding=encoding))
        wait_until(lambda n=number: len(masks) == n, f'a mask of {hw} {encoding}')
        mask_HW = mask_of(masks[-1])
        assert mask_HW.shape == hw
        if encoding != 'mono8':
            y, x = hw[0] // 8, hw[1] // 8  # the middle of the first block
            assert mask_HW[y, x] == ids_HW[y, x]
    assert rig.node.counters.balanced()


@pytest.mark.parametrize('harm, said', [
    (lambda bundle, other: (bundle / 'tiny.onnx').write_bytes(b'\0'), 'truncated'),
    (lambda bundle, other: shutil.copy(other / 'tiny.onnx', bundle / 'tiny.onnx'),
     'tiny.onnx'),
    (lambda bundle, other: (bundle / 'tiny.onnx').unlink(), 'tiny.onnx'),
    (lambda bundle, other: (bundle / 'manifest.yaml').write_text('schema: ['), 'manifest.yaml'),
    (lambda bundle, other: shutil.rmtree(bundle), 'the folder does not exist')],
    ids=['truncated', 'exchanged', 'removed', 'bad manifest', 'folder removed'])
def test_a_bundle_harmed_under_the_running_node(rig, tmp_path, harm, said):
    whole = rig.bundle
    rig.bundle = shutil.copytree(whole, tmp_path / 'bundle')
    other = write_tiny_bundle(tmp_path / 'other', hw=(32, 32), stride=4)
    rig.start_node()
    publish = rig.camera()
    running = rig.gates.engine
    harm(rig.bundle, other)
    publish(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 1)
    answer = rig.call(Trigger, '/seg_node/reload_model', Trigger.Request())
    assert not answer.success
    assert answer.message.startswith('the old model stays: ')
    assert said in answer.message
    publish(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 2)
    assert rig.node.pipeline.model.segmenter.engine is running
    shutil.rmtree(rig.bundle, ignore_errors=True)
    shutil.copytree(whole, rig.bundle)
    assert rig.call(Trigger, '/seg_node/reload_model', Trigger.Request()).success
    publish(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 3)


def test_a_clock_that_jumps_resets_alerts_and_never_clears_them(rig):
    rig.start_node(alert__classes=['person'])
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    publish = rig.camera()
    frames = 0

    def fly(start_ns, image_HWC=None):
        nonlocal frames
        for number in range(3):
            publish(raw_message(scene() if image_HWC is None else image_HWC,
                                start_ns + number * SECOND_NS // 2))
            frames += 1
            rig.wait_count('processed', frames)
        return [event.status[0].name for event in events]

    fly(START_NS)
    wait_until(lambda: len(events) == 1, 'the alert')
    fly(START_NS + 3600 * SECOND_NS)  # an hour ahead: the object is still there
    wait_until(lambda: fly(START_NS) == ['raised', 'reset', 'raised'], 'a new epoch')
    publish(raw_message(scene(0), START_NS + 7200 * SECOND_NS))
    frames += 1
    rig.wait_count('processed', frames)
    assert len(rig.node.pipeline.active_alerts) == 1, 'one look after an hour clears nothing'
    fly(0)  # a camera that forgot the time
    wait_until(lambda: [event.status[0].name for event in events] == [
        'raised', 'reset', 'raised', 'reset', 'raised'], 'another epoch')
    assert rig.node.counters.balanced()


def test_a_bag_that_loops_gives_the_same_alerts_each_time(rig):
    rig.start_node(alert__classes=['person'])
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    publish = rig.camera()
    flight = [scene(0)] * 2 + [scene()] * 4 + [scene(0)] * 6 + [scene()] * 3
    for number in range(3 * len(flight)):
        publish(raw_message(flight[number % len(flight)],
                            START_NS + (number % len(flight)) * SECOND_NS // 2))
        rig.wait_count('processed', number + 1)
    once = ['raised', 'cleared', 'raised']
    wait_until(lambda: len(events) == 11, 'the events')
    assert [event.status[0].name for event in events] == [*once, 'reset', *once, 'reset', *once]


def test_sim_time_without_a_clock_is_said_and_frames_are_answered(rig):
    rig.start_node(use_sim_time=True, image__max_age_s=0.5)
    reports = rig.record(DiagnosticArray, '/diagnostics')
    publish = rig.camera()
    publish(raw_message(painted_frame()[0], START_NS))
    rig.wait_count('processed', 1)  # an age cannot be told, so nothing is too old
    number = len(reports)
    wait_until(lambda: len(reports) >= number + 2, 'reports made without being asked for')
    assert reports[-1].status[0].message.startswith(
        'degraded: use_sim_time is set, but nothing comes on /clock')


def test_sim_time_follows_the_clock_and_its_jumps(rig):
    rig.start_node(use_sim_time=True, image__max_age_s=0.5)
    reports = rig.record(DiagnosticArray, '/diagnostics')
    clock = rig.client.create_publisher(Clock, '/clock', QoSProfile(depth=1))
    wait_until(lambda: clock.get_subscription_count() > 0, 'the node to hear /clock')
    publish = rig.camera()

    def tick(now_ns):
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, SECOND_NS)

        def arrived():
            clock.publish(message)
            return rig.node.get_clock().now().nanoseconds == now_ns
        wait_until(arrived, 'the time')

    for number, start_ns in enumerate((START_NS, START_NS + 3600 * SECOND_NS, START_NS), 1):
        tick(start_ns + SECOND_NS)
        publish(raw_message(painted_frame()[0], start_ns))
        rig.wait_count('too_old', number)
        publish(raw_message(painted_frame()[0], start_ns + SECOND_NS))
        rig.wait_count('processed', number)
        wait_said(rig, reports, 'running: nobody there, no alert is active')
    assert rig.node.counters.balanced()


def test_starting_and_stopping_leaves_nothing_behind(rig):
    rig.make_node(autostart=False)
    rig.spin_node()
    before = {}
    for life in range(1, 6):
        assert rig.change_state(Transition.TRANSITION_CONFIGURE)
        for _ in range(2):
            assert rig.change_state(Transition.TRANSITION_ACTIVATE)
            processed = rig.count('processed')
            rig.camera()(raw_message(painted_frame()[0]))
            rig.wait_count('processed', processed + 1)
            assert rig.change_state(Transition.TRANSITION_DEACTIVATE)
        assert rig.change_state(Transition.TRANSITION_CLEANUP)
        rig.gates.engines.clear()
        if life == 2:
            before.update(used(rig.node))  # what the first lives bring to stay is there
        wait_until(lambda: all(used(rig.node)[what] <= held for what, held in before.items()),
                   f'{used(rig.node)} to be {before}')


def used(node):
    """Return what the process and a node in it hold, apart from what other ROS processes cost."""
    files = [f'/proc/self/fd/{number}' for number in os.listdir('/proc/self/fd')]
    files = [os.readlink(file) for file in files if os.path.islink(file)]
    return {'threads of Python': threading.active_count(),
            'threads': len(os.listdir('/proc/self/task')),
            'files': len([file for file in files if not file.startswith('/dev/shm')]),
            'publishers': len(list(node.publishers)),
            'subscriptions': len(list(node.subscriptions)),
            'services and timers': len([*node.services, *node.timers])}
