# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Copy-paste of rare objects from other frames into a crop.

Ghiasi et al. 2021, arXiv 2012.07177, for semantic masks: an object is a connected component of a
class, taken whole out of another frame and put on plausible ground.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Sequence, Tuple

import cv2
from evit_seg.core.labels import IGNORE_INDEX, LabelMap
import numpy as np
from offline_train.config import AugmentConfig
from offline_train.data.folder import Frames

GROUND = ('background', 'debris_mud_rock_flow', 'flood_water_river_sea', 'road_railway_bridge')
"""Slugs of what people and vehicles stand, lie or drift on, as far as a label map has them."""
GROUND_PART = 0.9
"""At least this part of an object lies on ground."""
JITTER = (0.8, 1.25)
"""Range of an object's size relative to its size at the crop's zoom."""
LARGEST_PART = 0.5
"""Most of a crop's height and of its width that an object may take."""
SMALLEST_PX = 12
"""An object of fewer pixels in the crop is a speck of which nobody could say what it is."""
FRAGMENT_PART = 0.3
"""Below this part of the median area in its frame, a component is taken for a part of an object,
such as a leg behind a branch."""
PLACES = 8
"""Places tried for an object."""
MARGIN_PX = 2
"""Border around an object, in the crop, in which it fades out."""
FEATHER_PX = 0.6
"""Standard deviation of the blur of its edge."""


class Component(NamedTuple):
    """Bounding box and pixels of a connected component, in its frame."""

    top: int
    left: int
    rows: int
    columns: int
    area: int


@dataclass(frozen=True)
class Cutout:
    """An object at the crop's scale: RGB (h, w, 3), opacity 0-1 (h, w), its own pixels (h, w)."""

    pixels: np.ndarray
    alpha: np.ndarray
    own: np.ndarray


