# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A raised alert asks a recorder for a snapshot; a service of an equal shape stands in for it."""
from __future__ import annotations

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from companion_rig import OK, WARN  # noqa: E402, I100
from evit_seg.ros.snapshot import import_snapshot  # noqa: E402
import rclpy  # noqa: E402
from ros_rig import wait_until  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402


def recorder_node(link, answers):
    """Offer /recorder/snapshot as a recorder does; `answers` gives what it says."""
    asked = []

    def serve(request, response):
        asked.append(request)
        response.success = answers[min(len(asked), len(answers)) - 1]
        return response
    link.client.create_service(Trigger, '/recorder/snapshot', serve)
    client = link.node._snapshots._client
    wait_until(client.service_is_ready, 'the service to be known')
    return asked


def test_a_raised_alert_takes_one_snapshot_in_each_interval(bridge):
    link = bridge(snapshot__service='/recorder/snapshot', snapshot__min_interval_s=10.0,
                  snapshot_kind=Trigger)
    asked = recorder_node(link, [True, False])
    link.event()
    link.event('updated')
    wait_until(lambda: link.value('snapshots taken') == '1', 'the first snapshot')
    link.event('raised', alert_id='person-4')
    link.event('raised', alert_id='person-5')
    wait_until(lambda: link.value('unplaced alerts') == '3', 'all alerts to arrive')
    assert len(asked) == 1
    link.now_s += 10
    wait_until(lambda: link.value('snapshots missed') == '1', 'the second, that fails')
    assert len(asked) == 2
    link.report()
    wait_until(lambda: 'took no snapshot' in link.reports[-1].message, 'the reason')
    assert link.reports[-1].level == WARN


def test_an_absent_recorder_is_told_and_nothing_waits(bridge):
    link = bridge(snapshot__service='recorder/snapshot', snapshot_kind=Trigger,
                  statustext__min_interval_s=0.0)
    link.report()
    link.event()
    wait_until(lambda: link.value('snapshots missed') == '1', 'the miss')
    wait_until(lambda: 'nobody offers /recorder/snapshot' in link.reports[-1].message,
               'the reason')
    link.now_s += 1
    link.event('cleared', OK)
    link.wait('statustext', 'cleared')


def test_a_recorder_that_never_answers_is_given_up(bridge):
    link = bridge(snapshot__service='/recorder/snapshot', snapshot__min_interval_s=1.0,
                  snapshot_kind=Trigger)
    recorder_node(link, [True])
    client = link.node._snapshots._client
    real, client.call_async = client.call_async, lambda request: rclpy.task.Future()
    link.event()
    wait_until(lambda: link.node._snapshots._asked is not None, 'the call')
    link.event('raised', alert_id='person-4')  # waits behind the open call
    client.call_async = real
    link.now_s += 31
    wait_until(lambda: link.value('snapshots missed') == '1', 'the call to be given up')
    wait_until(lambda: link.value('snapshots taken') == '1', 'the next one')


def test_without_rosbag2_interfaces_it_says_so(bridge):
    if import_snapshot() is not None:
        pytest.skip('rosbag2_interfaces is installed')
    link = bridge(snapshot__service='/recorder/snapshot')
    link.report()
    wait_until(lambda: link.reports and 'rosbag2_interfaces is not installed'
               in link.reports[-1].message, 'the reason')
