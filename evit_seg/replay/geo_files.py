# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The map of a flight as files: GeoJSON (RFC 7946) and KML (OGC 2.2, Google Earth).

Both come from the section `places` of run reports: the flight as a line, a point for each place
of an alert. KML adds the circle of its radius, GeoJSON says it in `radius_m`.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
import json
import math
from pathlib import Path
import re
from typing import Any
from xml.etree import ElementTree

from evit_seg.core.errors import InputError
from evit_seg.core.geo import place_at

KML_NAMESPACE = 'http://www.opengis.net/kml/2.2'
CIRCLE_POINTS = 36
TRACK_COLOUR = 'ffffbf00'
"""KML's order: alpha, blue, green, red."""
NOT_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
Run = Mapping[str, Any]
Position = tuple[float, float]
"""Longitude and latitude, the order of both formats."""


def write_maps(runs: Sequence[Run], geojson: Path | None, kml: Path | None) -> None:
    """
    Write the maps of these runs, those of bags without a position left out.

    InputError when that leaves nothing to write, or where a place cannot be written.
    """
    placed = [run for run in runs if run['places'] is not None]
    wanted = [path for path in (geojson, kml) if path is not None]
    if wanted and not placed:
        raise InputError(f'{" and ".join(map(str, wanted))}: not written, there is no position '
                         '(sensor_msgs/NavSatFix) in what was replayed')
    if geojson is not None:
        _write(geojson, json.dumps(geojson_of(placed), indent=1, allow_nan=False) + '\n')
    if kml is not None:
        _write(kml, kml_of(placed))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error}') from error


def geojson_of(runs: Sequence[Run]) -> dict[str, Any]:
    """
    Return a FeatureCollection of runs that have `places`.

    The track of a bag stands there once, however many bundles saw it.
    """
    features: list[dict[str, Any]] = []
    for run in _first_of_each_bag(runs):
        geometry = _track_geometry(run)
        if geometry is not None:
            begin, end = _track_times(run)
            features.append(_feature(geometry, {
                'kind': 'track', 'bag': run['bag']['name'], 'from': begin, 'to': end}))
    for run in runs:
        for alert, region in _placed_regions(run):
            features.append(_feature(
                {'type': 'Point', 'coordinates': [region['lon'], region['lat']]},
                {'kind': alert['kind'], 'class': alert['class'], 'alert_id': alert['alert_id'],
                 'from': time_text(alert['stamp_ns']),
                 'until': None if alert['until_ns'] is None else time_text(alert['until_ns']),
                 't_s': alert['t_s'], 'confidence': alert['confidence'],
                 'radius_m': region['radius_m'], 'bag': run['bag']['name'],
                 'model': run['model']['name']}))
    return {'type': 'FeatureCollection', 'features': features}


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {'type': 'Feature', 'geometry': geometry, 'properties': properties}


def _first_of_each_bag(runs: Iterable[Run]) -> list[Run]:
    return list({run['bag']['sha256']: run for run in reversed(list(runs))}.values())[::-1]


def _placed_regions(run: Run) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for alert in run['places']['alerts']:
        for region in alert['regions']:
            if region['lat'] is not None:
                yield alert, region


def _track_geometry(run: Run) -> dict[str, Any] | None:
    lines = cut_at_date_line([(point['lon'], point['lat']) for point in run['places']['track']])
    if not lines:
        return None
    if len(lines) > 1:
        return {'type': 'MultiLineString', 'coordinates': [list(map(list, ln)) for ln in lines]}
    if len(lines[0]) == 1:
        return {'type': 'Point', 'coordinates': list(lines[0][0])}
    return {'type': 'LineString', 'coordinates': list(map(list, lines[0]))}


def _track_times(run: Run) -> tuple[str, str]:
    places = run['places']
    begin, end = (time_text(places['first_ns'] + round(places['track'][which]['t_s'] * 1e9))
                  for which in (0, -1))
    return begin, end


def cut_at_date_line(points: Sequence[Position]) -> list[list[Position]]:
    """
    Return the line in parts that do not cross longitude 180, as RFC 7946 (3.1.9) asks.

    Both parts end in a point of their own on the line. A part is a line of two points or more,
    unless there is but one point in all.
    """
    parts: list[list[Position]] = []
    for here in points:
        if not parts:
            parts.append([])
        elif abs(here[0] - parts[-1][-1][0]) > 180:
            before = parts[-1][-1]
            side = 180.0 if before[0] > 0 else -180.0
            to_line, behind = side - before[0], here[0] + side
            share = to_line / (to_line + behind) if to_line + behind else 0.0
            crossing = before[1] + share * (here[1] - before[1])
            if before[0] != side:
                parts[-1].append((side, crossing))
            parts.append([] if here[0] == -side else [(-side, crossing)])
        parts[-1].append(here)
    return [part for part in parts if len(part) > 1] or parts[:1]


