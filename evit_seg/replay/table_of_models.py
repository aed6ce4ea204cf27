# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles side by side over all bags, and the gates, as lines for people."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Entry = dict[str, Any]
NAME_WIDTH = 36
COLUMN_WIDTH = 14
SMALLEST_SHARE = 0.0005
"""Classes with less of the pixels of every bundle's masks, and no truth, are left out."""


def side_by_side(models: Sequence[Entry]) -> Iterator[str]:
    """Yield a row for each number of the pooled entries, a column for each bundle."""
    bags = len(models[0]['bags'])
    yield _row(f'{bags} bags' if bags > 1 else models[0]['bags'][0],
               [model['name'] for model in models])
    yield _row('sha256', [model['sha256'][:12] for model in models])
    yield _row('frames', [str(model['counts']['processed']) for model in models])
    yield _row('dataset mIoU', [_of_scores(model, 'dataset', 'miou') for model in models])
    yield _row('LPCV Dice', [_of_scores(model, 'lpcv', 'dice') for model in models])
    yield _row('ms per image', [_number(model['timing']['seconds_per_image'] * 1e3, 1)
                                for model in models])
    for slug in _slugs(models):
        yield _row(f'{slug} IoU' if _has_truth(models) else f'{slug} share',
                   [_of_pixels(model, slug) for model in models])
    for slug in _alert_slugs(models):
        for name, show in ALERT_ROWS.items():
            yield _row(f'{slug} {name}', [_of_events(model, slug, show) for model in models])
        yield _row(f'{slug} flicker', [_flicker(model, slug) for model in models])


def gate_lines(gates: Sequence[Entry]) -> Iterator[str]:
    """Yield one line for each gate of each bundle."""
    for gate in gates:
        why = f' ({gate["why"]})' if gate['why'] else ''
        yield f'gate {"held  " if gate["held"] else "MISSED"} {gate["model"]}: {gate["gate"]} ' \
              f'{gate["relation"]} {gate["wanted"]:g}, got {_number(gate["got"])}{why}'


def _row(name: str, cells: Sequence[str]) -> str:
    return f'{name:{NAME_WIDTH}}' + ''.join(f' {cell[:COLUMN_WIDTH]:>{COLUMN_WIDTH}}'
                                            for cell in cells)


def _number(value: float | None, digits: int = 3) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _has_truth(models: Sequence[Entry]) -> bool:
    return any(model['scores'] for model in models)


def _of_scores(model: Entry, *keys: str) -> str:
    found = model['scores']
    for key in keys:
        found = found and found[key]
    return _number(found)


def _slugs(models: Sequence[Entry]) -> list[str]:
    """Return the classes worth a row, in the order of the first bundle that has them."""
    found: dict[str, None] = {}
    for model in models:
        there = {row['slug'] for row in (model['scores'] or {'classes': ()})['classes']
                 if row['truth_px']}
        for slug, share in model['class_shares'].items():
            if slug in there or share >= SMALLEST_SHARE:
                found.setdefault(slug)
    return list(found)


def _of_pixels(model: Entry, slug: str) -> str:
    if not model['scores']:
        share = model['class_shares'].get(slug)
        return '-' if share is None else f'{share:.1%}'
    return _number(next((row['iou'] for row in model['scores']['classes']
                         if row['slug'] == slug), None))


ALERT_ROWS: dict[str, Callable[[Entry], str]] = {
    'appearances hit': lambda row: f'{row["hits"]} of {row["appearances"]}'
    if row['annotated'] else '-',
    'median s to alert': lambda row: _number((row['time_to_alert_s'] or {}).get('median'), 2),
    'false alerts / min': lambda row: _number(row['false_alerts_per_min'], 2),
    'alerts / min': lambda row: _number(row['alerts_per_min'], 2),
}


def _alert_slugs(models: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(row['slug'] for model in models
                              for row in model['events']['classes']
                              if row['alerts'] or row['annotated']))


def _of_events(model: Entry, slug: str, show: Callable[[Entry], str]) -> str:
    row = next((row for row in model['events']['classes'] if row['slug'] == slug), None)
    return '-' if row is None else show(row)


def _flicker(model: Entry, slug: str) -> str:
    return _number(next((row['flicker'] for row in model['flicker']['classes']
                         if row['slug'] == slug), None))
