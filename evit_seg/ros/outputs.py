# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's publishers, and what goes out for one frame."""
from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence

from diagnostic_msgs.msg import DiagnosticArray
from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.decode import Frame
from evit_seg.core.manifest import Manifest
from evit_seg.core.overlay import draw_overlay
from evit_seg.core.segmenter import SegResult
from evit_seg.ros.alert_messages import (
    detection_array,
    event_array,
    GeoWords,
    import_vision_msgs,
    label_info,
)
from evit_seg.ros.convert import image_message, jpeg_message, scaled_camera_info
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.qos import create_publisher
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)
EVENTS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LOSSY = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Outputs:
    """Every publisher of a configured node but /diagnostics; any thread may publish."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._all: List[Any] = []
        self._group = MutuallyExclusiveCallbackGroup()
        self._mask = self._create(Image, '~/mask', RELIABLE)
        self._confidence = self._create(Image, '~/confidence', RELIABLE)
        self._camera_info = self._create(CameraInfo, '~/camera_info', RELIABLE)
        self._overlay = self._create(Image, '~/overlay', LOSSY)
        self._overlay_jpeg = self._create(CompressedImage, '~/overlay/compressed', LOSSY)
        self._events = self._create(DiagnosticArray, '~/alert_events', EVENTS)
        self._mode = self._create(String, '~/mode', LATCHED)
        # Not latched: whoever joins late must not land on what was free then.
        self._safe_zone = self._create(DiagnosticArray, '~/safe_zone', RELIABLE)
        self._overlay_due_s = float('-inf')
        self._vision = import_vision_msgs()
        if self._vision is None:
            node.get_logger().info('vision_msgs is not installed: ~/label_info and ~/alerts are '
                                   'not published; ~/alert_events is')
        else:
            self._label_info = self._create(self._vision.LabelInfo, '~/label_info', LATCHED)
            self._alerts = self._create(self._vision.Detection2DArray, '~/alerts', LATCHED)

    def _create(self, kind: Any, topic: str, qos: QoSProfile) -> Any:
        publisher = create_publisher(self._node, kind, topic, qos, self._group)
        self._all.append(publisher)
        return publisher

    def alive(self) -> bool:
        """Tell whether anything can still be published."""
        return bool(self._node.context.ok())

    def close(self) -> None:
        """Take the publishers out of the graph."""
        for publisher in self._all:
            self._node.destroy_publisher(publisher)
        self._all.clear()

    def wants_confidence(self, config: NodeConfig) -> bool:
        """Tell whether the confidence is switched on and somebody listens."""
        return config.mask_confidence and self._confidence.get_subscription_count() > 0

    def wants_mask(self) -> bool:
        """Tell whether somebody listens to the mask, or to what has its size or shows it."""
        return any(publisher.get_subscription_count() > 0 for publisher in (
            self._mask, self._confidence, self._camera_info, self._overlay, self._overlay_jpeg))

    def publish_frame(self, header: Header, result: SegResult,
                      info: Optional[CameraInfo]) -> None:
        """Publish what belongs to one frame, under the header it came with."""
        self._mask.publish(image_message(header, result.mask_HW, 'mono8'))
        if result.confidence_HW is not None:
            self._confidence.publish(image_message(header, result.confidence_HW, 'mono8'))
        if info is None:
            return
        mask_hw = (int(result.mask_HW.shape[0]), int(result.mask_HW.shape[1]))
        scaled = scaled_camera_info(info, header, result.geometry.source_hw, mask_hw)
        if scaled is not None:
            self._camera_info.publish(scaled)
            return
        self._node.get_logger().warning(
            f'~/camera_info is not published: the calibration is of {info.width}x{info.height}, '
            f'the image has {result.geometry.source_hw[1]}x{result.geometry.source_hw[0]}',
            throttle_duration_sec=10.0)

    def publish_overlay(self, header: Header, frame: Frame, result: SegResult,
                        alerts: Sequence[Alert], manifest: Manifest, config: NodeConfig,
                        now_s: float) -> None:
        """Draw and publish the overlay if somebody listens and one is due."""
        raw = self._overlay.get_subscription_count() > 0
        jpeg = self._overlay_jpeg.get_subscription_count() > 0
        if not (raw or jpeg) or config.overlay_max_rate_hz == 0 or now_s < self._overlay_due_s:
            return
        self._overlay_due_s = now_s + 1 / config.overlay_max_rate_hz
        picture = draw_overlay(frame.image_HWC, frame.colour, result.mask_HW,
                               manifest.label_map, alerts, config.overlay_width)
        if raw:
            self._overlay.publish(image_message(header, picture, 'bgr8'))
        if jpeg:
            self._overlay_jpeg.publish(
                jpeg_message(header, picture, config.overlay_jpeg_quality))

    def publish_events(self, header: Header, events: Sequence[AlertEvent],
                       places: Callable[[Alert], GeoWords]) -> None:
        """Publish what changed in one frame."""
        self._events.publish(event_array(header, events, places))

    def publish_alerts(self, header: Header, alerts: Sequence[Alert]) -> None:
        """Publish the whole list of active alerts, if vision_msgs is there."""
        if self._vision is not None:
            self._alerts.publish(detection_array(self._vision, header, alerts))

    def publish_labels(self, manifest: Manifest) -> None:
        """Publish the label map, if vision_msgs is there."""
        if self._vision is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._label_info.publish(label_info(self._vision, header, manifest.label_map,
                                                manifest.ignore_index))

    def publish_safe_zone(self, zone: DiagnosticArray) -> None:
        """Publish the landing zone, or that there is none."""
        self._safe_zone.publish(zone)

    def publish_mode(self, mode: str) -> None:
        """Publish 'nominal', or what is degraded and why."""
        self._mode.publish(String(data=mode))
