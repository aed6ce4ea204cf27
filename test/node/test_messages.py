# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Alerts, labels and the sentences of the diagnostics, as messages."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402, I100
from evit_seg.core.alerts import Alert, AlertEvent  # noqa: E402
from evit_seg.core.labels import load_label_map  # noqa: E402
from evit_seg.core.regions import Region  # noqa: E402
from evit_seg.ros.alert_messages import (  # noqa: E402
    detection_array,
    event_array,
    GeoWords,
    import_vision_msgs,
    label_info,
)
from evit_seg.ros.diagnostics import Condition, judge, Rates  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

HEADER = Header(frame_id='camera')
ALERT = Alert('person-3', 10, 'person', (Region(10, 20, 31, 40, 800.0, 0.75),
                                         Region(100, 0, 5, 6, 30.25, 0.9)),
              1_700_000_000_000_000_001, -5)


WORDS = GeoWords('46.8426071 nan', '-91.9945599 nan', '7.5 nan', 'not geotagged: region 2: why')


class Strict:
    """A message of named fields, like the generated ones: another name raises."""

    fields: dict = {}

    def __init__(self, **given):
        for name, default in self.fields.items():
            object.__setattr__(self, name, default())
        for name, value in given.items():
            setattr(self, name, value)

    def __setattr__(self, name, value):
        expected = type(getattr(self, name))
        assert isinstance(value, expected), f'{name}: {value!r} is no {expected.__name__}'
        object.__setattr__(self, name, value)


def kind(**fields):
    return type('Message', (Strict,), {'fields': fields})


def vision_msgs_4():
    """Stand in for vision_msgs 4.1, field by field; the real ones are used where installed."""
    point = kind(x=float, y=float)
    pose = kind(position=point, theta=float)
    hypothesis = kind(class_id=str, score=float)
    return SimpleNamespace(
        BoundingBox2D=kind(center=pose, size_x=float, size_y=float),
        ObjectHypothesisWithPose=kind(hypothesis=hypothesis, pose=object),
        Detection2D=kind(header=Header, results=list, bbox=kind, id=str),
        Detection2DArray=kind(header=Header, detections=list),
        VisionClass=kind(class_id=int, class_name=str),
        LabelInfo=kind(header=Header, class_map=list, threshold=float))


def test_an_event_says_everything_in_core_messages():
    array = event_array(HEADER, [AlertEvent('updated', ALERT, 'ACTIVE', 7),
                                 AlertEvent('reset', ALERT, 'IDLE', 7)],
                        lambda alert: WORDS)
    assert array.header == HEADER
    updated, reset = array.status
    assert (updated.name, updated.level) == ('updated', DiagnosticStatus.WARN)
    assert (reset.name, reset.level) == ('reset', DiagnosticStatus.OK)
    assert {pair.key: pair.value for pair in updated.values} == {
        'alert_id': 'person-3', 'class': 'person', 'state': 'ACTIVE', 'pixels': '830.2',
        'regions': '2', 'confidence': '0.900', 'first_seen': '1700000000.000000001',
        'last_seen': '-0.000000005', 'bbox': '10,20,31,40 100,0,5,6', 'lat': '46.8426071 nan',
        'lon': '-91.9945599 nan', 'radius_m': '7.5 nan',
        'geo_note': 'not geotagged: region 2: why'}


@pytest.mark.parametrize('vision', [vision_msgs_4(), pytest.param(
    import_vision_msgs(), marks=pytest.mark.skipif(
        import_vision_msgs() is None, reason='vision_msgs is not installed'))])
def test_alerts_and_labels_through_vision_msgs(vision):
    if isinstance(vision, SimpleNamespace):
        vision.Detection2D.fields['bbox'] = vision.BoundingBox2D
    array = detection_array(vision, HEADER, [ALERT])
    assert [detection.id for detection in array.detections] == ['person-3/0', 'person-3/1']
    first = array.detections[0]
    assert (array.header, first.header) == (HEADER, HEADER)
    assert first.results[0].hypothesis.class_id == '10'
    assert first.results[0].hypothesis.score == 0.75
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (25.5, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (31.0, 40.0)
    assert list(detection_array(vision, HEADER, []).detections) == []
    info = label_info(vision, HEADER, load_label_map(), 255)
    names = {entry.class_id: entry.class_name for entry in info.class_map}
    assert (len(names), names[10], names[255]) == (15, 'Person', 'unlabelled')


OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@pytest.mark.parametrize('condition, level, sentence', [
    (Condition('unconfigured', fault='no bundle'), ERROR, 'not running: no bundle'),
    (Condition('inactive'), WARN, 'not running: the node is inactive'),
    (Condition('active', enabled=False), WARN, 'not running: switched off'),
    (Condition('active', fault='boom'), ERROR, 'not running: every frame fails: boom'),
    (Condition('active', hang='the engine hangs'), ERROR, 'not running: the engine hangs'),
    (Condition('active', hang='the engine hangs', enabled=False), ERROR,
     'not running: the engine hangs'),
    (Condition('active', last_outcome='failed', last_complaint='the engine hangs'), WARN,
     'no answer to the last frame: the engine hangs'),
    (Condition('active', last_outcome='processed', timeless=True), WARN,
     'degraded: use_sim_time is set, but nothing comes on /clock'),
    (Condition('active', quiet_s=2.1, silent_because='nobody'), WARN, 'no frames for 2.1 s'),
    (Condition('active', busy_s=9.0), WARN, 'no answer: '),
    (Condition('active', last_outcome='too_old', last_complaint='9 s'), WARN,
     'frames too old: 9 s'),
    (Condition('active', last_outcome='processed', mode='degraded: every 2nd frame'), WARN,
     'degraded: every 2nd frame'),
    (Condition('active', last_outcome='processed', active_alerts=('person-1',)), OK,
     'running: active alerts: person-1'),
    (Condition('active', last_outcome='processed'), OK, 'running: nobody there'),
    (Condition('active'), OK, 'running: waiting for the first frame')])
def test_every_condition_has_a_sentence_of_its_own(condition, level, sentence):
    found, said = judge(condition)
    assert found == level
    assert said.startswith(sentence)


def test_rates_between_two_reports():
    rates = Rates()
    assert rates.update(10.0, {'received': 5}) == {'received': 0.0}
    assert rates.update(12.0, {'received': 65}) == {'received': 30.0}
    assert rates.update(12.0, {'received': 70}) == {'received': 0.0}
