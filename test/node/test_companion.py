# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""seg_companion over real ROS 2: core messages, stand-ins for what is not on PyPI."""
from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from companion_rig import ERROR, OK, WARN  # noqa: E402, I100
from evit_seg.core.alerts import Alert, AlertEvent  # noqa: E402
from evit_seg.core.companion_link import NodeWatch, STATE_NAMES  # noqa: E402
from evit_seg.core.errors import ConfigError  # noqa: E402
from evit_seg.core.regions import Region  # noqa: E402
from evit_seg.ros.alert_messages import event_array, GeoWords  # noqa: E402
import evit_seg.ros.companion as companion_module  # noqa: E402
from evit_seg.ros.companion_params import check_values, TABLE  # noqa: E402
from evit_seg.ros.diagnostics import Condition, judge  # noqa: E402
from evit_seg.ros.mavros_messages import import_mavros_msgs  # noqa: E402
import rclpy  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_rig import next_domain, wait_until  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402
from test_messages import kind  # noqa: E402


def mavros_msgs_2():
    """Stand in for mavros_msgs 2.12, field by field; a field of another name raises."""
    return SimpleNamespace(
        StatusText=kind(header=Header, severity=int, text=str),
        CompanionProcessStatus=kind(header=Header, state=int, component=int),
        Waypoint=kind(frame=int, command=int, is_current=bool, autocontinue=bool, param1=float,
                      param2=float, param3=float, param4=float, x_lat=float, y_long=float,
                      z_alt=float))


def test_an_alert_becomes_a_text_and_a_proposed_waypoint(bridge):
    link = bridge(statustext__min_interval_s=0.0)
    link.fly(42.5)
    link.event()
    link.wait('waypoint', 'person-3')
    assert link.of('waypoint') == [{
        'kind': 'waypoint', 'alert_id': 'person-3', 'latitude_deg': 46.8426071,
        'longitude_deg': -91.9945599, 'radius_m': 7.5, 'altitude_above_home_m': 42.5,
        'stamp': '0.000000000'}]
    link.event('updated')
    link.event('cleared', OK)
    link.wait('statustext', 'cleared')
    assert [(m['severity'], m['text']) for m in link.of('statustext')] == [
        (4, 'seg: person-3 raised 46.84261,-91.99456 8m'),
        (6, 'seg: person-3 cleared 46.84261,-91.99456 8m')]
    assert len(link.of('waypoint')) == 1


def test_the_nodes_own_event_is_understood(bridge):
    link = bridge(waypoint__altitude_m=30.0)
    region = Region(10, 20, 31, 40, 800.0, 0.75)
    alert = Alert('vehicle-7', 13, 'vehicle', (region, region), 1, 2)
    link.publish('seg_node/alert_events', event_array(
        Header(), [AlertEvent('raised', alert, 'ACTIVE', 2)],
        lambda alert: GeoWords('46.8426071 nan', '-91.9945599 nan', '7.5 nan', 'region 2: why')))
    link.wait('waypoint', 'vehicle-7')
    assert [(m['severity'], m['text']) for m in link.of('statustext')] == [
        (4, 'seg: vehicle-7 raised 46.84261,-91.99456 8m')]


def test_without_a_place_or_an_altitude_nothing_is_proposed(bridge):
    link = bridge(statustext__min_interval_s=0.0)
    link.event()
    link.event(lat='', lon='', radius_m='', geo_note='not geotagged: no fix', alert_id='person-4')
    wait_until(lambda: link.value('unplaced alerts') == '2', 'both to be counted')
    assert link.of('waypoint') == []
    assert [m['text'] for m in link.of('statustext')] == [
        'seg: person-3 raised 46.84261,-91.99456 8m', 'seg: person-4 raised']


def test_the_set_altitude_and_its_floor(bridge):
    link = bridge(waypoint__altitude_m=30.0, waypoint__min_altitude_m=35.0)
    link.event()
    link.wait('waypoint', '35.0')


