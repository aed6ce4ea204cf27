# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where the camera was when an image was taken, from the topics, and the geotags that follow."""
from __future__ import annotations

from collections import deque
import math
import threading
from typing import Any, Callable, Deque, Dict, Generic, Iterable, List, Optional, Tuple, TypeVar

from evit_seg.core.alerts import Alert
from evit_seg.core.geo import Camera, geotag, NotGeotagged, Pose, PoseErrors
from evit_seg.core.regions import Region
from evit_seg.ros.alert_messages import GeoWords
from evit_seg.ros.convert import scaled_camera_info
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.qos import create_subscription
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, NavSatFix, NavSatStatus
from std_msgs.msg import Float64, Header

T = TypeVar('T')
KEPT = 256
"""Messages remembered per topic: 2.5 s at 100 Hz, for images that took their time."""
PLAIN_NAMES = {'fix': 'fix', 'heading': 'heading', 'height': 'height',
               'camera_info': 'camera_info'}


class Track(Generic[T]):
    """The last messages of one topic by their time in ns; any thread may write and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: Deque[Tuple[int, T]] = deque(maxlen=KEPT)

    def add(self, time_ns: int, content: T) -> None:
        """Remember a message."""
        with self._lock:
            self._kept.append((time_ns, content))

    def nearest(self, time_ns: int) -> Optional[Tuple[int, T]]:
        """Return (time, content) of the message nearest in time, the newest of equals."""
        with self._lock:
            return min(reversed(self._kept), key=lambda kept: abs(kept[0] - time_ns),
                       default=None)


class Positions:
    """
    The position, heading and height at the time of an image; NotGeotagged says what is missing.

    Positions carry a stamp. Headings and heights have none: their time is the node's clock when
    they came, so the image's stamp must be of that clock (use_sim_time for bags).
    """

    def __init__(self) -> None:
        self.topics = dict(PLAIN_NAMES)
        self.fixes: Track[NavSatFix] = Track()
        self.headings_deg: Track[float] = Track()
        self.heights_m: Track[float] = Track()

    def view(self, stamp_ns: int, source_hw: Tuple[int, int], info: Optional[CameraInfo],
             config: NodeConfig) -> Tuple[Camera, Pose, PoseErrors]:
        """Return camera, pose and errors for an image of that stamp and size."""
        camera = self._camera(source_hw, info)
        fix = self._fresh(self.fixes, 'fix', 'position', stamp_ns, config,
                          'publish sensor_msgs/NavSatFix there or remap fix')
        position_error_m = self._check_fix(fix, config)
        heading_deg = self._finite(self._fresh(
            self.headings_deg, 'heading', 'heading', stamp_ns, config,
            'publish std_msgs/Float64 there, degrees clockwise from north, or remap heading'),
            'heading')
        height_m = config.geo_height_m or self._finite(self._fresh(
            self.heights_m, 'height', 'height above ground', stamp_ns, config,
            'publish std_msgs/Float64 there, in metres, or set geo.height_m'), 'height')
        return (camera,
                Pose(fix.latitude, fix.longitude, height_m, heading_deg, config.geo_pitch_deg,
                     config.geo_yaw_deg),
                PoseErrors(position_error_m, config.geo_height_error_m,
                           config.geo_heading_error_deg, config.geo_tilt_error_deg))

    def _fresh(self, track: Track[T], topic: str, what: str, stamp_ns: int, config: NodeConfig,
               way_out: str) -> T:
        found = track.nearest(stamp_ns)
        if found is None:
            raise NotGeotagged(f'no {what} on {self.topics[topic]}; {way_out}')
        age_s = (stamp_ns - found[0]) / 1e9
        if abs(age_s) > config.geo_max_age_s:
            raise NotGeotagged(
                f'the {what} on {self.topics[topic]} is {abs(age_s):.1f} s '
                f'{"older" if age_s > 0 else "newer"} than the image, geo.max_age_s is '
                f'{config.geo_max_age_s:g} s; is it still published, and are both of one clock '
                '(use_sim_time for bags)?')
        return found[1]

    def _finite(self, value: float, topic: str) -> float:
        if not math.isfinite(value):
            raise NotGeotagged(f'{self.topics[topic]} says {value!r}; publish finite values only')
        return value

    def _check_fix(self, fix: NavSatFix, config: NodeConfig) -> float:
        """Return the position's error in m, one sigma; NotGeotagged for a fix that is none."""
        topic = self.topics['fix']
        if fix.status.status < NavSatStatus.STATUS_FIX:
            raise NotGeotagged(f'the receiver on {topic} has no fix (status {fix.status.status}, '
                               '0 or more is one); wait until it has')
        if not (abs(fix.latitude) <= 90 and abs(fix.longitude) <= 360):  # NaN fails too
            raise NotGeotagged(f'{topic} says latitude {fix.latitude!r}, longitude '
                               f'{fix.longitude!r}; publish degrees, or status -1 without a fix')
        if fix.position_covariance_type == NavSatFix.COVARIANCE_TYPE_UNKNOWN:
            return config.geo_position_error_m
        east, east_north, _, _, north = (float(v) for v in fix.position_covariance[:5])
        # The larger eigenvalue: the error along the worst direction.
        largest_m2 = (east + north) / 2 + math.hypot((east - north) / 2, east_north)
        if not (min(east, north) >= 0 and math.isfinite(largest_m2)):
            raise NotGeotagged(f'the covariance on {topic} is {east!r}, {north!r} m2 along east '
                               'and north; publish what it is, or that it is unknown (type 0)')
        return math.sqrt(largest_m2)

    def _camera(self, source_hw: Tuple[int, int], info: Optional[CameraInfo]) -> Camera:
        topic = self.topics['camera_info']
        if info is None:
            raise NotGeotagged(f'no camera_info on {topic}; publish the calibration there or '
                               'remap camera_info')
        scaled = scaled_camera_info(info, Header(), source_hw, source_hw)
        if scaled is None:
            raise NotGeotagged(f'the calibration on {topic} is of {info.width}x{info.height}, '
                               f'the image has {source_hw[1]}x{source_hw[0]}; calibrate at the '
                               "image's size")
        fx, _, cx, _, fy, cy = (float(v) for v in scaled.k[:6])
        if not (fx > 0 and fy > 0 and all(map(math.isfinite, (fx, cx, fy, cy, *info.d)))):
            raise NotGeotagged(f'the calibration on {topic} says focal lengths {fx:g} and {fy:g} '
                               'px; calibrate the camera')
        # K is of the whole sensor, the image may be a region of it.
        scale_y = source_hw[0] / (info.roi.height or info.height)
        scale_x = source_hw[1] / (info.roi.width or info.width)
        return Camera(fx, fy, cx - info.roi.x_offset * scale_x, cy - info.roi.y_offset * scale_y,
                      info.distortion_model, tuple(float(v) for v in info.d))


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
            view: Any = self._positions.view(stamp_ns, source_hw, info, config)
        except NotGeotagged as error:
            view = str(error)  # the exception itself would keep the frame alive
        self._views.update((alert_id, view) for alert_id in seen)

    def words(self, alert: Alert) -> GeoWords:
        """Return what an event says of the places of an alert's regions, in their order."""
        view = self._views.get(alert.alert_id)
        if view is None or isinstance(view, str):
            return GeoWords('', '', '', f'not geotagged: {view or "the alert was not seen"}')
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
    rows: List[Tuple[str, str, str]] = []
    note = ''
    for number, region in enumerate(regions, 1):
        try:
            tag = geotag((region.x, region.y, region.w, region.h), camera, pose, errors)
            rows.append((f'{tag.latitude_deg:.7f}', f'{tag.longitude_deg:.7f}',
                         f'{tag.radius_m:.1f}'))
        except NotGeotagged as error:
            rows.append(('nan', 'nan', 'nan'))
            note = note or f'not geotagged: region {number}: {error}'
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
