# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The three scores, never mixed up: dataset mIoU, the paper's score and LPCV's accuracy.

Truth 255 (unlabelled) is taken out before any matrix; 254 ('anything but flood') too, except in
the binary flood IoU. Pure functions on arrays and matrices, and one thin accumulator.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple, TypedDict

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, NOT_FLOOD
import numpy as np

FLOOD_ID = 7
"""The class of the binary flood IoU in LPCV 2023's label map."""


def confusion_matrix(truth_HW: np.ndarray, predicted_HW: np.ndarray,
                     num_classes: int) -> np.ndarray:
    """
    Return the pixel counts, int64 (C, C): rows are the truth, columns the prediction.

    Both masks hold class ids of one size and integer type; truth 254 and 255 are left out.
    InputError for masks of different sizes or an id that is no class.
    """
    _check_masks(truth_HW, predicted_HW)
    valid_HW = (truth_HW != IGNORE_INDEX) & (truth_HW != NOT_FLOOD)
    truth = truth_HW[valid_HW].astype(np.int64)
    predicted = predicted_HW[valid_HW].astype(np.int64)
    for name, ids in (('truth', truth), ('prediction', predicted)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise InputError(f'{name}: expected class ids 0 to {num_classes - 1}, got '
                             f'{int(ids.min())} to {int(ids.max())}; is it a mask of ids, and of '
                             'this label map?')
    cells = np.bincount(truth * num_classes + predicted, minlength=num_classes ** 2)
    return cells.reshape(num_classes, num_classes)


class DatasetScores(TypedDict):
    """
    Scores of one confusion matrix over all images; None where nothing defines them.

    `iou`, `dice` and `recall` are None for a class without truth pixels, `precision` for one that
    was never predicted. The means are over the classes that have truth pixels: a class that was
    predicted but is not in the truth counts as misses of the others, and is not in the mean.
    """

    miou: Optional[float]
    mean_dice: Optional[float]
    accuracy: Optional[float]
    iou: List[Optional[float]]
    dice: List[Optional[float]]
    precision: List[Optional[float]]
    recall: List[Optional[float]]


def dataset_scores(matrix: np.ndarray) -> DatasetScores:
    """Return score 1, the dataset mIoU, and what else one (C, C) matrix over all images tells."""
    hits = np.diag(matrix)
    truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    there = truth > 0
    iou = _ratios(hits, truth + predicted - hits, there)
    dice = _ratios(2 * hits, truth + predicted, there)
    total = int(matrix.sum())
    return DatasetScores(
        miou=_mean(iou), mean_dice=_mean(dice),
        accuracy=float(hits.sum() / total) if total else None, iou=iou, dice=dice,
        precision=_ratios(hits, predicted, predicted > 0), recall=_ratios(hits, truth, there))


def paper_score(miou: float, seconds_per_image: float) -> float:
    """Return score 2, the paper's: dataset mIoU / seconds per image (arXiv 2309.02617)."""
    return _per_second(miou, seconds_per_image)


def lpcv_dice(matrix: np.ndarray) -> float:
    """
    Return LPCV's accuracy of one image from its own (C, C) matrix; NaN without any pixel.

    Dice_c = 2 TP / (row + column); classes absent from both are left out, the mean is over the
    rest, Background included. One false pixel of an absent class costs an image of k classes
    k / (k + 1).
    """
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    seen = both > 0
    if not seen.any():
        return float('nan')
    return float(np.mean(2.0 * np.diag(matrix)[seen] / both[seen]))


def lpcv_score(dice: float, seconds_per_image: float) -> float:
    """Return score 3, LPCV's: the mean over images of `lpcv_dice` / seconds per image."""
    return _per_second(dice, seconds_per_image)


def flood_counts(truth_HW: np.ndarray, predicted_HW: np.ndarray,
                 flood_id: int = FLOOD_ID) -> Tuple[int, int, int]:
    """
    Return (true positives, false positives, false negatives) of flood against all else.

    Truth 254 is 'anything but flood' and counts here; 255 is left out. Pixels.
    """
    _check_masks(truth_HW, predicted_HW)
    valid_HW = truth_HW != IGNORE_INDEX
    truth, predicted = truth_HW == flood_id, (predicted_HW == flood_id) & valid_HW
    return (int(np.count_nonzero(truth & predicted)), int(np.count_nonzero(predicted & ~truth)),
            int(np.count_nonzero(truth & ~predicted)))


def flood_iou(counts: Tuple[int, int, int]) -> Optional[float]:
    """Return the binary IoU of summed `flood_counts`; None without flood in truth and mask."""
    union = sum(counts)
    return counts[0] / union if union else None


def resize_truth(truth_HW: np.ndarray, size_hw: Tuple[int, int]) -> np.ndarray:
    """
    Return the truth at another size by its nearest pixel centre; no id is ever mixed.

    'Compared at 512x512' means this for the truth and a mask made at 512x512.
    """
    if min(size_hw) < 1 or min(truth_HW.shape) < 1:
        raise ConfigError(f'size: expected at least 1x1, got {truth_HW.shape!r} to {size_hw!r}')
    if truth_HW.shape == tuple(size_hw):
        return truth_HW
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new)
                     for old, new in zip(truth_HW.shape, size_hw))
    return np.asarray(truth_HW[rows[:, None], columns])


