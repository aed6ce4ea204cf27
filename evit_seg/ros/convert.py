# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Camera messages to frames, arrays to messages; without copies where the memory allows it."""
from __future__ import annotations

import array
import importlib
from types import ModuleType
from typing import Callable, Optional, Tuple, Union

import cv2
from evit_seg.core.decode import decode_compressed, decode_raw, Frame, UnknownEncoding
from evit_seg.core.errors import FrameError
from evit_seg.core.position import sensor_region_hw
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

CameraMessage = Union[Image, CompressedImage]


def frame_from_message(message: CameraMessage, scale_16bit: float = 0.0) -> Frame:
    """
    Return the image in a message; common encodings are views on the message's memory.

    `scale_16bit` is the parameter `image.scale_16bit`: the 16-bit value that becomes white, 0 to
    refuse 16-bit images, below 0 for the brightest pixel. FrameError for anything unreadable.
    """
    scale = None if scale_16bit == 0 else 'auto' if scale_16bit < 0 else scale_16bit
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, format=message.format, scale_16bit=scale)
    try:
        return decode_raw(message.data, height=message.height, width=message.width,
                          encoding=message.encoding, step=message.step,
                          is_bigendian=bool(message.is_bigendian), scale_16bit=scale)
    except UnknownEncoding as error:
        return frame_from_bridge(message, error)


def frame_from_bridge(message: Image, unknown: UnknownEncoding,
                      import_module: Callable[[str], ModuleType] = importlib.import_module
                      ) -> Frame:
    """
    Ask cv_bridge for an encoding that we do not know ourselves.

    FrameError when it is not installed, does not fit this NumPy or does not know it either.
    """
    try:
        bridge = import_module('cv_bridge').CvBridge()
        image_HWC = bridge.imgmsg_to_cv2(message, desired_encoding='bgr8')
    except ModuleNotFoundError as error:
        raise FrameError(f'{unknown}; cv_bridge might know it, but is not installed: {error}') \
            from unknown
    except Exception as error:  # noqa: BLE001  Boost's, OpenCV's, and what a broken build raises
        raise FrameError(f'{unknown}; cv_bridge failed too: {error}{_numpy_hint(error)}') \
            from unknown
    return Frame(np.ascontiguousarray(image_HWC, np.uint8), 'bgr')


def _numpy_hint(error: Exception) -> str:
    """Say what to change when cv_bridge was built against the NumPy before this one."""
    text = str(error)
    if np.__version__.startswith('1.') or not any(
            sign in text for sign in ('_ARRAY_API', 'numpy.core', 'NumPy 1', 'compiled')):
        return ''
    return (f'; cv_bridge was built for NumPy 1 and NumPy {np.__version__} is installed: '
            "pip install 'numpy<2', or build cv_bridge from source")


def fill(message: CameraMessage, data: np.ndarray) -> None:
    """
    Put the bytes of an array into a message.

    Through array.array and frombytes: a list, or the field's own check of each element, takes
    thirty times as long.
    """
    content = array.array('B')
    content.frombytes(np.ascontiguousarray(data).data.cast('B'))
    message.data = content


def image_message(header: Header, image: np.ndarray, encoding: str) -> Image:
    """Return uint8 (H, W) or (H, W, C) as an Image without padding, under the given header."""
    message = Image(header=header, height=image.shape[0], width=image.shape[1], encoding=encoding,
                    is_bigendian=0, step=image.shape[1] * (image.size // image[..., 0].size
                                                           if image.ndim == 3 else 1))
    fill(message, image)
    return message


def jpeg_message(header: Header, image_HWC: np.ndarray, quality: int) -> CompressedImage:
    """Return a BGR image as JPEG, under the given header; never for label masks."""
    done, data = cv2.imencode('.jpg', image_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise FrameError(f'OpenCV cannot encode an image of {image_HWC.shape} as JPEG')
    # The format string of compressed_image_transport, which its own decoder reads.
    message = CompressedImage(header=header, format='bgr8; jpeg compressed bgr8')
    fill(message, data)
    return message


def scaled_camera_info(info: CameraInfo, header: Header, source_hw: Tuple[int, int],
                       mask_hw: Tuple[int, int]) -> Optional[CameraInfo]:
    """
    Return the calibration of the mask: K, P and ROI scaled from the image's size.

    The image may be a binned region of the sensor; the calibration is of the whole sensor. None
    when it is not of this image: their sizes do not agree. A pixel's centre lies at its index,
    so a principal point c becomes (c + 0.5) * scale - 0.5.
    """
    region_hw = sensor_region_hw(info, source_hw)
    if region_hw is None:
        return None
    scale_y, scale_x = mask_hw[0] / region_hw[0], mask_hw[1] / region_hw[1]
    scaled = CameraInfo(header=header, distortion_model=info.distortion_model, d=info.d, r=info.r)
    scaled.height, scaled.width = round(info.height * scale_y), round(info.width * scale_x)
    scaled.k = _scaled(info.k, 3, scale_y, scale_x)
    scaled.p = _scaled(info.p, 4, scale_y, scale_x)
    scaled.roi.x_offset = round(info.roi.x_offset * scale_x)
    scaled.roi.y_offset = round(info.roi.y_offset * scale_y)
    if info.roi.width and info.roi.height:
        scaled.roi.height, scaled.roi.width = mask_hw
    scaled.roi.do_rectify = info.roi.do_rectify
    return scaled


def _scaled(matrix: np.ndarray, columns: int, scale_y: float, scale_x: float) -> np.ndarray:
    """Scale the first two rows of a row-major 3 x columns camera matrix."""
    scaled = np.array(matrix, np.float64).reshape(3, columns)
    for row, scale in ((0, scale_x), (1, scale_y)):
        scaled[row] *= scale
        scaled[row, 2] += (scale - 1) / 2 if scaled[2, 2] else 0.0
    return scaled.reshape(-1)
