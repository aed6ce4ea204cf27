# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Training crops: which part of which frame, at which zoom, and how its pixels are changed.

Each sample is a pure function of (seed, index): a resumed run goes on with the crops the
uninterrupted one would have seen, whatever the number of loader processes.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap
import numpy as np
from offline_train.config import TrainConfig
from offline_train.data.copy_paste import Paster
from offline_train.data.folder import Frames
from offline_train.data.tones import change_tones, transforms
import torch
from torch.utils.data import Dataset

BLOCK_PX = 32
"""Side of the blocks among which an object is drawn, source pixels."""


@dataclass(frozen=True)
class Window:
    """What a crop shows of a frame."""

    part: Tuple[slice, slice]
    """Rows and columns of the frame, before the window is turned."""
    matrix: np.ndarray
    """3x3, maps (x, y) of the crop to (x, y) of the frame."""
    turned: bool
    frame_px: Tuple[float, float]
    """Height and width that the whole frame would have at this zoom."""


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
        transforms()  # a missing package is said now, not by a loader process
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
        self._paster = Paster(frames, label_map, self._focus, config.augment) \
            if frames is not None and config.augment.copy_paste > 0 else None

    def __len__(self) -> int:
        return self._config.optim.steps * self._config.optim.batch

    def __getitem__(self, index: int) -> Dict[str, torch.Tensor]:
        augment, stride = self._config.augment, self._config.loss.stride
        rng = np.random.default_rng((self._config.run.seed, index))
        frame, image, mask, centre = self._draw_frame(rng)
        window = self._draw_window(mask.shape, centre, rng)
        crop, target = _cut(image, mask, window, (augment.crop_width, augment.crop_height))
        labelled = self._frames is not None and frame < len(self._frames)
        if self._paster is not None and labelled and rng.random() < augment.copy_paste:
            self._paster.paste(crop, target, frame, window.frame_px, rng)
        image_CHW, target_HW = change_tones(crop, augment, rng), torch.from_numpy(target)
        matrix = window.matrix
        if rng.random() < augment.flip:
            flip = transforms().horizontal_flip
            image_CHW, target_HW = flip(image_CHW), flip(target_HW)
            matrix = matrix @ np.array([[-1, 0, crop.shape[1] - 1], [0, 1, 0], [0, 0, 1]])
        phase_y, phase_x = rng.integers(stride, size=2)
        return {'image': image_CHW.permute(1, 2, 0).contiguous(),
                'target': target_HW[phase_y::stride, phase_x::stride].contiguous(),
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
                     rng: np.random.Generator) -> Window:
        """
        Return a window around `centre` (y, x) of a frame of that shape, or anywhere.

        Its zoom is relative to the deployed, stretched size. It is turned about its middle and
        then shifted so far that it still holds `centre`; its corners may leave the frame.
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
        step_y, step_x = extent[0] / size[0], extent[1] / size[1]
        matrix = np.array([[step_x, 0, corner[1] + step_x / 2 - 0.5],
                           [0, step_y, corner[0] + step_y / 2 - 0.5], [0, 0, 1]])
        turned = augment.rotate > 0
        if turned:
            middle = ((size[1] - 1) / 2, (size[0] - 1) / 2)
            angle = rng.uniform(-augment.rotate, augment.rotate)
            matrix = matrix @ np.vstack([cv2.getRotationMatrix2D(middle, angle, 1), [0, 0, 1]])
        if turned and centre is not None:
            x, y, _ = np.linalg.solve(matrix, [centre[1], centre[0], 1])
            shift = np.eye(3)
            shift[0, 2] = x - np.clip(x, 0.1 * size[1], 0.9 * size[1])
            shift[1, 2] = y - np.clip(y, 0.1 * size[0], 0.9 * size[0])
            matrix = matrix @ shift
        part = (slice(corner[0], corner[0] + extent[0]), slice(corner[1], corner[1] + extent[1]))
        return Window(part, matrix, turned, (shape[0] / step_y, shape[1] / step_x))


def _cut(image: np.ndarray, mask: np.ndarray, window: Window,
         size: Tuple[int, int]) -> Tuple[np.ndarray, np.ndarray]:
    """
    Return what a window shows of image and mask, resampled once to `size` (width, height).

    Outside the frame the image is reflected and nothing is labelled. OpenCV does it: zoom and
    rotation are one matrix, so that a turned crop has no blank corners where the frame goes on.
    """
    if not window.turned:  # four times as fast as by the matrix, to the same pixels
        return (cv2.resize(image[window.part], size, interpolation=cv2.INTER_LINEAR),
                cv2.resize(mask[window.part], size, interpolation=cv2.INTER_NEAREST_EXACT))
    matrix = window.matrix[:2]
    crop = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REFLECT_101)
    target = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                            borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE_INDEX)
    return crop, target


def _object_centre(is_class_HW: np.ndarray, rng: np.random.Generator) -> Tuple[int, int]:
    """
    Return (y, x) of a pixel of the class, small objects as likely as large ones.

    Objects are told apart by coarse blocks, not by connected regions: a sixth of the time, and
    all that is wanted is that a crowd or a truck does not outvote a lone person.
    """
    starts = [np.arange(0, length, BLOCK_PX) for length in is_class_HW.shape]
    rows = np.logical_or.reduceat(is_class_HW, starts[0], axis=0)
    blocks = np.argwhere(np.logical_or.reduceat(rows, starts[1], axis=1)) * BLOCK_PX
    if len(blocks) == 0:
        raise ConfigError('expected pixels of the class in a frame that counts some')
    top, left = blocks[rng.integers(len(blocks))]
    block = is_class_HW[top:top + BLOCK_PX, left:left + BLOCK_PX]
    y, x = divmod(int(block.argmax()), block.shape[1])
    return int(top) + y, int(left) + x


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
