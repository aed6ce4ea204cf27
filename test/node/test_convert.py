# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back; what cv_bridge is asked and what it cannot do to us."""
from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from evit_seg.core.decode import UnknownEncoding  # noqa: E402, I100
from evit_seg.core.errors import FrameError  # noqa: E402
from evit_seg.ros.convert import (  # noqa: E402
    frame_from_bridge,
    frame_from_message,
    image_message,
    jpeg_message,
    scaled_camera_info,
)
from ros_rig import raw_message  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

NOISE_HWC = np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)
HEADER = Header(frame_id='camera')


@pytest.mark.parametrize('encoding, colour', [('rgb8', 'rgb'), ('bgr8', 'bgr')])
@pytest.mark.parametrize('padding', [0, 7])
def test_common_encodings_are_views_on_the_message(encoding, colour, padding):
    message = raw_message(NOISE_HWC, encoding=encoding, padding=padding)
    frame = frame_from_message(message)
    assert frame.colour == colour
    assert (frame.image_HWC == NOISE_HWC).all()
    assert np.shares_memory(frame.image_HWC, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize('scale, brightest', [(1000.0, 255), (4000.0, 64), (-1.0, 255)])
def test_16_bit_images_are_scaled_when_asked_for(scale, brightest):
    grey_HW = np.array([[0, 500], [1000, 250]], '>u2')
    message = raw_message(grey_HW.view(np.uint8).reshape(2, 2, 2), encoding='mono16')
    assert message.is_bigendian
    assert frame_from_message(message, scale).image_HWC.max() == brightest
    with pytest.raises(FrameError, match=r'image\.scale_16bit'):
        frame_from_message(message, 0.0)


def test_a_png_and_a_jpeg():
    png = cv2.imencode('.png', NOISE_HWC)[1].tobytes()
    message = CompressedImage(format='png', data=array.array('B', png))
    frame = frame_from_message(message)
    assert (frame.colour, (frame.image_HWC == NOISE_HWC).all()) == ('bgr', True)
    message.data = message.data[:-5]
    with pytest.raises(FrameError, match='truncated'):
        frame_from_message(message)


@pytest.mark.parametrize('image, encoding, step', [
    (NOISE_HWC[..., 0], 'mono8', 5), (NOISE_HWC, 'bgr8', 15), (NOISE_HWC[:, ::2], 'bgr8', 9)])
def test_an_array_becomes_a_message_without_padding(image, encoding, step):
    message = image_message(HEADER, image, encoding)
    assert (message.height, message.width, message.step) == (*image.shape[:2], step)
    assert (message.header, message.encoding, message.is_bigendian) == (HEADER, encoding, 0)
    assert isinstance(message.data, array.array)
    assert message.data.tobytes() == image.tobytes()


def test_a_jpeg_message_is_read_by_our_own_decoder():
    grey_HWC = np.full((32, 48, 3), 90, np.uint8)
    message = jpeg_message(HEADER, grey_HWC, 90)
    assert message.format == 'bgr8; jpeg compressed bgr8'
    assert np.abs(frame_from_message(message).image_HWC.astype(int) - grey_HWC).max() <= 2


def bridge(answer):
    def convert(message, desired_encoding):
        assert desired_encoding == 'bgr8'
        if isinstance(answer, Exception):
            raise answer
        return answer
    return lambda name: SimpleNamespace(CvBridge=lambda: SimpleNamespace(imgmsg_to_cv2=convert))


def missing(name):
    raise ModuleNotFoundError(f"No module named '{name}'")


def test_cv_bridge_answers_for_what_we_do_not_know():
    frame = frame_from_bridge(raw_message(NOISE_HWC), UnknownEncoding('?'), bridge(NOISE_HWC))
    assert (frame.colour, (frame.image_HWC == NOISE_HWC).all()) == ('bgr', True)


@pytest.mark.parametrize('importer, said', [
    (missing, 'cv_bridge might know it, but is not installed'),
    (bridge(RuntimeError('Unrecognized image encoding [hsv8]')), 'failed too: Unrecognized'),
    (bridge(ImportError('numpy.core.multiarray failed to import')),
     "built for NumPy 1 and NumPy 2.0 is installed: pip install 'numpy<2'"),
    (bridge(AttributeError('_ARRAY_API not found')), 'built for NumPy 1')])
def test_cv_bridge_missing_or_broken_is_one_bad_frame(importer, said, monkeypatch):
    monkeypatch.setattr(np, '__version__', '2.0')
    with pytest.raises(FrameError) as caught:
        frame_from_bridge(raw_message(NOISE_HWC), UnknownEncoding("got 'hsv8'"), importer)
    assert "got 'hsv8'" in str(caught.value)
    assert said in str(caught.value)


def test_calibration_of_a_binned_region_of_the_sensor():
    info = CameraInfo(height=960, width=1280, binning_x=2, binning_y=2, distortion_model='x',
                      d=[0.1], k=[800.0, 0, 639.5, 0, 800, 479.5, 0, 0, 1])
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 320, 240, 640, 480
    scaled = scaled_camera_info(info, HEADER, source_hw=(240, 320), mask_hw=(120, 160))
    assert (scaled.header, scaled.distortion_model, list(scaled.d)) == (HEADER, 'x', [0.1])
    assert (scaled.height, scaled.width) == (240, 320)
    assert (scaled.roi.x_offset, scaled.roi.y_offset, scaled.roi.width, scaled.roi.height) == (
        80, 60, 160, 120)
    assert (scaled.binning_x, scaled.binning_y) == (0, 0)
    # The centre of the sensor, between its two middle pixels, stays the centre.
    assert list(scaled.k) == [200, 0, 159.5, 0, 200, 119.5, 0, 0, 1]


def test_calibration_of_another_image_is_none():
    info = CameraInfo(height=480, width=640)
    assert scaled_camera_info(info, HEADER, (480, 641), (64, 64)) is None
    assert scaled_camera_info(CameraInfo(), HEADER, (480, 640), (64, 64)) is None
