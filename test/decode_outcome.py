# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Decode what may be broken: a frame or a FrameError, never anything else."""
from evit_seg.core.errors import FrameError
import numpy as np


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
