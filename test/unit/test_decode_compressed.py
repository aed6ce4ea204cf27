# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import struct
import zlib

import cv2
from decode_outcome import outcome
from evit_seg.core.decode import decode_compressed
from evit_seg.core.errors import FrameError
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest


def as_rgb(frame):
    return frame.image_HWC[..., ::-1] if frame.colour == 'bgr' else frame.image_HWC


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


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
    jpeg[start + 5:start + 9] = struct.pack('>HH', 8000, 8000)  # 192 MB out of a few kB
    with pytest.raises(FrameError, match=r'8000x8000 .* takes at least 125000 bytes'):
        decode_compressed(bytes(jpeg))


def test_the_emptiest_jpeg_is_longer_than_the_least():
    flat = np.zeros((2000, 3000, 3), np.uint8)
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
                    (cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1)):
        content = encoded('.jpg', flat, cv2.IMWRITE_JPEG_QUALITY, 1, *options)
        assert decode_compressed(content).image_HWC.shape == flat.shape


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
