# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The maps: GeoJSON held against RFC 7946, KML parsed back and held against KML 2.2."""
from __future__ import annotations

from datetime import datetime
import json
import math
from xml.etree import ElementTree

from evit_seg.core.errors import InputError
from evit_seg.core.geo import offset_m
from evit_seg.replay.geo_files import (
    circle,
    cut_at_date_line,
    geojson_of,
    kml_of,
    time_text,
    write_maps,
)
import pytest

FIRST_NS = 1_700_000_000_250_000_000
POSITIONS = {'Point': 0, 'LineString': 1, 'MultiLineString': 2, 'Polygon': 2}
"""RFC 7946, 3.1: how deep the coordinates are nested."""


def region(lat, lon, radius_m=7.5):
    return {'lat': lat, 'lon': lon, 'radius_m': radius_m, 'east_m': 0.0, 'north_m': 0.0}


TRACK = ((0.0, 46.0, -91.0), (2.5, 46.001, -91.002))


def run(track=TRACK, bag='flight', model='demo', **changes):
    alerts = [
        {'t_s': 1.0, 'stamp_ns': FIRST_NS + 10**9, 'until_s': 2.0,
         'until_ns': FIRST_NS + 2 * 10**9,
         'kind': 'raised', 'alert_id': 'person-1', 'class': 'person', 'confidence': 0.9,
         'regions': [region(46.0, -91.0), region(None, None, None)], 'geo_note': 'region 2: why'},
        {'t_s': 1.5, 'stamp_ns': FIRST_NS + 15 * 10**8, 'until_s': None, 'until_ns': None,
         'kind': 'updated', 'alert_id': 'person-1', 'class': 'person', 'confidence': 0.8,
         'regions': [region(46.0005, -91.001, 12.0)], 'geo_note': ''},
        {'t_s': 1.6, 'stamp_ns': FIRST_NS, 'until_s': None, 'until_ns': None, 'kind': 'raised',
         'alert_id': 'vehicle-2', 'class': 'vehicle', 'confidence': 0.8, 'regions': [],
         'geo_note': 'not geotagged: no heading'}]
    return {'bag': {'name': bag, 'sha256': bag * 8},
            'model': {'name': model, 'label_map': [
                {'slug': 'person', 'colour': [255, 0, 16]},
                {'slug': 'vehicle', 'colour': [0, 255, 0]}]},
            'places': {'first_ns': FIRST_NS, 'alerts': alerts, 'track': [
                {'t_s': t_s, 'lat': lat, 'lon': lon, 'east_m': 0.0, 'north_m': 0.0}
                for t_s, lat, lon in track]}, **changes}


def check_geojson(content):
    """Hold a FeatureCollection against the rules of RFC 7946 that can be broken here."""
    assert set(content) == {'type', 'features'}  # no crs: 4
    assert content['type'] == 'FeatureCollection'
    for feature in content['features']:
        assert feature['type'] == 'Feature'
        assert set(feature) == {'type', 'geometry', 'properties'}
        assert isinstance(feature['properties'], dict)
        geometry = feature['geometry']
        positions = geometry['coordinates']
        for _ in range(POSITIONS[geometry['type']]):
            assert isinstance(positions, list)
            if geometry['type'] != 'Point' and isinstance(positions[0][0], float):
                assert len(positions) >= 2
            positions = [item for part in positions for item in part] \
                if isinstance(positions[0][0], list) else positions
        positions = [positions] if isinstance(positions[0], float) else positions
        for longitude, latitude in positions:
            assert -180 <= longitude <= 180
            assert -90 <= latitude <= 90


