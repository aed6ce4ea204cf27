# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
seg_companion: seg_node's voice towards PX4 or ArduPilot, over MAVROS's topics.

Listens to seg_node's alert events, mode and diagnostics; sends status texts and a heartbeat,
proposes waypoints (and never sends one to the autopilot), and asks rosbag2 for snapshots.
Everything it says goes out as JSON on ~/messages too, with or without mavros_msgs.
"""
from __future__ import annotations

import json
import sys
import time
from types import ModuleType
from typing import Any, Callable, List, Mapping, Optional, Tuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from evit_seg.core.companion_link import (
    alert_text,
    Altitude,
    Judgement,
    NodeWatch,
    OK,
    place_of,
    plain,
    SENDER,
    severity_of,
    STATE_NAMES,
    Text,
    TextQueue,
    WARN,
)
from evit_seg.core.errors import EvitSegError
from evit_seg.ros.companion_params import check_values, TABLE
from evit_seg.ros.diagnostics import diagnostic_array, NOMINAL
from evit_seg.ros.mavros_messages import (
    import_mavros_msgs,
    process_status,
    status_text,
    waypoint,
)
from evit_seg.ros.outputs import EVENTS, LATCHED
from evit_seg.ros.process import one_interrupt
from evit_seg.ros.qos import create_publisher, create_subscription
from evit_seg.ros.report import DIAGNOSTICS
from evit_seg.ros.snapshot import import_snapshot, Snapshots
from rcl_interfaces.msg import ParameterDescriptor
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Float64, Header, String

NODE_NAME = 'seg_companion'
HEARTBEAT_S = 1.0
"""MAVLink's own rate of heartbeats."""
TYPED_TOPICS = ('mavros/statustext/send', 'mavros/companion_process/status',
                '~/proposed_waypoint')


