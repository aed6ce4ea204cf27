# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Mutated camera messages, each with what must become of it.

Case number n of a seed is always the same message, whatever was made before it. What must become
of it is told from the contract, by rules written down here a second time: nothing in this module
calls the code under test.
"""
from __future__ import annotations

import array
from dataclasses import dataclass
import importlib.util
import random
from typing import Any, Callable, Dict, Optional, Tuple

from compressed_cases import Bases, fate_of_compressed, mutate_payload
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

ANSWERED = 'answered'
MALFORMED = 'malformed'
EITHER = 'either'
"""The bytes of a JPEG's scan carry no checksum: damaged there, it may be answered or refused."""
KINDS = ('image fields', 'image bytes', 'compressed fields', 'compressed bytes')
SHARES = (8, 4, 4, 4)  # of 20 cases

BYTES_PER_PIXEL = {
    'rgb8': 3, 'bgr8': 3, '8UC3': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1, '8UC1': 1, 'mono16': 2,
    '16UC1': 2, 'yuv422': 2, 'uyvy': 2, 'yuv422_yuy2': 2, 'yuyv': 2, 'nv12': 1, 'nv21': 1,
    'bayer_rggb8': 1, 'bayer_bggr8': 1, 'bayer_gbrg8': 1, 'bayer_grbg8': 1}
STRANGE_ENCODINGS = (
    '', ' ', 'RGB8', 'rgb8 ', 'rgb', 'rgb16', 'bgr16', 'bgra16', '8UC2', '8UC4', '8SC3', '32FC1',
    '32FC3', '64FC4', '16SC1', 'bayer_rggb16', 'nv24', 'jpeg', 'bayer_', 'None', '%s%n{0}',
    '\u00e9\u4e2d\U0001f681', '../../etc/passwd', 'a' * 5000)
STRINGS = ('', 'cam', '/', 'caf\u00e9 \U0001f681', 'x' * 3000, '%s{}\n\r\t', '\x01\x7f')


@dataclass(frozen=True)
class Case:
    """
    One mutated message.

    wire is its CDR form; message is None when ROS itself cannot read that, and then no node ever
    sees it. fate is ANSWERED, MALFORMED or EITHER; changes say what was done to what.
    """

    number: int
    kind: str
    changes: Tuple[str, ...]
    wire: bytes
    message: Any
    scale_16bit: float
    fate: str