def test_geojson_of_a_flight():
    content = json.loads(json.dumps(geojson_of([run()])))
    check_geojson(content)
    track, first, second = content['features']
    assert track['geometry'] == {'type': 'LineString',
                                 'coordinates': [[-91.0, 46.0], [-91.002, 46.001]]}
    assert track['properties'] == {
        'kind': 'track', 'bag': 'flight', 'from': '2023-11-14T22:13:20.250Z',
        'to': '2023-11-14T22:13:22.750Z'}
    assert first['geometry'] == {'type': 'Point', 'coordinates': [-91.0, 46.0]}
    assert first['properties'] == {
        'kind': 'raised', 'class': 'person', 'alert_id': 'person-1', 't_s': 1.0,
        'from': '2023-11-14T22:13:21.250Z', 'until': '2023-11-14T22:13:22.250Z',
        'confidence': 0.9, 'radius_m': 7.5, 'bag': 'flight', 'model': 'demo'}
    assert (second['properties']['kind'], second['properties']['until']) == ('updated', None)


def test_the_track_stands_there_once_for_each_bag():
    content = geojson_of([run(), run(model='other'), run(bag='second')])
    kinds = [(f['properties']['kind'], f['properties']['bag']) for f in content['features']]
    assert [bag for kind, bag in kinds if kind == 'track'] == ['flight', 'second']
    assert [f['properties']['model'] for f in content['features'][2:]] == \
        ['demo'] * 2 + ['other'] * 2 + ['demo'] * 2


@pytest.mark.parametrize(('track', 'kind'), [
    ((), None), (((0.0, 46.0, -91.0),), 'Point'),
    (((0.0, 10.0, 179.9), (1.0, 10.2, -179.9)), 'MultiLineString')])
def test_tracks_that_are_no_plain_line(track, kind):
    content = geojson_of([run(track=track)])
    check_geojson(content)
    kinds = [f['geometry']['type'] for f in content['features']
             if f['properties']['kind'] == 'track']
    assert kinds == ([] if kind is None else [kind])
    ElementTree.fromstring(kml_of([run(track=track)]))


def test_a_line_is_cut_at_the_date_line():
    there = cut_at_date_line([(179.9, 10.0), (-179.9, 10.2), (-179.7, 10.2)])
    assert there == [[(179.9, 10.0), (180.0, pytest.approx(10.1))],
                     [(-180.0, pytest.approx(10.1)), (-179.9, 10.2), (-179.7, 10.2)]]
    back = cut_at_date_line([(-179.9, 10.0), (179.7, 10.4)])
    assert back == [[(-179.9, 10.0), (-180.0, pytest.approx(10.1))],
                    [(180.0, pytest.approx(10.1)), (179.7, 10.4)]]
    assert cut_at_date_line([(-90.0, 1.0), (89.0, 1.0)]) == [[(-90.0, 1.0), (89.0, 1.0)]]
    assert cut_at_date_line([(180.0, 1.0), (-179.0, 1.0)]) == [[(-180.0, 1.0), (-179.0, 1.0)]]
    assert cut_at_date_line([(179.0, 1.0), (-180.0, 1.0)]) == [[(179.0, 1.0), (180.0, 1.0)]]
    assert cut_at_date_line([]) == []


KML = '{http://www.opengis.net/kml/2.2}'
IN_ORDER = {
    # The order of the schema's sequences, as far as they are used.
    'Document': ['name', 'Style', 'Folder'], 'Folder': ['name', 'Placemark'],
    'Style': ['IconStyle', 'LineStyle', 'PolyStyle'], 'IconStyle': ['color'],
    'LineStyle': ['color', 'width'], 'PolyStyle': ['color'],
    'Placemark': ['name', 'description', 'TimeSpan', 'styleUrl', 'MultiGeometry'],
    'TimeSpan': ['begin', 'end'], 'Polygon': ['tessellate', 'outerBoundaryIs'],
    'outerBoundaryIs': ['LinearRing'], 'LinearRing': ['coordinates'], 'Point': ['coordinates'],
    'LineString': ['tessellate', 'coordinates']}


