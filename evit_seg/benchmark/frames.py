# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The frames of a measurement: a bundle's own picture, in the bytes a camera would send."""
from __future__ import annotations

from typing import Callable, Dict, List, Tuple

import cv2
from evit_seg.core.bundle import Bundle, read_golden
from evit_seg.core.errors import ConfigError
import numpy as np

JPEG = 'jpeg'
VIEWS = 4
"""How many different frames a measurement sends in turn."""


def source_frames(bundle: Bundle, source_hw: Tuple[int, int]) -> List[np.ndarray]:
    """
    Return BGR frames uint8 (H, W, 3): the golden picture at that size, moved sideways.

    Not noise: the more class boundaries a mask has, the longer its upscaling takes.
    """
    golden_HWC, _ = read_golden(bundle)
    frame_HWC = cv2.resize(golden_HWC, (source_hw[1], source_hw[0]))
    step = source_hw[1] // VIEWS
    return [np.roll(frame_HWC, step * view, axis=1) for view in range(VIEWS)]


def encode(frame_HWC: np.ndarray, encoding: str) -> np.ndarray:
    """Return a BGR frame as the rows (H, bytes) of an encoding; a flat file for 'jpeg'."""
    if encoding not in _ENCODERS:
        raise ConfigError(f'--encoding: expected one of {", ".join(ENCODINGS)}, got {encoding!r}')
    encoded: np.ndarray = _ENCODERS[encoding](frame_HWC)
    return encoded


def _nv12(frame_HWC: np.ndarray) -> np.ndarray:
    height, width = frame_HWC.shape[:2]
    if height % 2 or width % 2:
        raise ConfigError(f'--encoding nv12: expected an even size, got {width}x{height}')
    planar = cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2YUV_I420)
    blue, red = planar[height:].reshape(2, -1)
    return np.concatenate([planar[:height], np.stack([blue, red], 1).reshape(-1, width)])


_ENCODERS: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'bgr8': lambda frame: frame,
    'rgb8': lambda frame: cv2.cvtColor(frame, cv2.COLOR_BGR2RGB),
    'bgra8': lambda frame: cv2.cvtColor(frame, cv2.COLOR_BGR2BGRA),
    'mono8': lambda frame: cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY),
    'nv12': _nv12,
    JPEG: lambda frame: cv2.imencode('.jpg', frame)[1],
}
ENCODINGS: Tuple[str, ...] = tuple(_ENCODERS)
