# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
How steady the answers are from frame to frame: the report's `flicker`.

Masks are compared at the network's grid, cell by cell, over consecutive processed frames of an
epoch. Nothing follows the camera: what moves through the image changes cells as well, so the
numbers compare two bundles on one bag, never two bags. With truth masks, what changed in the
truth too is taken out.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evit_seg.core.alerts import AlertRule, EPOCH_BACK_S
from evit_seg.core.appearances import covered_minutes
from evit_seg.core.labels import LabelMap, NOT_FLOOD
from evit_seg.core.metrics import resize_truth
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.observer import SeenFrame
import numpy as np

NOTE = ("changes of class from frame to frame at the network's grid, the camera's motion not "
        'taken out: compare bundles on one bag, not bags')
LONGEST_DROPOUT = 2
"""Frames without evidence between frames with it that still count as a drop-out."""


@dataclass(frozen=True)
class _Pair:
    """Truth and mask of one frame at the grid; `number` counts the processed frames."""

    number: int
    truth: np.ndarray
    mask: np.ndarray


class _Dropouts:
    """Counts the short gaps in the evidence of one class."""

    def __init__(self) -> None:
        self.frames = 0
        self.counts = dict.fromkeys(range(1, LONGEST_DROPOUT + 1), 0)
        self._missing: int | None = None  # frames since the last evidence of the epoch

    def start_epoch(self) -> None:
        self._missing = None

    def take(self, evidence: bool) -> None:
        if not evidence:
            if self._missing is not None:
                self._missing += 1
            return
        self.frames += 1
        if self._missing in self.counts:
            self.counts[self._missing] += 1
        self._missing = 0


class Flicker:
    """Makes the report's `flicker`; keeps a few masks at the grid, and the stamps."""

    key = 'flicker'
    topics: tuple[str, ...] = ()

    def __init__(self, label_map: LabelMap, rules: Sequence[AlertRule]) -> None:
        self._label_map = label_map
        self._rules = rules
        self._stamps_ns: list[int] = []
        self._newest_ns = 0
        self._number = 0  # of the processed frame; an epoch leaves one number out
        self._grid_hw: tuple[int, int] | None = None
        self._waiting: dict[int, tuple[int, tuple[int, int]]] = {}  # number and grid, by frame
        self._mask: np.ndarray | None = None
        self._pair: _Pair | None = None
        self._frame_pairs = self._truth_pairs = self._compared = self._consistent = 0
        # of each class: cells, changed ones; where there is truth: cells, changed beyond it
        self._counts = np.zeros((4, len(label_map)), np.int64)
        self._dropouts = [_Dropouts() for _ in rules]

    def take_message(self, message: BagMessage) -> None:
        """Nothing: it asks for no topic."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Compare the frame's mask with that of the frame before."""
        self._start_frame(seen.stamp_ns)
        y0, y1, x0, x1 = seen.result.geometry.content_cells()
        grid_hw = (y1 - y0, x1 - x0)
        self._grid_hw = self._grid_hw or grid_hw
        self._waiting[seen.index] = (self._number, grid_hw)
        mask = resize_truth(seen.result.mask_HW, grid_hw).copy()
        if self._mask is not None and self._mask.shape == mask.shape:
            self._frame_pairs += 1
            changed = self._mask != mask
            self._counts[0] += self._count(self._mask, mask)
            self._counts[1] += self._count(self._mask[changed], mask[changed])
        self._mask = mask
        for rule, dropouts in zip(self._rules, self._dropouts, strict=True):
            dropouts.take(bool(seen.regions.get(rule.class_id)))

    def _start_frame(self, stamp_ns: int) -> None:
        self._number += 1
        if self._stamps_ns and self._newest_ns - stamp_ns > EPOCH_BACK_S * 1e9:
            self._number += 1
            self._mask, self._newest_ns = None, stamp_ns
            for dropouts in self._dropouts:
                dropouts.start_epoch()
        self._newest_ns = max(self._newest_ns, stamp_ns)
        self._stamps_ns.append(stamp_ns)

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Compare what changed in the mask with what changed in the truth."""
        number, grid_hw = self._waiting.pop(index)
        now = _Pair(number, *(resize_truth(ids, grid_hw).copy() for ids in (truth_HW, mask_HW)))
        before, self._pair = self._pair, now
        if before is None or before.number + 1 != number or before.mask.shape != now.mask.shape:
            return
        known = (before.truth < NOT_FLOOD) & (now.truth < NOT_FLOOD)
        truth, truth_now = before.truth[known], now.truth[known]
        mask, mask_now = before.mask[known], now.mask[known]
        self._truth_pairs += 1
        self._compared += mask.size
        self._consistent += int(np.count_nonzero((mask != mask_now) == (truth != truth_now)))
        self._counts[2] += self._count(mask, mask_now)
        left, came = ((mask != mask_now) & ((truth == ids) == (truth_now == ids))
                      for ids in (mask, mask_now))
        self._counts[3] += self._count(mask[left], mask_now[came])

    def _count(self, *masks: np.ndarray) -> np.ndarray:
        """Return how many cells each class has in all masks together."""
        classes = len(self._label_map)
        return np.sum([np.bincount(ids.reshape(-1), minlength=classes) for ids in masks], axis=0)

    def section(self) -> dict[str, Any]:
        """Return the report's `flicker`."""
        minutes = covered_minutes(self._stamps_ns)
        return {
            'grid_hw': list(self._grid_hw) if self._grid_hw else None,
            'frame_pairs': self._frame_pairs, 'truth_pairs': self._truth_pairs,
            'minutes': minutes, 'note': NOTE,
            'consistency': _ratio(self._consistent, self._compared),
            'consistent_cells': self._consistent, 'compared_cells': self._compared,
            'classes': [{
                'slug': entry.slug, 'class_id': entry.id, 'cells': cells,
                'changed_cells': changed, 'flicker': _ratio(changed, cells),
                'truth_cells': truth_cells, 'changed_beyond_truth_cells': beyond,
                'beyond_truth': _ratio(beyond, truth_cells)}
                for entry, (cells, changed, truth_cells, beyond)
                in zip(self._label_map, self._counts.T.tolist(), strict=True)],
            'alert_classes': [{
                'slug': rule.slug, 'class_id': rule.class_id, 'evidence_frames': dropouts.frames,
                **{f'dropouts_{length}': count for length, count in dropouts.counts.items()},
                'dropouts_per_min': _ratio(sum(dropouts.counts.values()), minutes)}
                for rule, dropouts in zip(self._rules, self._dropouts, strict=True)]}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
