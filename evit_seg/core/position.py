# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Where the camera was when an image was taken: position, heading, height and calibration, paired.

Messages are taken as they are, by the names of their fields, so that those of rclpy and those
read from a bag go through the same lines.
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
import threading
from typing import (
    Any,
    Deque,
    Dict,
    Generic,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from evit_seg.core.errors import ConfigError
from evit_seg.core.geo import Camera, GeoTag, geotag, NotGeotagged, Pose, PoseErrors
from evit_seg.core.regions import Region

T = TypeVar('T')
KEPT = 256
"""Messages remembered per topic: 2.5 s at 100 Hz, for images that took their time."""
STATUS_FIX = 0
"""NavSatStatus: this or more is a fix."""
COVARIANCE_TYPE_UNKNOWN = 0
"""NavSatFix: the covariance says nothing."""
PLAIN_NAMES = {'fix': 'fix', 'heading': 'heading', 'height': 'height',
               'camera_info': 'camera_info'}
GEO_LIMITS: Dict[str, Tuple[float, float]] = {
    'height_m': (0, 20_000), 'pitch_deg': (0, 90), 'yaw_deg': (-180, 180), 'max_age_s': (0.01, 60),
    'position_error_m': (0, 1000), 'height_error_m': (0, 1000), 'heading_error_deg': (0, 45),
    'tilt_error_deg': (0, 30)}


@dataclass(frozen=True)
class GeoParameters:
    """
    The parameters `geo.*` of the node; ConfigError if a value is out of its range.

    A height of 0 stands for the topic's. The errors are standard deviations.
    """

    height_m: float = 0.0
    pitch_deg: float = 90.0
    yaw_deg: float = 0.0
    max_age_s: float = 1.0
    position_error_m: float = 2.0
    height_error_m: float = 2.0
    heading_error_deg: float = 5.0
    tilt_error_deg: float = 2.0

    def __post_init__(self) -> None:
        for name, (low, high) in GEO_LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) \
                    or not low <= value <= high:  # NaN fails too
                raise ConfigError(f'geo.{name}: expected {low:g} to {high:g}, got {value!r}')


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

    Positions carry a stamp. Headings and heights have none: their time is when they came, on the
    clock of the images' stamps (the node's own; of a bag, the bag's time).
    """

    def __init__(self) -> None:
        self.topics = dict(PLAIN_NAMES)
        self.fixes: Track[Any] = Track()
        self.headings_deg: Track[float] = Track()
        self.heights_m: Track[float] = Track()

    def view(self, stamp_ns: int, source_hw: Tuple[int, int], info: Any,
             geo: GeoParameters) -> Tuple[Camera, Pose, PoseErrors]:
        """Return camera, pose and errors for an image of that stamp and size."""
        camera = camera_of(info, source_hw, self.topics['camera_info'])
        fix = self._fresh(self.fixes, 'fix', 'position', stamp_ns, geo,
                          'publish sensor_msgs/NavSatFix there or remap fix')
        position_error_m = _check_fix(fix, geo, self.topics['fix'])
        heading_deg = self._finite(self._fresh(
            self.headings_deg, 'heading', 'heading', stamp_ns, geo,
            'publish std_msgs/Float64 there, degrees clockwise from north, or remap heading'),
            'heading')
        height_m = geo.height_m or self._finite(self._fresh(
            self.heights_m, 'height', 'height above ground', stamp_ns, geo,
            'publish std_msgs/Float64 there, in metres, or set geo.height_m'), 'height')
        return (camera,
                Pose(float(fix.latitude), float(fix.longitude), height_m, heading_deg,
                     geo.pitch_deg, geo.yaw_deg),
                PoseErrors(position_error_m, geo.height_error_m, geo.heading_error_deg,
                           geo.tilt_error_deg))

    def _fresh(self, track: Track[T], topic: str, what: str, stamp_ns: int, geo: GeoParameters,
               way_out: str) -> T:
        found = track.nearest(stamp_ns)
        if found is None:
            raise NotGeotagged(f'no {what} on {self.topics[topic]}; {way_out}')
        age_s = (stamp_ns - found[0]) / 1e9
        if abs(age_s) > geo.max_age_s:
            raise NotGeotagged(
                f'the {what} on {self.topics[topic]} is {abs(age_s):.1f} s '
                f'{"older" if age_s > 0 else "newer"} than the image, geo.max_age_s is '
                f'{geo.max_age_s:g} s; is it still published, and are both of one clock '
                '(use_sim_time for bags)?')
        return found[1]

    def _finite(self, value: float, topic: str) -> float:
        if not math.isfinite(value):
            raise NotGeotagged(f'{self.topics[topic]} says {value!r}; publish finite values only')
        return value


def is_fix(fix: Any) -> bool:
    """Tell whether a NavSatFix holds a position at all."""
    return bool(fix.status.status >= STATUS_FIX
                and abs(fix.latitude) <= 90 and abs(fix.longitude) <= 360)  # NaN fails too


def _check_fix(fix: Any, geo: GeoParameters, topic: str) -> float:
    """Return the position's error in m, one sigma; NotGeotagged for a fix that is none."""
    if fix.status.status < STATUS_FIX:
        raise NotGeotagged(f'the receiver on {topic} has no fix (status {fix.status.status}, '
                           '0 or more is one); wait until it has')
    if not is_fix(fix):
        raise NotGeotagged(f'{topic} says latitude {fix.latitude!r}, longitude '
                           f'{fix.longitude!r}; publish degrees, or status -1 without a fix')
    if fix.position_covariance_type == COVARIANCE_TYPE_UNKNOWN:
        return geo.position_error_m
    east, east_north, _, _, north = (float(v) for v in fix.position_covariance[:5])
    # The larger eigenvalue: the error along the worst direction.
    largest_m2 = (east + north) / 2 + math.hypot((east - north) / 2, east_north)
    if not (min(east, north) >= 0 and math.isfinite(largest_m2)):
        raise NotGeotagged(f'the covariance on {topic} is {east!r}, {north!r} m2 along east '
                           'and north; publish what it is, or that it is unknown (type 0)')
    return math.sqrt(largest_m2)


