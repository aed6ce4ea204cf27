# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's subscriptions: the camera, raw or compressed, and its calibration."""
from __future__ import annotations

from typing import Any, Callable, Tuple

from evit_seg.ros.convert import CameraMessage
from evit_seg.ros.graph import why_silent
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.qos import create_subscription
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

COMPRESSED = '/compressed'


def image_topic(node: Node, transport: str) -> str:
    """
    Return the absolute topic that is listened to, remaps applied.

    A remap of image_raw does not carry over to image_raw/compressed by itself: so the suffix is
    put behind the remapped name, unless the remap names it already.
    """
    topic = node.resolve_topic_name('image_raw')
    wanted = transport == 'compressed' and not topic.endswith(COMPRESSED)
    return topic + COMPRESSED if wanted else topic


class Inputs:
    """The subscriptions of an active node; closed when it is not active any more."""

    def __init__(self, node: Node, config: NodeConfig, on_image: Callable[[CameraMessage], None],
                 on_camera_info: Callable[[CameraInfo], None],
                 steady_s: Callable[[], float], group: CallbackGroup) -> None:
        self._node = node
        self._on_image = on_image
        self._steady_s = steady_s
        self._heard_s = steady_s()
        self.topic = image_topic(node, config.image_transport)
        self._kind, self._type_name = _message_type(config.image_transport)
        qos = QoSProfile(depth=1, reliability=(
            ReliabilityPolicy.RELIABLE if config.image_reliability == 'reliable'
            else ReliabilityPolicy.BEST_EFFORT))
        self._subscriptions = (
            create_subscription(node, CameraInfo, 'camera_info', on_camera_info,
                                qos_profile_sensor_data, group),
            create_subscription(node, self._kind, self.topic, self._heard, qos, group))
        self._qos = self._subscriptions[-1].qos_profile  # with the overrides

    def _heard(self, message: CameraMessage) -> None:
        self._heard_s = self._steady_s()
        self._on_image(message)

    def quiet_s(self, now_s: float) -> float:
        """Return how long no image has come, at the steady clock's `now_s`."""
        return now_s - self._heard_s

    def silent_because(self) -> str:
        """Return what the graph says about a topic on which nothing arrives."""
        return why_silent(self._node, self.topic, self._type_name, self._qos)

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


def _message_type(transport: str) -> Tuple[Any, str]:
    if transport == 'compressed':
        return CompressedImage, 'sensor_msgs/msg/CompressedImage'
    return Image, 'sensor_msgs/msg/Image'
