# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bars of the IoU of every class, the rare ones marked."""
from __future__ import annotations

from typing import List, Optional, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from offline_train.reporting.class_tables import class_mean, first_scores, rare_slugs
from offline_train.reporting.join import Arm, arms, Entry
from offline_train.reporting.records import ClassScore, DataKey
from offline_train.reporting.style import colour_of, COLOURS, INK, new_figure, RC

MOST_MODELS = len(COLOURS) - 1
MOST_CLASSES = 30
"""Beyond this many classes only those with the most truth, and the rare ones, are drawn."""


def draw_class_bars(entries: Sequence[Entry], data: DataKey) -> List[Figure]:
    """Return figures of up to six models each, classes in the label map's order."""
    columns = arms([e for e in entries if e.on(data)])
    return [_draw(columns[start:start + MOST_MODELS], data)
            for start in range(0, len(columns), MOST_MODELS)]


def shown_classes(classes: Sequence[ClassScore]) -> List[ClassScore]:
    """Return the classes to draw: those in the truth, of too many the rare and most frequent."""
    there = [row for row in classes if row.truth_px]
    rare = rare_slugs()
    first = sorted(there, key=lambda row: (row.slug not in rare, -(row.truth_px or 0)))
    kept = {row.slug for row in first[:MOST_CLASSES]}
    return [row for row in there if row.slug in kept]


def _draw(columns: Sequence[Arm], data: DataKey) -> Figure:
    classes = shown_classes(first_scores(columns, data).classes)
    rare = rare_slugs()
    height = max(0.13, 0.34 / len(columns)) * len(columns) + 0.1
    with rc_context(RC):
        figure, (ax,) = new_figure(10.0, 1.6 + height * len(classes) + 0.1 * len(columns))
        step = 0.8 / len(columns)
        for index, arm in enumerate(columns):
            for row, entry in enumerate(classes):
                iou = class_mean(arm, data, entry.slug, 'iou')
                if iou is not None:
                    y = row - 0.4 + step * (index + 0.5)
                    ax.barh(y, iou, step * 0.92, color=colour_of(index))
                    end = _whisker(ax, arm, data, entry.slug, y) or iou
                    if entry.slug in rare:
                        ax.text(end + 0.006, y, f'{iou:.3f}', va='center', fontsize=9,
                                color=INK)
        for index, arm in enumerate(columns):
            seeds = len(arm.entries)
            label = arm.label if seeds == 1 else f'{arm.label} (mean of {seeds} seeds)'
            ax.barh(0.0, 0.0, color=colour_of(index), label=label)
        _finish(ax, classes)
        ax.set_title(f'IoU by class\n{data.short}', color=INK)
        figure.legend(loc='outside lower left', ncols=min(3, len(columns)))
    return figure


def _whisker(ax: Axes, arm: Arm, data: DataKey, slug: str, y: float) -> Optional[float]:
    """Mark the lowest and highest of several seeds; return the highest."""
    found = [s.of_class(slug) for s in (e.on(data) for e in arm.entries) if s]
    values = [row.iou for row in found if row and row.iou is not None]
    if len(values) > 1:
        ax.hlines(y, min(values), max(values), color=INK, linewidth=1.2)
    return max(values) if len(values) > 1 else None


def _finish(ax: Axes, classes: Sequence[ClassScore]) -> None:
    rare = rare_slugs()
    ax.set_yticks(range(len(classes)),
                  [f'{row.name} (rare)' if row.slug in rare else row.name for row in classes])
    for label, row in zip(ax.get_yticklabels(), classes, strict=True):
        label.set_fontweight('bold' if row.slug in rare else 'normal')
    ax.set_ylim(len(classes) - 0.45, -0.55)
    ax.set_xlim(0.0, 1.0)
    ax.set_xlabel('IoU')
    ax.grid(visible=False, axis='y')
    ax.tick_params(axis='y', length=0)