class Companion(Node):
    """
    Bridges one seg_node to MAVROS.

    steady_s, mavros and snapshot_kind stand in for the clock and the optional message types in
    tests. ConfigError for a parameter that is unknown or does not fit.
    """

    def __init__(self, *, steady_s: Callable[[], float] = time.monotonic,
                 mavros: Optional[ModuleType] = None, snapshot_kind: Optional[Any] = None,
                 **node_options: Any) -> None:
        super().__init__(NODE_NAME, **node_options)
        self.config = check_values(
            {name: parameter.value for name, parameter in self._parameter_overrides.items()})
        for row in TABLE:
            self.declare_parameter(
                row.name, getattr(self.config, row.name.replace('.', '_')), ParameterDescriptor(
                    description=row.text, additional_constraints=row.span(), read_only=True),
                ignore_override=True)
        self._steady_s = steady_s
        self._mavros = mavros or import_mavros_msgs()
        config = self.config
        self._watch = NodeWatch(config.heartbeat_critical_after_s,
                                config.heartbeat_terminal_after_s,
                                config.heartbeat_start_grace_s, steady_s())
        self._texts = TextQueue(config.statustext_min_interval_s)
        self._altitude = Altitude(config.waypoint_altitude_m, config.waypoint_min_altitude_m)
        self._present_altitude: Optional[Tuple[float, float]] = None
        self._mode = NOMINAL
        self._counts = dict.fromkeys(('texts sent', 'waypoints proposed', 'unplaced alerts'), 0)
        self._snapshots = Snapshots(self, config.snapshot_service, config.snapshot_min_interval_s,
                                    snapshot_kind or import_snapshot())
        self._create_topics()
        # A steady clock: with use_sim_time and no /clock the heartbeat must go on.
        self.create_timer(HEARTBEAT_S, self.tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _create_topics(self) -> None:
        self._messages = create_publisher(self, String, '~/messages', EVENTS)
        self._diagnostics = create_publisher(self, DiagnosticArray, '/diagnostics', DIAGNOSTICS)
        if self._mavros is None:
            self.get_logger().warning(
                'mavros_msgs is not installed: nothing is published on '
                f'{", ".join(TYPED_TOPICS)}; the same goes out as JSON on ~/messages')
        else:
            kinds = (self._mavros.StatusText, self._mavros.CompanionProcessStatus,
                     self._mavros.Waypoint)
            self._text_out, self._status_out, self._waypoint_out = (
                create_publisher(self, kind, topic, EVENTS)
                for kind, topic in zip(kinds, TYPED_TOPICS))
        watched = self.config.watch
        self._watched = self.resolve_topic_name(watched).lstrip('/')
        for kind, topic, callback, qos in (
                (DiagnosticArray, f'{watched}/alert_events', self._on_events, EVENTS),
                (String, f'{watched}/mode', self._on_mode, LATCHED),
                (DiagnosticArray, '/diagnostics', self._on_diagnostics, DIAGNOSTICS),
                (Float64, 'mavros/global_position/rel_alt', self._on_altitude,
                 qos_profile_sensor_data)):
            create_subscription(self, kind, topic, callback, qos)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == self._watched:
                self._watch.hear(self._steady_s(), level_of(status), status.message)
                self._tell_news()

    def _on_mode(self, mode: String) -> None:
        if mode.data != self._mode:
            self._mode = mode.data
            level = OK if mode.data == NOMINAL else WARN
            self._say(Text(severity_of(level), plain(SENDER + mode.data)))

    def _on_altitude(self, altitude: Float64) -> None:
        self._present_altitude = self._steady_s(), altitude.data

    def _on_events(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == 'updated':  # a region came or went: too much for a radio link
                continue
            values = {pair.key: pair.value for pair in status.values}
            self._say(alert_text(status.name, level_of(status), values))
            if status.name == 'raised':
                self._propose(array.header, values)
                self._snapshots.want(self._steady_s())

    def _propose(self, header: Header, values: Mapping[str, str]) -> None:
        place = place_of(values)
        altitude_m = self._altitude.choose(self._steady_s(), self._present_altitude)
        alert_id = values.get('alert_id', '')
        if place is None or altitude_m is None:
            self._counts['unplaced alerts'] += 1
            why = (values.get('geo_note') or 'the event has no place' if place is None else
                   'no altitude on mavros/global_position/rel_alt; set waypoint.altitude_m')
            self.get_logger().warning(f'no waypoint for {alert_id}: {why}')
            return
        self._counts['waypoints proposed'] += 1
        if self._mavros is not None:
            self._waypoint_out.publish(waypoint(self._mavros, place, altitude_m))
        self._tell('waypoint', alert_id=alert_id, latitude_deg=place.latitude_deg,
                   longitude_deg=place.longitude_deg, radius_m=place.radius_m,
                   altitude_above_home_m=altitude_m,
                   stamp=f'{header.stamp.sec}.{header.stamp.nanosec:09d}')

    def _say(self, text: Text) -> None:
        self._texts.put(text)
        self._send_texts()

    def _send_texts(self) -> None:
        text = self._texts.take(self._steady_s())
        while text is not None:
            self._counts['texts sent'] += 1
            if self._mavros is not None:
                self._text_out.publish(status_text(self._mavros, self._header(), text))
            self._tell('statustext', severity=text.severity, text=text.text)
            text = self._texts.take(self._steady_s())

    def _tell_news(self) -> None:
        news = self._watch.news(self._steady_s())
        if news is not None:
            self._say(news)

    def tick(self) -> None:
        """Send the heartbeat and whatever else is due."""
        now_s = self._steady_s()
        self._tell_news()
        self._send_texts()
        self._snapshots.tick(now_s)
        now = self._watch.judge(now_s)
        component = self.config.heartbeat_component
        if self._mavros is not None:
            self._status_out.publish(
                process_status(self._mavros, self._header(), now.state, component))
        self._tell('status', state=now.state, state_name=STATE_NAMES[now.state],
                   component=component, sentence=now.sentence)
        self._report(now)

    def _report(self, now: Judgement) -> None:
        level, sentence = now.level, now.sentence
        if level == OK and self._snapshots.problem:
            level, sentence = WARN, self._snapshots.problem
        values = {'watches': self._watched, 'state': STATE_NAMES[now.state],
                  'mavros_msgs': 'installed' if self._mavros is not None else 'not installed',
                  'texts dropped': str(self._texts.dropped),
                  'snapshots taken': str(self._snapshots.taken),
                  'snapshots missed': str(self._snapshots.missed)}
        values.update((name, str(count)) for name, count in self._counts.items())
        self._diagnostics.publish(diagnostic_array(
            self.get_clock().now().to_msg(), self.get_fully_qualified_name().lstrip('/'),
            (bytes([level]), sentence), values))

    def _header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg())

    def _tell(self, kind: str, **content: Any) -> None:
        self._messages.publish(String(data=json.dumps({'kind': kind, **content})))


def level_of(status: DiagnosticStatus) -> int:
    """Return the level as a number; rclpy has it as one byte."""
    return int.from_bytes(status.level, 'little')


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the node; the exit code is 0, or that of the error that ended it."""
    with one_interrupt():
        rclpy.init(args=sys.argv if arguments is None else arguments)
        node = None
        try:
            node = Companion()
            rclpy.spin(node)
        except EvitSegError as error:
            rclpy.logging.get_logger(NODE_NAME).fatal(str(error))
            return error.exit_code
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except RuntimeError:  # rclpy's own errors are: a signal may end the context under any call
            if rclpy.ok():
                raise
        finally:
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
