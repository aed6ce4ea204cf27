# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
From logits to the regions that count as evidence of a class, on the network's own grid.

On the grid, not at 1080p: 15 thousand cells instead of two million pixels, and the bias of a rare
class has somewhere to act before the argmax.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import cv2
from evit_seg.core.alert_rule import AlertRule
from evit_seg.core.errors import ConfigError
from evit_seg.core.preprocess import Geometry
import numpy as np


@dataclass(frozen=True)
class Region:
    """
    A connected region of one class: box and area in source pixels, mean probability 0 to 1.

    The box encloses whole grid cells, clipped to the image; `pixels` is cells x source area of a
    cell, so it has no finer steps than one cell.
    """

    x: int
    y: int
    w: int
    h: int
    pixels: float
    confidence: float


def find_regions(logits_CHW: np.ndarray, geometry: Geometry, rules: Sequence[AlertRule],
                 temperature: float) -> Dict[int, List[Region]]:
    """
    Return the regions that hold evidence, by class id, the largest first.

    `logits_CHW` is float32 (classes, grid height, grid width), `temperature` the manifest's T.
    Each class is judged on its own: p = softmax((logits + bias of that class) / T), so one class's
    bias takes nothing from another's. A cell belongs to the class if it is the argmax then (the
    lowest id wins a tie) and lies in the picture, not in the padding; regions are 8-connected.
    Every rule's class has an entry, most often an empty one, and that costs one comparison.

    ConfigError for a class the logits do not have, another grid, or a temperature not above 0.
    """
    classes = logits_CHW.shape[0]
    if logits_CHW.shape[1:] != tuple(geometry.grid_hw):
        raise ConfigError(f'logits: expected the grid {geometry.grid_hw!r} of the geometry, '
                          f'got {logits_CHW.shape!r} (classes, height, width)')
    if not temperature > 0:
        raise ConfigError(f'temperature: expected a value above 0, got {temperature!r}')
    y0, y1, x0, x1 = geometry.content_cells()
    inside_CHW = np.ascontiguousarray(logits_CHW[:, y0:y1, x0:x1], np.float32)
    best_HW = inside_CHW.max(axis=0)
    found: Dict[int, List[Region]] = {}
    for rule in rules:
        if rule.class_id >= classes:
            raise ConfigError(f'alert class {rule.slug!r}: expected an id below {classes}, the '
                              f'classes of the network, got {rule.class_id}')
        cells, probability = _cells_of(inside_CHW, best_HW, rule, temperature)
        found[rule.class_id] = [] if not cells.size else _regions(
            cells, probability, best_HW.shape, (x0, y0), geometry, rule)
    return found


def _cells_of(logits_CHW: np.ndarray, best_HW: np.ndarray, rule: AlertRule,
              temperature: float) -> Tuple[np.ndarray, np.ndarray]:
    """
    Return the flat indices of the cells the class owns after its bias, and its p there.

    Only cells where the class can win are looked at in depth: a softmax over the whole grid
    would take longer than all the rest.
    """
    classes = logits_CHW.shape[0]
    bias = np.float32(rule.logit_bias)
    raised_HW = logits_CHW[rule.class_id] + max(bias, np.float32(0))
    candidates = np.flatnonzero(raised_HW >= best_HW)
    columns = np.take(logits_CHW.reshape(classes, -1), candidates, axis=1)  # (C, cells)
    columns[rule.class_id] += bias
    own = columns[rule.class_id]
    owned = own >= columns.max(axis=0)
    if rule.class_id > 0:
        owned &= own > columns[:rule.class_id].max(axis=0)
    if not owned.all():
        candidates, columns, own = candidates[owned], columns[:, owned], own[owned]
    # The class is the maximum of its column: every exponent is at most 0, nothing overflows.
    odds = np.exp((columns - own) / np.float32(temperature))
    return candidates, 1.0 / odds.sum(axis=0)


def _regions(cells: np.ndarray, probability: np.ndarray, shape_hw: Tuple[int, ...],
             origin_xy: Tuple[int, int], geometry: Geometry, rule: AlertRule) -> List[Region]:
    """Return the connected regions of the cells that are large and certain enough."""
    rows, columns = np.divmod(cells, shape_hw[1])
    top, left = int(rows.min()), int(columns.min())
    rows, columns = rows - top, columns - left
    owned_HW = np.zeros((int(rows.max()) + 1, int(columns.max()) + 1), np.uint8)
    owned_HW[rows, columns] = 1
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(
        owned_HW, connectivity=8, ltype=cv2.CV_32S)
    totals = np.bincount(labels_HW[rows, columns], weights=probability, minlength=count)
    area = stats[:, cv2.CC_STAT_AREA]
    pixels = area * geometry.grid_cell_area_px()
    confidence = totals / np.maximum(area, 1)  # none lies outside when the class fills the grid
    holds = (pixels >= rule.min_pixels) & (confidence >= rule.min_confidence)
    holds[0] = False  # the cells outside every region
    regions = []
    for index in np.flatnonzero(holds):
        x, y, w, h = (int(v) for v in stats[index, :4])
        x, y = x + left + origin_xy[0], y + top + origin_xy[1]
        box = geometry.grid_box_to_source(x, y, x + w, y + h)
        regions.append(Region(*box, float(pixels[index]), float(confidence[index])))
    return sorted(regions, key=lambda r: (-r.pixels, r.y, r.x))
