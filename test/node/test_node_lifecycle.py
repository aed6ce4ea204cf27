# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""States, and what /diagnostics says of each: no silent node looks like an empty scene."""
from __future__ import annotations

import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402, I100
from evit_seg.core.errors import ConfigError  # noqa: E402
from evit_seg.ros.params import check_values  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
import rclpy  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.time import Time  # noqa: E402
from ros_rig import FakeClock, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Watch:
    """Reads /diagnostics, asking the node for a report instead of waiting a second."""

    def __init__(self, rig):
        self._rig = rig
        self._got = rig.record(DiagnosticArray, '/diagnostics')

    def __call__(self):
        asked = self._rig.node.get_clock().now()
        self._rig.node.report()
        wait_until(lambda: self._got and Time.from_msg(self._got[-1].header.stamp) >= asked,
                   'a report made after it was asked for')
        (status,) = self._got[-1].status
        assert status.name == 'seg_node'
        return status.level, status.message, {pair.key: pair.value for pair in status.values}


def state_of(rig):
    return rig.call(GetState, '/seg_node/get_state', GetState.Request()).current_state.id


def test_the_sentences_of_a_running_node(rig):
    clock = FakeClock()
    rig.start_node(clock=clock, alert__classes=['person'], image__max_age_s=1.0)
    report = Watch(rig)
    assert report()[:2] == (OK, 'running: waiting for the first frame')
    clock.advance(2.5)
    level, message, _ = report()
    assert (level, message) == (WARN, 'no frames for 2.5 s: nobody publishes /image_raw')
    publish = rig.camera()
    level, message, _ = report()
    assert message == 'no frames for 2.5 s: 1 publisher(s) of /image_raw fit, but send nothing'
    publish(raw_message(painted_frame()[0], clock.ns, encoding='hsv8'))
    rig.wait_count('malformed', 1)
    level, message, _ = report()
    assert (level, message.split(':')[0]) == (WARN, 'frames unreadable')
    publish(raw_message(painted_frame()[0], clock.ns - 4 * 10 ** 9))
    level, message, _ = report()
    assert (level, message.split(',')[0]) == (WARN, 'frames too old: 4.00 s old')
    publish(raw_message(painted_frame()[0], clock.ns))
    rig.wait_count('processed', 1)
    level, message, numbers = report()
    assert (level, message) == (OK, 'running: nobody there, no alert is active')
    assert numbers['state'] == 'active'
    assert (numbers['model'], numbers['provider'], numbers['mode']) == ('tiny', 'cpu', 'nominal')
    assert numbers['model sha256'] == rig.node.pipeline.model.segmenter.bundle.sha256
    assert (numbers['frames received'], numbers['frames malformed']) == ('3', '1')
    assert float(numbers['resident memory MB']) > 1
    for stage in ('decode', 'pre', 'infer', 'post', 'publish', 'stamp to publish'):
        assert f'{stage} p50/p95 ms' in numbers
    rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=False))
    assert report()[:2] == (WARN, 'not running: switched off through ~/enable')
    rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=True))
    rig.gates.engine.failing = RuntimeError('CUDA error 700')
    publish(raw_message(painted_frame()[0], clock.ns))
    rig.wait_count('failed', 1)
    assert report()[:2] == (ERROR, 'not running: every frame fails: RuntimeError: CUDA error 700')


def test_an_engine_that_does_not_come_back_is_said(rig):
    clock = FakeClock()
    rig.start_node(clock=clock, engine__hang_after_s=0)  # never given up
    report = Watch(rig)
    publish = rig.camera()
    rig.gates.engine.shut()
    publish(raw_message(painted_frame()[0]))
    wait_until(lambda: rig.node.pipeline.started_s is not None, 'the frame in the engine')
    clock.advance(3.0)
    publish(raw_message(painted_frame()[0]))
    assert report()[:2] == (WARN, 'no answer: the engine has been at one frame for 3.0 s')


@pytest.mark.parametrize('kind, reliability, said', [
    (CompressedImage, ReliabilityPolicy.RELIABLE,
     '/image_raw carries sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image'),
    (Image, ReliabilityPolicy.BEST_EFFORT, 'set image.reliability')])
