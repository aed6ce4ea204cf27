# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Which of the settings of the report's `curves` to fly with, on one bag or on several together.

A setting that is recommended on a flight is fitted to it. Choose on some flights, and look at
others before it flies.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

from evit_seg.replay.event_scores import ratio
import yaml

MAX_FALSE_PER_MIN = 0.5
IDLE_WEIGHT = 0.2
"""
What an alert that is always on where nobody is costs, in recall: the weight of tune_alerts.

Without it the alert that never goes out would win: it misses nobody and is never false.
"""
WORTH_A_CHANGE = 0.01
"""Recall, less the cost of being idle, that is worth another setting than the one that ran."""
MUCH_IDLE_SHARE = 0.5
FEW_APPEARANCES = 10

Point = Mapping[str, Any]
"""A setting and what it gave: a point of the report's `curves`."""


def criterion(max_false_per_min: float) -> str:
    """Return how `recommend` chooses, in one sentence."""
    return (f'of the settings with at most {max_false_per_min:g} false alerts per minute the one '
            f'with the highest recall - {IDLE_WEIGHT:g} x idle share; of those within '
            f'{WORTH_A_CHANGE:g} of it the fewest false alerts, then the nearest to the setting '
            'that was run')


def recommend(points: Sequence[Point], max_false_per_min: float
              ) -> tuple[dict[str, float] | None, str]:
    """Return the best thresholds of one class, or None, and why."""
    shipped = next(point for point in points if point['shipped'])
    count = shipped['appearances']
    if count is None:
        return None, 'no ground truth for this class'
    if not count:
        return None, 'the class never appears in the ground truth: recall is not defined'
    finding = [point for point in points if point['hits']]
    if not finding:
        return None, f'no setting finds any of the {count} appearances'
    allowed = [point for point in finding if _false_rate(point) <= max_false_per_min]
    if not allowed:
        return None, 'every setting that finds anything has more than ' \
                     f'{max_false_per_min:g} false alerts per minute, the least is ' \
                     f'{min(map(_false_rate, finding)):.2f}'
    worth = max(map(_worth, allowed)) - WORTH_A_CHANGE
    best = min((point for point in allowed if _worth(point) >= worth),
               key=lambda point: _rank(point, shipped))
    reason = f'{_outcome(best)}; as run: {_outcome(shipped)}'
    if (best['idle_share'] or 0.0) >= MUCH_IDLE_SHARE:
        reason += '. Even so the alert is on most of the time with nobody in view: it says little'
    if count < FEW_APPEARANCES:
        reason += f'. Too few appearances ({count}) to trust it'
    return thresholds(best), reason


def _false_rate(point: Point) -> float:
    """Return false alerts per minute; a single frame, which covers no time, has none."""
    return float(point['false_alerts_per_min'] or 0.0)


def _worth(point: Point) -> float:
    return float(point['recall'] - IDLE_WEIGHT * (point['idle_share'] or 0.0))


def _rank(point: Point, shipped: Point) -> tuple[float, ...]:
    return (_false_rate(point), abs(point['min_confidence'] - shipped['min_confidence']),
            abs(math.log2((point['min_pixels'] + 1) / (shipped['min_pixels'] + 1))),
            -point['min_confidence'], -point['min_pixels'])


def _outcome(point: Point) -> str:
    idle = 'not defined' if point['idle_share'] is None else f'{point["idle_share"]:.0%}'
    return f'{point["hits"]} of {point["appearances"]} appearances hit, ' \
           f'{_false_rate(point):.2f} false alerts per minute, idle share {idle}'


def thresholds(point: Point) -> dict[str, float]:
    """Return the two that the curves are over."""
    return {name: point[name] for name in ('min_confidence', 'min_pixels')}


def class_curve(slug: str, class_id: int, points: Sequence[Point], max_false_per_min: float
                ) -> dict[str, Any]:
    """Return the row of one class in the report's `curves`."""
    best, reason = recommend(points, max_false_per_min)
    shipped = next(point for point in points if point['shipped'])
    return {'slug': slug, 'class_id': class_id, 'shipped': thresholds(shipped),
            'points': list(points), 'recommended': best, 'reason': reason}


def parameter_yaml(classes: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a parameter file with what is recommended in rows of `class_curve`; None: nothing."""
    alert = {row['slug']: row['recommended'] for row in classes if row['recommended']}
    if not alert:
        return None
    return str(yaml.safe_dump({'/**': {'ros__parameters': {'alert': alert}}}, sort_keys=False))


def pool_curves(sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Return one `curves` of several bags of one bundle, run with the same rules.

    Counts and times are added. What takes ground truth is of the bags that have it.
    """
    max_false_per_min = sections[0]['max_false_per_min']
    classes = []
    for number, row in enumerate(sections[0]['classes']):
        tables = [[{**point, 'minutes': section['minutes'], 'flight_s': section['flight_s']}
                   for point in section['classes'][number]['points']] for section in sections]
        points = [_pool_points(same) for same in zip(*tables, strict=True)]
        classes.append(class_curve(row['slug'], row['class_id'], points, max_false_per_min))
    kinds = sorted({section['truth'] for section in sections if section['truth']})
    return {'truth': kinds, 'note': None if kinds else sections[0]['note'],
            'minutes': sum(section['minutes'] for section in sections),
            'flight_s': sum(section['flight_s'] for section in sections),
            'max_false_per_min': max_false_per_min, 'criterion': criterion(max_false_per_min),
            'classes': classes, 'yaml': parameter_yaml(classes)}


def _pool_points(points: Sequence[Point]) -> dict[str, Any]:
    known = [point for point in points if point['appearances'] is not None]

    def total(name: str, of: Sequence[Point]) -> Any:
        return sum(point[name] for point in of) if of else None

    pooled = {**thresholds(points[0]), 'shipped': points[0]['shipped'],
              **{name: total(name, points) for name in ('alerts', 'on_s')},
              **{name: total(name, known) for name in (
                  'appearances', 'hits', 'false_alerts', 'empty_s', 'idle_s')}}
    return {**pooled,
            'recall': ratio(pooled['hits'], pooled['appearances']),
            'alerts_per_min': ratio(pooled['alerts'], total('minutes', points)),
            'false_alerts_per_min': ratio(pooled['false_alerts'], total('minutes', known)),
            'on_share': ratio(pooled['on_s'], total('flight_s', points)),
            'idle_share': ratio(pooled['idle_s'], pooled['empty_s'])}