def check_kml(root):
    """Hold a document against the structure of KML 2.2."""
    assert root.tag == f'{KML}kml'
    assert [child.tag for child in root] == [f'{KML}Document']
    styles = {element.get('id') for element in root.iter(f'{KML}Style')}
    for element in root.iter():
        name = element.tag[len(KML):]
        if name in IN_ORDER:
            places = [IN_ORDER[name].index(child.tag[len(KML):]) for child in element]
            assert places == sorted(places), name
        elif name == 'coordinates':
            for longitude, latitude in coordinates(element):
                assert abs(longitude) <= 180
                assert abs(latitude) <= 90
        elif name in ('begin', 'end'):
            datetime.fromisoformat(element.text.replace('Z', '+00:00'))
        elif name == 'styleUrl':
            assert element.text.lstrip('#') in styles
        elif name == 'color':
            assert len(bytes.fromhex(element.text)) == 4


def coordinates(element):
    return [tuple(map(float, text.split(','))) for text in element.text.split()]


def test_kml_of_a_flight():
    root = ElementTree.fromstring(kml_of([run(), run(bag='sec\x00ond & <third>')]).encode())
    check_kml(root)
    folder, other = root.iter(f'{KML}Folder')
    assert other.find(f'{KML}name').text == 'sec?ond & <third>, demo'
    track, first, second = folder.iter(f'{KML}Placemark')
    line = next(track.iter(f'{KML}coordinates'))
    assert coordinates(line) == [(-91.0, 46.0), (-91.002, 46.001)]
    assert first.find(f'{KML}name').text == 'person-1'
    assert first.find(f'{KML}description').text == \
        'person raised 1.0 s into the flight, confidence 0.90, within 7.5 m'
    span = first.find(f'{KML}TimeSpan')
    assert [child.text for child in span] == ['2023-11-14T22:13:21.250Z',
                                              '2023-11-14T22:13:22.250Z']
    assert [child.tag for child in second.find(f'{KML}TimeSpan')] == [f'{KML}begin']
    point, ring = first.iter(f'{KML}coordinates')
    assert coordinates(point) == [(-91.0, 46.0)]
    for longitude, latitude in coordinates(ring):
        assert math.hypot(*offset_m(46.0, -91.0, latitude, longitude)) == \
            pytest.approx(7.5, abs=0.02)  # the text has seven decimals, 1 cm
    style = next(s for s in root.iter(f'{KML}Style') if s.get('id') == 'person')
    assert style.find(f'{KML}IconStyle/{KML}color').text == 'ff1000ff'  # aabbggrr


def test_a_circle_is_a_closed_ring_counterclockwise():
    ring = circle((10.0, 0.0), 100.0)
    assert ring[0] == ring[-1]
    assert len(set(ring)) == 36
    doubled_area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:]))
    assert doubled_area > 0
    assert ring[0] == (pytest.approx(10 + math.degrees(100 / 6378137)), pytest.approx(0.0))


@pytest.mark.parametrize(('stamp_ns', 'text'), [
    (0, '1970-01-01T00:00:00.000Z'), (1_700_000_000_999_999_999, '2023-11-14T22:13:20.999Z'),
    (-1_000_000_000, '1969-12-31T23:59:59.000Z')])
def test_times_are_utc(stamp_ns, text):
    assert time_text(stamp_ns) == text


def test_what_has_a_position_is_written(tmp_path):
    runs = [run(places=None), run(bag='second')]
    write_maps(runs, tmp_path / 'new' / 'a.geojson', tmp_path / 'a.kml')
    content = json.loads((tmp_path / 'new' / 'a.geojson').read_text())
    assert {f['properties']['bag'] for f in content['features']} == {'second'}
    check_kml(ElementTree.parse(tmp_path / 'a.kml').getroot())
    write_maps(runs[:1], None, None)
    with pytest.raises(InputError, match=r'a\.kml: not written, there is no position'):
        write_maps(runs[:1], None, tmp_path / 'a.kml')
    with pytest.raises(InputError, match='cannot be written'):
        write_maps(runs, tmp_path / 'a.kml' / 'b', None)
