# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Our decoding against the real cv_bridge, for every encoding that it knows as well.

1.16 does not know yuv422_yuy2, nv12 and nv21: test_decode.py holds those against hand-made truth.

cv_bridge for ROS 2 is not on PyPI and Debian's is built against NumPy 1, so this runs in an
environment of its own: `make cv-bridge`. There EVIT_SEG_NEEDS_CV_BRIDGE makes a skip a failure.
"""
from __future__ import annotations

import os

from evit_seg.core.decode import decode_raw
import numpy as np
import pytest

try:
    from cv_bridge import CvBridge
    import sensor_msgs.msg
except ImportError as missing:
    if os.environ.get('EVIT_SEG_NEEDS_CV_BRIDGE'):
        raise
    pytest.skip(f'{missing}; `make cv-bridge` has both', allow_module_level=True)

BYTES_PER_PIXEL = {
    'bgr8': 3, 'rgb8': 3, '8UC3': 3, 'bgra8': 4, 'rgba8': 4, 'mono8': 1, '8UC1': 1,
    'yuv422': 2,
    'bayer_rggb8': 1, 'bayer_bggr8': 1, 'bayer_gbrg8': 1, 'bayer_grbg8': 1,
}
NAMES_WITHOUT_A_COLOUR = {'8UC3': 'bgr8', '8UC1': 'mono8'}   # cv_bridge converts no bare types


def message(encoding, height, width, step, data, is_bigendian=0):
    return sensor_msgs.msg.Image(height=height, width=width, encoding=encoding, step=step,
                                 is_bigendian=is_bigendian, data=data.tobytes())


def theirs(msg):
    msg.encoding = NAMES_WITHOUT_A_COLOUR.get(msg.encoding, msg.encoding)
    return CvBridge().imgmsg_to_cv2(msg, 'bgr8')


def ours(msg, **options):
    frame = decode_raw(msg.data, height=msg.height, width=msg.width, encoding=msg.encoding,
                       step=msg.step, is_bigendian=bool(msg.is_bigendian), **options)
    return frame.image_HWC if frame.colour == 'bgr' else frame.image_HWC[..., ::-1]


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', BYTES_PER_PIXEL)
def test_same_pixels_as_cv_bridge(encoding, padding):
    height, width = 24, 32
    step = width * BYTES_PER_PIXEL[encoding] + padding
    rows = np.random.default_rng(7).integers(0, 256, (height, step), np.uint8)
    tight = rows[:, :step - padding]   # cv_bridge 1.16 ignores `step`
    np.testing.assert_array_equal(
        ours(message(encoding, height, width, step, rows)),
        theirs(message(encoding, height, width, step - padding, tight)))


@pytest.mark.parametrize('is_bigendian', [0, 1])
def test_mono16_scaled_to_its_range(is_bigendian):
    data = np.random.default_rng(7).integers(0, 1 << 16, (24, 32)).astype(np.uint16)
    raw = data.astype('>u2') if is_bigendian else data
    msg = message('mono16', 24, 32, 64, raw, is_bigendian)
    difference = ours(msg, scale_16bit=65535).astype(int) - theirs(msg)
    assert abs(difference).max() <= 1   # cv_bridge scales by 255/65535 in other rounding
