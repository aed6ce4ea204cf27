# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Qualitative panels: image, truth and what each bundle answers, frame by frame."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelMap
from evit_seg.core.metrics import confusion_matrix, dataset_scores, lpcv_dice
from evit_seg.core.overlay import draw_overlay
from evit_seg.core.segmenter import Segmenter
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np
from offline_train.data.dataset import DatasetSpec
from offline_train.data.dataset_frames import read_dataset_pair
from offline_train.data.dataset_masks import MaskReader
from offline_train.data.dataset_split import Split
from offline_train.evaluate import check_label_map
from offline_train.reporting.style import GREY, INK, RC

TILE_IN, GAP_IN, CAPTION_IN, TITLE_IN = 3.8, 0.08, 0.6, 0.4
LEGEND_IN = 2.6
"""Room for one name of the legend: the longest of LPCV 2023 fits."""
TILE_PX = 960
"""Widest a tile is drawn, pixels; smaller images keep their own size."""
ALPHA = 0.6


@dataclass(frozen=True)
class Tile:
    """One picture, RGB uint8, and what stands under it."""

    picture_HWC: np.ndarray
    caption: str


@dataclass(frozen=True)
class PanelRow:
    """One frame as tiles: image, truth, a mask per bundle; `ids` are the classes in the masks."""

    tiles: Tuple[Tile, ...]
    ids: Tuple[int, ...]


def choose_frames(spec: DatasetSpec, split: Split, *, indices: Sequence[int], rows: int,
                  most: str) -> List[int]:
    """
    Return the indices asked for, or those of the `rows` frames with most pixels of a class.

    The frames of most pixels come largest first. LabelMapMismatch for an unknown class,
    ConfigError for an index outside the split or a split without a pixel of the class.
    """
    for index in indices:
        if not 0 <= index < len(split.pairs):
            raise ConfigError(f'--frames: expected 0 to {len(split.pairs) - 1}, the frames of '
                              f'{split.name}, got {index!r}')
    if indices:
        return list(indices)
    wanted = spec.label_map.by_slug(most).id
    reader = MaskReader(spec)
    counts = [int(np.count_nonzero(reader.read(pair.mask).ids_HW == wanted))
              for pair in split.pairs]
    if not any(counts):
        raise ConfigError(f'--most {most}: no frame of {split.name} shows that class; choose '
                          'another, or name frames with --frames')
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    return [index for index in order[:rows] if counts[index]]


def panel_rows(spec: DatasetSpec, split: Split, indices: Sequence[int],
               segmenters: Sequence[Segmenter], *, most: str, crop_px: int) -> List[PanelRow]:
    """
    Return the rows of the figure; every bundle sees the whole frame.

    crop_px: only a square of so many pixels around the most of class `most` is drawn; 0: all.
    """
    for segmenter in segmenters:
        check_label_map(segmenter.label_map, spec.label_map,
                        f'bundle {segmenter.manifest.name}')
    reader, rows = MaskReader(spec), []
    slugs = spec.label_map.slugs
    focus: Optional[int] = slugs.index(most) if most in slugs else None
    for index in indices:
        image_HWC, truth_HW = read_dataset_pair(reader, split.pairs[index])
        window = _window(truth_HW, focus, crop_px)
        share = '' if focus is None else (f'{spec.label_map.names[focus]} on '
                                          f'{np.mean(truth_HW == focus):.2%} of the pixels')
        tiles = [Tile(_fit(image_HWC[window]), f'{split.ids[index]}\n(frame {index})'),
                 Tile(_tinted(image_HWC[window], truth_HW[window], spec.label_map), share)]
        ids = set(np.unique(truth_HW[window]).tolist())
        for segmenter in segmenters:
            mask_HW = segmenter(image_HWC, 'rgb').mask_HW
            tiles.append(Tile(_tinted(image_HWC[window], mask_HW[window], spec.label_map),
                              _scores(truth_HW, mask_HW, spec.label_map, focus)))
            ids |= set(np.unique(mask_HW[window]).tolist())
        rows.append(PanelRow(tuple(tiles), tuple(sorted(ids))))
    return rows


