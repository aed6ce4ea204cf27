# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Read the files of a data set: images that end, and masks turned into class ids.

Unlike a bare `cv2.imread`, cut files are found (OpenCV fills what is missing with grey), and EXIF
orientation is ignored: masks are drawn on the pixels as they lie.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

import cv2
from evit_seg.core.containers import png_header, PNG_MAGIC
from evit_seg.core.decode import decode_compressed
from evit_seg.core.errors import FrameError, InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, NOT_FLOOD
import numpy as np
from offline_train.data.dataset import DatasetSpec, MaskSpec

_UNKNOWN = -1
_PNG_COLOUR_TYPE_AT = 25  # PNG specification, third edition, sec. 11.2.1
_PNG_PALETTE = 3
Value = Tuple[int, ...]


@dataclass(frozen=True)
class Mask:
    """
    A mask in ids of the label map, uint8 (H, W), with 254 and 255.

    `unknown` counts the pixels of each value (an id, or R, G, B) that the data set does not
    explain; they are 255 in `ids_HW`.
    """

    ids_HW: np.ndarray
    unknown: Dict[Value, int]


class MaskReader:
    """Turns the masks of one data set into class ids."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._mask = spec.mask
        targets = {**{c.slug: c.id for c in spec.label_map},
                   'ignore': IGNORE_INDEX, 'not_flood': NOT_FLOOD}
        if spec.mask.encoding == 'threshold':
            self._table = np.full(256, targets[spec.mask.otherwise], np.int16)
            self._table[spec.mask.threshold + 1:] = targets[spec.mask.above]
        elif spec.mask.encoding == 'colours':
            self._table = np.full(1 << 24, _UNKNOWN, np.int16)
            for source in spec.mask.sources:
                self._table[_code(np.array(source.colour[::-1]))] = targets[source.to]
        else:
            self._table = _id_table(spec.mask, spec.label_map, targets)

    def read(self, path: Path) -> Mask:
        """Return the mask of a file; InputError names it when it is not what the YAML says."""
        pixels = self._decode(path)
        source_HW = _code(pixels) if self._mask.encoding == 'colours' else pixels
        ids_HW = self._table[source_HW]
        unknown_HW = ids_HW == _UNKNOWN
        unknown: Dict[Value, int] = {}
        if unknown_HW.any():
            values, counts = np.unique(source_HW[unknown_HW], return_counts=True)
            unknown = {self._value(int(v)): int(n) for v, n in zip(values, counts, strict=True)}
            ids_HW[unknown_HW] = IGNORE_INDEX
        return Mask(ids_HW.astype(np.uint8), unknown)

    def _value(self, source: int) -> Value:
        if self._mask.encoding == 'colours':
            return source >> 16, source >> 8 & 255, source & 255
        return (source,)

    def _decode(self, path: Path) -> np.ndarray:
        data = _read_bytes(path)
        encoding = self._mask.encoding
        if encoding == 'threshold':
            return cv2.cvtColor(_decode_image(path, data), cv2.COLOR_BGR2GRAY)
        if not data.startswith(PNG_MAGIC):
            raise InputError(f'{path}: expected a PNG mask, whose values are exact, got a file '
                             f'that begins with {data[:8]!r}')
        try:
            png_header(data)
        except FrameError as error:
            raise InputError(f'{path}: {error}') from error
        flag = cv2.IMREAD_COLOR if encoding == 'colours' else cv2.IMREAD_UNCHANGED
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if pixels is None:
            raise InputError(f'{path}: expected a PNG mask, OpenCV cannot decode it')
        if encoding == 'ids' and (pixels.ndim != 2 or pixels.dtype != np.uint8):
            raise InputError(f'{path}: expected one channel of 8 bits with class ids, got '
                             f'{_describe(pixels, data)}')
        return np.asarray(pixels)


def _id_table(mask: MaskSpec, label_map: LabelMap, targets: Mapping[str, int]) -> np.ndarray:
    """Return what each of the 256 ids becomes, int16, -1 for those nobody explained."""
    table = np.full(256, _UNKNOWN, np.int16)
    if mask.sources:
        for source in mask.sources:
            table[source.id] = targets[source.to]
    else:
        for entry in label_map:
            table[entry.id + mask.first_id] = entry.id
    table[list(mask.ignore)] = IGNORE_INDEX
    return table


def _code(bgr: np.ndarray) -> np.ndarray:
    """Return 0xRRGGBB of BGR values (..., 3)."""
    wide = bgr.astype(np.uint32)
    return wide[..., 2] << 16 | wide[..., 1] << 8 | wide[..., 0]


def read_image(path: Path) -> np.ndarray:
    """Return the image of a file, BGR uint8 (H, W, 3); InputError names a bad or cut one."""
    return _decode_image(path, _read_bytes(path))


def read_bytes_and_image(path: Path) -> Tuple[bytes, np.ndarray]:
    """Return a file's bytes and its image as `read_image` does, reading it once."""
    data = _read_bytes(path)
    return data, _decode_image(path, data)


def size_text(array: np.ndarray) -> str:
    """Return the size of an image or mask as WIDTHxHEIGHT."""
    return f'{array.shape[1]}x{array.shape[0]}'


def shape_error(image_HWC: np.ndarray, mask_HW: np.ndarray) -> Optional[str]:
    """Return what is wrong with the sizes of a pair, None if they agree."""
    if image_HWC.shape[:2] == mask_HW.shape:
        return None
    turned = ' (turned by 90 degrees?)' if image_HWC.shape[1::-1] == mask_HW.shape else ''
    return f"expected the image's size {size_text(image_HWC)}, got {size_text(mask_HW)}{turned}"


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: expected a readable file: {error}') from error
    if not data:
        raise InputError(f'{path}: expected an image, the file is empty')
    return data


def _decode_image(path: Path, data: bytes) -> np.ndarray:
    """Decode JPEG, PNG or WebP by its first bytes; sets hold WebP files named .jpg."""
    try:
        if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
            return _decode_webp(data)
        return decode_compressed(data).image_HWC
    except FrameError as error:
        raise InputError(f'{path}: {error}') from error


def _decode_webp(data: bytes) -> np.ndarray:
    claimed = int.from_bytes(data[4:8], 'little') + 8  # RFC 9649, sec. 2.3
    if len(data) < claimed:
        raise FrameError(f'WebP: expected {claimed} bytes, got {len(data)}; it is truncated')
    image = cv2.imdecode(np.frombuffer(data, np.uint8),
                         cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise FrameError('WebP: OpenCV cannot decode it; it is damaged, or of a kind OpenCV was '
                         'built without')
    return np.asarray(image)


def _describe(pixels: np.ndarray, png: bytes) -> str:
    """Return what a mask is that should have been one channel of bytes, and the way out."""
    if png[_PNG_COLOUR_TYPE_AT] == _PNG_PALETTE:
        return 'a PNG with a palette; save its indices as plain grey levels'
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = pixels.dtype.itemsize * 8
    if channels >= 3 and (pixels[..., 0] == pixels[..., 1]).all() \
            and (pixels[..., 0] == pixels[..., 2]).all():
        return f'{channels} channels of {bits} bits, all equal; save one of them'
    return f'{channels} channel(s) of {bits} bits; if they are colours, set mask.encoding: colours'