def test_the_state_follows_reports_and_silence(bridge):
    link = bridge(heartbeat__critical_after_s=4.0, heartbeat__terminal_after_s=9.0,
                  heartbeat__start_grace_s=20.0, heartbeat__component=196)
    link.wait_state('boot')
    link.report(ERROR, 'not running: somebody else', name='other/seg_node')
    link.report()
    link.wait_state('active')
    link.now_s += 4.5
    link.wait_state('critical')
    link.wait('statustext', 'node silent for')
    link.now_s += 5.0
    link.wait_state('flight termination')
    assert {m['component'] for m in link.of('status')} == {196}
    assert link.of('status')[-1]['state'] == 8
    wait_until(lambda: link.reports[-1].level == ERROR, 'its own diagnostics to say so')
    link.report(WARN, 'not running: switched off through ~/enable')
    link.wait_state('standby')


def test_the_grace_of_the_start_is_a_parameter(bridge):
    link = bridge(heartbeat__start_grace_s=5.0)
    link.wait_state('boot')
    link.now_s += 8.5
    link.wait_state('critical')


def test_a_change_of_mode_is_told(bridge):
    link = bridge(statustext__min_interval_s=0.0)
    link.mode('nominal')
    link.mode('degraded: every 2nd frame')
    link.wait('statustext', 'every 2nd frame')
    link.mode('nominal')
    link.wait('statustext', 'nominal')
    assert [(m['severity'], m['text']) for m in link.of('statustext')] == [
        (4, 'seg: degraded: every 2nd frame'), (6, 'seg: nominal')]


def test_a_mode_that_comes_again_is_not_told_again():
    context = Context()
    rclpy.init(context=context, domain_id=next_domain())
    node = companion_module.Companion(context=context, steady_s=lambda: 0.0, parameter_overrides=[
        Parameter('statustext.min_interval_s', value=0.0)])
    for mode in ('nominal', 'degraded: x', 'degraded: x', 'nominal', 'nominal'):
        node._on_mode(String(data=mode))
    assert node._counts['texts sent'] == 2
    node.destroy_node()
    context.try_shutdown()


def test_texts_keep_their_interval(bridge):
    link = bridge(statustext__min_interval_s=10.0)
    link.event()
    link.wait('statustext', 'raised')
    link.event('cleared', OK)
    link.event('raised', alert_id='vehicle-4')
    wait_until(lambda: len(link.node._texts._waiting) == 2, 'both to wait')
    beats = len(link.of('status'))
    wait_until(lambda: len(link.of('status')) >= beats + 3, 'some heartbeats')
    assert len(link.of('statustext')) == 1
    link.now_s += 10
    link.wait('statustext', 'vehicle-4')
    link.now_s += 10
    link.wait('statustext', 'cleared')


def test_another_name_in_a_namespace(bridge):
    link = bridge(namespace='/d1')
    link.report(ERROR, 'not running: somebody else', name='seg_node')
    link.report()
    link.wait_state('active')
    wait_until(lambda: link.value('watches') == 'd1/seg_node', 'its own diagnostics')


@pytest.mark.parametrize('watch, expected', [
    ('front_node', '/d1/front_node/alert_events'), ('/front/seg_node', '/front/seg_node/mode')])
def test_the_watched_node_is_a_parameter(watch, expected):
    context = Context()
    rclpy.init(context=context, domain_id=next_domain())
    node = companion_module.Companion(
        context=context, namespace='d1', parameter_overrides=[Parameter('watch', value=watch)])
    assert expected in {s.topic_name for s in node.subscriptions}
    node.destroy_node()
    context.try_shutdown()


class Recorder:
    """A publisher that keeps what it is given, for types that have no real one here."""

    def __init__(self, topic):
        self.topic_name, self.sent = topic, []
        self.publish = self.sent.append


