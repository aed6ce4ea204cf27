# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Live parameters, alerts on the wire, and models changed in flight."""
from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_bundle import anchor_colours, painted_frame, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402, I100
import evit_seg.ros.outputs as outputs  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, GetParameters  # noqa: E402
from ros_rig import mask_of, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

PERSON = 10
START_NS = 1_700_000_000_000_000_000


def scene(person_px=24):
    """Return a frame of class 0 with a square of class Person, 16 px from the corner."""
    image_HWC = np.full((64, 64, 3), anchor_colours()[0], np.uint8)
    image_HWC[16:16 + person_px, 16:16 + person_px] = anchor_colours()[PERSON]
    return image_HWC


def values(status):
    return {pair.key: pair.value for pair in status.values}


class Flight:
    """Publishes frames 0.5 s apart by their stamps and waits for each to be worked on."""

    def __init__(self, rig):
        self._rig, self._publish, self.frames = rig, rig.camera(), 0

    def __call__(self, image_HWC, times=1):
        for _ in range(times):
            message = raw_message(image_HWC, START_NS + self.frames * 500_000_000)
            self._publish(message)
            self.frames += 1
            self._rig.wait_count('processed', self.frames)
        return message


def test_alert_events_from_raised_to_cleared(rig):
    rig.start_node(alert__classes=['person'])
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    fly = Flight(rig)
    fly(scene(0))
    fly(scene(), times=2)
    assert not events, 'two frames of evidence do not confirm'
    confirming = fly(scene())
    wait_until(lambda: events, 'the alert')
    assert events[0].header == confirming.header
    (status,) = events[0].status
    assert (status.name, status.level) == ('raised', DiagnosticStatus.WARN)
    found = values(status)
    assert list(found) == ['alert_id', 'class', 'state', 'pixels', 'regions', 'confidence',
                           'first_seen', 'last_seen', 'bbox', 'lat', 'lon', 'radius_m', 'geo_note']
    assert found['class'] == 'person'
    assert (found['state'], found['pixels'], found['regions'], found['bbox']) == (
        'ACTIVE', '576.0', '1', '16,16,24,24')
    assert (found['first_seen'], found['last_seen']) == ('1700000000.500000000',
                                                         '1700000001.500000000')
    assert float(found['confidence']) > 0.9
    assert (found['lat'], found['lon'], found['radius_m']) == ('', '', '')
    assert found['geo_note'].startswith('not geotagged: ')
    fly(scene(0), times=6)
    wait_until(lambda: len(events) == 2, 'the end of the alert')
    (status,) = events[1].status
    assert (status.name, status.level) == ('cleared', DiagnosticStatus.OK)
    assert values(status)['alert_id'] == found['alert_id']


def test_a_threshold_changed_in_flight_is_seen_in_behaviour(rig):
    rig.start_node(alert__classes=['person'], alert__person__min_pixels=1000)
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    fly = Flight(rig)
    fly(scene(), times=4)
    assert not events, '576 pixels do not suffice'
    assert rig.set_parameters(alert__person__min_pixels=500)[0].successful  # an int for a float
    fly(scene(), times=3)
    wait_until(lambda: events, 'the alert')


def test_a_rejected_change_keeps_the_old_value_and_says_why(rig):
    rig.start_node(alert__classes=['person'])
    for name, value, reason in (
            ('alert.person.min_confidence', 1.5, 'expected 0 to 1, got 1.5'),
            ('alert.person.confirm_k', 9, 'expected 1 to 5, got 9'),
            ('stale_after_s', 'long', "expected float, got 'long'"),
            ('mask.confidence', 1, 'expected bool, got 1'),
            ('mask.size', 'network', 'read-only')):
        before = rig.call(GetParameters, '/seg_node/get_parameters',
                          GetParameters.Request(names=[name])).values
        (result,) = rig.set_parameters(**{name: value})
        assert not result.successful
        assert reason in result.reason
        assert rig.call(GetParameters, '/seg_node/get_parameters',
                        GetParameters.Request(names=[name])).values == before
    assert rig.node.config.alert_values['person']['min_confidence'] == 0.5


def test_parameters_describe_themselves(rig):
    rig.start_node()
    answer = rig.call(DescribeParameters, '/seg_node/describe_parameters',
                      DescribeParameters.Request(names=['image.max_age_s', 'mask.size']))
    age, size = answer.descriptors
    assert (age.description, age.additional_constraints, age.read_only) == (
        'Older frames are dropped and counted; 0: never. [s]', '0 to 3600', False)
    assert (size.additional_constraints, size.read_only) == ('source, network', True)


