# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures a run leaves behind: an overlay video and a poster of its best frame."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
from evit_seg.core.alerts import Alert
from evit_seg.core.decode import Frame
from evit_seg.core.errors import InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.overlay import draw_overlay
import numpy as np

VIDEO_WIDTH_PX = 960
PANEL_WIDTH_PX = 640
GAP_PX = 6


class OverlayVideo:
    """An mp4 (MPEG-4 part 2) of overlays, all of the first one's size."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.path = path
        self.frames = 0
        self._rate_hz = rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)

    def add(self, picture_HWC: np.ndarray) -> None:
        """Append one BGR picture."""
        if self._writer is None:
            height, width = picture_HWC.shape[:2]
            self._size_wh = (width - width % 2, height - height % 2)  # the codec wants even ones
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*'mp4v'),
                                           self._rate_hz, self._size_wh)
            if not self._writer.isOpened():
                raise InputError(f'{self.path}: this OpenCV cannot write mp4 videos')
        if picture_HWC.shape[1::-1] != self._size_wh:
            picture_HWC = cv2.resize(picture_HWC, self._size_wh, interpolation=cv2.INTER_AREA)
        self._writer.write(picture_HWC)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and read it back: InputError where frames are missing."""
        if self._writer is None:
            return
        self._writer.release()
        reader = cv2.VideoCapture(str(self.path))
        readable = 0
        while reader.read()[0]:
            readable += 1
        reader.release()
        if readable != self.frames:
            raise InputError(f'{self.path}: {self.frames} frames were written, {readable} can be '
                             'read back')


def overlay(frame: Frame, mask_HW: np.ndarray | None, labels: LabelMap, alerts: Sequence[Alert],
            width: int) -> np.ndarray:
    """Return the overlay, BGR; of a frame without an answer the image, marked as such."""
    if mask_HW is not None:
        return draw_overlay(frame.image_HWC, frame.colour, mask_HW, labels, alerts, width)
    nothing_HW = np.full(frame.image_HWC.shape[:2], 255, np.uint8)
    picture = draw_overlay(frame.image_HWC, frame.colour, nothing_HW, labels, (), width)
    cv2.putText(picture, 'no answer', (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 255), 1,
                cv2.LINE_AA)
    return picture


def poster(frame: Frame, mask_HW: np.ndarray, labels: LabelMap,
           alerts: Sequence[Alert]) -> np.ndarray:
    """Return image, mask and alerts side by side, BGR."""
    nothing_HW = np.full(mask_HW.shape, 255, np.uint8)
    image = draw_overlay(frame.image_HWC, frame.colour, nothing_HW, labels, (), PANEL_WIDTH_PX)
    colours = np.ascontiguousarray(labels.palette_rgb()[:, ::-1][mask_HW])
    mask = cv2.resize(colours, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    alerted = draw_overlay(frame.image_HWC, frame.colour, mask_HW, labels, alerts, PANEL_WIDTH_PX)
    gap = np.full((image.shape[0], GAP_PX, 3), 255, np.uint8)
    return np.hstack([image, gap, mask, gap, alerted])


def write_image(path: Path, picture_HWC: np.ndarray) -> None:
    """Write a BGR picture; InputError where that fails."""
    if not cv2.imwrite(str(path), picture_HWC):
        raise InputError(f'{path} cannot be written')
