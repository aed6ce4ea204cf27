# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Frame -> network input, uint8 all the way, and the Geometry that leads back to the frame."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import math
from typing import Tuple

import cv2
from evit_seg.core.errors import ConfigError, FrameError
import numpy as np

LETTERBOX_GREY = 114
"""Value of the padding around a letterboxed frame, the same in every channel."""
_SWAP = {('bgr', 'rgb'), ('rgb', 'bgr')}
_COLOURS = ('bgr', 'rgb')
_NEARLY_WHOLE = 1e-6  # pixels; keeps floor and ceil from tripping over the last bit


@dataclass(frozen=True)
class Geometry:
    """
    How source frame, network input and output grid lie on each other; all pairs are (y, x).

    The input coordinate of a source pixel centre is `(y + 0.5) * scale + offset - 0.5`. Stretch:
    scale = input / source, offset 0. Letterbox: the two scales are equal but for rounding to
    whole pixels, the offset is the padding before the picture. The grid spans the whole input.
    """

    source_hw: Tuple[int, int]
    input_hw: Tuple[int, int]
    grid_hw: Tuple[int, int]
    scale_yx: Tuple[float, float]
    offset_yx: Tuple[float, float]

    def grid_cell_area_px(self) -> float:
        """Return how many source pixels one grid cell covers."""
        cell_y, cell_x = (self._source_from_grid(1.0, axis) - self._source_from_grid(0.0, axis)
                          for axis in (0, 1))
        return cell_y * cell_x

    def grid_box_to_source(self, x0: int, y0: int, x1: int, y1: int) -> Tuple[int, int, int, int]:
        """
        Return the source box (x, y, w, h) that the grid cells [x0, x1) x [y0, y1) touch.

        Whole pixels, clipped to the source; w or h is 0 where the cells lie in the padding.
        """
        top, bottom = self._source_span(y0, y1, 0)
        left, right = self._source_span(x0, x1, 1)
        return left, top, right - left, bottom - top

    def content_cells(self) -> Tuple[int, int, int, int]:
        """Return (y0, y1, x0, x1): the grid cells whose centre lies in the picture, half open."""
        return self._content_span(0) + self._content_span(1)

    def content_px(self, axis: int) -> int:
        """Return how many network-input pixels the picture covers along axis 0 (y) or 1 (x)."""
        return round(self.source_hw[axis] * self.scale_yx[axis])

    def _source_from_grid(self, grid: float, axis: int) -> float:
        """Map a grid edge coordinate (0 to grid size) to a source edge coordinate."""
        at_input = grid * self.input_hw[axis] / self.grid_hw[axis]
        return (at_input - self.offset_yx[axis]) / self.scale_yx[axis]

    def _source_span(self, start: int, stop: int, axis: int) -> Tuple[int, int]:
        size = self.source_hw[axis]
        low = math.floor(self._source_from_grid(start, axis) + _NEARLY_WHOLE)
        high = math.ceil(self._source_from_grid(stop, axis) - _NEARLY_WHOLE)
        low = min(max(low, 0), size)
        return low, min(max(high, low), size)

    def _content_span(self, axis: int) -> Tuple[int, int]:
        cell = self.input_hw[axis] / self.grid_hw[axis]
        before = self.offset_yx[axis]
        first = math.ceil(before / cell - 0.5 - _NEARLY_WHOLE)
        stop = math.ceil((before + self.content_px(axis)) / cell - 0.5 - _NEARLY_WHOLE)
        return max(first, 0), min(stop, self.grid_hw[axis])


