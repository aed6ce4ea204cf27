# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A split of a data set as frames to train on or to score with, checked before the first one."""
from __future__ import annotations

from typing import Tuple

import cv2
from evit_seg.core.errors import InputError
from evit_seg.core.labels import IGNORE_INDEX, NOT_FLOOD
import numpy as np
from offline_train.data.dataset import DatasetSpec
from offline_train.data.dataset_masks import MaskReader, read_image, shape_error
from offline_train.data.dataset_split import Split
from offline_train.data.folder import DecodedFrames, Pair


class DatasetReader:
    """
    The pairs of a data set by YAML, masks in the label map's ids.

    `keep_not_flood`: leave 254 in the masks, for the flood IoU; training takes it as ignored.
    """

    def __init__(self, spec: DatasetSpec, *, keep_not_flood: bool = False) -> None:
        self.classes = len(spec.label_map)
        self.identity = repr((spec.mask, spec.label_map.slugs, keep_not_flood))
        self._masks = MaskReader(spec)
        self._keep_not_flood = keep_not_flood

    def read(self, pair: Pair) -> Tuple[np.ndarray, np.ndarray]:
        """Return image, RGB uint8 (H, W, 3), and mask, uint8 (H, W) of ids and 255."""
        image, mask = read_dataset_pair(self._masks, pair)
        if not self._keep_not_flood:
            mask[mask == NOT_FLOOD] = IGNORE_INDEX
        return image, mask


class DatasetFrames(DecodedFrames):
    """
    The frames of a split, decoded at each reading.

    Opening it reads every file once, so that a bad one is named before any step is spent on it:
    InputError for the first that is cut, of the wrong kind or size, or holds unknown values.
    """

    def __init__(self, spec: DatasetSpec, split: Split, *, keep_not_flood: bool = False) -> None:
        super().__init__(split.pairs, DatasetReader(spec, keep_not_flood=keep_not_flood))


def read_dataset_pair(reader: MaskReader, pair: Pair) -> Tuple[np.ndarray, np.ndarray]:
    """Return the RGB image (H, W, 3) and mask (H, W) of a pair; InputError names a bad file."""
    image = read_image(pair.image)
    mask = reader.read(pair.mask)
    wrong = shape_error(image, mask.ids_HW)
    if wrong:
        raise InputError(f'{pair.mask}: {wrong}')
    if mask.unknown:
        value, pixels = max(mask.unknown.items(), key=lambda item: item[1])
        raise InputError(f'{pair.mask}: expected values the data set explains, got '
                         f'{value[0] if len(value) == 1 else list(value)} on {pixels} pixels')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), mask.ids_HW
