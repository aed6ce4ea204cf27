# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of one source frame, and the writer that puts them in a rosbag2."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.replay.image_source import FrameFacts, SourceFrame
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer
from rosbags.typesys import get_typestore, Stores

JPEG_QUALITY = 95
TYPES = get_typestore(Stores.ROS2_HUMBLE)
_MSG = TYPES.types


@dataclass
class Topics:
    """Names of the topics in the bag: label and camera_info stand beside the image."""

    image: str = '/camera/image_raw'
    fix: str = '/fix'
    heading: str = '/heading'
    height: str = '/height'
    label: str = field(init=False)
    camera_info: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.image.startswith('/') or self.image.endswith('/'):
            raise ConfigError('topic: expected an absolute name like /camera/image_raw, '
                              f'got {self.image!r}')
        parent = self.image.rsplit('/', 1)[0]
        self.label = f'{parent}/label'
        self.camera_info = f'{parent}/camera_info'


class FrameWriter:
    """Writes frames to an open bag as they come; a topic appears with its first message."""

    def __init__(self, writer: Writer, topics: Topics, compressed: str | None,
                 sensor_width_mm: float | None) -> None:
        self.writer = writer
        self.topics = topics
        self.compressed = compressed
        self.sensor_width_mm = sensor_width_mm
        self.counts: Counter[str] = Counter()
        self._connections: dict[str, Connection] = {}

    def write(self, frame: SourceFrame, stamp_ns: int) -> None:
        """Write all messages of one frame; position first, so that it is known with the image."""
        header = _header(stamp_ns)
        facts = frame.facts
        if facts.latitude_deg is not None and facts.longitude_deg is not None:
            fix = _fix(header, facts.latitude_deg, facts.longitude_deg, facts.altitude_m)
            self._write(self.topics.fix, fix, stamp_ns)
        if facts.yaw_deg is not None:
            self._write(self.topics.heading, _float(facts.yaw_deg % 360.0), stamp_ns)
        if facts.relative_altitude_m is not None:
            self._write(self.topics.height, _float(facts.relative_altitude_m), stamp_ns)
        self._write_camera_info(header, frame.image_HWC.shape[:2], facts, stamp_ns)
        if self.compressed:
            message = _compressed(header, frame, self.compressed)
            self._write(f'{self.topics.image}/compressed', message, stamp_ns)
        else:
            self._write(self.topics.image, _image(header, frame.image_HWC, 'bgr8'), stamp_ns)
        if frame.mask_HW is not None:
            self._write(self.topics.label, _image(header, frame.mask_HW, 'mono8'), stamp_ns)

    def _write_camera_info(self, header: Any, image_hw: tuple[int, int], facts: FrameFacts,
                           stamp_ns: int) -> None:
        sensor_mm = self.sensor_width_mm or facts.sensor_width_mm
        if facts.focal_length_mm and sensor_mm:
            info = camera_info(header, image_hw, facts.focal_length_mm, sensor_mm)
            self._write(self.topics.camera_info, info, stamp_ns)

    def _write(self, topic: str, message: Any, stamp_ns: int) -> None:
        msgtype = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self.writer.add_connection(topic, msgtype, typestore=TYPES)
        data = TYPES.serialize_cdr(message, msgtype)
        self.writer.write(self._connections[topic], stamp_ns, data)
        self.counts[topic] += 1


def _header(stamp_ns: int) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = _MSG['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
    return _MSG['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')


def _image(header: Any, pixels: np.ndarray, encoding: str) -> Any:
    height, width = pixels.shape[:2]
    return _MSG['sensor_msgs/msg/Image'](
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
        step=pixels.nbytes // height, data=np.ascontiguousarray(pixels).reshape(-1))


def _compressed(header: Any, frame: SourceFrame, kind: str) -> Any:
    """Return a CompressedImage; a file that is of the wanted kind already goes in as it is."""
    suffix = Path(frame.name).suffix.lower().lstrip('.').replace('jpg', 'jpeg')
    if frame.encoded is not None and suffix == kind:
        data = frame.encoded
    else:
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == 'jpeg' else []
        good, encoded = cv2.imencode(f'.{kind}', frame.image_HWC, options)
        if not good:
            raise InputError(f'{frame.name}: OpenCV cannot encode it as {kind}')
        data = encoded.tobytes()
    return _MSG['sensor_msgs/msg/CompressedImage'](
        header=header, format=f'bgr8; {kind} compressed bgr8', data=np.frombuffer(data, np.uint8))


def camera_info(header: Any, image_hw: tuple[int, int], focal_length_mm: float,
                sensor_width_mm: float) -> Any:
    """
    Return the CameraInfo of an ideal pinhole with square pixels, its axis through the centre.

    The focal length in pixels is focal_length_mm / sensor_width_mm x width; pixel centres have
    whole coordinates, as in OpenCV.
    """
    height, width = image_hw
    focal_px = focal_length_mm / sensor_width_mm * width
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    k = np.array([focal_px, 0, centre_x, 0, focal_px, centre_y, 0, 0, 1], np.float64)
    p = np.array([focal_px, 0, centre_x, 0, 0, focal_px, centre_y, 0, 0, 0, 1, 0], np.float64)
    roi = _MSG['sensor_msgs/msg/RegionOfInterest'](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _MSG['sensor_msgs/msg/CameraInfo'](
        header=header, height=height, width=width, distortion_model='plumb_bob', d=np.zeros(5),
        k=k, r=np.eye(3).reshape(-1), p=p, binning_x=0, binning_y=0, roi=roi)


def _fix(header: Any, latitude_deg: float, longitude_deg: float,
         altitude_m: float | None) -> Any:
    status = _MSG['sensor_msgs/msg/NavSatStatus'](status=0, service=1)
    return _MSG['sensor_msgs/msg/NavSatFix'](
        header=header, status=status, latitude=latitude_deg, longitude=longitude_deg,
        altitude=float('nan') if altitude_m is None else altitude_m,
        position_covariance=np.zeros(9), position_covariance_type=0)


def _float(value: float) -> Any:
    return _MSG['std_msgs/msg/Float64'](data=float(value))
