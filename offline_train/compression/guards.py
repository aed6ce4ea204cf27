# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Guards: what must hold of a compressed network, each passed, failed or not measured.

What was not measured has not passed. A floor guards the recall of a class: a mean over classes
hides that Person is gone (LPCV 2023's baseline has a mean of 0.55 and a Person IoU of 0.018).
"""
from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import nearest

PASSED, FAILED, NOT_MEASURED = 'passed', 'failed', 'not measured'
_FLOOR_KEYS = ('points', 'least')


@dataclass(frozen=True)
class GuardResult:
    """What became of one guard: its name, one of the three states, the numbers in a sentence."""

    name: str
    status: str
    text: str
    notes: Tuple[str, ...] = ()
    """What the sentence rests on: assumptions of a model, and their sources."""

    def __str__(self) -> str:
        return '\n      '.join([f'{self.status}: {self.name}: {self.text}', *self.notes])


@dataclass(frozen=True)
class Floor:
    """How far the recall of a class may fall."""

    slug: str
    points: float
    """Hundredths of recall that may be lost against the first network."""
    least: float = 0.0
    """Recall, 0 to 1, that is needed whatever the first network had."""


def parse_floors(content: Mapping[str, Any]) -> Tuple[Floor, ...]:
    """Return the floors of a recipe: `slug: points` or `slug: {points: P, least: R}`."""
    floors = []
    for slug, value in content.items():
        entry = value if isinstance(value, dict) else {'points': value}
        for key in entry:
            if key not in _FLOOR_KEYS:
                guess = nearest(str(key), _FLOOR_KEYS)
                hint = f'did you mean {guess!r}?' if guess else f'there are {_FLOOR_KEYS}'
                raise ConfigError(f'floors.{slug}: unknown key {key!r}; {hint}')
        if 'points' not in entry:
            raise ConfigError(f'floors.{slug}: expected points, got {value!r}')
        floors.append(Floor(str(slug), number(entry['points'], f'floors.{slug}.points', 100),
                            number(entry.get('least', 0), f'floors.{slug}.least', 1)))
    return tuple(floors)


def number(value: Any, name: str, most: float = math.inf) -> float:
    """Return a number of a recipe; ConfigError for other things and beyond 0 to `most`."""
    wanted = 'a number of 0 or more' if most == math.inf else f'a number of 0 to {most:g}'
    if isinstance(value, bool) or not isinstance(value, (int, float)) or \
            not 0 <= value <= most or not math.isfinite(value):
        raise ConfigError(f'{name}: expected {wanted}, got {value!r}')
    return float(value)


def check_guardable(floors: Sequence[Floor], first: Mapping[str, Any]) -> None:
    """
    Raise ConfigError unless every floor can fail on the first network's scores.

    A class without truth in the data, without recall at the start or with less of it than may be
    lost could be gone and its floor kept: such a guard says nothing.
    """
    classes = first['classes']
    for floor in floors:
        name = f'floors.{floor.slug}'
        if floor.slug not in classes:
            guess = nearest(floor.slug, classes)
            hint = f'did you mean {guess!r}?' if guess else f'there are {", ".join(classes)}'
            raise ConfigError(f'{name}: the data have no class {floor.slug!r}; {hint}')
        row = classes[floor.slug]
        if not row['truth_px']:
            raise ConfigError(f'{name}: cannot be guarded, there is not a pixel of it in the '
                              f'truth of {first["data"]}; score on data that hold it, or leave '
                              'the floor out')
        if not row['hit_px']:
            raise ConfigError(f'{name}: cannot be guarded, its recall is 0 before anything is '
                              f'compressed ({row["truth_px"]} pixels of truth in '
                              f'{first["data"]}); train a network that finds it first')
        recall = Fraction(row['hit_px'], row['truth_px'])
        if 100 * recall <= Fraction(str(floor.points)) and not floor.least:
            raise ConfigError(f'{name}: {floor.points:g} points may be lost, and that is all of '
                              f'its recall of {row["recall"]:.3f}; allow fewer, or give the '
                              f'least recall: {{points: {floor.points:g}, least: ...}}')
        if recall < Fraction(str(floor.least)):
            raise ConfigError(f'{name}.least: {floor.least:g} is not reached before anything is '
                              f'compressed, recall is {row["recall"]:.3f}')


def check_floors(floors: Sequence[Floor], records: Sequence[Mapping[str, Any]]
                 ) -> List[GuardResult]:
    """
    Return what became of the floors at the last of the records; the first is the reference.

    Records: `step`, `checked`, and by slug of `classes` the `hit_px` of `truth_px`.
    """
    return [_check_floor(floor, records) for floor in floors]


def _check_floor(floor: Floor, records: Sequence[Mapping[str, Any]]) -> GuardResult:
    last = records[-1]
    # Fractions: in floats 0.4 - 0.3 is more than 0.1.
    before, after = (_recall(record, floor.slug) for record in (records[0], last))
    lost = 100 * (before - after)
    way = ', '.join(f'{float(_recall(r, floor.slug)):.3f} at {r["step"]}'
                    + ('' if r['checked'] or r is records[0] else ' (not checked)')
                    for r in records)
    text = f'recall {way}; {float(lost):.1f} points lost, {floor.points:g} allowed'
    if floor.least:
        text += f', at least {floor.least:g} needed'
    good = lost <= Fraction(str(floor.points)) and after >= Fraction(str(floor.least))
    if good:
        return GuardResult(f'floor of {floor.slug}', PASSED, text)
    return GuardResult(f'floor of {floor.slug}', FAILED,
                       f'{_died(floor.slug, records)}: {text}')


def _died(slug: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Return which step took most of the recall, with the numbers on both sides of it."""
    recalls = [_recall(record, slug) for record in records]
    losses = [before - after for before, after in zip(recalls, recalls[1:], strict=False)]
    worst = max(range(len(losses)), key=losses.__getitem__)
    died = 'died' if not recalls[worst + 1] else 'fell most'
    found = f'{slug} is lost at {records[-1]["step"]}'
    return f'{found}; it {died} in {records[worst + 1]["step"]}, from ' \
        f'{float(recalls[worst]):.3f} to {float(recalls[worst + 1]):.3f}'


def _recall(record: Mapping[str, Any], slug: str) -> Fraction:
    row = record['classes'][slug]
    return Fraction(row['hit_px'], row['truth_px'])


def verdict(results: Sequence[GuardResult]) -> str:
    """Return failed if any guard failed, passed if one passed, else not measured."""
    states = {result.status for result in results}
    return next((state for state in (FAILED, PASSED) if state in states), NOT_MEASURED)


def verdict_lines(results: Sequence[GuardResult]) -> List[str]:
    """Return the verdict and every guard under it, what failed first."""
    missing = [result.name for result in results if result.status == NOT_MEASURED]
    tail = f'; not measured: {", ".join(missing)}' if missing else ''
    order = (FAILED, NOT_MEASURED, PASSED)
    return [f'verdict: {verdict(results)}{tail}',
            *(f'  {result}' for result in sorted(results, key=lambda r: order.index(r.status)))]


def results_to_list(results: Sequence[GuardResult]) -> List[Dict[str, Any]]:
    """Return the results as JSON can hold them."""
    return [{'name': r.name, 'status': r.status, 'text': r.text, 'notes': list(r.notes)}
            for r in results]
