# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The alerts of the flight: when they were on, what they found, and what other thresholds give."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evit_seg.replay.page.blocks import (
    amount,
    Block,
    Cell,
    cells,
    Chart,
    Charts,
    clock,
    Code,
    Column,
    columns,
    Folded,
    Heading,
    MISSING,
    number,
    percent,
    Section,
    sentence,
    Table,
    Text,
)
from evit_seg.replay.page.source import (
    alert_classes,
    Bundle,
    event_rows,
    in_view,
    judged_alerts,
    part,
    parts,
    Run,
    Source,
)


def alerts(source: Source) -> Section:
    """Return the time line of each bag and what the alerts were worth."""
    blocks: list[Block] = []
    for number_of, bag in enumerate(source.bags):
        blocks += _time_line(source, bag, number_of)
    blocks += [table for bundle in source.bundles
               for table in _event_table(source, bundle)]
    definition = next((text for run in source.runs
                       if (text := part(run.report, 'events', 'definition'))), None)
    if definition:
        blocks.append(Text(sentence(f'counted by {definition}'), 'note'))
    notes = dict.fromkeys(str(note) for run in source.runs
                          if (note := part(run.report, 'events', 'note')))
    blocks += [Text(sentence(note), 'note') for note in notes]
    blocks += [_list(source, run) for run in source.runs if parts(run.report, 'alerts')]
    return Section('alerts', 'Alerts over the flight', tuple(blocks))


def _time_line(source: Source, bag: str, number_of: int) -> Iterator[Block]:
    runs = source.runs_of(bag)
    if not alert_classes(source):
        yield Text('No class has an alert rule: there are no alerts to show.')
        return
    if not any(part(run.report, 'frames') or parts(run.report, 'alerts') for run in runs):
        yield Text(f'{bag}: no alert was raised.' if len(source.bags) > 1
                   else 'No alert was raised.')
        return

    def draw() -> str:
        from evit_seg.replay.page.draw_alerts import draw_time_line
        return draw_time_line(source, runs, f'alerts-{number_of}')
    known = any(in_view(run, slug) is not None for run in runs for slug in alert_classes(source))
    said = ('Thin grey: the class truly was in view. Thick blue: its alert was on; pale, on '
            'while none was in view; hatched red, false: none was in view at any moment of it. '
            'Outlined red: an appearance that no alert met.') \
        if known else 'Thick: the alert was on. When the class truly was in view is not known.'
    if any(parts(run.report, 'frames', 'confidence') for run in runs):
        said += ' Below: how sure the network was, the mean confidence over each frame.'
    yield Chart(bag if len(source.bags) > 1 else 'When which alert was on', said, draw)


def _event_table(source: Source, bundle: Bundle) -> Iterator[Block]:
    rows = list(event_rows(bundle.pooled))
    if not rows:
        return
    of = f': {bundle.label}' if len(source.bundles) > 1 else ''
    if not any(row.get('appearances') is not None for row in rows):
        yield Table(f'How often alerts were on{of}', columns(
            'class', 'alerts', 'per minute', 'on'), tuple(
            cells(_named(source, row['slug']), _count(row.get('alerts')),
                  number(row.get('alerts_per_min'), 2), clock(row.get('on_s')))
            for row in rows))
        return
    heads = columns('class', 'found', 'recall', 'time to alert, median', 'p90', 'slowest',
                    'alerts', 'false', 'false per minute', 'on', 'of it with none in view')
    longest_s = max(row.get('on_s') or 0.0 for row in rows)
    table = []
    for row in rows:
        wait = row.get('time_to_alert_s') or {}
        missed = row.get('recall') is not None and row['recall'] < 1
        table.append(cells(
            _named(source, row['slug']),
            MISSING if row.get('appearances') is None
            else f'{row.get("hits")} of {row["appearances"]}',
            Cell(percent(row.get('recall'), 0), state='bad' if missed else ''),
            clock(wait.get('median')), clock(wait.get('p90')), clock(wait.get('max')),
            _count(judged_alerts(bundle, row['slug'])),
            Cell(_count(row.get('false_alerts')), state='bad' if row.get('false_alerts') else ''),
            number(row.get('false_alerts_per_min'), 2), clock(row.get('on_s'), longest_s),
            clock(row.get('idle_s'), longest_s)))
    judged = sum(any(row.get('annotated') for row in event_rows(run.report))
                 for run in bundle.runs)
    yield Table(f'What the alerts were worth{of}', heads, tuple(table),
                '' if judged == len(bundle.runs) else
                f'Of {judged} of {amount(len(bundle.runs), "bag")}, whose events are annotated; '
                'the time on is of all.')


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _named(source: Source, slug: str) -> Cell:
    return Cell(source.name(slug), swatch=source.colour(slug))


