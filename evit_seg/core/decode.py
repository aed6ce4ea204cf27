# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Camera frames to images: what a ROS camera is likely to send, without ROS.

Every way a frame can be wrong ends in a FrameError that says what was expected and what came;
nothing else escapes, whatever the bytes are.
"""
from __future__ import annotations

from dataclasses import dataclass
import operator
from typing import Any, Dict, Optional, Tuple, Union

import cv2
from evit_seg.core.containers import (
    ImageHeader,
    jpeg_header,
    JPEG_MAGIC,
    png_header,
    PNG_MAGIC,
)
from evit_seg.core.errors import ConfigError, FrameError
import numpy as np

MAX_PIXELS = 2 ** 26
"""Largest frame taken: 67 million pixels, above the 61-megapixel full-frame survey cameras.

Decoded it is 192 MiB, about what a board with 2 GB can spare. Without a bound a damaged header
could ask for any amount of memory.
"""
MAX_SIDE_PX = 2 ** 15 - 1
"""Longest side taken; OpenCV keeps coordinates in 16 bits in several functions."""

Scale16 = Union[float, str, None]
"""What the 16-bit value 255 stands for: a value, 'auto' (the frame's maximum) or None (refuse)."""

_COLOUR_8BIT = {'bgr8': 'bgr', '8UC3': 'bgr', 'rgb8': 'rgb'}
_ALPHA_8BIT = {'bgra8': cv2.COLOR_BGRA2BGR, 'rgba8': cv2.COLOR_RGBA2BGR}
_MONO_8BIT = ('mono8', '8UC1')
_MONO_16BIT = ('mono16', '16UC1')
_YUV_PACKED = {'yuv422': cv2.COLOR_YUV2BGR_UYVY, 'uyvy': cv2.COLOR_YUV2BGR_UYVY,
               'yuv422_yuy2': cv2.COLOR_YUV2BGR_YUY2, 'yuyv': cv2.COLOR_YUV2BGR_YUY2}
_YUV_PLANES = {'nv12': cv2.COLOR_YUV2BGR_NV12, 'nv21': cv2.COLOR_YUV2BGR_NV21}
# ROS names the first two pixels of the first row, OpenCV the second and third of the second row.
_BAYER = {'bayer_rggb8': cv2.COLOR_BayerBG2BGR, 'bayer_bggr8': cv2.COLOR_BayerRG2BGR,
          'bayer_gbrg8': cv2.COLOR_BayerGR2BGR, 'bayer_grbg8': cv2.COLOR_BayerGB2BGR}

_BYTES_PER_PIXEL: Dict[str, int] = {
    **dict.fromkeys(_COLOUR_8BIT, 3), **dict.fromkeys(_ALPHA_8BIT, 4),
    **dict.fromkeys(_MONO_8BIT, 1), **dict.fromkeys(_MONO_16BIT, 2),
    **dict.fromkeys(_YUV_PACKED, 2), **dict.fromkeys(_YUV_PLANES, 1), **dict.fromkeys(_BAYER, 1)}

ENCODINGS: Tuple[str, ...] = tuple(_BYTES_PER_PIXEL)
"""The encodings `decode_raw` knows by itself."""


class UnknownEncoding(FrameError):
    """An encoding that `decode_raw` does not know; another converter may be asked."""


@dataclass(frozen=True)
class Frame:
    """
    An image: `image_HWC` uint8 (H, W, 3) in the channel order `colour`, 'bgr' or 'rgb'.

    bgr8, rgb8 and 8UC3 frames are read-only views on the sender's memory; padded rows make them
    non-contiguous (strides (step, 3, 1)). OpenCV takes such views as they are, without a copy.
    Anything else (a reversed or a cut channel axis) would cost it a full copy, so the other
    encodings are converted into memory of their own.
    """

    image_HWC: np.ndarray
    colour: str


def decode_raw(data: Any, *, height: int, width: int, encoding: str, step: int,
               is_bigendian: bool = False, scale_16bit: Scale16 = None) -> Frame:
    """
    Return the image in the fields of a `sensor_msgs/Image`.

    `data` is any contiguous buffer of step x height bytes (bytes, array.array, memoryview,
    ndarray); nv12 and nv21 carry half as many rows again. `step` is the bytes from row to row,
    padding included. `is_bigendian` is ignored for 8-bit data, where drivers set it at random.
    `scale_16bit` is the 16-bit value that becomes 255, or 'auto' for the frame's maximum.

    FrameError for a wrong length, step or size, UnknownEncoding for an encoding not in
    ENCODINGS, ConfigError for a `scale_16bit` that is no positive number and not 'auto'.
    """
    height = _count(height, 'height')
    width = _count(width, 'width')
    step = _count(step, 'step')
    _check_size(height, width)
    if encoding not in _BYTES_PER_PIXEL:
        raise UnknownEncoding(f'encoding: expected one of {", ".join(ENCODINGS)}, '
                              f'got {encoding!r}')
    flat = _as_bytes(data)
    if encoding in _YUV_PLANES:
        return _decode_planes(flat, height, width, encoding, step)
    _check_layout(flat, height, width, encoding, step)

    if encoding in _COLOUR_8BIT:
        image_HWC = _rows(flat, height, width, step, channels=3)
        return Frame(image_HWC, _COLOUR_8BIT[encoding])
    if encoding in _ALPHA_8BIT:
        image_HWC = _rows(flat, height, width, step, channels=4)
        return Frame(cv2.cvtColor(image_HWC, _ALPHA_8BIT[encoding]), 'bgr')
    if encoding in _YUV_PACKED:
        if width % 2:
            raise FrameError(f'{encoding}: expected an even width, got {width}')
        image_HWC = _rows(flat, height, width, step, channels=2)
        return Frame(cv2.cvtColor(image_HWC, _YUV_PACKED[encoding]), 'bgr')
    if encoding in _MONO_16BIT:
        order = '>u2' if is_bigendian else '<u2'
        grey_HW: np.ndarray = np.ndarray((height, width), order, flat, strides=(step, 2))
        return _grey_frame(_scale_to_8bit(grey_HW, scale_16bit))
    mosaic_HW: np.ndarray = np.ndarray((height, width), np.uint8, flat, strides=(step, 1))
    if encoding in _BAYER:
        return _demosaic(mosaic_HW, encoding)
    return _grey_frame(mosaic_HW)


def decode_compressed(data: Any, *, format: str = '',  # noqa: A002  the message's field
                      scale_16bit: Scale16 = None) -> Frame:
    """
    Return the image in the fields of a `sensor_msgs/CompressedImage`.

    `data` is a whole JPEG or PNG file in any buffer; its own first bytes say which, the `format`
    field is often wrong. `format` is read as compressed_image_transport writes it
    ('rgb8; jpeg compressed bgr8'): 'compressed rgb' means that the channels went into the file
    swapped, 'bayer_*' that a grey file is a mosaic. EXIF orientation is ignored: pixels lie as
    the sensor gave them. Alpha is dropped. `scale_16bit` as in `decode_raw`.

    FrameError for truncated, damaged, oversized or other data.
    """
    if 'compressedDepth' in format:
        raise FrameError(f'format: expected a JPEG or PNG image, got {format!r}, which holds '
                         'depth; choose the image topic instead')
    flat = _as_bytes(data)
    file_bytes = flat.tobytes()
    if file_bytes.startswith(JPEG_MAGIC):
        header = jpeg_header(file_bytes)
        mode = cv2.IMREAD_GRAYSCALE if header.channels == 1 else cv2.IMREAD_COLOR
        mode |= cv2.IMREAD_IGNORE_ORIENTATION
    elif file_bytes.startswith(PNG_MAGIC):
        header = png_header(file_bytes)
        mode = cv2.IMREAD_UNCHANGED
    else:
        raise FrameError(f'data: expected a JPEG or PNG file, got {len(file_bytes)} bytes that '
                         f'begin with {file_bytes[:8]!r} (format {format!r})')
    _check_size(header.height, header.width)
    if flat.size < header.least_bytes:  # a few bytes with a damaged header would take 192 MiB
        raise FrameError(f'size: {header.width}x{header.height} (width x height) takes at least '
                         f'{header.least_bytes} bytes, got {flat.size}; the header is damaged '
                         'or the frame truncated')
    image = _imdecode(flat, mode, header)
    if image.dtype == np.uint16:
        image = _scale_to_8bit(image, scale_16bit)
    source_encoding, _, payload = format.partition(';')
    if image.ndim == 2:
        return _demosaic(image, source_encoding) if source_encoding in _BAYER \
            else _grey_frame(image)
    if image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    return Frame(image, 'rgb' if 'compressed rgb' in payload else 'bgr')


def _imdecode(flat: np.ndarray, mode: int, header: ImageHeader) -> np.ndarray:
    """Decode with OpenCV and hold the result against the file's own header."""
    try:
        image = cv2.imdecode(flat, mode)
    except cv2.error as error:
        raise FrameError(f'data: OpenCV cannot decode it: {error}') from error
    if image is None:
        raise FrameError(f'data: OpenCV cannot decode these {flat.size} bytes; '
                         'the file is damaged or of a kind it was built without')
    expected = (header.height, header.width)
    if image.shape[:2] != expected or image.dtype not in (np.uint8, np.uint16):
        raise FrameError(f'data: expected {expected} (height, width) of 8 or 16 bits, '
                         f'got {image.shape[:2]} of {image.dtype}')
    return np.asarray(image)


def _check_size(height: int, width: int) -> None:
    """Raise FrameError unless the size is one an image can have and this process can hold."""
    if height < 1 or width < 1:
        raise FrameError(f'size: expected at least 1x1, got {width}x{height} (width x height)')
    if height > MAX_SIDE_PX or width > MAX_SIDE_PX or height * width > MAX_PIXELS:
        raise FrameError(f'size: expected at most {MAX_PIXELS} pixels and {MAX_SIDE_PX} a side, '
                         f'got {width}x{height} (width x height); is the header damaged?')


def _as_bytes(data: Any) -> np.ndarray:
    """Return a flat uint8 view of any contiguous buffer; FrameError if there is none."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise FrameError('data: expected a contiguous buffer of bytes, '
                         f'got {type(data).__name__}: {error}') from error


def _grey_frame(grey_HW: np.ndarray) -> Frame:
    """Return a grey uint8 (H, W) image as a frame of three equal channels."""
    return Frame(cv2.cvtColor(grey_HW, cv2.COLOR_GRAY2BGR), 'bgr')


def _demosaic(mosaic_HW: np.ndarray, encoding: str) -> Frame:
    """Return the colours of an 8-bit Bayer mosaic (H, W), interpolated bilinearly."""
    height, width = mosaic_HW.shape
    if height < 3 or width < 3:  # OpenCV answers with black instead of an error
        raise FrameError(f'{encoding}: expected at least 3x3 pixels, got {width}x{height}')
    return Frame(cv2.cvtColor(mosaic_HW, _BAYER[encoding]), 'bgr')


def _scale_to_8bit(image: np.ndarray, scale_16bit: Scale16) -> np.ndarray:
    """
    Return 16-bit data of any shape as uint8: `scale_16bit` becomes 255, more saturates.

    FrameError if `scale_16bit` is None: which values are white is the user's to say, a guess
    would make night out of day.
    """
    if scale_16bit is None:
        raise FrameError('16-bit data: expected a scale, got none; set scale_16bit (the node: '
                         "image.scale_16bit) to the value that shall be white, or to 'auto'")
    auto = scale_16bit == 'auto'
    white = max(float(image.max()), 1.0) if auto else _white_level(scale_16bit)
    native = np.ascontiguousarray(image, np.uint16)
    return np.asarray(cv2.convertScaleAbs(native, alpha=255.0 / white)).reshape(image.shape)


def _white_level(scale_16bit: Scale16) -> float:
    try:
        white = float(scale_16bit)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        white = float('nan')
    if not 0.0 < white <= 65535.0:
        raise ConfigError("scale_16bit: expected 'auto' or a value above 0 and up to 65535, "
                          f'got {scale_16bit!r}')
    return white


def _count(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise FrameError(f'{name}: expected an integer, got {value!r}') from error


def _check_layout(flat: np.ndarray, height: int, width: int, encoding: str, step: int,
                  rows: Optional[int] = None) -> None:
    """Raise FrameError unless `flat` holds `rows` rows of `step` bytes that fit the width."""
    row_bytes = width * _BYTES_PER_PIXEL[encoding]
    if step < row_bytes:
        raise FrameError(f'step: expected at least {row_bytes} bytes for {width} pixels of '
                         f'{encoding}, got {step}')
    rows = height if rows is None else rows
    if flat.size != step * rows:
        raise FrameError(f'data: expected {step * rows} bytes (step {step} x {rows} rows of '
                         f'{encoding}), got {flat.size}')


def _rows(flat: np.ndarray, height: int, width: int, step: int, channels: int) -> np.ndarray:
    """Return the read-only view (H, W, channels) that leaves out the padding."""
    view: np.ndarray = np.ndarray((height, width, channels), np.uint8, flat,
                                  strides=(step, channels, 1))
    view.flags.writeable = False
    return view


def _decode_planes(flat: np.ndarray, height: int, width: int, encoding: str,
                   step: int) -> Frame:
    """Decode nv12 and nv21: a plane of brightness, then half as many rows of paired colours."""
    if height % 2 or width % 2:
        raise FrameError(f'{encoding}: expected an even width and height, got {width}x{height}')
    if step * 2 == width * 3 and flat.size == step * height:
        # Some drivers keep to step x height = bytes and so count the colours into the step.
        step = width
    rows = height * 3 // 2
    _check_layout(flat, height, width, encoding, step, rows)
    planes: np.ndarray = np.ndarray((rows, width), np.uint8, flat, strides=(step, 1))
    return Frame(cv2.cvtColor(planes, _YUV_PLANES[encoding]), 'bgr')
