# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""seg_companion with a clock of its own, and the nodes around it played by a client."""
from __future__ import annotations

import json
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from evit_seg.ros.companion import Companion
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import next_domain, wait_until
from std_msgs.msg import Float64, String

PLACED = {'alert_id': 'person-3', 'class': 'person', 'lat': '46.8426071', 'lon': '-91.9945599',
          'radius_m': '7.5', 'geo_note': ''}
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Bridge:
    """A companion with a clock of its own, and seg_node's and MAVROS's side of its topics."""

    def __init__(self, namespace='/', **parameters):
        self.now_s = 1000.0
        self.context = Context()
        rclpy.init(context=self.context, domain_id=next_domain())
        options = {name: parameters.pop(name) for name in ('mavros', 'snapshot_kind')
                   if name in parameters}
        self.node = Companion(
            steady_s=lambda: self.now_s, context=self.context, namespace=namespace,
            parameter_overrides=[Parameter(name.replace('__', '.'), value=value)
                                 for name, value in parameters.items()], **options)
        self.client = rclpy.create_node('client', context=self.context)
        self.said, self.reports = [], []
        name = self.node.get_fully_qualified_name()
        self.client.create_subscription(
            String, f'{name}/messages', lambda m: self.said.append(json.loads(m.data)), 100)
        self.client.create_subscription(DiagnosticArray, '/diagnostics', self._hear, 10)
        self._publishers = {
            topic: self.client.create_publisher(message, f'{namespace}/{topic}'.replace('//', '/'),
                                                qos)
            for topic, message, qos in (
                ('seg_node/alert_events', DiagnosticArray, 50),
                ('seg_node/mode', String, LATCHED),
                ('mavros/global_position/rel_alt', Float64, 10))}
        self._publishers['/diagnostics'] = self.client.create_publisher(
            DiagnosticArray, '/diagnostics', 10)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._executor.add_node(self.client)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self.watched = f'{namespace}/seg_node'.lstrip('/')
        wait_until(self._matched, 'both sides to know each other')

    def _matched(self):
        ends = [*self._publishers.values(), *self.node.publishers]
        mine = [p for p in ends if p.topic_name != '/parameter_events'
                and p.topic_name != '/rosout' and not p.topic_name.startswith('/mavros')]
        return all(p.get_subscription_count() > 0 for p in mine)

    def _hear(self, array):
        self.reports += [s for s in array.status
                         if f'/{s.name}' == self.node.get_fully_qualified_name()]

    def publish(self, topic, message):
        self._publishers[topic].publish(message)

    def event(self, name='raised', level=WARN, **values):
        pairs = [KeyValue(key=key, value=text) for key, text in {**PLACED, **values}.items()]
        self.publish('seg_node/alert_events', DiagnosticArray(
            status=[DiagnosticStatus(name=name, level=level, values=pairs)]))

    def report(self, level=OK, message='running: nobody there, no alert is active', name=None):
        self.publish('/diagnostics', DiagnosticArray(status=[
            DiagnosticStatus(name=self.watched if name is None else name, level=level,
                             message=message)]))

    def mode(self, text):
        self.publish('seg_node/mode', String(data=text))

    def fly(self, altitude_m):
        before = self.node._present_altitude
        self.publish('mavros/global_position/rel_alt', Float64(data=altitude_m))
        wait_until(lambda: self.node._present_altitude != before, 'the altitude to arrive')

    def of(self, what):
        return [message for message in self.said if message['kind'] == what]

    def wait(self, what, text):
        wait_until(lambda: any(text in json.dumps(m) for m in self.of(what)),
                   f'{what} with {text!r}, said: {self.said}')

    def wait_state(self, name):
        wait_until(lambda: [m['state_name'] for m in self.of('status')][-1:] == [name],
                   f'state {name}')

    def value(self, key):
        return next((p.value for r in self.reports[-1:] for p in r.values if p.key == key), None)

    def close(self):
        self._executor.shutdown()
        self._thread.join(30)
        self.client.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()