def preprocess(image_HWC: np.ndarray, colour: str, *, input_hw: Tuple[int, int], stride: int,
               resize: str = 'stretch', colour_wanted: str = 'rgb'
               ) -> Tuple[np.ndarray, Geometry]:
    """
    Resize a frame to the network's input and put its channels in the wanted order.

    `image_HWC` is uint8 (H, W, 3) in `colour` order ('bgr' or 'rgb'), rows may be padded. Returns
    a contiguous uint8 (h, w, 3) image and the Geometry. Bilinear without antialiasing, as the
    networks are trained; no float anywhere, the mean and the scale are in the network's graph.

    The frame is never written to. The result belongs to the caller, with one exception: a frame
    that already has the size, the order and a contiguous layout comes back as it is, not as a
    copy, so treat the result as read-only and as living no longer than the frame.
    FrameError: not such an array. ConfigError: unknown colour order or resize.
    """
    _check_frame(image_HWC)
    for order in (colour, colour_wanted):
        if order not in _COLOURS:
            raise ConfigError(f"colour order: expected 'bgr' or 'rgb', got {order!r}")
    geometry = frame_geometry((int(image_HWC.shape[0]), int(image_HWC.shape[1])),
                              tuple(input_hw), stride, resize)
    swap = (colour, colour_wanted) in _SWAP
    small = _fit(image_HWC, geometry)
    if swap:
        small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(small), geometry


@lru_cache(maxsize=32)
def frame_geometry(source_hw: Tuple[int, int], input_hw: Tuple[int, int], stride: int,
                   resize: str) -> Geometry:
    """Return the Geometry of frames of one size; `stride` is input pixels per grid cell."""
    if min(source_hw) < 1 or min(input_hw) < 1 or stride < 1:
        raise ConfigError('expected positive source size, input size and stride, got '
                          f'{source_hw!r}, {input_hw!r}, {stride!r}')
    grid_hw = (-(-input_hw[0] // stride), -(-input_hw[1] // stride))
    if resize == 'stretch':
        content_hw = input_hw
    elif resize == 'letterbox':
        fit = min(input_hw[0] / source_hw[0], input_hw[1] / source_hw[1])
        content_hw = (min(max(round(source_hw[0] * fit), 1), input_hw[0]),
                      min(max(round(source_hw[1] * fit), 1), input_hw[1]))
    else:
        raise ConfigError(f"resize: expected 'stretch' or 'letterbox', got {resize!r}")
    return Geometry(source_hw, input_hw, grid_hw,
                    (content_hw[0] / source_hw[0], content_hw[1] / source_hw[1]),
                    (float((input_hw[0] - content_hw[0]) // 2),
                     float((input_hw[1] - content_hw[1]) // 2)))


def _check_frame(image_HWC: np.ndarray) -> None:
    """Raise FrameError for anything but a non-empty uint8 (H, W, 3) array."""
    if not isinstance(image_HWC, np.ndarray) or image_HWC.dtype != np.uint8 \
            or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or 0 in image_HWC.shape:
        found = (f'{image_HWC.dtype} {image_HWC.shape}' if isinstance(image_HWC, np.ndarray)
                 else repr(type(image_HWC).__name__))
        raise FrameError(f'expected a non-empty uint8 image of shape (H, W, 3), got {found}; '
                         'decode the frame with evit_seg.core.decode first')


def _fit(image_HWC: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resize, and pad where the picture does not fill the input; the frame itself if it fits."""
    content_h, content_w = geometry.content_px(0), geometry.content_px(1)
    picture = image_HWC
    if (content_h, content_w) == geometry.input_hw:
        if geometry.source_hw == geometry.input_hw:
            return picture
        return cv2.resize(picture, (content_w, content_h), interpolation=cv2.INTER_LINEAR)
    padded = np.full((*geometry.input_hw, 3), LETTERBOX_GREY, np.uint8)
    top, left = int(geometry.offset_yx[0]), int(geometry.offset_yx[1])
    inside = padded[top:top + content_h, left:left + content_w]
    if (content_h, content_w) == geometry.source_hw:
        inside[...] = picture
    else:
        inside[...] = cv2.resize(picture, (content_w, content_h), interpolation=cv2.INTER_LINEAR)
    return padded
