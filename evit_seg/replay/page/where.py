# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where the alerts lie: the track and the places as a plot and as a table."""
from __future__ import annotations

from collections.abc import Iterator

from evit_seg.replay.page.blocks import (
    amount,
    Block,
    Cell,
    cells,
    Chart,
    clock,
    Column,
    columns,
    Folded,
    MISSING,
    number,
    Section,
    sentence,
    Table,
    Text,
)
from evit_seg.replay.page.source import part, parts, Run, Source


def where(source: Source) -> Section:
    """Return the map of every run that has a position."""
    blocks: list[Block] = []
    for number_of, run in enumerate(source.runs):
        blocks += _map(source, run, number_of)
    if not blocks:
        why = next((str(note) for run in source.runs for note in parts(run.report, 'notes')
                    if str(note).startswith('places: ')), '')
        blocks.append(Text('No map: the bag holds no position that could be used'
                           + (f' ({why[len("places: "):]}).' if why else '.')))
    return Section('map', 'Map and landing zones', (*blocks, *_landing(source)))


def _landing(source: Source) -> Iterator[Block]:
    """Yield how often a circle to land in was found, and how often the truth denies it."""
    rows = []
    for run in source.runs:
        zones = part(run.report, 'safe_zone')
        if not isinstance(zones, dict):
            continue
        if part(zones, 'note'):
            yield Text(sentence(f'landing zones: {zones["note"]}'), 'note')
            continue
        truth = part(zones, 'truth') or {}
        hit = ', '.join(f'{source.name(slug)} in {count}'
                        for slug, count in (part(truth, 'by_class') or {}).items())
        bad = part(truth, 'not_free')
        radius = part(zones, 'radius_px', 'p50')
        rows.append(cells(
            run.label, f'{part(zones, "with_zone")} of {part(zones, "frames")}',
            MISSING if radius is None else f'{radius:g} px',
            MISSING if bad is None else
            Cell(f'{bad} of {part(truth, "zones")}', state='bad' if bad else '', hint=hit)))
    if rows:
        yield Table('Landing zones', (
            Column('bundle' if len(source.bundles) > 1 else ''),
            *columns('frames with one', 'median radius', 'not free by the truth',
                     numbers_from=0)), tuple(rows))


def _map(source: Source, run: Run, number_of: int) -> Iterator[Block]:
    places = part(run.report, 'places')
    if not isinstance(places, dict) or not part(places, 'origin'):
        return

    def draw() -> str:
        from evit_seg.replay.page.draw_map import draw_map
        return draw_map(source, places, f'map-{number_of}')
    origin, alerts = places['origin'], parts(places, 'alerts')
    raised = [alert for alert in alerts if alert.get('kind') == 'raised']
    placed = [alert for alert in raised if any(region.get('lat') is not None
                                               for region in parts(alert, 'regions'))]
    said = f'{len(placed)} of {amount(len(raised), "alert")} have a place. ' if raised \
        else 'No alerts. '
    if placed:
        said += 'Circles: where the object lies with 95 % certainty, plus its own size; small ' \
                'dots: regions that came later, while the alert was on. '
    yield Chart('Track and alerts' if len(source.runs) == 1 else run.label,
                f'{said}The track runs from ring to square. North is up; the origin is '
                f'{origin["lat"]:.6f}, {origin["lon"]:.6f} '
                f'({part(places, "datum") or "WGS-84"}).', draw, 'map')
    notes = dict.fromkeys(str(alert['geo_note']) for alert in alerts if alert.get('geo_note'))
    yield from (Text(sentence(note), 'note') for note in list(notes)[:3])
    rows = []
    for alert in raised:
        for region in parts(alert, 'regions'):
            if region.get('lat') is not None:
                rows.append(cells(
                    str(alert.get('alert_id')), Cell(source.name(str(alert.get('class'))),
                                                     swatch=source.colour(str(alert['class']))),
                    clock(alert.get('t_s'), run.length_s), f'{region["lat"]:.7f}',
                    f'{region["lon"]:.7f}', number(region.get('radius_m'), 1, ' m')))
    if rows:
        of = f', {run.label}' if len(source.runs) > 1 else ''
        yield Folded(f'Places of the alerts when they were raised ({len(rows)}){of}', (Table(
            '', columns('alert', 'class', 'time', 'latitude', 'longitude', 'radius',
                        numbers_from=2), tuple(rows)),))