def _window(truth_HW: np.ndarray, focus: Optional[int], crop_px: int) -> Tuple[slice, slice]:
    """Return the square that holds most of the class, the whole frame for crop_px 0."""
    height, width = truth_HW.shape
    side_y, side_x = min(crop_px, height), min(crop_px, width)
    if crop_px == 0 or focus is None:
        return slice(0, height), slice(0, width)
    sums = cv2.integral((truth_HW == focus).astype(np.uint8))
    inside = (sums[side_y:, side_x:] - sums[:-side_y, side_x:] - sums[side_y:, :-side_x]
              + sums[:-side_y, :-side_x])
    best = np.argwhere(inside == inside.max())
    top, left = best[len(best) // 2]
    return slice(int(top), int(top) + side_y), slice(int(left), int(left) + side_x)


def _fit(image_HWC: np.ndarray) -> np.ndarray:
    height, width = image_HWC.shape[:2]
    if width <= TILE_PX:
        return image_HWC
    return np.asarray(cv2.resize(image_HWC, (TILE_PX, round(height * TILE_PX / width)),
                                 interpolation=cv2.INTER_AREA))


def _tinted(image_HWC: np.ndarray, mask_HW: np.ndarray, label_map: LabelMap) -> np.ndarray:
    picture = draw_overlay(np.ascontiguousarray(image_HWC), 'rgb',
                           np.ascontiguousarray(mask_HW), label_map, [], width=TILE_PX,
                           alpha=ALPHA)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _scores(truth_HW: np.ndarray, mask_HW: np.ndarray, label_map: LabelMap,
            focus: Optional[int]) -> str:
    matrix = confusion_matrix(truth_HW, mask_HW, len(label_map))
    text = f'Dice {lpcv_dice(matrix):.2f}'
    iou = None if focus is None else dataset_scores(matrix)['iou'][focus]
    return text if focus is None or iou is None else \
        f'{text}, {label_map.names[focus]} IoU {iou:.2f}'


def draw_panels(rows: Sequence[PanelRow], titles: Sequence[str], label_map: LabelMap) -> Figure:
    """Return the figure: titles over the columns, captions under the tiles, the colours below."""
    columns = len(titles)
    heights_in = [TILE_IN * r.tiles[0].picture_HWC.shape[0] / r.tiles[0].picture_HWC.shape[1]
                  for r in rows]
    ids = {i for row in rows for i in row.ids}
    per_row = max(1, int(TILE_IN * columns / LEGEND_IN))
    legend_in = 0.3 * -(-len(ids) // per_row) + 0.15
    total_in = sum(heights_in) + CAPTION_IN * len(rows) + TITLE_IN + legend_in
    width_in = (TILE_IN + GAP_IN) * columns + GAP_IN
    with rc_context(RC):
        figure = Figure(figsize=(width_in, total_in))
        top_in = total_in - TITLE_IN
        for number, (row, height_in) in enumerate(zip(rows, heights_in, strict=True)):
            for column, tile in enumerate(row.tiles):
                left_in = GAP_IN + column * (TILE_IN + GAP_IN)
                ax = figure.add_axes((left_in / width_in, (top_in - height_in) / total_in,
                                      TILE_IN / width_in, height_in / total_in))
                _show(ax, tile, titles[column] if number == 0 else '')
            top_in -= height_in + CAPTION_IN
        palette = label_map.palette_rgb() / 255.0
        handles = [Patch(facecolor='none' if entry.slug == 'background' else palette[entry.id],
                         edgecolor=GREY, label=entry.name)
                   for entry in label_map if entry.id in ids]
        figure.legend(handles=handles, loc='lower left', ncols=per_row,
                      bbox_to_anchor=(0.0, 0.0), handlelength=1.4, columnspacing=1.2)
    return figure


def _show(ax: Axes, tile: Tile, title: str) -> None:
    ax.imshow(tile.picture_HWC, aspect='auto')
    ax.set_axis_off()
    ax.set_title(title, color=INK)
    ax.text(0.0, -0.02, tile.caption, color=INK, fontsize=11, va='top', transform=ax.transAxes)


def named_bundles(words: Sequence[str]) -> Dict[str, str]:
    """Return title -> bundle of words such as teacher=runs/t/bundle; a bare one is its title."""
    named: Dict[str, str] = {}
    for word in words:
        title, equals, bundle = word.partition('=')
        title, bundle = (title, bundle) if equals else (word.rstrip('/').rpartition('/')[2], word)
        if not title or not bundle:
            raise ConfigError(f'--bundles: expected BUNDLE or TITLE=BUNDLE, got {word!r}')
        if title in named:
            raise ConfigError(f'--bundles: two are called {title!r}; name them with TITLE=BUNDLE')
        named[title] = bundle
    return named
