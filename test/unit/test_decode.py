# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import struct
import zlib

import cv2
from evit_seg.core.decode import (
    decode_compressed,
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


# -- compressed ---------------------------------------------------------------------------------

def encoded(extension, image, *options):
    done, buffer = cv2.imencode(extension, image, list(options))
    assert done
    return buffer.tobytes()


@pytest.fixture(scope='module')
def picture():
    """Return a smooth image, uint8 (48, 64, 3) BGR: what JPEG keeps within a few levels."""
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize('options', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
                                     (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_jpeg(picture, options):
    frame = decode_compressed(encoded('.jpg', picture, *options), format='jpeg')
    assert frame.colour == 'bgr'
    assert np.abs(frame.image_HWC.astype(int) - picture).mean() < 4


def test_png_is_exact_and_found_by_its_bytes(picture):
    frame = decode_compressed(array.array('B', encoded('.png', picture)), format='jpeg')
    np.testing.assert_array_equal(frame.image_HWC, picture)


@pytest.mark.parametrize(('format', 'colour'), [
    ('', 'bgr'), ('jpeg', 'bgr'), ('rgb8; jpeg compressed bgr8', 'bgr'),
    ('bgr8; jpeg compressed bgr8', 'bgr'), ('rgb8; png compressed rgb8', 'rgb')])
def test_the_format_tells_swapped_channels(picture, format, colour):  # noqa: A002
    assert decode_compressed(encoded('.png', picture), format=format).colour == colour


def test_png_kinds(picture):
    alpha = np.dstack([picture, np.full(picture.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(decode_compressed(encoded('.png', alpha)).image_HWC, picture)
    grey = picture[..., 0]
    frame = decode_compressed(encoded('.png', grey))
    np.testing.assert_array_equal(frame.image_HWC, np.repeat(grey[..., None], 3, axis=2))
    deep = grey.astype(np.uint16) * 257
    frame = decode_compressed(encoded('.png', deep), scale_16bit=65535)
    np.testing.assert_array_equal(frame.image_HWC[..., 0], grey)
    with pytest.raises(FrameError, match='scale_16bit'):
        decode_compressed(encoded('.png', deep))
    deep_colour = picture.astype(np.uint16) * 257
    frame = decode_compressed(encoded('.png', deep_colour), scale_16bit=65535)
    np.testing.assert_array_equal(frame.image_HWC, picture)


@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_a_compressed_mosaic_gets_its_colours_back(extension):
    tile = np.array([[200, 100], [100, 30]], np.uint8)
    data = encoded(extension, np.tile(tile, (16, 16)), cv2.IMWRITE_JPEG_QUALITY, 100)
    frame = decode_compressed(data, format='bayer_rggb8; jpeg compressed ')
    assert np.abs(as_rgb(frame).astype(int) - (200, 100, 30)).max() <= 4


def test_exif_orientation_is_not_applied(picture):
    # APP1 with one entry: orientation 6, rotate by 90 degrees.
    exif = (b'Exif\0\0II*\0\x08\0\0\0\x01\0' + struct.pack('<HHII', 0x112, 3, 1, 6) + bytes(4))
    jpeg = encoded('.jpg', picture)
    turned = jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (64, 48)
    assert decode_compressed(turned).image_HWC.shape == (48, 64, 3)


@pytest.mark.parametrize('options', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_a_jpeg_cut_anywhere_is_refused(picture, options):
    jpeg = encoded('.jpg', picture, *options)
    for length in range(len(jpeg)):
        with pytest.raises(FrameError, match=r'^JPEG|^data: expected a JPEG'):  # not OpenCV's word
            decode_compressed(jpeg[:length], format='jpeg')
    with pytest.raises(FrameError, match='truncated'):
        decode_compressed(jpeg[:len(jpeg) * 2 // 3])


def test_a_png_cut_anywhere_is_refused():
    png = encoded('.png', noise(9, 9, 3))
    for length in range(len(png)):
        with pytest.raises(FrameError, match=r'^PNG|^data: expected a JPEG'):
            decode_compressed(png[:length])
    with pytest.raises(FrameError, match='truncated'):
        decode_compressed(png[:-12])


def test_a_thumbnail_does_not_hide_the_missing_end(picture):
    thumbnail = b'Exif\0\0' + encoded('.jpg', picture[:8, :8])
    jpeg = encoded('.jpg', picture)
    whole = jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail + jpeg[2:]
    assert decode_compressed(whole).image_HWC.shape == (48, 64, 3)
    with pytest.raises(FrameError, match='truncated'):
        decode_compressed(whole[:-200])


def test_padding_behind_a_jpeg_is_allowed(picture):
    assert decode_compressed(encoded('.jpg', picture) + bytes(500)).image_HWC.shape == (48, 64, 3)


def test_a_flipped_bit_in_a_png_is_found(picture):
    png = bytearray(encoded('.png', picture))
    png[len(png) // 2] ^= 4
    with pytest.raises(FrameError, match='checksum'):
        decode_compressed(bytes(png))


def png_claiming(height, width):
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(bytes(10))), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + kind + content
        + struct.pack('>I', zlib.crc32(kind + content)) for kind, content in chunks)


def test_sizes_are_bounded_before_decoding(picture):
    with pytest.raises(FrameError, match='got 100000x100000'):
        decode_compressed(png_claiming(100000, 100000))
    with pytest.raises(FrameError, match='at least 1x1'):
        decode_compressed(png_claiming(0, 5))
    jpeg = bytearray(encoded('.jpg', picture))
    start = jpeg.index(b'\xff\xc0')
    jpeg[start + 5:start + 9] = b'\xff\xff\xff\xff'
    with pytest.raises(FrameError, match='got 65535x65535'):
        decode_compressed(bytes(jpeg))


@pytest.mark.parametrize(('data', 'message'), [
    (b'', 'got 0 bytes'), (b'\0' * 64, 'JPEG or PNG file, got 64 bytes'),
    (b'RIFF1234WEBPVP8 ', 'RIFF'), (b'\xff\xd8\xff', 'truncated'),
    (b'\xff\xd8\xff\xd9', 'frame header before the end'),
    (b'\xff\xd8\xff\xc0\x00\x03\x00\xff\xd9', 'frame header of 8 bytes'),
    (b'\xff\xd8\xff\xe0\x00\x00\xff\xd9', '2 or more'),
    (b'\x89PNG\r\n\x1a\n', 'truncated'), (None, 'NoneType')])
def test_what_is_no_image_is_said(data, message):
    with pytest.raises(FrameError, match=message):
        decode_compressed(data, format='jpeg')


def test_depth_is_refused_by_name():
    with pytest.raises(FrameError, match='holds depth'):
        decode_compressed(bytes(100), format='16UC1; compressedDepth png')


# -- fuzz: a frame of the right shape or a FrameError, nothing else ------------------------------

def outcome(decode, *args, **fields):
    """Return the frame, or None after a FrameError; anything else escapes and fails the test."""
    try:
        frame = decode(*args, **fields)
    except FrameError:
        return None
    assert frame.image_HWC.dtype == np.uint8
    assert frame.image_HWC.ndim == 3 and frame.image_HWC.shape[2] == 3
    assert frame.colour in ('bgr', 'rgb')
    frame.image_HWC.sum()  # every byte of a view can be read
    return frame


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


@settings(deadline=None, max_examples=200)
@given(kind=st.sampled_from(['.jpg', '.png', 'progressive']), changes=st.lists(
    st.tuples(st.integers(0, 10 ** 6), st.integers(0, 255)), max_size=4), cut=st.integers(0, 40))
def test_compressed_fuzz(kind, changes, cut):
    image = noise(24, 16, 3)
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1) if kind == 'progressive' else ()
    content = bytearray(encoded(kind if kind[0] == '.' else '.jpg', image, *options))
    for position, value in changes:
        content[position % len(content)] = value
    frame = outcome(decode_compressed, bytes(content[:len(content) - cut]), scale_16bit='auto')
    if frame is not None and not changes:
        assert cut == 0
        assert frame.image_HWC.shape == (24, 16, 3)


@settings(deadline=None)
@given(st.sampled_from([b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n']), st.binary(max_size=200),
       st.sampled_from([b'', b'\xff\xd9']), st.text(max_size=20))
def test_arbitrary_bytes_fuzz(head, body, tail, format):  # noqa: A002
    outcome(decode_compressed, head + body + tail, format=format)