class Paster:
    """Pastes objects of some classes; which and where depends on the generator passed alone."""

    def __init__(self, frames: Frames, label_map: LabelMap, classes: Sequence[int],
                 augment: AugmentConfig) -> None:
        self._frames = frames
        self._augment = augment
        self._donors = {c: np.flatnonzero(frames.counts[:, c] > 0) for c in classes}
        self._classes = [c for c in classes if len(self._donors[c])]
        ground = [c.id for c in label_map if c.slug in GROUND] or list(range(len(label_map)))
        self._is_ground = np.zeros(256, np.uint8)
        self._is_ground[ground] = 1
        self._is_taken = np.zeros(256, np.uint8)
        self._is_taken[[*classes, IGNORE_INDEX]] = 1
        self._is_ground[self._is_taken > 0] = 0
        self._found: Dict[Tuple[int, int], List[Component]] = {}

    def paste(self, crop: np.ndarray, target: np.ndarray, frame: int,
              frame_px: Tuple[float, float], rng: np.random.Generator) -> None:
        """
        Paste up to `copy_paste_objects` objects of one other frame into a crop, in place.

        crop uint8 RGB (h, w, 3) and target uint8 (h, w) of frame number `frame`; `frame_px` is
        the height and width that the whole frame would have at the crop's zoom.
        """
        if not self._classes:
            return
        class_id = int(rng.choice(self._classes))
        donors = self._donors[class_id]
        donors = donors[donors != frame]
        if len(donors) == 0:
            return
        donor = int(rng.choice(donors))
        image, mask = self._frames.read(donor)
        scale = (frame_px[0] / mask.shape[0], frame_px[1] / mask.shape[1])
        fitting = [c for c in self._components(donor, mask, class_id)
                   if c.area * scale[0] * scale[1] >= SMALLEST_PX
                   and c.rows * scale[0] <= LARGEST_PART * crop.shape[0]
                   and c.columns * scale[1] <= LARGEST_PART * crop.shape[1]]
        wanted = int(rng.integers(1, self._augment.copy_paste_objects + 1))
        for chosen in rng.permutation(len(fitting))[:wanted]:
            matrix, size = self._draw_pose(fitting[chosen], scale, rng)
            if size[0] <= crop.shape[0] and size[1] <= crop.shape[1]:
                cutout = _cut_out(image, mask, class_id, fitting[chosen], matrix, size)
                self._put(crop, target, cutout, class_id, rng)

    def _components(self, frame: int, mask_HW: np.ndarray, class_id: int) -> List[Component]:
        """Return the components of a class that the frame's border does not cut; remembered."""
        if (frame, class_id) not in self._found:
            is_class = (mask_HW == class_id).astype(np.uint8)
            x, y, width, height = cv2.boundingRect(is_class)
            _, _, stats, _ = cv2.connectedComponentsWithStats(
                is_class[y:y + height, x:x + width], connectivity=8)
            stats[:, :2] += (x, y)
            whole = [Component(top, left, rows, columns, area)
                     for left, top, columns, rows, area in stats[1:].tolist()
                     if top > 0 and left > 0 and top + rows < mask_HW.shape[0]
                     and left + columns < mask_HW.shape[1]]
            least = FRAGMENT_PART * float(np.median([c.area for c in whole])) if whole else 0
            self._found[frame, class_id] = [c for c in whole if c.area >= least]
        return self._found[frame, class_id]

    def _draw_pose(self, component: Component, scale: Tuple[float, float],
                   rng: np.random.Generator) -> Tuple[np.ndarray, Tuple[int, int]]:
        """Return the 2x3 matrix from (x, y) of a cutout to (x, y) of its frame, and its size."""
        turns = int(rng.integers(4)) if self._augment.rotate > 0 else 0
        mirror = -1 if rng.random() < self._augment.flip else 1
        jitter = rng.uniform(*JITTER)
        scale_y, scale_x = scale[0] * jitter, scale[1] * jitter
        rows, columns = component.rows, component.columns
        if turns % 2:
            rows, columns = columns, rows
        size = (round(rows * scale_y) + 2 * MARGIN_PX, round(columns * scale_x) + 2 * MARGIN_PX)
        cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        linear = np.array([[cosine, -sine], [sine, cosine]]) @ \
            np.diag([mirror / scale_x, 1 / scale_y])
        centre = np.array([component.left + (component.columns - 1) / 2,
                           component.top + (component.rows - 1) / 2])
        offset = centre - linear @ np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
        return np.column_stack([linear, offset]), size

    def _put(self, crop: np.ndarray, target: np.ndarray, cutout: Cutout, class_id: int,
             rng: np.random.Generator) -> None:
        """Paste a cutout onto ground, in place; not at all if none of the places tried fits."""
        rows, columns = cutout.own.shape
        ground, taken = cv2.LUT(target, self._is_ground), cv2.LUT(target, self._is_taken)
        spots = ground[rows // 2:len(ground) - rows + rows // 2 + 1,
                       columns // 2:ground.shape[1] - columns + columns // 2 + 1]
        candidates = np.flatnonzero(spots)
        if len(candidates) == 0:
            return
        for chosen in rng.choice(candidates, PLACES):
            top, left = divmod(int(chosen), spots.shape[1])
            place = np.s_[top:top + rows, left:left + columns]
            if taken[place][cutout.alpha > 0].any() or \
                    ground[place][cutout.own].mean() < GROUND_PART:
                continue
            below = crop[place].astype(np.float32)
            mixed = below + cutout.alpha[..., None] * (cutout.pixels - below)
            crop[place] = mixed.round().astype(np.uint8)
            target[place][cutout.own] = class_id
            return


def _cut_out(image: np.ndarray, mask: np.ndarray, class_id: int, component: Component,
             matrix: np.ndarray, size: Tuple[int, int]) -> Cutout:
    """Return a component of a frame in the pose of `matrix`, with a soft edge."""
    top, left, rows, columns, _ = component
    box = (mask[top:top + rows, left:left + columns] == class_id).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(box, connectivity=8)
    # Parts of neighbours may reach into the box; only the component itself spans it.
    own, = (i for i in range(1, count) if tuple(stats[i, 2:4]) == (columns, rows))
    to_size, flags = size[::-1], cv2.WARP_INVERSE_MAP
    pixels = cv2.warpAffine(image, matrix, to_size, flags=cv2.INTER_LINEAR | flags,
                            borderMode=cv2.BORDER_REPLICATE)
    from_box = matrix - np.array([[0, 0, left], [0, 0, top]])
    is_own = cv2.warpAffine((labels == own).astype(np.uint8), from_box, to_size,
                            flags=cv2.INTER_NEAREST | flags)
    # Not grown first: a rim of the donor's ground would tell pasted objects from real ones.
    alpha = cv2.GaussianBlur(is_own.astype(np.float32), (3, 3), FEATHER_PX)
    return Cutout(pixels, alpha, is_own > 0)