class Cases:
    """The cases of a seed; scale_16bit None lets each case choose its own."""

    def __init__(self, seed: int, scale_16bit: Optional[float] = None) -> None:
        self._seed = seed
        self._scale_16bit = scale_16bit
        self._bases = Bases()
        self._asks_bridge = importlib.util.find_spec('cv_bridge') is not None

    def make(self, number: int, kind: str = '') -> Case:
        """Return case `number`, of a kind that follows from the number unless it is given."""
        chance = random.Random(f'{self._seed}/{number}')
        kind = kind or chance.choices(KINDS, SHARES)[0]
        drawn = chance.choice((0.0, -1.0, 4095.0))
        scale = drawn if self._scale_16bit is None else self._scale_16bit
        make = {'image fields': self._image_fields, 'image bytes': self._image_bytes,
                'compressed fields': self._compressed_fields,
                'compressed bytes': self._compressed_bytes}[kind]
        changes, wire, message, fate = make(chance, number, scale)
        return Case(number, kind, tuple(changes), wire, message, scale, fate)

    def _image_fields(self, chance: random.Random, number: int, scale: float) -> Any:
        message = whole_image(chance)
        changes = []
        if chance.random() < 0.9:  # a tenth stays whole: what is good must be answered
            names = list(IMAGE_FIELDS)
            first = names[number % len(names)]  # every field as often as any other
            for name in dict.fromkeys([first, *chance.sample(names, chance.randrange(3))]):
                changes.append(name)
                IMAGE_FIELDS[name](message, chance)
        return changes, serialize_message(message), message, self.fate_of_image(message, scale)

    def _image_bytes(self, chance: random.Random, number: int, scale: float) -> Any:
        wire, changes = mutate_wire(whole_image(chance), chance)
        message = _read(wire, Image)
        fate = EITHER if message is None else self.fate_of_image(message, scale)
        return changes, wire, message, fate

    def _compressed_fields(self, chance: random.Random, number: int, scale: float) -> Any:
        base = self._bases.draw(chance)
        message = CompressedImage(format=base.format, data=array.array('B', base.data))
        _stamp(message, chance)
        changes = []
        if chance.random() < 0.9:
            names = list(COMPRESSED_FIELDS)
            first = names[number % len(names)]
            for name in dict.fromkeys([first, *chance.sample(names, chance.randrange(2))]):
                changes.append(name)
                COMPRESSED_FIELDS[name](message, chance)
        if not changes or chance.random() < 0.5:
            data, done = mutate_payload(base, self._bases, chance)
            message.data = array.array('B', data)
            changes.append(done)
        fate = fate_of_compressed(message.format, bytes(message.data), base, scale)
        return changes, serialize_message(message), message, fate

    def _compressed_bytes(self, chance: random.Random, number: int, scale: float) -> Any:
        base = self._bases.draw(chance)
        message = CompressedImage(format=base.format, data=array.array('B', base.data))
        if chance.random() < 0.5:
            wire, changes = mutate_wire(message, chance)
        else:  # the payload alone, so that most of them get past ROS
            data, changes = mutate_bytes(base.data, chance)
            message.data = array.array('B', data)
            wire = serialize_message(message)
        got = _read(wire, CompressedImage)
        fate = EITHER if got is None else fate_of_compressed(
            got.format, bytes(got.data), base, scale)
        return changes, wire, got, fate

    def fate_of_image(self, message: Image, scale_16bit: float) -> str:
        """Return what the contract wants for the fields of an Image."""
        height, width, step = message.height, message.width, message.step
        encoding, size = message.encoding, len(message.data)
        if not (0 < height < 2 ** 15 and 0 < width < 2 ** 15 and height * width <= 2 ** 26):
            return MALFORMED
        if encoding not in BYTES_PER_PIXEL:
            return EITHER if self._asks_bridge else MALFORMED
        fits = step >= width * BYTES_PER_PIXEL[encoding] and size == step * height
        if encoding in ('nv12', 'nv21'):
            even = height % 2 == 0 and width % 2 == 0
            planes = step >= width and 2 * size == 3 * step * height
            counted_in = 2 * step == 3 * width and size == step * height
            fits = even and (planes or counted_in)
        elif encoding.startswith('yu') or encoding == 'uyvy':
            fits = fits and width % 2 == 0
        elif encoding.startswith('bayer'):
            fits = fits and height >= 3 and width >= 3
        elif encoding in ('mono16', '16UC1'):
            fits = fits and scale_16bit != 0
        return ANSWERED if fits else MALFORMED


def whole_image(chance: random.Random) -> Image:
    """Return a small Image without a fault, of any encoding and padding."""
    encoding = chance.choice(list(BYTES_PER_PIXEL))
    height, width = 2 * chance.randrange(2, 13), 2 * chance.randrange(2, 13)
    step = width * BYTES_PER_PIXEL[encoding] + chance.choice((0, 0, 1, 7))
    rows = height * 3 // 2 if encoding in ('nv12', 'nv21') else height
    message = Image(height=height, width=width, encoding=encoding, step=step,
                    is_bigendian=chance.randrange(2),
                    data=array.array('B', chance.randbytes(step * rows)))
    _stamp(message, chance)
    return message


def mutate_wire(message: Any, chance: random.Random) -> Tuple[bytes, list]:
    """Return the CDR form of a message, changed behind its first four bytes, and how."""
    wire, changes = mutate_bytes(serialize_message(message), chance, start=4)
    return wire + bytes(-len(wire) % 4), changes  # DDS sends whole words


def mutate_bytes(content: bytes, chance: random.Random, start: int = 0) -> Tuple[bytes, list]:
    """Return `content` with one to three changes from `start` on, and their names."""
    changed, names = bytearray(content), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name = chance.choice(list(_BYTE_CHANGES))
        end = chance.choice((80, len(changed)))  # half of them where the fields and headers are
        position = chance.randrange(start, max(min(end, len(changed)), start + 1))
        _BYTE_CHANGES[name](changed, position, chance)
        names.append(f'{name} at {position}')
    return bytes(changed), names


def _flip(content: bytearray, position: int, chance: random.Random) -> None:
    if position < len(content):
        content[position] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, position: int, chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice((bytes(size), b'\xff' * size, b'\x7f' + b'\xff' * (size - 1),
                           chance.randbytes(size)))
    content[position:position + size] = value[:len(content) - position]


def _insert(content: bytearray, position: int, chance: random.Random) -> None:
    content[position:position] = chance.randbytes(chance.choice((1, 2, 3, 4, 64)))


