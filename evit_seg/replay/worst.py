# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The worst frames of a flight, with small pictures: the ones to look at first."""
from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
from evit_seg.core.alerts import AlertRule
from evit_seg.core.decode import Frame
from evit_seg.core.labels import LabelMap
from evit_seg.core.metrics import confusion_matrix
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.certainty import Certainty
from evit_seg.replay.observer import SeenFrame
from evit_seg.replay.truth import WAITING_LIMIT
import numpy as np

PICTURE_WIDTH_PX = 480
JPEG_QUALITY = 80
BY_TRUTH = "lowest mean IoU over the classes of the frame's truth; an alert class that the mask " \
           'shows and the truth does not counts as 0'
BY_CONFIDENCE = 'lowest mean confidence of the network, as there is no ground truth'


@dataclass(frozen=True)
class _Small:
    """What is kept of a frame until its label comes."""

    stamp_ns: int
    confidence: float
    image_jpeg: bytes | None


class WorstFrames:
    """
    Makes the section `worst`: `count` frames by truth or, where no frame has any, by confidence.

    At most one frame of each second is kept: a second of film is one thing to look at. With
    `pictures` each comes with its image (JPEG) and truth and mask in the label map's colours
    (PNG; what is not labelled is black), 480 pixels wide, base64. Held in memory are those of
    twice `count` frames and of the frames that wait for a label.
    """

    key = 'worst'

    def __init__(self, labels: LabelMap, rules: Sequence[AlertRule], certainty: Certainty,
                 pictures: bool, count: int = 6) -> None:
        self._pictures = pictures
        self._rules = rules
        self._classes = len(labels)
        self._slugs = labels.slugs
        self._palette_rgb = labels.palette_rgb()
        self._certainty = certainty
        self._first_ns: int | None = None
        self._waiting: OrderedDict[int, _Small] = OrderedDict()
        self._by_truth = _Lowest(count)
        self._by_confidence = _Lowest(count)

    @property
    def topics(self) -> Sequence[str]:
        """Return that it wants no topics of its own."""
        return ()

    def take_message(self, message: BagMessage) -> None:
        """Take nothing: no topic was asked for."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Keep a small picture until the label comes, and the frame if the network is unsure."""
        if self._first_ns is None:
            self._first_ns = seen.first_ns
        confidence = self._certainty(seen)
        small = _Small(seen.stamp_ns, confidence, _jpeg(seen.frame) if self._pictures else None)
        self._waiting[seen.index] = small
        if len(self._waiting) > WAITING_LIMIT:
            self._waiting.popitem(last=False)
        self._by_confidence.offer(self._time_s(small), confidence, lambda: self._entry(
            seen.index, small, confidence, None, seen.result.mask_HW))

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Keep the frame if it is among the worst."""
        small = self._waiting.pop(index, None)
        if small is None:  # its label lay too far from it in the bag
            return
        ious = self._ious(truth_HW, mask_HW)
        if ious:
            score = sum(ious.values()) / len(ious)
            self._by_truth.offer(self._time_s(small), score, lambda: {
                **self._entry(index, small, score, truth_HW, mask_HW),
                'ious': {slug: round(iou, 4) for slug, iou in ious.items()}})

    def _ious(self, truth_HW: np.ndarray, mask_HW: np.ndarray) -> dict[str, float]:
        matrix = confusion_matrix(truth_HW, mask_HW, self._classes)
        truth_px, mask_px, hits_px = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
        ids = set(np.flatnonzero(truth_px).tolist())
        if ids:  # a frame without any truth tells nothing of false alerts either
            ids |= {rule.class_id for rule in self._rules
                    if mask_px[rule.class_id] >= max(1.0, rule.min_pixels)}
        return {self._slugs[i]: float(hits_px[i] / (truth_px[i] + mask_px[i] - hits_px[i]))
                for i in sorted(ids)}

    def _time_s(self, small: _Small) -> float:
        return round((small.stamp_ns - (self._first_ns or 0)) / 1e9, 3)

    def _entry(self, index: int, small: _Small, score: float, truth_HW: np.ndarray | None,
               mask_HW: np.ndarray) -> dict[str, Any]:
        return {'index': index, 't_s': self._time_s(small), 'score': round(score, 4),
                'confidence': round(small.confidence, 4),
                'image': _data('jpeg', small.image_jpeg), 'truth': self._coloured(truth_HW),
                'mask': self._coloured(mask_HW)}

    def _coloured(self, ids_HW: np.ndarray | None) -> str | None:
        if ids_HW is None or not self._pictures:
            return None
        small_HW = _shrunk(ids_HW, cv2.INTER_NEAREST)
        return _data('png', _encoded('.png', self._palette_rgb[small_HW][..., ::-1],
                                     [cv2.IMWRITE_PNG_COMPRESSION, 9]))

    def section(self) -> dict[str, Any]:
        """Return the worst frames, the worst first, with what they were chosen by."""
        known = bool(self._by_truth.entries)
        chosen = self._by_truth if known else self._by_confidence
        return {'by': BY_TRUTH if known else BY_CONFIDENCE, 'truth': known,
                'frames': sorted(chosen.entries.values(),
                                 key=lambda entry: (entry['score'], entry['index']))}


class _Lowest:
    """The lowest scores, at most one of each second."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.entries: dict[int, dict[str, Any]] = {}

    def offer(self, time_s: float, score: float, make: Callable[[], dict[str, Any]]) -> None:
        """Keep what `make` returns if its score is among the lowest so far."""
        score = round(score, 4)
        second = int(time_s // 1)
        if second in self.entries:
            if score >= self.entries[second]['score']:
                return
        elif len(self.entries) == self._count:
            best = max(self.entries, key=lambda at: (self.entries[at]['score'],
                                                     self.entries[at]['index']))
            if score >= self.entries[best]['score']:
                return
            del self.entries[best]
        self.entries[second] = make()


def _shrunk(image: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= PICTURE_WIDTH_PX:
        return image
    size = PICTURE_WIDTH_PX, max(1, round(height * PICTURE_WIDTH_PX / width))
    return np.asarray(cv2.resize(image, size, interpolation=interpolation))


def _jpeg(frame: Frame) -> bytes:
    image_HWC = _shrunk(frame.image_HWC, cv2.INTER_AREA)
    if frame.colour == 'rgb':
        image_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    return _encoded('.jpg', image_HWC, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def _encoded(suffix: str, image: np.ndarray, options: Sequence[int]) -> bytes:
    good, data = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
    if not good:
        raise RuntimeError(f'OpenCV cannot encode {image.shape} {image.dtype} as {suffix}')
    return data.tobytes()


def _data(kind: str, content: bytes | None) -> str | None:
    return None if content is None else \
        f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
