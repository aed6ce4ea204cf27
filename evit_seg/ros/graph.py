# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Why nothing arrives: what the ROS graph says about a topic we listen to."""
from __future__ import annotations

import os
from typing import List

from rclpy.node import Node
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile


def why_silent(node: Node, topic: str, wanted_type: str, qos: QoSProfile) -> str:
    """
    Return in a few words what is wrong with the publishers of a topic.

    `topic` is absolute, `wanted_type` such as 'sensor_msgs/msg/Image', `qos` the subscription's.
    """
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f'nobody publishes {topic}{_transport_hint()}'
    others = sorted({p.topic_type for p in publishers} - {wanted_type})
    fitting = [p for p in publishers if p.topic_type == wanted_type]
    if not fitting:
        return f'{topic} carries {", ".join(others)}, expected {wanted_type}'
    reasons: List[str] = []
    for publisher in fitting:
        verdict, reason = qos_check_compatible(publisher.qos_profile, qos)
        if verdict != QoSCompatibility.ERROR:
            return f'{len(fitting)} publisher(s) of {topic} fit, but send nothing'
        reasons.append(f'{publisher.node_name}: {reason.strip()}')
    return (f'no publisher of {topic} fits our QoS ({"; ".join(reasons)}); set image.reliability '
            'to what the publisher offers')


def _transport_hint() -> str:
    """Return what hides whole processes from each other: with LARGE_DATA, Fast DDS needs TCP."""
    transports = os.environ.get('FASTDDS_BUILTIN_TRANSPORTS', '')
    if not transports.startswith('LARGE_DATA'):
        return ''
    return (f'; this process has FASTDDS_BUILTIN_TRANSPORTS={transports} and sees only processes '
            'that have it too: set it for the camera, or launch the node with large_data:=false')
