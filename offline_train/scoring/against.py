# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Two results of `offline_train evaluate` beside each other, and what was lost from one to the other.

A student may have a better mIoU than its teacher and see fewer people: so the recall of the
classes that alerts exist for is compared by itself.
"""
from __future__ import annotations

from fractions import Fraction
import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import LabelMap
import numpy as np
from offline_train.scoring.object_recall import watched_classes

MAX_RECALL_LOSS_POINTS = 10
"""A loss of recall above this many points (hundredths) is a warning."""
SAME = ('split_sha256', 'masks_sha256', 'compare_at')
"""What two results must share to be comparable, keys of `data`."""
_COMPARED = ('iou', 'dice', 'precision', 'recall')


def read_result(path: Path) -> Dict[str, Any]:
    """Return a result that `offline_train evaluate --json` wrote; InputError for other files."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: expected a readable JSON file: {error}') from error
    kind = content.get('kind') if isinstance(content, dict) else None
    if kind != 'evaluate':
        raise InputError(f'{path}: expected what `offline_train evaluate --json` wrote, of kind '
                         f"'evaluate', got kind {kind!r}")
    missing = [key for key in ('bundle', 'data', 'scores', 'confusion') if key not in content]
    if missing:
        raise InputError(f'{path}: has no {missing[0]!r}; write it again with this version')
    return content


def check_comparable(other: Mapping[str, Any], entry: Mapping[str, Any], label_map: LabelMap,
                     where: str) -> None:
    """Raise ConfigError unless a result is of the same images, masks, size and classes."""
    for key in SAME:
        got = other['data'].get(key)
        if got != entry[key]:
            raise ConfigError(f'{where}: expected scores of the same data, {key} {entry[key]!r}, '
                              f'got {got!r}; evaluate both bundles with the same data, --split, '
                              '--limit and --compare-at')
    slugs = [row['slug'] for row in other['scores']['classes']]
    if slugs != label_map.slugs:
        raise ConfigError(f'{where}: expected the classes {", ".join(label_map.slugs)}, '
                          f'got {", ".join(slugs)}')


def compare(result: Mapping[str, Any], other: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Return the other's scores and, class by class, those of `result` less the other's.

    None where one of the two is not defined.
    """
    mine, theirs = result['scores'], other['scores']
    rows = [{'slug': row['slug'], **{key: _difference(row[key], reference[key])
                                     for key in _COMPARED}}
            for row, reference in zip(mine['classes'], theirs['classes'], strict=True)]
    return {'bundle': other['bundle'],
            'scores': {'dataset': theirs['dataset'], 'lpcv': theirs['lpcv'],
                       'flood_iou': theirs['flood_iou']},
            'difference': {'miou': _difference(mine['dataset']['miou'],
                                               theirs['dataset']['miou']),
                           'lpcv_dice': _difference(mine['lpcv']['dice'],
                                                    theirs['lpcv']['dice']),
                           'classes': rows}}


def recall_warnings(confusion: np.ndarray, other: np.ndarray, label_map: LabelMap,
                    other_name: str) -> List[str]:
    """
    Return a sentence per watched class whose recall of pixels is too much below the other's.

    Matrices as in core's `confusion_matrix`. The limit is `MAX_RECALL_LOSS_POINTS`; a loss of
    exactly that much is allowed. ConfigError when the two were not counted on the same truth.
    """
    confusion, other = np.asarray(confusion), np.asarray(other)
    if confusion.shape != other.shape or (confusion.sum(axis=1) != other.sum(axis=1)).any():
        raise ConfigError(f'{other_name}: expected a confusion matrix over the same truth, its '
                          'rows add up to other numbers of pixels; evaluate it again')
    warnings = []
    for entry in watched_classes(label_map):
        truth_px = int(confusion[entry.id].sum())
        if not truth_px:
            continue
        # Fractions: in floats 0.4 - 0.3 is more than 0.1.
        mine, theirs = (Fraction(int(m[entry.id, entry.id]), truth_px) for m in (confusion, other))
        lost_points = 100 * (theirs - mine)
        if lost_points > MAX_RECALL_LOSS_POINTS:
            warnings.append(f'recall of {entry.slug} is {float(mine):.3f}, '
                            f'{float(lost_points):.1f} points below the {float(theirs):.3f} of '
                            f'{other_name} (more than {MAX_RECALL_LOSS_POINTS})')
    return warnings


def _difference(value: Optional[float], reference: Optional[float]) -> Optional[float]:
    return None if value is None or reference is None else value - reference