class ScoreAccumulator:
    """Sum what the scores need, image by image; memory does not grow with their number."""

    def __init__(self, num_classes: int, flood_id: int = FLOOD_ID) -> None:
        self.num_classes = num_classes
        self.flood_id = flood_id
        self.matrix = np.zeros((num_classes, num_classes), np.int64)
        self.images = 0
        self._dice_sum = 0.0
        self._dice_images = 0
        self._flood = (0, 0, 0)

    def add(self, truth_HW: np.ndarray, predicted_HW: np.ndarray) -> None:
        """Add one image: masks of one size as in `confusion_matrix`."""
        matrix = confusion_matrix(truth_HW, predicted_HW, self.num_classes)
        tp, fp, fn = flood_counts(truth_HW, predicted_HW, self.flood_id)
        self.matrix += matrix
        self.images += 1
        self._flood = (self._flood[0] + tp, self._flood[1] + fp, self._flood[2] + fn)
        dice = lpcv_dice(matrix)
        if not np.isnan(dice):
            self._dice_sum += dice
            self._dice_images += 1

    def totals(self) -> Dict[str, Any]:
        """
        Return the sums that all scores come from, as JSON can hold them, for `add_totals`.

        `confusion` is the matrix, its rows the truth; `flood_px` is as `flood_counts`.
        """
        return {'images': self.images, 'confusion': self.matrix.tolist(),
                'lpcv_dice_sum': self._dice_sum, 'lpcv_images': self._dice_images,
                'flood_px': list(self._flood)}

    def add_totals(self, totals: Dict[str, Any]) -> None:
        """Add what another accumulator of the same classes has summed; see `totals`."""
        matrix = np.array(totals['confusion'], np.int64)
        if matrix.shape != self.matrix.shape:
            raise ConfigError(f'confusion: expected {self.matrix.shape}, got {matrix.shape}; are '
                              'these scores of one label map?')
        self.matrix += matrix
        self.images += totals['images']
        self._dice_sum += totals['lpcv_dice_sum']
        self._dice_images += totals['lpcv_images']
        tp, fp, fn = totals['flood_px']
        self._flood = (self._flood[0] + tp, self._flood[1] + fp, self._flood[2] + fn)

    def result(self, label_map: LabelMap, seconds_per_image: Optional[float] = None
               ) -> Dict[str, Any]:
        """
        Return the scores as JSON can hold them; undefined ones, and those by time, are None.

        ConfigError if the label map has another number of classes than the matrix.
        """
        if len(label_map) != self.num_classes:
            raise ConfigError(f'label map: expected {self.num_classes} classes, '
                              f'got {len(label_map)}')
        scores = dataset_scores(self.matrix)
        dice = self._dice_sum / self._dice_images if self._dice_images else None
        by_time = seconds_per_image is not None
        return {
            'images': self.images,
            'compared_px': int(self.matrix.sum()),
            'seconds_per_image': seconds_per_image,
            'dataset': {'miou': scores['miou'], 'dice': scores['mean_dice'],
                        'accuracy': scores['accuracy']},
            'paper_score': paper_score(scores['miou'], seconds_per_image or 0.0)
            if by_time and scores['miou'] is not None else None,
            'lpcv': {'dice': dice, 'images': self._dice_images,
                     'score': lpcv_score(dice, seconds_per_image or 0.0)
                     if by_time and dice is not None else None},
            'flood_iou': flood_iou(self._flood) if self._knows_flood(label_map) else None,
            'classes': self._per_class(label_map, scores),
        }

    def _knows_flood(self, label_map: LabelMap) -> bool:
        return any(c.id == self.flood_id and c.slug.startswith('flood') for c in label_map)

    def _per_class(self, label_map: LabelMap, scores: DatasetScores) -> List[Dict[str, Any]]:
        truth_px, predicted_px = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        return [{'id': c.id, 'name': c.name, 'slug': c.slug, 'iou': scores['iou'][c.id],
                 'dice': scores['dice'][c.id], 'precision': scores['precision'][c.id],
                 'recall': scores['recall'][c.id], 'truth_px': int(truth_px[c.id]),
                 'predicted_px': int(predicted_px[c.id])} for c in label_map]


def _check_masks(truth_HW: np.ndarray, predicted_HW: np.ndarray) -> None:
    if truth_HW.shape != predicted_HW.shape or truth_HW.ndim != 2:
        raise InputError('masks: expected truth and prediction of one size (H, W), got '
                         f'{truth_HW.shape} and {predicted_HW.shape}; see resize_truth')
    for name, mask_HW in (('truth', truth_HW), ('prediction', predicted_HW)):
        if not np.issubdtype(mask_HW.dtype, np.integer):
            raise InputError(f'{name}: expected class ids of an integer type, '
                             f'got {mask_HW.dtype}')


def _ratios(over: np.ndarray, under: np.ndarray, defined: np.ndarray
            ) -> List[Optional[float]]:
    return [float(a / b) if known else None for a, b, known in zip(over, under, defined)]


def _mean(values: List[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _per_second(accuracy: float, seconds_per_image: float) -> float:
    if not seconds_per_image > 0:
        raise ConfigError('seconds per image: expected a time above 0, '
                          f'got {seconds_per_image!r}')
    return accuracy / seconds_per_image
