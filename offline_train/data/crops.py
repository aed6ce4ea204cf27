# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Training crops: which part of which frame, at which zoom, and how its pixels are changed.

Each sample is a pure function of (seed, index): a resumed run goes on with the crops the
uninterrupted one would have seen, whatever the number of loader processes.
"""
from __future__ import annotations

from typing import Dict, Tuple

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap
import numpy as np
from offline_train.config import AugmentConfig, TrainConfig
from offline_train.data.folder import Frames
import torch
from torch.utils.data import Dataset

BLOCK_PX = 32
"""Side of the blocks among which an object is drawn, source pixels."""


class CropDataset(Dataset[Dict[str, torch.Tensor]]):
    """
    Crops of frames, each a dict of tensors.

    image:  uint8 RGB (h, w, 3)
    target: uint8 (h / s, w / s) of ids and 255, s the loss stride
    frame:  int64 scalar, index of the frame; unlabelled ones count on after the labelled
    window: float32 (6,), rows of the 2x3 matrix that maps (x, y) of the crop to (x, y) of the
            frame, centres of pixels at whole numbers as in cv2.warpAffine

    A part of them is cut around objects of the focus classes, another around pixels of a class
    drawn uniformly, the rest anywhere (class-balanced crops). `data.unlabeled_fraction` of all
    come from `unlabeled`, from anywhere, with a target of 255.
    """

    def __init__(self, frames: Frames | None, label_map: LabelMap, config: TrainConfig,
                 unlabeled: Frames | None = None) -> None:
        if frames is None and unlabeled is None:
            raise ConfigError('data: expected frames with or without labels, got neither')
        self._frames = frames
        self._unlabeled = unlabeled
        self._config = config
        counts = frames.counts if frames is not None else np.zeros((0, len(label_map)), np.int64)
        self._focus = [label_map.by_slug(slug).id for slug in config.augment.focus]
        self._present = np.flatnonzero(counts.sum(axis=0) > 0)
        self._with_class = {int(c): np.flatnonzero(counts[:, c] > 0)
                            for c in range(len(label_map))}
        if frames is not None and len(self._present) == 0:
            raise ConfigError('data.train: expected labelled pixels, every mask is ignored')

    def __len__(self) -> int:
        return self._config.optim.steps * self._config.optim.batch

    def __getitem__(self, index: int) -> Dict[str, torch.Tensor]:
        rng = np.random.default_rng((self._config.run.seed, index))
        frame, image, mask, centre = self._draw_frame(rng)
        window = self._draw_window(mask.shape, centre, rng)
        crop, target, matrix = self._cut(image, mask, window)
        if rng.random() < self._config.augment.flip:
            crop, target = crop[:, ::-1], target[:, ::-1]
            matrix = matrix @ np.array([[-1, 0, crop.shape[1] - 1], [0, 1, 0], [0, 0, 1]])
        crop = change_tones(np.ascontiguousarray(crop), self._config.augment, rng)
        stride = self._config.loss.stride
        phase_y, phase_x = rng.integers(stride, size=2)
        target = np.ascontiguousarray(target[phase_y::stride, phase_x::stride])
        return {'image': torch.from_numpy(crop), 'target': torch.from_numpy(target),
                'frame': torch.tensor(frame, dtype=torch.int64),
                'window': torch.from_numpy(matrix[:2].astype(np.float32).ravel())}

    def _draw_frame(self, rng: np.random.Generator) \
            -> Tuple[int, np.ndarray, np.ndarray, Tuple[int, int] | None]:
        """Return a frame's index, image, mask and the (y, x) its crop must hold, if any."""
        frames, unlabeled = self._frames, self._unlabeled
        labelled = 0 if frames is None else len(frames)
        part = self._config.data.unlabeled_fraction
        if unlabeled is not None and (frames is None or rng.random() < part):
            chosen = int(rng.integers(len(unlabeled)))
            image, _ = unlabeled.read(chosen)
            mask = np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
            return labelled + chosen, image, mask, None
        assert frames is not None  # the constructor saw to it
        class_id = self._draw_class(rng)
        candidates = self._with_class.get(class_id, np.arange(labelled))
        chosen = int(rng.choice(candidates))
        image, mask = frames.read(chosen)
        centre = _object_centre(mask == class_id, rng) if class_id >= 0 else None
        return chosen, image, mask, centre

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

    def _draw_window(self, shape: Tuple[int, ...], centre: Tuple[int, int] | None,
                     rng: np.random.Generator) -> Tuple[int, int, int, int]:
        """
        Return a window around `centre` (y, x) as y, x, rows and columns of the frame.

        Its zoom is relative to the deployed, stretched size.
        """
        augment, deployed = self._config.augment, self._config.input
        size = (augment.crop_height, augment.crop_width)
        low = max(augment.scale_min, size[0] / deployed.height, size[1] / deployed.width)
        zoom = float(np.exp(rng.uniform(np.log(low), np.log(max(augment.scale_max, low)))))
        corner, extent = [], []
        for axis, full in enumerate((deployed.height, deployed.width)):
            length = shape[axis]
            span = min(round(size[axis] * length / (full * zoom)), length)
            start = int(rng.integers(length - span + 1))
            if centre is not None:  # anywhere in the window but its outer tenth
                start = centre[axis] - round(span * rng.uniform(0.1, 0.9))
                start = min(max(start, 0), length - span)
            corner.append(start)
            extent.append(span)
        return corner[0], corner[1], extent[0], extent[1]

    def _cut(self, image: np.ndarray, mask: np.ndarray, window: Tuple[int, int, int, int]) \
            -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a window of image and mask at the crop's size, and the 3x3 matrix back."""
        top, left, rows, columns = window
        size = (self._config.augment.crop_width, self._config.augment.crop_height)
        part = np.s_[top:top + rows, left:left + columns]
        crop = cv2.resize(image[part], size, interpolation=cv2.INTER_LINEAR)
        target = cv2.resize(mask[part], size, interpolation=cv2.INTER_NEAREST_EXACT)
        step_x, step_y = columns / size[0], rows / size[1]
        matrix = np.array([[step_x, 0, left + step_x / 2 - 0.5],
                           [0, step_y, top + step_y / 2 - 0.5], [0, 0, 1]])
        return crop, target, matrix


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
