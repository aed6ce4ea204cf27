# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files to mutate, the mutations that know their structure, and their fate."""
from __future__ import annotations

from dataclasses import dataclass
import random
import struct
from typing import Tuple
import zlib

import cv2
import numpy as np

ANSWERED, MALFORMED, EITHER = 'answered', 'malformed', 'either'  # as in camera_cases
END_OF_JPEG = b'\xff\xd9'
HUGE_SIDES = (0, 1, 4000, 8000, 8191, 8192, 32767, 32768, 65535)


@dataclass(frozen=True)
class Base:
    """A whole file: what it is, and the format string it travels under."""

    data: bytes
    format: str  # noqa: A003
    kind: str
    grey: bool
    wide: bool
    """16 bits a channel."""


class Bases:
    """Whole files of every kind that a camera's driver writes."""

    def __init__(self) -> None:
        noise = np.random.default_rng(7).integers(0, 256, (48, 64, 4), np.uint8)
        soft = cv2.GaussianBlur(noise, (0, 0), 5)
        deep = soft[..., :3].astype(np.uint16) * 257
        jpeg, png = 'rgb8; jpeg compressed bgr8', 'bgr8; png compressed bgr8'
        self._all = [
            _base('.jpg', soft[..., :3], jpeg),
            _base('.jpg', noise[..., :3], 'jpeg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
            _base('.jpg', soft[..., :3], '', cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
            _base('.jpg', soft[..., 0], 'mono8; jpeg compressed '),
            _base('.jpg', noise[..., 0], 'bayer_rggb8; jpeg compressed bayer_rggb8'),
            _base('.png', soft[..., :3], png),
            _base('.png', soft, 'bgra8; png compressed bgra8'),
            _base('.png', soft[..., 0], 'mono8; png compressed '),
            _base('.png', deep[..., 0].copy(), '16UC1; png compressed '),
            _base('.png', deep, 'png'),
            Base(_palette_png(), 'png', 'png', grey=False, wide=False)]

    def draw(self, chance: random.Random) -> Base:
        """Return one of them."""
        return chance.choice(self._all)


def _base(extension: str, image: np.ndarray, format: str, *options: int) -> Base:  # noqa: A002
    done, buffer = cv2.imencode(extension, np.ascontiguousarray(image), list(options))
    if not done:
        raise RuntimeError(f'OpenCV cannot write {extension}')
    return Base(buffer.tobytes(), format, 'jpeg' if extension == '.jpg' else 'png',
                grey=image.ndim == 2, wide=image.dtype == np.uint16)


def _palette_png() -> bytes:
    rows = b''.join(b'\0' + bytes((x + y) % 4 for x in range(16)) for y in range(12))
    header = struct.pack('>IIBBBBB', 16, 12, 8, 3, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', header)
            + png_chunk(b'PLTE', bytes(range(12))) + png_chunk(b'IDAT', zlib.compress(rows))
            + png_chunk(b'IEND', b''))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its right checksum."""
    return (struct.pack('>I', len(content)) + kind + content
            + struct.pack('>I', zlib.crc32(kind + content)))


def mutate_payload(base: Base, bases: Bases, chance: random.Random) -> Tuple[bytes, str]:
    """Return the file changed by somebody who knows its structure, and what was done."""
    data = base.data
    name = chance.choice(('cut', 'tail', 'swap files', 'claim', 'marker', 'nothing'))
    if name == 'cut':
        return data[:chance.randrange(len(data))], name
    if name == 'tail':  # cameras pad their buffers
        return data + chance.choice((bytes(100), b'\xff' * 9, chance.randbytes(50))), name
    if name == 'swap files':
        other = bases.draw(chance).data
        return data[:chance.randrange(len(data))] + other[chance.randrange(len(other)):], name
    if name == 'claim':
        height, width = chance.choice(HUGE_SIDES), chance.choice(HUGE_SIDES)
        return claim_size(base, height, width), f'claim {width}x{height}'
    if name == 'marker' and base.kind == 'jpeg':
        position = data.find(b'\xff', chance.randrange(2, len(data) - 2))
        return data[:position + 1] + chance.randbytes(1) + data[position + 2:], name
    return data, 'nothing'


def claim_size(base: Base, height: int, width: int) -> bytes:
    """Return the file with another size in its header, with a right checksum in a PNG."""
    if base.kind == 'png':
        image_header = struct.pack('>II', width, height) + base.data[24:29]
        return base.data[:8] + png_chunk(b'IHDR', image_header) + base.data[33:]
    position = max(base.data.find(b'\xff\xc0'), base.data.find(b'\xff\xc2')) + 5
    return base.data[:position] + struct.pack('>HH', height, width) + base.data[position + 4:]


def fate_of_compressed(format: str, data: bytes, base: Base,  # noqa: A002
                       scale_16bit: float) -> str:
    """
    Return what must become of a file made from `base`.

    Only what follows from the formats' own rules: a PNG is under checksums, a JPEG has an end
    marker and a size that needs so many bits at least. EITHER for the rest.
    """
    if 'compressedDepth' in format or not data.startswith((b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n')):
        return MALFORMED
    if data.startswith(base.data):  # whole, perhaps with a tail
        return ANSWERED if not base.wide or scale_16bit != 0 else MALFORMED
    if base.data.startswith(data):  # cut
        return MALFORMED
    if base.kind == 'png' and _one_burst(data, base.data):
        return MALFORMED  # a CRC-32 finds every burst of up to 32 bits
    if base.kind == 'jpeg' and END_OF_JPEG not in data:
        return MALFORMED
    if _only_size_differs(data, base):
        height, width = _claimed(data, base)
        if height * width // 64 > 8 * len(data) or not (height and width):
            return MALFORMED
    return EITHER


def _one_burst(data: bytes, whole: bytes) -> bool:
    if len(data) != len(whole):
        return False
    differing = [i for i, (a, b) in enumerate(zip(data, whole)) if a != b]
    return bool(differing) and differing[-1] - differing[0] < 4


def _only_size_differs(data: bytes, base: Base) -> bool:
    height, width = _claimed(data, base)
    return data == claim_size(base, height, width)


def _claimed(data: bytes, base: Base) -> Tuple[int, int]:
    if base.kind == 'png':
        width, height = struct.unpack('>II', data[16:24].ljust(8, b'\0'))
        return height, width
    position = max(base.data.find(b'\xff\xc0'), base.data.find(b'\xff\xc2')) + 5
    height, width = struct.unpack('>HH', data[position:position + 4].ljust(4, b'\0'))
    return height, width