def sensor_region_hw(info: Any, source_hw: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """
    Return the (height, width) of the part of the sensor that an image shows.

    The image may be a binned region of the sensor; the calibration is of the whole sensor. None
    when it is not of this image: their sizes do not agree.
    """
    region_hw = (int(info.roi.height or info.height), int(info.roi.width or info.width))
    binning = (max(info.binning_y, 1), max(info.binning_x, 1))
    if (region_hw[0] // binning[0], region_hw[1] // binning[1]) != source_hw:
        return None
    return region_hw


def camera_of(info: Any, source_hw: Tuple[int, int], topic: str) -> Camera:
    """
    Return the pinhole of an image of that size from its CameraInfo; NotGeotagged without one.

    A pixel's centre lies at its index, so a principal point c becomes (c + 0.5) * scale - 0.5.
    """
    if info is None:
        raise NotGeotagged(f'no camera_info on {topic}; publish the calibration there or '
                           'remap camera_info')
    region_hw = sensor_region_hw(info, source_hw)
    if region_hw is None:
        raise NotGeotagged(f'the calibration on {topic} is of {info.width}x{info.height}, '
                           f'the image has {source_hw[1]}x{source_hw[0]}; calibrate at the '
                           "image's size")
    scale_y, scale_x = source_hw[0] / region_hw[0], source_hw[1] / region_hw[1]
    fx, _, cx, _, fy, cy = (float(v) for v in info.k[:6])
    fx, fy = fx * scale_x, fy * scale_y
    cx, cy = (cx + 0.5) * scale_x - 0.5, (cy + 0.5) * scale_y - 0.5
    distortion = tuple(float(v) for v in info.d)
    if not (fx > 0 and fy > 0 and all(map(math.isfinite, (fx, cx, fy, cy, *distortion)))):
        raise NotGeotagged(f'the calibration on {topic} says focal lengths {fx:g} and {fy:g} '
                           'px; calibrate the camera')
    # K is of the whole sensor, the image may be a region of it.
    return Camera(fx, fy, cx - info.roi.x_offset * scale_x, cy - info.roi.y_offset * scale_y,
                  info.distortion_model, distortion)


def places_of(regions: Iterable[Region], camera: Camera, pose: Pose,
              errors: PoseErrors) -> Tuple[Sequence[Optional[GeoTag]], str]:
    """
    Return the places of the regions in their order, None for one that has none, and a note.

    The note says why of the first such region, else it is empty.
    """
    tags: List[Optional[GeoTag]] = []
    note = ''
    for number, region in enumerate(regions, 1):
        try:
            tags.append(geotag((region.x, region.y, region.w, region.h), camera, pose, errors))
        except NotGeotagged as error:
            tags.append(None)
            note = note or not_geotagged(f'region {number}: {error}')
    return tags, note


def not_geotagged(why: str) -> str:
    """Return what an event's geo_note says where there is no place."""
    return f'not geotagged: {why}'