def test_through_mavros_msgs(monkeypatch, bridge):
    outs = {}
    mavros, real = mavros_msgs_2(), companion_module.create_publisher

    def create(node, message, topic, qos, *more):
        if message in vars(mavros).values():
            return outs.setdefault(topic, Recorder(topic))
        return real(node, message, topic, qos, *more)
    monkeypatch.setattr(companion_module, 'create_publisher', create)
    link = bridge(mavros=mavros, waypoint__altitude_m=30.0)
    link.event()
    link.wait('waypoint', 'person-3')
    wait_until(lambda: outs['mavros/companion_process/status'].sent, 'a heartbeat')
    (text,) = outs['mavros/statustext/send'].sent
    assert (text.severity, text.text) == (4, 'seg: person-3 raised 46.84261,-91.99456 8m')
    beat = outs['mavros/companion_process/status'].sent[0]
    assert (beat.state, beat.component) == (1, 191)
    (point,) = outs['~/proposed_waypoint'].sent
    # FRAME_GLOBAL_REL_ALT, NAV_WAYPOINT; the heading is left to the autopilot
    assert (point.frame, point.command, point.is_current, math.isnan(point.param4)) == (
        3, 16, False, True)
    assert (point.x_lat, point.y_long, point.z_alt) == (46.8426071, -91.9945599, 30.0)
    wait_until(lambda: link.value('mavros_msgs') == 'installed', 'its own diagnostics')


def test_real_mavros_msgs_have_the_fields():
    mavros = import_mavros_msgs()
    if mavros is None:
        pytest.skip('mavros_msgs is not on PyPI')
    for name, stand_in in vars(mavros_msgs_2()).items():
        assert set(stand_in.fields) <= set(
            getattr(mavros, name).get_fields_and_field_types()), name


@pytest.mark.parametrize('condition, state', [
    (Condition('active', last_outcome='processed'), 'active'),
    (Condition('active', last_outcome='processed', mode='degraded: every 2nd frame'), 'active'),
    (Condition('active', last_outcome='processed', timeless=True), 'active'),
    (Condition('active', enabled=False), 'standby'),
    (Condition('inactive'), 'standby'),
    (Condition('unconfigured', fault='no bundle'), 'critical'),
    (Condition('active', hang='the engine hangs'), 'critical'),
    (Condition('active', quiet_s=9.0, silent_because='nobody'), 'critical'),
    (Condition('active', busy_s=9.0), 'critical'),
    (Condition('active', last_outcome='too_old'), 'critical'),
    (Condition('active', last_outcome='malformed'), 'critical'),
    (Condition('active', last_outcome='failed'), 'critical')])
def test_the_nodes_own_sentences_are_understood(condition, state):
    level, sentence = judge(condition)
    node = NodeWatch(3.0, 15.0, 60.0, 0.0)
    node.hear(1.0, int.from_bytes(level, 'little'), sentence)
    assert STATE_NAMES[node.judge(1.0).state] == state


@pytest.mark.parametrize('given, complaint', [
    ({'heartbeat.critical_afer_s': 3.0}, "did you mean 'heartbeat.critical_after_s'"),
    ({'heartbeat.terminal_after_s': 2.0}, 'expected more than heartbeat.critical_after_s'),
    ({'heartbeat.component': 0}, 'expected 1 to 255'),
    ({'watch': ''}, 'watch: expected a ROS name such as /front/seg_node, got '),
    ({'watch': 'my node'}, 'watch: expected a ROS name'),
    ({'snapshot.service': '//snapshot'}, 'snapshot.service: expected a ROS name'),
    ({'snapshot.service': 3}, 'expected string')])
def test_parameters_that_do_not_fit(given, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_values(given)


def test_other_nodes_parameters_pass():
    assert check_values({'alert.person.min_pixels': 3.0}) == check_values({})


def test_the_parameters_are_declared(bridge):
    link = bridge(statustext__min_interval_s=2)
    assert link.node.get_parameter('statustext.min_interval_s').value == 2.0
    assert all(link.node.has_parameter(row.name) for row in TABLE)


def test_a_wrong_parameter_ends_the_process_with_its_exit_code(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(next_domain()))
    arguments = ['seg_companion', '--ros-args', '-p', 'waypoint.altitude:=3.0']
    assert companion_module.main(arguments) == ConfigError.exit_code
