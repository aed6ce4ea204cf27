# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import struct

import cv2
from decode_outcome import outcome
from evit_seg.core.decode import (
    decode_raw,
    ENCODINGS,
    MAX_PIXELS,
    UnknownEncoding,
)
from evit_seg.core.errors import ConfigError, FrameError
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

BYTES_PER_PIXEL = {'bgr8': 3, 'rgb8': 3, '8UC3': 3, 'bgra8': 4, 'rgba8': 4, 'mono8': 1,
                   '8UC1': 1, 'mono16': 2, '16UC1': 2, 'yuv422': 2, 'uyvy': 2, 'yuyv': 2,
                   'yuv422_yuy2': 2, 'nv12': 1, 'nv21': 1, 'bayer_rggb8': 1, 'bayer_bggr8': 1,
                   'bayer_gbrg8': 1, 'bayer_grbg8': 1}
# R, G, B and the limited-range BT.601 codes of it, worked out by hand from the standard:
# Y = 16 + 65.481 R + 128.553 G + 24.966 B, Cb = 128 - 37.797 R - 74.203 G + 112 B,
# Cr = 128 + 112 R - 93.786 G - 18.214 B, with R, G, B from 0 to 1.
YUV_OF = {(255, 0, 0): (81, 90, 240), (0, 255, 0): (145, 54, 34), (0, 0, 255): (41, 240, 110),
          (255, 255, 255): (235, 128, 128), (0, 0, 0): (16, 128, 128)}


def as_rgb(frame):
    return frame.image_HWC[..., ::-1] if frame.colour == 'bgr' else frame.image_HWC


def padded(rows_HB, step):
    """Rows of bytes -> the message's data with every row padded by 0xAB."""
    data = np.full((rows_HB.shape[0], step), 0xAB, np.uint8)
    data[:, :rows_HB.shape[1]] = rows_HB
    return data.tobytes()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_every_encoding_of_the_contract_is_known():
    assert sorted(ENCODINGS) == sorted(BYTES_PER_PIXEL)


@pytest.mark.parametrize('step', [21, 22, 64])
@pytest.mark.parametrize(('encoding', 'order'), [('rgb8', (0, 1, 2)), ('bgr8', (2, 1, 0)),
                                                 ('8UC3', (2, 1, 0))])
def test_colour_is_a_view_that_leaves_out_the_padding(encoding, order, step):
    rgb_HWC = noise(5, 7, 3)
    data = array.array('B')
    data.frombytes(padded(rgb_HWC[..., order].reshape(5, 21), step))
    frame = decode_raw(data, height=5, width=7, encoding=encoding, step=step)
    np.testing.assert_array_equal(as_rgb(frame), rgb_HWC)
    assert np.shares_memory(frame.image_HWC, np.frombuffer(data, np.uint8))
    assert frame.image_HWC.strides == (step, 3, 1)


@pytest.mark.parametrize('make', [bytes, bytearray, memoryview, lambda b: array.array('B', b),
                                  lambda b: np.frombuffer(b, np.uint8)])
def test_any_buffer_will_do(make):
    rgb_HWC = noise(4, 6, 3)
    frame = decode_raw(make(rgb_HWC.tobytes()), height=4, width=6, encoding='rgb8', step=18)
    np.testing.assert_array_equal(frame.image_HWC, rgb_HWC)


def test_opencv_takes_the_padded_view():
    rgb_HWC = noise(64, 48, 3)
    frame = decode_raw(padded(rgb_HWC.reshape(64, 144), 160), height=64, width=48,
                       encoding='rgb8', step=160)
    np.testing.assert_array_equal(cv2.resize(frame.image_HWC, (24, 32)),
                                  cv2.resize(rgb_HWC, (24, 32)))


def test_the_view_cannot_be_written():
    data = np.zeros(12, np.uint8)
    frame = decode_raw(data, height=2, width=2, encoding='bgr8', step=6)
    with pytest.raises(ValueError, match='read-only'):
        frame.image_HWC[0, 0, 0] = 1