def test_reload_swaps_the_model_and_keeps_it_when_the_new_one_is_broken(rig, tmp_path):
    rig.start_node()
    masks = rig.record(Image, '/seg_node/mask')
    publish = rig.camera()
    first = rig.gates.engine
    other = write_tiny_bundle(tmp_path / 'other', hw=(32, 32), stride=4)
    broken = shutil.copytree(other, tmp_path / 'broken')
    (broken / 'tiny.onnx').write_bytes(b'')

    assert rig.set_parameters(model=str(broken))[0].successful
    answer = rig.call(Trigger, '/seg_node/reload_model', Trigger.Request())
    assert not answer.success
    assert 'the old model stays' in answer.message
    assert 'truncated' in answer.message
    publish(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 1)
    assert not first.closed

    assert rig.set_parameters(model=str(other))[0].successful
    answer = rig.call(Trigger, '/seg_node/reload_model', Trigger.Request())
    assert answer.success
    assert '32x32' in answer.message
    assert first.closed
    publish(raw_message(painted_frame()[0]))
    wait_until(lambda: len(masks) == 2, 'a mask of the new model')
    assert mask_of(masks[1]).shape == (64, 64)
    assert rig.node.pipeline.model.segmenter.engine is rig.gates.engine is not first


def test_alerts_of_other_classes_are_reset_by_a_reload(rig, tmp_path):
    rig.start_node(alert__classes=['person'])
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    fly = Flight(rig)
    last = fly(scene(), times=3)
    fewer = write_tiny_bundle(tmp_path / 'fewer', num_classes=11)
    assert rig.set_parameters(model=str(fewer))[0].successful
    assert rig.call(Trigger, '/seg_node/reload_model', Trigger.Request()).success
    wait_until(lambda: len(events) == 2, 'the reset')
    assert [array.status[0].name for array in events] == ['raised', 'reset']
    assert events[1].header == last.header
    assert values(events[1].status[0])['state'] == 'IDLE'
    assert rig.node.pipeline.active_alerts == ()


def test_reload_waits_for_the_frame_in_hand_and_blocks_nobody(rig):
    rig.start_node()
    publish = rig.camera()
    first = rig.gates.engine
    first.shut()
    publish(raw_message(painted_frame()[0]))
    wait_until(lambda: rig.node.pipeline.started_s is not None, 'the frame in the engine')
    client = rig.client.create_client(Trigger, '/seg_node/reload_model')
    assert client.wait_for_service(10.0)
    answer = client.call_async(Trigger.Request())
    wait_until(lambda: len(rig.gates.engines) == 2, 'the second model')
    assert rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=True)).success
    assert not answer.done()
    assert not first.closed
    first.open()
    wait_until(answer.done, 'the answer after the swap')
    assert answer.result().success
    rig.wait_count('processed', 1)
    assert first.closed


def test_a_late_subscriber_gets_the_mode(rig):
    rig.start_node()
    modes = rig.record(String, '/seg_node/mode', latched=True, match=False)
    wait_until(lambda: modes, 'the latched mode')
    assert [mode.data for mode in modes] == ['nominal']


@pytest.fixture(params=['vision_msgs', 'core messages in its place'])
def vision(request, monkeypatch):
    """Return (label type, list type, boxes of a list): when is published what, with either."""
    if request.param == 'vision_msgs':
        real = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not on PyPI')
        return real.LabelInfo, real.Detection2DArray, lambda array: array.detections
    monkeypatch.setattr(outputs, 'import_vision_msgs', lambda: SimpleNamespace(
        LabelInfo=String, Detection2DArray=DiagnosticArray))
    monkeypatch.setattr(outputs, 'label_info', lambda *given: String(data='labels'))
    monkeypatch.setattr(outputs, 'detection_array', lambda vision, header, alerts: DiagnosticArray(
        header=header, status=[DiagnosticStatus() for alert in alerts for _ in alert.regions]))
    return String, DiagnosticArray, lambda array: array.status


def test_labels_and_the_list_of_active_alerts(rig, vision):
    label_type, list_type, boxes = vision
    rig.start_node(alert__classes=['person'])
    fly = Flight(rig)
    raised = fly(scene(), times=3)
    labels = rig.record(label_type, '/seg_node/label_info', latched=True, match=False)
    alerts = rig.record(list_type, '/seg_node/alerts', latched=True, match=False)
    wait_until(lambda: labels and alerts, 'what a late subscriber gets')
    assert len(boxes(alerts[0])) == 1
    assert alerts[0].header == raised.header
    last = fly(scene())
    rig.node.report()  # once a second, and now
    wait_until(lambda: alerts[-1].header == last.header, "the list under the last frame's header")
    assert len(boxes(alerts[-1])) == 1
    fly(scene(0), times=6)
    wait_until(lambda: not boxes(alerts[-1]), 'the empty list')
    number = len(alerts)
    rig.node.report()
    assert len(alerts) == number, 'an empty list is not repeated'
