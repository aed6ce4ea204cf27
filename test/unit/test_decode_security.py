# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A message that claims more pixels than it holds costs no memory."""
from __future__ import annotations

import struct
import tracemalloc
import zlib

import cv2
from evit_seg.core.decode import decode_compressed, decode_raw, ENCODINGS
from evit_seg.core.errors import FrameError
import pytest

SIDE_PX = 100_000


def refused(call, said):
    """Run a decoding that must fail; return the bytes that it took at its peak."""
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=said):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_opencv(monkeypatch):
    """Fail when OpenCV, whose memory is not traced, is asked for an image."""
    def asked(*args, **options):
        raise AssertionError('OpenCV was asked to decode')
    for name in ('imdecode', 'cvtColor', 'convertScaleAbs'):
        monkeypatch.setattr(cv2, name, asked)


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('data', [b'', bytes(1000)])
def test_a_raw_image_of_ten_thousand_megapixels(no_opencv, encoding, data):
    peak_bytes = refused(lambda: decode_raw(data, height=SIDE_PX, width=SIDE_PX,
                                            encoding=encoding, step=SIDE_PX * 4, scale_16bit=1),
                         'size: expected at most .* got 100000x100000')
    assert peak_bytes < 100_000


def test_a_claim_within_the_bounds_must_be_backed_by_data(no_opencv):
    peak_bytes = refused(lambda: decode_raw(bytes(64), height=8000, width=8000, encoding='bgr8',
                                            step=24_000), 'expected 192000000 bytes')
    assert peak_bytes < 100_000


def png(width, height):
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = ((b'IHDR', head), (b'IDAT', zlib.compress(bytes(1000))), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + kind + content
        + struct.pack('>I', zlib.crc32(kind + content)) for kind, content in chunks)


def jpeg(width, height):
    frame = struct.pack('>BHHB', 8, height, width, 3) + bytes(9)
    return (b'\xff\xd8\xff\xc0' + struct.pack('>H', len(frame) + 2) + frame
            + b'\xff\xda\x00\x02' + bytes(100) + b'\xff\xd9')


@pytest.mark.parametrize('file_bytes, said', [
    (png(SIDE_PX, SIDE_PX), 'got 100000x100000'),
    (png(2 ** 31 - 1, 2 ** 31 - 1), 'got 2147483647'),
    (jpeg(65_535, 65_535), 'got 65535x65535'),  # the format has no larger numbers
    (jpeg(8000, 8000), 'takes at least')], ids=['png', 'largest png', 'jpeg', 'hollow jpeg'])
def test_a_compressed_image_of_ten_thousand_megapixels(no_opencv, file_bytes, said):
    assert refused(lambda: decode_compressed(file_bytes), said) < 100_000
