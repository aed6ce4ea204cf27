# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Geotags in the node: what the position topics bring in, and the words that come out."""
from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from evit_seg.core.alerts import Alert
from evit_seg.core.geo import Camera, NotGeotagged, Pose, PoseErrors
from evit_seg.core.position import not_geotagged, places_of, PLAIN_NAMES, Positions, Track
from evit_seg.core.regions import Region
from evit_seg.ros.alert_messages import GeoWords
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.qos import create_subscription
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, NavSatFix
from std_msgs.msg import Float64


class Geotagger:
    """Remembers, for each active alert, from where it was last seen; used by the worker alone."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._views: Dict[str, Any] = {}

    def see(self, stamp_ns: int, source_hw: Tuple[int, int], info: Optional[CameraInfo],
            config: NodeConfig, active: Iterable[Alert]) -> None:
        """Take a processed frame: note the view of the alerts that are seen in it."""
        seen = [alert.alert_id for alert in active if alert.last_seen_ns == stamp_ns]
        if not seen:
            return
        try:
            view: Any = self._positions.view(stamp_ns, source_hw, info, config.geo)
        except NotGeotagged as error:
            view = str(error)  # the exception itself would keep the frame alive
        self._views.update((alert_id, view) for alert_id in seen)

    def words(self, alert: Alert) -> GeoWords:
        """Return what an event says of the places of an alert's regions, in their order."""
        view = self._views.get(alert.alert_id)
        if view is None or isinstance(view, str):
            return GeoWords('', '', '', not_geotagged(view or 'the alert was not seen'))
        return geo_words(alert.regions, *view)

    def forget(self, active: Iterable[Alert]) -> None:
        """Forget the views of alerts that are not active any more."""
        ids = {alert.alert_id for alert in active}
        self._views = {key: view for key, view in self._views.items() if key in ids}


def geo_words(regions: Iterable[Region], camera: Camera, pose: Pose,
              errors: PoseErrors) -> GeoWords:
    """
    Return the places of the regions as words, in their order; 'nan' for one that has none.

    The note says why of the first such region.
    """
    tags, note = places_of(regions, camera, pose, errors)
    rows: List[Tuple[str, str, str]] = [
        ('nan', 'nan', 'nan') if tag is None else
        (f'{tag.latitude_deg:.7f}', f'{tag.longitude_deg:.7f}', f'{tag.radius_m:.1f}')
        for tag in tags]
    lat, lon, radius_m = (' '.join(column) for column in zip(*rows)) if rows else ('', '', '')
    return GeoWords(lat, lon, radius_m, note)


class PositionInputs:
    """The subscriptions of an active node that fill its Positions."""

    def __init__(self, node: Node, positions: Positions, now_ns: Callable[[], int],
                 group: CallbackGroup) -> None:
        self._node = node
        positions.topics = {name: node.resolve_topic_name(name) for name in PLAIN_NAMES}

        def keep(track: Track[float]) -> Callable[[Float64], None]:
            return lambda message: track.add(now_ns(), message.data)

        def keep_fix(fix: NavSatFix) -> None:
            positions.fixes.add(fix.header.stamp.sec * 10 ** 9 + fix.header.stamp.nanosec, fix)
        self._subscriptions = [
            create_subscription(node, kind, topic, callback, qos_profile_sensor_data, group)
            for kind, topic, callback in (
                (NavSatFix, 'fix', keep_fix),
                (Float64, 'heading', keep(positions.headings_deg)),
                (Float64, 'height', keep(positions.heights_m)))]

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
