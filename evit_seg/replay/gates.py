# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bars that a bundle is held against, such as `--fail-under person.recall=0.5`."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
import math
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelMap

OF_ALL = {'miou': ('scores', 'dataset', 'miou'), 'dice': ('scores', 'dataset', 'dice'),
          'accuracy': ('scores', 'dataset', 'accuracy'), 'lpcv_dice': ('scores', 'lpcv', 'dice'),
          'flood_iou': ('scores', 'flood_iou'), 'frames_per_s': ('timing', 'frames_per_s'),
          'paper_score': ('timing', 'paper_score'), 'lpcv_score': ('timing', 'lpcv_score')}
"""Numbers of a bundle, and where they stand in its pooled entry."""
OF_CLASS = ('iou', 'dice', 'precision', 'recall')
"""Numbers of each class's pixels, as `<slug>.iou`."""
OF_ALERTS = {'appearance_recall': ('recall',), 'false_alerts_per_min': ('false_alerts_per_min',),
             'idle_share': ('idle_share',), 'alerts_per_min': ('alerts_per_min',),
             'time_to_alert_s': ('time_to_alert_s', 'median'),
             'time_to_alert_p90_s': ('time_to_alert_s', 'p90'),
             'time_to_alert_max_s': ('time_to_alert_s', 'max')}
"""Numbers of each class with an alert rule, and where they stand in the pooled events."""
FLICKER = 'flicker'
"""Of each class, as `flicker.<slug>`: the share of its cells that change from frame to frame."""


@dataclass(frozen=True)
class Gate:
    """A bar: the number is to be at least `wanted`, or at most, as `upper` says."""

    name: str
    wanted: float
    upper: bool

    @classmethod
    def parse(cls, text: str, upper: bool) -> Gate:
        """Read KEY=VALUE; ConfigError where it is none."""
        name, _, value = text.partition('=')
        try:
            wanted = float(value)
        except ValueError:
            wanted = math.nan
        if not name or not math.isfinite(wanted):
            raise ConfigError(f'{"--fail-over" if upper else "--fail-under"}: expected KEY=VALUE '
                              f'such as person.recall=0.5, got {text!r}')
        return cls(name, wanted, upper)


def known_numbers(gates: Sequence[Gate], labels: LabelMap, rules: Sequence[AlertRule]) -> None:
    """Refuse a gate on a number that this label map and these rules do not have: ConfigError."""
    known = [*OF_ALL, *(f'{slug}.{name}' for slug in labels.slugs for name in OF_CLASS),
             *(f'{FLICKER}.{slug}' for slug in labels.slugs),
             *(f'{rule.slug}.{name}' for rule in rules for name in OF_ALERTS)]
    for gate in gates:
        if gate.name not in known:
            near = get_close_matches(gate.name, known, n=3, cutoff=0.5)
            hint = f'did you mean {" or ".join(near)}?' if near else \
                f'there are {", ".join(OF_ALL)}, and of each class such as {known[len(OF_ALL)]}'
            raise ConfigError(f'there is no number {gate.name!r} to hold a gate against; {hint}')


def hold_gates(gates: Sequence[Gate], model: str, pooled: Mapping[str, Any] | None
               ) -> Iterator[dict[str, Any]]:
    """
    Yield each gate, what was got and whether it is held, from the pooled entry of a bundle.

    A number that does not exist, for want of ground truth say, holds no gate.
    """
    for gate in gates:
        got, why = _look_up(gate.name, pooled) if pooled else (None, 'no bag could be read')
        held = got is not None and (got <= gate.wanted if gate.upper else got >= gate.wanted)
        yield {'model': model, 'gate': gate.name, 'relation': '<=' if gate.upper else '>=',
               'wanted': gate.wanted, 'got': got, 'held': held, 'why': why}


def _look_up(name: str, pooled: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return the number, or None and why there is none."""
    if name in OF_ALL:
        got = _inside(pooled, OF_ALL[name])
        return got, '' if got is not None else 'no ground truth'
    slug, _, measure = name.rpartition('.')
    if slug == FLICKER:
        got = _of_class(pooled['flicker']['classes'], measure)['flicker']
        return got, '' if got is not None else f'no {measure} in two masks in a row'
    if measure in OF_CLASS:
        if pooled['scores'] is None:
            return None, 'no ground truth'
        got = _of_class(pooled['scores']['classes'], slug)[measure]
        where = 'mask' if measure == 'precision' else 'ground truth'
        return got, '' if got is not None else f'no {slug} in the {where}'
    row = _of_class(pooled['events']['classes'], slug)
    got = _inside(row, OF_ALERTS[measure])
    if got is not None:
        return got, ''
    return None, f'no {slug} appeared, or none was hit, or no time went by' if row['annotated'] \
        else f'nothing says when a {slug} was there (--objects, --event-times)'


def _inside(found: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if found is None:
            return None
        found = found[key]
    return found


def _of_class(rows: Sequence[Mapping[str, Any]], slug: str) -> Mapping[str, Any]:
    return next(row for row in rows if row['slug'] == slug)
