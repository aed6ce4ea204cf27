# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Scores class by class, and how many people and vehicles of each size were found."""
from __future__ import annotations

from statistics import mean
from typing import Any, Dict, List, Optional, Sequence, Tuple

from evit_seg.core.labels import load_label_map
from offline_train.reporting.join import Arm, arms, data_keys, Entry, grouped
from offline_train.reporting.page import Column, Row, Table
from offline_train.reporting.records import ClassScore, DataKey, Evaluation, SizeBin
from offline_train.reporting.tables import data_cells, DATA_KEYS

CLASS_KEYS = (*DATA_KEYS, 'run', 'precision', 'class', 'name', 'rare', 'truth_px', 'iou',
              'class_precision', 'recall')
OBJECT_KEYS = (*DATA_KEYS, 'run', 'precision', 'class', 'min_px', 'max_px', 'objects', 'recall')
METRICS = (('iou', 'IoU'), ('precision', 'precision'), ('recall', 'recall'))


def rare_slugs() -> Tuple[str, ...]:
    """Return the slugs of the classes that the package's label map marks as rare."""
    return tuple(entry.slug for entry in load_label_map() if entry.rare)


def class_rows(entries: Sequence[Entry]) -> List[Row]:
    """Return a row per entry, data and class."""
    rare = rare_slugs()
    return [{**data_cells(scores.data), 'run': entry.name, 'precision': entry.precision,
             'class': row.slug, 'name': row.name, 'rare': 'yes' if row.slug in rare else 'no',
             'truth_px': row.truth_px, 'iou': row.iou, 'class_precision': row.precision,
             'recall': row.recall}
            for entry in entries for scores in entry.evaluations for row in scores.classes]


def object_rows(entries: Sequence[Entry]) -> List[Row]:
    """Return a row per entry, data, class and size of objects."""
    return [{**data_cells(scores.data), 'run': entry.name, 'precision': entry.precision,
             'class': row.slug, 'min_px': row.min_px, 'max_px': row.max_px,
             'objects': row.objects, 'recall': row.recall}
            for entry in entries for scores in entry.evaluations for row in scores.object_recall]


def class_tables(entries: Sequence[Entry]) -> List[Table]:
    """Return for each data the tables of IoU, precision, recall, and of recall by object size."""
    tables = []
    for data in data_keys(entries):
        columns = arms([e for e in entries if e.on(data)])
        for key, title in METRICS:
            tables.append(_metric_table(f'{title} by class: {data}', key, columns, data))
        sized = _size_table(f'Recall by object size: {data}', columns, data)
        if sized is not None:
            tables.append(sized)
    return tables


def class_mean(arm: Arm, data: DataKey, slug: str, key: str) -> Optional[float]:
    """Return the mean over an arm's seeds of one score of a class, None if one has none."""
    rows = [row for row in (scores.of_class(slug) for scores in _scores(arm, data)) if row]
    values = [getattr(row, key) for row in rows]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(arm.entries) else None


def first_scores(columns: Sequence[Arm], data: DataKey) -> Evaluation:
    """Return the first scores on the data: its classes and truth are those of all."""
    return _scores(columns[0], data)[0]


def _scores(arm: Arm, data: DataKey) -> List[Evaluation]:
    return [scores for scores in (e.on(data) for e in arm.entries) if scores]


def _arm_columns(columns: Sequence[Arm]) -> Tuple[Column, ...]:
    return tuple(Column(f'arm{i}', _arm_title(arm), 3) for i, arm in enumerate(columns))


def _arm_title(arm: Arm) -> str:
    return arm.label if len(arm.entries) == 1 else f'{arm.label} (mean of {len(arm.entries)})'


def _metric_table(title: str, key: str, columns: Sequence[Arm], data: DataKey) -> Table:
    classes: Sequence[ClassScore] = first_scores(columns, data).classes
    rare, total = rare_slugs(), sum(row.truth_px or 0 for row in classes)
    rows: List[Row] = []
    for row in classes:
        cells: Dict[str, Any] = {f'arm{i}': class_mean(arm, data, row.slug, key)
                                 for i, arm in enumerate(columns)}
        if any(value is not None for value in cells.values()):
            share = 100.0 * row.truth_px / total if total and row.truth_px is not None else None
            name = f'{row.name} (rare)' if row.slug in rare else row.name
            rows.append({'class': name, 'share': share, **cells})
    return Table(title[0].upper() + title[1:], (
        Column('class', 'class'), Column('share', 'of truth, %', 2), *_arm_columns(columns)),
        tuple(rows))


def _size_table(title: str, columns: Sequence[Arm], data: DataKey) -> Optional[Table]:
    names = {row.slug: row.name for row in first_scores(columns, data).classes}
    bins = grouped([b for arm in columns for s in _scores(arm, data) for b in s.object_recall],
                   lambda b: (b.slug, b.min_px, b.max_px))
    rows: List[Row] = []
    for (slug, low, high), found in bins.items():
        if found[0].objects:
            cells = {f'arm{i}': _bin_mean(arm, data, found[0]) for i, arm in enumerate(columns)}
            size = f'{low:.0f} to {high:.0f}' if high is not None else f'from {low:.0f}'
            rows.append({'class': names.get(slug, slug), 'size': size,
                         'objects': found[0].objects, **cells})
    if not rows:
        return None
    return Table(title, (Column('class', 'class'), Column('size', 'size, px'),
                         Column('objects', 'objects'), *_arm_columns(columns)), tuple(rows), (
        'An object is a connected region of the truth at the compared size; found means that at '
        'least half of its pixels are predicted as its class.',))


def _bin_mean(arm: Arm, data: DataKey, wanted: SizeBin) -> Optional[float]:
    values = [b.recall for s in _scores(arm, data) for b in s.object_recall
              if (b.slug, b.min_px, b.max_px) == (wanted.slug, wanted.min_px, wanted.max_px)]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(arm.entries) else None