def time_text(stamp_ns: int) -> str:
    """Return a stamp as an RFC 3339 time in UTC, to the millisecond."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=stamp_ns // 1000)
    return moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def kml_of(runs: Sequence[Run]) -> str:
    """Return a KML document of runs that have `places`, a folder for each."""
    ElementTree.register_namespace('', KML_NAMESPACE)
    root = ElementTree.Element(_tag('kml'))
    document = _add(root, 'Document')
    _add(document, 'name', ', '.join(run['bag']['name'] for run in _first_of_each_bag(runs)))
    style = _add(document, 'Style', id='track')
    line = _add(style, 'LineStyle')
    _add(line, 'color', TRACK_COLOUR)
    _add(line, 'width', '3')
    for slug, colour in _colours(runs).items():
        _add_style(document, slug, colour)
    for run in runs:
        folder = _add(document, 'Folder')
        _add(folder, 'name', f'{run["bag"]["name"]}, {run["model"]["name"]}')
        _add_track(folder, run)
        for alert, region in _placed_regions(run):
            _add_alert(folder, alert, region)
    ElementTree.indent(root, ' ')
    text = ElementTree.tostring(root, encoding='unicode')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _tag(name: str) -> str:
    return f'{{{KML_NAMESPACE}}}{name}'


def _add(parent: ElementTree.Element, name: str, text: str = '',
         **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, _tag(name), attributes)
    element.text = NOT_XML.sub('?', text) or None
    return element


def _colours(runs: Iterable[Run]) -> dict[str, str]:
    """Return the classes that have a place and their colours, bbggrr."""
    colours = {}
    for run in runs:
        palette = {entry['slug']: entry['colour'] for entry in run['model']['label_map']}
        for alert, _ in _placed_regions(run):
            red, green, blue = palette[alert['class']]
            colours[alert['class']] = f'{blue:02x}{green:02x}{red:02x}'
    return colours


def _add_style(document: ElementTree.Element, slug: str, colour: str) -> None:
    style = _add(document, 'Style', id=slug)
    _add(_add(style, 'IconStyle'), 'color', f'ff{colour}')
    _add(_add(style, 'LineStyle'), 'color', f'ff{colour}')
    _add(_add(style, 'PolyStyle'), 'color', f'40{colour}')


def _add_track(folder: ElementTree.Element, run: Run) -> None:
    lines = cut_at_date_line([(point['lon'], point['lat']) for point in run['places']['track']])
    if not lines:
        return
    placemark = _add(folder, 'Placemark')
    _add(placemark, 'name', 'flight')
    _add_times(placemark, *_track_times(run))
    _add(placemark, 'styleUrl', '#track')
    geometries = _add(placemark, 'MultiGeometry')
    for line in lines:
        geometry = _add(geometries, 'LineString' if len(line) > 1 else 'Point')
        if len(line) > 1:
            _add(geometry, 'tessellate', '1')
        _add(geometry, 'coordinates', _coordinates(line))


def _add_alert(folder: ElementTree.Element, alert: Mapping[str, Any],
               region: Mapping[str, Any]) -> None:
    placemark = _add(folder, 'Placemark')
    _add(placemark, 'name', alert['alert_id'])
    _add(placemark, 'description',
         f'{alert["class"]} {alert["kind"]} {alert["t_s"]:.1f} s into the flight, confidence '
         f'{alert["confidence"]:.2f}, within {region["radius_m"]:.1f} m')
    _add_times(placemark, time_text(alert['stamp_ns']),
               None if alert['until_ns'] is None else time_text(alert['until_ns']))
    _add(placemark, 'styleUrl', f'#{alert["class"]}')
    geometries = _add(placemark, 'MultiGeometry')
    _add(_add(geometries, 'Point'), 'coordinates', _coordinates([(region['lon'], region['lat'])]))
    polygon = _add(geometries, 'Polygon')
    _add(polygon, 'tessellate', '1')
    ring = _add(_add(polygon, 'outerBoundaryIs'), 'LinearRing')
    _add(ring, 'coordinates', _coordinates(
        circle((region['lon'], region['lat']), region['radius_m'])))


def _add_times(placemark: ElementTree.Element, begin: str, end: str | None) -> None:
    span = _add(placemark, 'TimeSpan')
    _add(span, 'begin', begin)
    if end is not None:
        _add(span, 'end', end)


def _coordinates(points: Iterable[Position]) -> str:
    return ' '.join(f'{longitude:.7f},{latitude:.7f}' for longitude, latitude in points)


def circle(centre: Position, radius_m: float) -> list[Position]:
    """Return a closed ring around a place, counterclockwise, on the ellipsoid."""
    turn = 2 * math.pi / CIRCLE_POINTS
    ring = [place_at(centre[1], centre[0], radius_m * math.cos(turn * i),
                     radius_m * math.sin(turn * i)) for i in range(CIRCLE_POINTS)]
    return [(longitude, latitude) for latitude, longitude in (*ring, ring[0])]