def _remove(content: bytearray, position: int, chance: random.Random) -> None:
    del content[position:position + chance.choice((1, 2, 3, 4, 64))]


def _cut(content: bytearray, position: int, chance: random.Random) -> None:
    del content[position:]


def _repeat(content: bytearray, position: int, chance: random.Random) -> None:
    content[position:position] = content[position:position + chance.choice((4, 16, 128))]


_BYTE_CHANGES: Dict[str, Callable[[bytearray, int, random.Random], None]] = {
    'flip': _flip, 'overwrite': _overwrite, 'insert': _insert, 'remove': _remove, 'cut': _cut,
    'repeat': _repeat}


def _stamp(message: Any, chance: random.Random) -> None:
    message.header.stamp.sec = chance.randrange(10 ** 9, 2 * 10 ** 9)
    message.header.frame_id = 'cam'


def _read(wire: bytes, kind: Any) -> Any:
    try:
        return deserialize_message(wire, kind)
    except RuntimeError:  # RMWError: what a subscription never delivers
        return None


def _number(chance: random.Random, before: int) -> int:
    value = chance.choice((0, 1, 2, 3, 5, before - 1, before + 1, 2 * before, before // 2, 255,
                           256, 2 ** 15 - 1, 2 ** 15, 2 ** 16, 10 ** 5, 2 ** 26, 2 ** 31 - 1,
                           2 ** 31, 2 ** 32 - 1, chance.randrange(2 ** 32)))
    return min(max(value, 0), 2 ** 32 - 1)


def _mutate_sec(message: Any, chance: random.Random) -> None:
    message.header.stamp.sec = chance.choice((0, -1, 1, -2 ** 31, 2 ** 31 - 1, -10 ** 9))


def _mutate_nanosec(message: Any, chance: random.Random) -> None:
    message.header.stamp.nanosec = chance.choice(
        (0, 1, 10 ** 9, 10 ** 9 - 1, 2 ** 31, 2 ** 32 - 1))


def _mutate_frame_id(message: Any, chance: random.Random) -> None:
    message.header.frame_id = chance.choice(STRINGS)


def _mutate_height(message: Image, chance: random.Random) -> None:
    message.height = _number(chance, message.height)


def _mutate_width(message: Image, chance: random.Random) -> None:
    message.width = _number(chance, message.width)


def _mutate_step(message: Image, chance: random.Random) -> None:
    message.step = _number(chance, message.step)


def _mutate_encoding(message: Image, chance: random.Random) -> None:
    message.encoding = chance.choice(
        chance.choice((STRANGE_ENCODINGS, tuple(BYTES_PER_PIXEL))))


def _mutate_bigendian(message: Image, chance: random.Random) -> None:
    message.is_bigendian = chance.choice((0, 1, 2, 127, 255))


def _mutate_data(message: Any, chance: random.Random) -> None:
    data = bytes(message.data)
    message.data = array.array('B', chance.choice((
        b'', data[:-1], data + b'\0', data[:len(data) // 2], data * 2, bytes(len(data)),
        b'\xff' * len(data), chance.randbytes(chance.randrange(4096)), data[1:])))


def _mutate_format(message: CompressedImage, chance: random.Random) -> None:
    message.format = chance.choice((
        '', 'jpeg', 'png', 'JPEG', 'tiff', 'rgb8; jpeg compressed bgr8', '16UC1; compressedDepth',
        'compressedDepth', 'bgr8; png compressed rgb8', 'bayer_rggb8; png compressed ', ';', ';;;',
        'bayer_rggb8', 'mono8; jpeg compressed', *STRANGE_ENCODINGS, *STRINGS))


IMAGE_FIELDS: Dict[str, Callable[[Any, random.Random], None]] = {
    'header.stamp.sec': _mutate_sec, 'header.stamp.nanosec': _mutate_nanosec,
    'header.frame_id': _mutate_frame_id, 'height': _mutate_height, 'width': _mutate_width,
    'encoding': _mutate_encoding, 'is_bigendian': _mutate_bigendian, 'step': _mutate_step,
    'data': _mutate_data}
COMPRESSED_FIELDS: Dict[str, Callable[[Any, random.Random], None]] = {
    'header.stamp.sec': _mutate_sec, 'header.stamp.nanosec': _mutate_nanosec,
    'header.frame_id': _mutate_frame_id, 'format': _mutate_format, 'data': _mutate_data}