def test_a_publisher_that_cannot_reach_the_node_is_named(rig, kind, reliability, said):
    clock = FakeClock()
    rig.start_node(clock=clock, image__reliability='reliable')
    elsewhere = Context()  # one participant cannot give a topic two types
    rclpy.init(context=elsewhere, domain_id=rig.domain)
    camera = rclpy.create_node('camera', context=elsewhere)
    camera.create_publisher(kind, 'image_raw', QoSProfile(depth=1, reliability=reliability))
    wait_until(lambda: rig.node.count_publishers('/image_raw') == 1, 'the graph')
    clock.advance(2.5)
    level, message, _ = Watch(rig)()
    camera.destroy_node()
    elsewhere.shutdown()
    assert level == WARN
    assert said in message


def test_without_autostart_a_failed_start_stays_and_says_error(rig, tmp_path):
    rig.bundle = tmp_path / 'missing'
    rig.make_node(autostart=False)
    rig.spin_node()
    report = Watch(rig)
    assert report()[:2] == (WARN, 'not running: the node is unconfigured and waits for its '
                                  'lifecycle manager')
    assert not rig.change_state(Transition.TRANSITION_CONFIGURE)
    assert state_of(rig) == State.PRIMARY_STATE_UNCONFIGURED
    level, message, _ = report()
    assert (level, message) == (ERROR, f'not running: no bundle at {rig.bundle}: the folder does '
                                       'not exist')
    answer = rig.call(Trigger, '/seg_node/reload_model', Trigger.Request())
    assert (answer.success, answer.message.split(':')[0]) == (False, 'the old model stays')


def test_the_whole_life_by_a_manager(rig):
    rig.make_node(autostart=False)
    rig.spin_node()
    report = Watch(rig)
    for _ in range(2):
        assert rig.change_state(Transition.TRANSITION_CONFIGURE)
        assert report()[:2] == (WARN, 'not running: the node is inactive and waits for its '
                                      'lifecycle manager')
        assert rig.change_state(Transition.TRANSITION_ACTIVATE)
        processed = rig.count('processed')
        rig.camera()(raw_message(painted_frame()[0]))
        rig.wait_count('processed', processed + 1)
        assert rig.change_state(Transition.TRANSITION_DEACTIVATE)
        assert state_of(rig) == State.PRIMARY_STATE_INACTIVE
        assert rig.change_state(Transition.TRANSITION_CLEANUP)
        assert rig.gates.engine.closed
    assert rig.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state_of(rig) == State.PRIMARY_STATE_FINALIZED


def test_a_failed_self_test_keeps_the_node_from_starting(rig):
    node = rig.make_node()
    load = rig.gates.__call__

    def load_wrong(*args, **options):
        engine = load(*args, **options)
        infer = engine.infer
        engine.infer = lambda image_HWC: -infer(image_HWC)
        return engine
    node._load = load_wrong
    assert node.start() == 1
    assert 'self-test' in str(node.fault)
    assert rig.gates.engine.closed


def test_a_misspelt_parameter_stops_the_node(rig):
    with pytest.raises(ConfigError, match=r"'alert\.persn\.min_pixels'; did you mean "
                                          r"'alert\.person\.min_pixels'"):
        rig.make_node(alert__persn__min_pixels=3.0)


def test_an_empty_list_of_alert_classes_and_foreign_parameters_pass(rig):
    rig.start_node(alert__classes=[], use_sim_time=True, other_node__gain=3)
    assert rig.node.config.alert_classes == ()
    assert rig.node.config == check_values({'model': str(rig.bundle), 'alert.classes': []})[1]
    (note,) = rig.node._table.notes
    assert note == 'parameters of somebody else are ignored: other_node.gain'


def test_a_node_that_got_no_parameter_says_so(rig):
    rig.bundle = None
    (note,) = rig.make_node(namespace='/d1')._table.notes
    assert note.startswith('/d1/seg_node got no parameter at all and runs on defaults')
