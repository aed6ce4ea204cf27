# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Two nodes in two namespaces on two cameras keep apart."""
from __future__ import annotations

import numpy as np
import pytest
from tiny_bundle import anchor_colours

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402, I100
from ros_rig import mask_of, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

ROAD, PERSON = 12, 10


def test_two_nodes_in_two_namespaces_on_two_cameras(rig):
    flown = {'/left': ROAD, '/right': PERSON}
    nodes, masks, events, cameras = {}, {}, {}, {}
    for place in flown:
        nodes[place] = rig.start_node(namespace=place, alert__classes=['person'])
        masks[place] = rig.record(Image, f'{place}/seg_node/mask')
        events[place] = rig.record(DiagnosticArray, f'{place}/seg_node/alert_events')
        cameras[place] = rig.camera(topic=f'{place}/image_raw')
    for number in range(3):
        for place, class_id in flown.items():
            rig.node = nodes[place]
            image_HWC = np.full((64, 64, 3), anchor_colours()[class_id], np.uint8)
            cameras[place](raw_message(image_HWC, 10 ** 18 + number, frame_id=place))
            rig.wait_count('processed', number + 1)
    for place, class_id in flown.items():
        wait_until(lambda p=place: len(masks[p]) == 3, 'the masks')
        assert {m.header.frame_id for m in masks[place]} == {place}
        assert all((mask_of(m) == class_id).all() for m in masks[place])
    wait_until(lambda: events['/right'], 'the alert')
    assert [s.name for m in events['/right'] for s in m.status] == ['raised']
    assert events['/left'] == []
    names = {status.name for status in _reports(rig, nodes)}
    assert names == {'left/seg_node', 'right/seg_node'}
    nodes['/left'].close()


def _reports(rig, nodes):
    """Return a report of each node from the one topic they share."""
    got = []
    rig.client.create_subscription(DiagnosticArray, '/diagnostics', got.append, 10)
    wait_until(lambda: {s.name for m in got for s in m.status} >= {
        node.get_fully_qualified_name().lstrip('/') for node in nodes.values()}, 'both reports')
    return [status for message in got for status in message.status]