@pytest.mark.parametrize(('encoding', 'order'), [('rgba8', (0, 1, 2, 3)), ('bgra8', (2, 1, 0, 3))])
def test_alpha_is_dropped(encoding, order):
    rgba_HWC = noise(5, 7, 4)
    data = padded(rgba_HWC[..., order].reshape(5, 28), 33)
    frame = decode_raw(data, height=5, width=7, encoding=encoding, step=33)
    np.testing.assert_array_equal(as_rgb(frame), rgba_HWC[..., :3])


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_becomes_three_equal_channels(encoding):
    grey_HW = noise(5, 7)
    frame = decode_raw(padded(grey_HW, 11), height=5, width=7, encoding=encoding, step=11)
    np.testing.assert_array_equal(frame.image_HWC, np.repeat(grey_HW[..., None], 3, axis=2))


@pytest.mark.parametrize('encoding', ['bgr8', 'mono8', 'yuv422', 'nv12', 'bayer_rggb8'])
def test_byte_order_means_nothing_for_8_bit(encoding):
    rows = 6 if encoding == 'nv12' else 4
    data = noise(rows, 4 * BYTES_PER_PIXEL[encoding]).tobytes()
    frames = [decode_raw(data, height=4, width=4, encoding=encoding,
                         step=4 * BYTES_PER_PIXEL[encoding], is_bigendian=flag)
              for flag in (False, True)]
    np.testing.assert_array_equal(frames[0].image_HWC, frames[1].image_HWC)


@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
@pytest.mark.parametrize('is_bigendian', [False, True])
def test_16_bit_is_swapped_and_scaled(encoding, is_bigendian):
    values = [[0, 1000, 2000], [4000, 5000, 65535]]
    data = b''.join(struct.pack('>3H' if is_bigendian else '<3H', *row) + b'\xab' * 3
                    for row in values)  # an odd step: rows that are not aligned
    fields = {'height': 2, 'width': 3, 'encoding': encoding, 'step': 9,
              'is_bigendian': is_bigendian}
    frame = decode_raw(data, scale_16bit=4000, **fields)
    assert frame.image_HWC[..., 0].tolist() == [[0, 64, 128], [255, 255, 255]]
    frame = decode_raw(data, scale_16bit='auto', **fields)
    assert frame.image_HWC[..., 1].tolist() == [[0, 4, 8], [16, 19, 255]]


def test_16_bit_without_a_scale_says_the_way_out():
    with pytest.raises(FrameError, match=r"image\.scale_16bit.*'auto'"):
        decode_raw(bytes(8), height=2, width=2, encoding='mono16', step=4)


def test_16_bit_black_frame_stays_black():
    frame = decode_raw(bytes(8), height=2, width=2, encoding='mono16', step=4,
                       scale_16bit='auto')
    assert not frame.image_HWC.any()


@pytest.mark.parametrize('scale', [0, -1, 70000, float('nan'), 'max'])
def test_a_wrong_scale_is_a_wrong_parameter(scale):
    with pytest.raises(ConfigError, match='scale_16bit'):
        decode_raw(bytes(8), height=2, width=2, encoding='mono16', step=4, scale_16bit=scale)


@pytest.mark.parametrize('rgb', list(YUV_OF))
@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuyv', 'YUYV'), ('yuv422_yuy2', 'YUYV')])
def test_packed_yuv(encoding, order, rgb):
    code = dict(zip('YUV', YUV_OF[rgb]))
    row = np.array([code[letter] for letter in order] * 3, np.uint8)
    frame = decode_raw(padded(np.stack([row] * 4), 15), height=4, width=6, encoding=encoding,
                       step=15)
    assert frame.image_HWC.shape == (4, 6, 3)
    assert np.abs(as_rgb(frame).astype(int) - rgb).max() <= 2


@pytest.mark.parametrize('rgb', list(YUV_OF))
@pytest.mark.parametrize('step', ['tight', 'padded', 'colours counted in'])
@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_yuv_planes(encoding, step, rgb):
    y, u, v = YUV_OF[rgb]
    height, width = 4, 6
    rows = np.full((6, width), y, np.uint8)
    rows[4:, 0::2], rows[4:, 1::2] = (u, v) if encoding == 'nv12' else (v, u)
    step_bytes = {'tight': 6, 'padded': 8, 'colours counted in': 9}[step]
    data = padded(rows, 8) if step == 'padded' else rows.tobytes()
    frame = decode_raw(data, height=height, width=width, encoding=encoding, step=step_bytes)
    assert frame.image_HWC.shape == (height, width, 3)
    assert np.abs(as_rgb(frame).astype(int) - rgb).max() <= 2


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_names_the_first_two_rows_from_the_left(pattern):
    rgb = {'r': 200, 'g': 100, 'b': 30}
    tile = np.array([rgb[letter] for letter in pattern], np.uint8).reshape(2, 2)
    frame = decode_raw(padded(np.tile(tile, (4, 5)), 13), height=8, width=10,
                       encoding=f'bayer_{pattern}8', step=13)
    assert (as_rgb(frame) == (200, 100, 30)).all()