def _list(source: Source, run: Run) -> Block:
    """Return every alert that was raised, cleared or reset, to be unfolded."""
    rows = []
    for event in parts(run.report, 'alerts'):
        if event['kind'] == 'updated':
            continue
        regions = parts(event, 'regions')
        best = max((region['confidence'] for region in regions), default=None)
        rows.append(cells(clock(event['t_s'], run.length_s), event['kind'], event['alert_id'],
                          _named(source, event['class']), str(len(regions)), number(best, 2)))
    title = 'Every alert' if len(source.runs) == 1 else f'Every alert: {run.label}'
    return Folded(title, (Table('', columns('time', 'what', 'alert', 'class', 'regions',
                                            'highest confidence', numbers_from=4), tuple(rows)),))


def thresholds(source: Source) -> Section:
    """Return the curves over the alert thresholds with the shipped and the recommended one."""
    blocks: list[Block] = []
    for number_of, run in enumerate(source.runs):
        curves = part(run.report, 'curves')
        if parts(curves, 'classes'):
            several = len(source.runs) > 1
            found = tuple(_curves(source, run, curves, number_of))
            first_of_many = several and number_of == 0
            if not several or first_of_many:
                blocks += [Heading(run.label)] if several else []
                blocks += found
            else:
                blocks.append(Folded(run.label, found))
    if not blocks:
        blocks.append(Text('No threshold curves in this report.'))
    return Section('thresholds', 'Alert thresholds', tuple(blocks))


def _curves(source: Source, run: Run, curves: Mapping[str, Any], number_of: int
            ) -> Iterator[Block]:
    charts = []
    for row in parts(curves, 'classes'):
        def draw(row: Mapping[str, Any] = row) -> str:
            from evit_seg.replay.page.draw_alerts import draw_curves
            return draw_curves(row, f'curves-{number_of}-{row["slug"]}')
        if parts(row, 'points'):
            charts.append(Chart(source.name(row['slug']), '', draw, 'small'))
    yield Charts(tuple(charts))
    yield Text('One line per smallest area of a region (min_pixels, thicker is larger). '
               'Square: the setting that was run. Star: the recommended one. An alert that never '
               'clears is never false: hence the time it was on with none in view.'
               if any(row.get('recommended') for row in parts(curves, 'classes')) else
               'One line per smallest area of a region (min_pixels, thicker is larger). '
               'Square: the setting that was run.', 'note')
    yield Table('', (*columns('class', 'run with', 'recommended', numbers_from=9),
                     Column('why', wraps=True)), tuple(
        cells(_named(source, row['slug']), _setting(row.get('shipped')),
              _setting(row.get('recommended')), str(row.get('reason') or ''))
        for row in parts(curves, 'classes')))
    recommended = any(row.get('recommended') for row in parts(curves, 'classes'))
    for note in (part(curves, 'criterion') if recommended else None, part(curves, 'note')):
        if note:
            yield Text(sentence(str(note)), 'note')
    if part(curves, 'yaml'):
        yield Folded('The recommended values as a parameter file', (Code(str(curves['yaml'])),))


def _setting(setting: Mapping[str, Any] | None) -> str:
    if not setting:
        return MISSING
    return f'confidence {setting["min_confidence"]:g}, {setting["min_pixels"]:g} px'
