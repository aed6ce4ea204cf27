# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Colour alone must not solve the synthetic scenes: shape and texture have to be looked at."""
from __future__ import annotations

from typing import Iterator, Tuple

from evit_seg.core.metrics import confusion_matrix, dataset_scores
import numpy as np
from offline_train.data.synth_palette import class_ids
from offline_train.data.synth_scenes import scenes_of_world
import pytest

COLOUR_CEILING = 0.25
"""Dataset mIoU a per-pixel colour classifier must stay below; the bundle's bar is 0.60."""
WORLDS, CLASSES = 16, 14


def _scenes(seed: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    for index in range(WORLDS):
        for picture, _ in scenes_of_world(seed, index, (160, 90), views=3):
            yield picture.rgb, picture.ids


def _bins(rgb_HWC: np.ndarray, bits: int) -> np.ndarray:
    red, green, blue = (rgb_HWC[..., c].astype(np.int64) >> (8 - bits) for c in range(3))
    return (red << 2 * bits) | (green << bits) | blue


@pytest.mark.parametrize('bits', [4, 5])
@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_a_colour_classifier_stays_far_below_a_network(train, test, bits, balance):
    counts = np.zeros((1 << 3 * bits, CLASSES))
    for rgb, ids in train:
        np.add.at(counts, (_bins(rgb, bits).ravel(), ids.ravel()), 1)
    # balance 0: the most frequent class of a colour; 1: as if all classes were equally frequent
    best = (counts / np.maximum(counts.sum(0), 1) ** balance).argmax(1).astype(np.uint8)
    matrix = sum(confusion_matrix(ids, best[_bins(rgb, bits)], CLASSES) for rgb, ids in test)
    assert (matrix.sum(1) > 0).all()  # every class is there to be scored
    assert dataset_scores(matrix)['miou'] < COLOUR_CEILING


@pytest.fixture(scope='module')
def train():
    return list(_scenes(101))


@pytest.fixture(scope='module')
def test():
    return list(_scenes(202))


def test_every_class_is_in_the_scenes(train):
    shares = np.bincount(np.concatenate([ids.ravel() for _, ids in train]), minlength=CLASSES)
    assert len(class_ids()) == CLASSES and (shares > 0).all()
