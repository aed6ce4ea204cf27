# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Walk JPEG and PNG files without decoding them: the size they claim, and whether they end.

OpenCV's decoders, depending on version, fill what is missing with grey and say nothing. Walking
the container first costs microseconds and finds every cut. Damage inside a JPEG's entropy-coded
data is not found, the format has no checksum; PNG has one, and it is checked.
"""
from __future__ import annotations

import re
import struct
from typing import NamedTuple, Optional
import zlib

from evit_seg.core.errors import FrameError

JPEG_MAGIC = b'\xff\xd8\xff'
PNG_MAGIC = b'\x89PNG\r\n\x1a\n'

_EOI = 0xD9
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # less DHT, JPG and DAC
_SOF_HUFFMAN = frozenset((0xC0, 0xC1, 0xC2))
# In entropy-coded data 0xFF is followed by 0 (a stuffed byte) or a restart marker D0 to D7.
_NEXT_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')


class ImageHeader(NamedTuple):
    """
    The size a file claims, in pixels, and its channels.

    least_bytes: no file of that size is shorter, whatever it shows; 0 where that is not known.
    """

    height: int
    width: int
    channels: int
    least_bytes: int = 0


def jpeg_header(file_bytes: bytes) -> ImageHeader:
    """
    Walk the markers of a JPEG up to its end marker and return what its frame header says.

    ITU-T T.81, annex B. Bytes after the end marker are allowed, cameras pad with zeros.
    FrameError when a segment, the frame header or the end marker is missing.
    """
    header: Optional[ImageHeader] = None
    position = len(JPEG_MAGIC) - 1
    while True:
        found = _NEXT_MARKER.search(file_bytes, position)
        if found is None:
            raise FrameError('JPEG: expected the end marker FFD9, got the end of the data after '
                             f'{len(file_bytes)} bytes; the frame is truncated')
        marker = file_bytes[found.end() - 1]
        position = found.end()
        if marker == _EOI:
            break
        length = int.from_bytes(file_bytes[position:position + 2], 'big')
        if length < 2 or position + length > len(file_bytes):
            raise FrameError(f'JPEG: segment FF{marker:02X} at byte {position - 2} claims '
                             f'{length} bytes (2 or more expected), got '
                             f'{len(file_bytes) - position}; the frame is truncated or damaged')
        if marker in _SOF and header is None:
            header = _jpeg_frame_header(file_bytes[position:position + length])
            if marker in _SOF_HUFFMAN:
                header = header._replace(least_bytes=_least_jpeg_bytes(header))
        position += length
    if header is None:
        raise FrameError('JPEG: expected a frame header before the end marker, got none')
    return header


def _least_jpeg_bytes(header: ImageHeader) -> int:
    """Return what an 8x8 block takes at least, one bit for its shortest code, times the blocks."""
    return -(-header.height // 8) * -(-header.width // 8) // 8


def _jpeg_frame_header(segment: bytes) -> ImageHeader:
    if len(segment) < 8:
        raise FrameError(f'JPEG: expected a frame header of 8 bytes or more, got {len(segment)}')
    return ImageHeader(*struct.unpack('>HHB', segment[3:8]))


def png_header(file_bytes: bytes) -> ImageHeader:
    """
    Walk the chunks of a PNG up to IEND with their checksums; return what IHDR says.

    PNG specification, third edition, sec. 5. FrameError when a chunk is cut, missing or damaged.
    """
    header: Optional[ImageHeader] = None
    view = memoryview(file_bytes)
    position = len(PNG_MAGIC)
    while True:
        length = int.from_bytes(view[position:position + 4], 'big')
        kind = bytes(view[position + 4:position + 8])
        end = position + 12 + length  # length, kind, content, checksum
        if end > len(view):
            raise FrameError('PNG: expected chunks up to IEND, got the end of the data after '
                             f'{len(view)} bytes; the frame is truncated')
        if zlib.crc32(view[position + 4:end - 4]) != int.from_bytes(view[end - 4:end], 'big'):
            raise FrameError(f'PNG: the checksum of chunk {kind!r} at byte {position} does not '
                             'fit; the frame is damaged')
        if header is None:
            header = _png_image_header(kind, view[position + 8:end - 4])
        if kind == b'IEND':
            return header
        position = end


def _png_image_header(kind: bytes, content: memoryview) -> ImageHeader:
    if kind != b'IHDR' or len(content) != 13:
        raise FrameError(f'PNG: expected a first chunk IHDR of 13 bytes, got {kind!r} of '
                         f'{len(content)}')
    width, height, _, colour_type = struct.unpack('>IIBB', content[:10])
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour_type, 0)
    return ImageHeader(height, width, channels)
