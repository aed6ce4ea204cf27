# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The second pass over a played bag: score the recorded masks, draw the video and the poster."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evit_seg.core.alerts import Alert, AlertRule
from evit_seg.core.errors import FrameError
from evit_seg.core.labels import LabelMap
from evit_seg.core.metrics import resize_truth, ScoreAccumulator
from evit_seg.replay.bag import Bag, BagMessage, decode_frame, decode_label, ImageTopic
from evit_seg.replay.live_alerts import alerts_on_mask
from evit_seg.replay.overlay_video import (
    overlay,
    OverlayVideo,
    poster,
    VIDEO_WIDTH_PX,
    write_image,
)
from evit_seg.replay.recording import MaskSpool
from evit_seg.replay.run import Stamps
from evit_seg.replay.truth import MaskMatcher, pair_stamps
import numpy as np

SLOWEST_HZ, FASTEST_HZ = 1.0, 60.0
VISIBLE_SHARE = 0.005
"""A class counts as one to be seen in the poster from this share of the pixels on."""
ENOUGH_REGIONS = 4


class Pictures:
    """Takes the bag's messages once more, with the masks the node gave for them."""

    def __init__(self, labels: LabelMap, rules: Sequence[AlertRule],
                 alerts: Mapping[int, tuple[Alert, ...]], masks: MaskSpool, stamps: Stamps,
                 out: Path) -> None:
        self.scores = ScoreAccumulator(len(labels)) if stamps.truth_ns else None
        self._labels = labels
        self._min_pixels = {rule.class_id: rule.min_pixels for rule in rules}
        self._first_id = rules[0].class_id if rules else None  # what the poster should show
        self._alerts = alerts
        self._masks = masks
        pairs = pair_stamps(stamps.image_ns, stamps.truth_ns)
        self._image_of = {truth: image for image, truth in pairs.items()}
        self._matcher = MaskMatcher(pairs)
        self._out = out
        self._video = OverlayVideo(out / 'overlay.mp4', video_rate_hz(stamps.image_ns))
        self._images = 0
        self._truths = 0
        self._interest: dict[int, float] = {}
        self._accuracy: dict[int, float] = {}

    def take_image(self, message: BagMessage) -> None:
        """Draw one frame, and score its mask if its truth is there."""
        index, self._images = self._images, self._images + 1
        try:
            frame = decode_frame(message)
        except FrameError:  # the node counted it as malformed
            self._matcher.give_up_image(index)
            return
        mask_HW = self._masks.get(index)
        shown = () if mask_HW is None else self._shown(index, mask_HW)
        self._video.add(overlay(frame, mask_HW, self._labels, shown, VIDEO_WIDTH_PX))
        if mask_HW is None:
            self._matcher.give_up_image(index)
            return
        regions = sum(len(alert.regions) for alert in shown if alert.class_id == self._first_id)
        classes = np.bincount(mask_HW.reshape(-1)) >= VISIBLE_SHARE * mask_HW.size
        self._interest[index] = (1 + min(regions, ENOUGH_REGIONS)) * int(classes.sum())
        truth_HW = self._matcher.add_prediction(index, mask_HW)
        if truth_HW is not None:
            self._score(index, truth_HW, mask_HW)

    def take_truth(self, message: BagMessage) -> None:
        """Score the mask of one label if that is there."""
        index, self._truths = self._truths, self._truths + 1
        try:
            truth_HW = decode_label(message)
        except FrameError:
            self._matcher.give_up_truth(index)
            return
        mask_HW = self._matcher.add_truth(index, truth_HW)
        if mask_HW is not None:
            self._score(self._image_of[index], truth_HW, mask_HW)

    def _shown(self, index: int, mask_HW: np.ndarray) -> tuple[Alert, ...]:
        return alerts_on_mask(self._alerts.get(index, ()), mask_HW, self._min_pixels)

    def _score(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        truth_HW = resize_truth(truth_HW, (mask_HW.shape[0], mask_HW.shape[1]))
        if self.scores is not None:
            self.scores.add(truth_HW, mask_HW)
        boxes = [(region, alert.class_id) for alert in self._shown(index, mask_HW)
                 for region in alert.regions]
        right = sum(bool((truth_HW[r.y:r.y + r.h, r.x:r.x + r.w] == class_id).any())
                    for r, class_id in boxes)
        self._accuracy[index] = float(np.mean(truth_HW == mask_HW)) * right / max(1, len(boxes))

    def finish(self, bag: Bag, image: ImageTopic) -> list[str]:
        """Finish the video and draw the poster; return the names of the files."""
        self._video.close()
        best = max(self._interest,
                   key=lambda index: (self._interest[index] * self._accuracy.get(index, 1.0)))
        for index, message in enumerate(bag.messages([image.name])):
            mask_HW = self._masks.get(index) if index == best else None
            if mask_HW is not None:
                picture = poster(decode_frame(message), mask_HW, self._labels,
                                 self._shown(index, mask_HW))
                write_image(self._out / 'poster.png', picture)
                break
        return ['report.json', 'overlay.mp4', 'poster.png', 'node.log']


def video_rate_hz(stamps_ns: Sequence[int]) -> float:
    """Return the rate at which a video of frames with these stamps moves as they did."""
    ordered_ns = sorted(stamps_ns)
    steps_ns = sorted(after - before for before, after in zip(ordered_ns, ordered_ns[1:]))
    middle_ns = steps_ns[len(steps_ns) // 2] if steps_ns else 0
    return min(max(1e9 / middle_ns, SLOWEST_HZ), FASTEST_HZ) if middle_ns else SLOWEST_HZ
