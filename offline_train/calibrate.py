# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Temperature scaling: one number that makes the probabilities honest (Guo et al. 2017)."""
from __future__ import annotations

from typing import Callable

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import IGNORE_INDEX
import numpy as np
from offline_train.config import InputConfig
from offline_train.data.folder import Frames
import torch
from torch import Tensor

MAX_CELLS_PER_FRAME = 2000


@torch.no_grad()
def fit_temperature(network: Callable[[Tensor], Tensor], frames: Frames, config: InputConfig,
                    stride: int, seed: int = 0) -> float:
    """
    Return the temperature with the least negative log likelihood on the network's grid.

    network: uint8 (1, H, W, 3) -> logits. The truth of a cell is the label at its centre; a fixed
    random part of the cells of each frame is used, which is plenty for one number.
    """
    rng = np.random.default_rng(seed)
    size = (config.width, config.height)
    chosen_logits, chosen_truth = [], []
    for index in range(len(frames)):
        image, mask = frames.read(index)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        truth = torch.from_numpy(mask[stride // 2::stride, stride // 2::stride].reshape(-1).copy())
        logits = network(torch.from_numpy(image)[None])[0].flatten(1).T  # (cells, classes)
        labelled = np.flatnonzero(truth.numpy() != IGNORE_INDEX)
        cells = torch.from_numpy(rng.permutation(labelled)[:MAX_CELLS_PER_FRAME])
        chosen_logits.append(logits[cells])
        chosen_truth.append(truth[cells].long())
    all_logits, all_truth = torch.cat(chosen_logits), torch.cat(chosen_truth)
    if len(all_truth) == 0:
        raise ConfigError('temperature: expected labelled pixels in the validation frames')
    return _least(lambda t: float(torch.nn.functional.cross_entropy(all_logits / t, all_truth)))


def _least(cost: Callable[[float], float], low: float = 0.2, high: float = 5.0) -> float:
    """Return the minimum of a unimodal cost over log temperature (golden section search)."""
    ratio = (5 ** 0.5 - 1) / 2
    a, b = np.log(low), np.log(high)
    for _ in range(30):
        left, right = b - ratio * (b - a), a + ratio * (b - a)
        if cost(float(np.exp(left))) < cost(float(np.exp(right))):
            b = right
        else:
            a = left
    return round(float(np.exp((a + b) / 2)), 4)
