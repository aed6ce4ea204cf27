# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Training crops: which part of which frame, at which zoom, and how its pixels are changed.

Each sample is a pure function of (seed, index): a resumed run goes on with the crops the
uninterrupted one would have seen, whatever the number of loader processes.
"""
from __future__ import annotations

from typing import Tuple

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelMap
import numpy as np
from offline_train.config import AugmentConfig, TrainConfig
from offline_train.data.folder import Frames
import torch
from torch.utils.data import Dataset

BLOCK_PX = 32
"""Side of the blocks among which an object is drawn, source pixels."""


class CropDataset(Dataset[Tuple[torch.Tensor, torch.Tensor]]):
    """
    Crops of frames: image uint8 RGB (h, w, 3), target uint8 (h / s, w / s), s the loss stride.

    A part of them is cut around objects of the focus classes, another around pixels of a class
    drawn uniformly, the rest anywhere (class-balanced crops).
    """

    def __init__(self, frames: Frames, label_map: LabelMap, config: TrainConfig) -> None:
        self._frames = frames
        self._config = config
        self._focus = [label_map.by_slug(slug).id for slug in config.augment.focus]
        self._present = np.flatnonzero(frames.counts.sum(axis=0) > 0)
        self._with_class = {int(c): np.flatnonzero(frames.counts[:, c] > 0)
                            for c in range(len(label_map))}
        if len(self._present) == 0:
            raise ConfigError('data.train: expected labelled pixels, every mask is ignored')

    def __len__(self) -> int:
        return self._config.optim.steps * self._config.optim.batch

    def __getitem__(self, index: int) -> Tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self._config.run.seed, index))
        class_id = self._draw_class(rng)
        candidates = self._with_class.get(class_id, np.arange(len(self._frames)))
        image, mask = self._frames.read(int(rng.choice(candidates)))
        centre = _object_centre(mask == class_id, rng) if class_id >= 0 else None
        crop, target = self._cut(image, mask, centre, rng)
        if rng.random() < self._config.augment.flip:
            crop, target = crop[:, ::-1], target[:, ::-1]
        crop = change_tones(np.ascontiguousarray(crop), self._config.augment, rng)
        phase_y, phase_x = rng.integers(self._config.loss.stride, size=2)
        stride = self._config.loss.stride
        target = np.ascontiguousarray(target[phase_y::stride, phase_x::stride])
        return torch.from_numpy(crop), torch.from_numpy(target)

    def _draw_class(self, rng: np.random.Generator) -> int:
        """Return the class a crop is cut around, -1 for anywhere."""
        augment = self._config.augment
        drawn = rng.random()
        focus = [c for c in self._focus if len(self._with_class[c])]
        if drawn < augment.focus_fraction and focus:
            return int(rng.choice(focus))
        if drawn < augment.focus_fraction + augment.balanced_fraction:
            return int(rng.choice(self._present))
        return -1

    def _cut(self, image: np.ndarray, mask: np.ndarray, centre: Tuple[int, int] | None,
             rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
        """Cut a window around `centre` (y, x), zoomed relative to the deployed, stretched size."""
        augment, deployed = self._config.augment, self._config.input
        size = (augment.crop_height, augment.crop_width)
        low = max(augment.scale_min, size[0] / deployed.height, size[1] / deployed.width)
        zoom = float(np.exp(rng.uniform(np.log(low), np.log(max(augment.scale_max, low)))))
        corner, extent = [], []
        for axis, full in enumerate((deployed.height, deployed.width)):
            length = mask.shape[axis]
            span = min(round(size[axis] * length / (full * zoom)), length)
            start = rng.integers(length - span + 1)
            if centre is not None:  # anywhere in the window but its outer tenth
                start = centre[axis] - round(span * rng.uniform(0.1, 0.9))
                start = min(max(start, 0), length - span)
            corner.append(int(start))
            extent.append(span)
        window = np.s_[corner[0]:corner[0] + extent[0], corner[1]:corner[1] + extent[1]]
        crop = cv2.resize(image[window], size[::-1], interpolation=cv2.INTER_LINEAR)
        target = cv2.resize(mask[window], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return crop, target


def _object_centre(is_class_HW: np.ndarray, rng: np.random.Generator) -> Tuple[int, int]:
    """
    Return (y, x) of a pixel of the class, small objects as likely as large ones.

    Objects are told apart by coarse blocks, not by connected regions: a sixth of the time, and
    all that is wanted is that a crowd or a truck does not outvote a lone person.
    """
    rows, columns = np.divmod(np.flatnonzero(is_class_HW), is_class_HW.shape[1])
    if len(rows) == 0:
        raise ConfigError('expected pixels of the class in a frame that counts some')
    _, first = np.unique((rows // BLOCK_PX) * 65536 + columns // BLOCK_PX, return_index=True)
    chosen = int(first[rng.integers(len(first))])
    return int(rows[chosen]), int(columns[chosen])


def change_tones(crop: np.ndarray, augment: AugmentConfig,
                 rng: np.random.Generator) -> np.ndarray:
    """Return the RGB uint8 crop with changed gain, gamma, saturation, sometimes degraded."""
    levels = np.arange(256, dtype=np.float32)
    gamma = np.exp(rng.uniform(-augment.tone, augment.tone))
    contrast = 1 + rng.uniform(-augment.tone, augment.tone)
    gains = 1 + rng.uniform(-augment.tone / 3, augment.tone / 3, 3)
    shift = rng.uniform(-augment.brightness, augment.brightness)
    base = 255 * (levels / 255) ** gamma
    curves = ((base[:, None] - 128) * contrast + 128) * gains + shift
    crop = cv2.LUT(crop, np.clip(curves, 0, 255).astype(np.uint8)[None])
    saturation = 1 + rng.uniform(-augment.saturation, augment.saturation)
    grey = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    crop = cv2.addWeighted(crop, saturation, grey, 1 - saturation, 0)
    if rng.random() < augment.degrade:
        crop = cv2.GaussianBlur(crop, (3, 3), rng.uniform(0.3, 0.8))
    if rng.random() < augment.degrade:
        noise = rng.integers(-12, 13, (*crop.shape[:2], 1), dtype=np.int16)
        crop = np.clip(crop.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    if rng.random() < augment.degrade:
        quality = int(rng.integers(40, 95))
        _, coded = cv2.imencode('.jpg', crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
        crop = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return crop


def class_weights(counts: np.ndarray, power: float, maximum: float) -> np.ndarray:
    """
    Return a weight per class, frequency ** -power, scaled to mean 1 over the present classes.

    counts: (classes,) pixels. Weights above `maximum` are cut; absent classes get 1.
    """
    present = counts > 0
    weights = np.ones(len(counts), np.float32)
    raw = (counts[present] / counts.sum()) ** -power
    weights[present] = np.minimum(raw / raw.mean(), maximum)
    return weights