@pytest.mark.parametrize(('change', 'message'), [
    ({'height': 0}, r'at least 1x1, got 4x0'),
    ({'width': 0}, r'at least 1x1, got 0x3'),
    ({'height': -3}, r'at least 1x1'),
    ({'height': 100000, 'width': 100000}, r'got 100000x100000.*damaged'),
    ({'height': MAX_PIXELS, 'width': 1}, r'a side'),
    ({'height': 3.0}, r'height: expected an integer, got 3\.0'),
    ({'step': 11}, r'at least 12 bytes for 4 pixels of bgr8, got 11'),
    ({'step': 0}, r'got 0'),
    ({'step': 13}, r'expected 39 bytes \(step 13 x 3 rows of bgr8\), got 36'),
    ({'data': bytes(35)}, r'expected 36 bytes.*got 35'),
    ({'data': bytes(37)}, r'expected 36 bytes.*got 37'),
    ({'data': b''}, r'data: expected.*bytes'),
    ({'data': None}, r'contiguous.*NoneType'),
    ({'data': np.zeros((6, 12), np.uint8)[::2]}, r'contiguous'),
    ({'encoding': 'nv12', 'data': bytes(18)}, r'even width and height, got 4x3'),
])
def test_malformed_frames_say_what_was_expected_and_what_came(change, message):
    fields = {'data': bytes(36), 'height': 3, 'width': 4, 'encoding': 'bgr8', 'step': 12}
    fields.update(change)
    data = fields.pop('data')
    with pytest.raises(FrameError, match=message):
        decode_raw(data, **fields)


@pytest.mark.parametrize('encoding', ['', 'h264', '32FC1', 'BGR8', 'bayer_rggb16'])
def test_unknown_encodings_can_be_told_apart(encoding):
    with pytest.raises(UnknownEncoding, match='expected one of bgr8'):
        decode_raw(bytes(12), height=2, width=2, encoding=encoding, step=6)


@pytest.mark.parametrize('encoding', ['yuv422', 'yuyv'])
def test_odd_width_of_packed_yuv_is_refused(encoding):
    with pytest.raises(FrameError, match='even width, got 3'):
        decode_raw(bytes(12), height=2, width=3, encoding=encoding, step=6)


def test_tiny_bayer_is_refused_rather_than_black():
    with pytest.raises(FrameError, match='at least 3x3'):
        decode_raw(bytes(4), height=2, width=2, encoding='bayer_rggb8', step=2)


@settings(deadline=None)
@given(encoding=st.sampled_from(sorted(BYTES_PER_PIXEL)), height=st.integers(1, 12),
       width=st.integers(1, 12), padding=st.integers(0, 5), big=st.booleans(), data=st.data())
def test_raw_fuzz(encoding, height, width, padding, big, data):
    step = width * BYTES_PER_PIXEL[encoding] + padding
    rows = height * 3 // 2 if encoding.startswith('nv') else height
    fields = {'height': height, 'width': width, 'encoding': encoding, 'step': step,
              'is_bigendian': big, 'scale_16bit': 'auto'}
    fields.update(data.draw(st.fixed_dictionaries({}, optional={
        'height': st.integers(-1, 2 ** 32), 'width': st.integers(-1, 2 ** 32),
        'step': st.integers(-1, 2 ** 32), 'encoding': st.sampled_from(sorted(BYTES_PER_PIXEL))
        | st.text(max_size=8)})))
    content = noise(step * rows).tobytes()
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    frame = outcome(decode_raw, content[:length], **fields)
    if frame is not None:
        assert frame.image_HWC.shape == (fields['height'], fields['width'], 3)
