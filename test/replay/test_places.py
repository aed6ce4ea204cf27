# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The section `places`: alerts at positions worked out by hand, and the flight's track."""
from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import cv2
from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.errors import ConfigError
from evit_seg.core.geo import offset_m, place_at
from evit_seg.core.position import GEO_LIMITS, GeoParameters
from evit_seg.core.regions import Region
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.places import (
    FlightTrack,
    load_geo_parameters,
    MAX_POINTS,
    NO_POSITION,
    placed_in_words,
    PlacedEvent,
    Places,
    places_section,
)
from evit_seg.replay.run import Stamps
import numpy as np
import pytest
from tiny_bundle import anchor_colours, write_tiny_bundle

BACKGROUND, PERSON, VEHICLE = 0, 10, 13
S = 1_000_000_000
EAST_10_M_DEG = math.degrees(10 / 6378137)
"""Of longitude, at the equator."""


def paint_flight(folder: Path) -> Path:
    """
    Write 3 s at 2 Hz at the equator: a person straight below, a vehicle 10 m to the east.

    Heading north at 40 m; the focal length of 64 px makes 16 px of 10 m. The image's centre, where
    four pixels meet, is the corner (32, 32).
    """
    (folder / 'IMG').mkdir(parents=True)
    rows = ['file,latitude_deg,longitude_deg,relative_altitude_m,yaw_deg,focal_length_mm,'
            'sensor_width_mm,time_s']
    image = np.full((64, 64, 3), anchor_colours()[BACKGROUND][::-1], np.uint8)
    image[24:40, 24:40] = anchor_colours()[PERSON][::-1]
    image[24:40, 40:56] = anchor_colours()[VEHICLE][::-1]
    for i in range(6):
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), image)
        rows.append(f'f{i:03}.png,0.0,10.0,40,0,6.0,6.0,{i / 2}')
    (folder / 'frames.csv').write_text('\n'.join(rows))
    return folder


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def run_of(bag: Path, tiny: Path, out: Path, *options: str) -> dict:
    code = bag_eval.main([str(bag), '--model', str(tiny), '--json', str(out / 'report.json'),
                          '--quiet', *options])
    assert code == 0
    return json.loads((out / 'report.json').read_text())['runs'][0]


def test_a_person_below_and_a_vehicle_ten_metres_east(tmp_path, tiny):
    make_bag.main([str(paint_flight(tmp_path / 'f')), '--out', str(tmp_path / 'bag'), '--quiet'])
    run = run_of(tmp_path / 'bag', tiny, tmp_path)
    places = run['places']
    assert not any(note.startswith('places') for note in run['notes'])
    assert places['topics'] == {'fix': '/fix', 'heading': '/heading', 'height': '/height',
                                'camera_info': '/camera/camera_info'}
    assert places['origin'] == {'lat': 0.0, 'lon': 10.0}
    assert places['fixes'] == 6
    assert [point['t_s'] for point in places['track']] == [i / 2 for i in range(6)]
    assert all((point['lat'], point['lon']) == (0.0, 10.0) for point in places['track'])
    person, vehicle = places['alerts']
    assert (person['class'], person['kind'], person['t_s'], person['alert_id']) == (
        'person', 'raised', 1.0, 'person-1')
    assert (person['until_s'], person['geo_note']) == (None, '')
    [below], [east] = person['regions'], vehicle['regions']
    assert (below['lat'], below['lon']) == (0.0, 10.0)
    assert (below['east_m'], below['north_m']) == (0.0, 0.0)
    assert east['lat'] == 0.0
    assert east['lon'] == pytest.approx(10 + EAST_10_M_DEG, abs=5e-8)
    assert (east['east_m'], east['north_m']) == (pytest.approx(10.0, abs=0.01), 0.0)
    # half of the box's diagonal, 5 m x 5 m, and the errors around it
    assert below['radius_m'] > math.hypot(5, 5)
    assert east['radius_m'] > below['radius_m']


def test_the_parameter_file_counts(tmp_path, tiny):
    make_bag.main([str(paint_flight(tmp_path / 'f')), '--out', str(tmp_path / 'bag'), '--quiet'])
    params = tmp_path / 'p.yaml'
    params.write_text('/**: {ros__parameters: {alert.classes: [vehicle], geo.height_m: 80.0, '
                      'geo.yaw_deg: 90}}')
    run = run_of(tmp_path / 'bag', tiny, tmp_path, '--params', str(params))
    [vehicle] = run['places']['alerts']
    [south] = vehicle['regions']  # twice the height, and the image's right is south now
    assert (south['east_m'], south['north_m']) == (0.0, pytest.approx(-20.0, abs=0.01))


def test_a_bag_without_position_says_so(tmp_path, tiny, capsys):
    flight = paint_flight(tmp_path / 'f')
    (flight / 'frames.csv').unlink()
    make_bag.main([str(flight), '--out', str(tmp_path / 'bag'), '--quiet'])
    run = run_of(tmp_path / 'bag', tiny, tmp_path)
    assert run['places'] is None
    assert NO_POSITION in run['notes']
    capsys.readouterr()
    assert bag_eval.main([str(tmp_path / 'bag'), '--model', str(tiny), '--quiet', '--geojson',
                          str(tmp_path / 'a.geojson')]) == 2
    out, err = capsys.readouterr()
    assert 'alerts' in out  # what there is to say is said all the same
    assert err.count('\n') == 1
    assert 'a.geojson: not written, there is no position' in err
    assert not (tmp_path / 'a.geojson').exists()


def fix(latitude=0.0, longitude=10.0, status=0):
    return SimpleNamespace(latitude=latitude, longitude=longitude, position_covariance_type=0,
                           position_covariance=[0.0] * 9, status=SimpleNamespace(status=status))


def info(**changes):
    roi = SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return SimpleNamespace(**{'height': 64, 'width': 64, 'distortion_model': 'plumb_bob',
                              'binning_x': 0, 'binning_y': 0, 'roi': roi, **changes})


K = [64.0, 0, 31.5, 0, 64.0, 31.5, 0, 0, 1]
TOPICS = {'/fix': 'fix', '/heading': 'heading', '/height': 'height',
          '/camera/camera_info': 'camera_info'}


class Flight:
    """Hands messages and frames to the observer, at the times given in s."""

    def __init__(self, clock: str = 'header', **geo: float) -> None:
        self.places = Places(TOPICS, GeoParameters(**geo), Stamps([0, S], [], clock))

    def send(self, topic, content, t_s, stamp_s=0.0):
        self.places.take_message(BagMessage(topic, round(stamp_s * S), round(t_s * S), content))

    def send_all(self, t_s):
        self.send('/fix', fix(), t_s, t_s)
        self.send('/heading', SimpleNamespace(data=0.0), t_s)
        self.send('/height', SimpleNamespace(data=40.0), t_s)
        self.send('/camera/camera_info', info(k=K, d=[]), t_s, t_s)

    def see(self, t_s, *boxes, kind='raised', alert_id='person-1'):
        stamp_ns = round(t_s * S)
        alert = Alert(alert_id, PERSON, 'person',
                      tuple(Region(*box, 9.0, 0.75) for box in boxes), stamp_ns, stamp_ns)
        self.places.take_frame(SimpleNamespace(
            stamp_ns=stamp_ns, events=[AlertEvent(kind, alert, 'ACTIVE', stamp_ns)],
            result=SimpleNamespace(geometry=SimpleNamespace(source_hw=(64, 64)))))

    def alerts(self):
        return self.places.section()['alerts']


BELOW, EAST, NORTH = (28, 28, 8, 8), (44, 28, 8, 8), (28, 12, 8, 8)


def test_the_calibration_of_ros_1_is_read_too():
    flight = Flight()
    flight.send_all(1.0)
    flight.send('/camera/camera_info', info(K=K, D=[], R=[], P=[]), 1.0)
    flight.see(1.0, EAST)
    assert flight.alerts()[0]['regions'][0]['east_m'] == pytest.approx(10.0, abs=0.01)


@pytest.mark.parametrize(('t_s', 'note'), [
    (2.5, 'not geotagged: the position on /fix is 1.5 s older than the image, geo.max_age_s is 1'),
    (2.0, '')])
def test_what_is_too_old_gives_no_place(t_s, note):
    flight = Flight()
    flight.send_all(1.0)
    flight.see(t_s, BELOW)
    [alert] = flight.alerts()
    assert alert['geo_note'].startswith(note)
    assert bool(alert['regions']) == (note == '')


def test_the_nearest_in_time_counts():
    flight = Flight()
    for t_s, heading_deg in ((1.0, 0.0), (1.4, 90.0), (1.9, 180.0)):
        flight.send_all(t_s)
        flight.send('/heading', SimpleNamespace(data=heading_deg), t_s)
    flight.see(1.5, EAST)  # heading east: the image's right is south
    [region] = flight.alerts()[0]['regions']
    assert (region['east_m'], region['north_m']) == (0.0, pytest.approx(-10.0, abs=0.01))


def test_what_is_missing_is_said():
    flight = Flight()
    flight.send('/camera/camera_info', info(k=K, d=[]), 1.0)
    flight.see(1.0, BELOW)
    assert flight.alerts()[0]['geo_note'].startswith('not geotagged: no position on /fix')
    assert flight.alerts()[0]['regions'] == []
    flight.send('/fix', ValueError('broken'), 1.0)  # a message that cannot be read is none
    flight.send('/fix', fix(status=-1), 1.0, 1.0)
    flight.see(1.0, BELOW)
    assert 'has no fix (status -1' in flight.alerts()[1]['geo_note']
    assert flight.places.section()['track'] == []
    assert flight.places.section()['origin'] is None


def test_a_region_at_the_horizon_has_no_place():
    flight = Flight(pitch_deg=30.0)
    flight.send_all(1.0)
    flight.see(1.0, (28, 52, 8, 8), (28, 0, 8, 8))
    [alert] = flight.alerts()
    assert alert['regions'][0]['lat'] is not None
    assert alert['regions'][1] == dict.fromkeys(('lat', 'lon', 'radius_m', 'east_m', 'north_m'))
    assert alert['geo_note'].startswith('not geotagged: region 2: the region reaches up to')


def test_updates_bring_new_places_only():
    flight = Flight(position_error_m=0.0, height_error_m=0.0, heading_error_deg=0.0,
                    tilt_error_deg=0.0)
    flight.send_all(1.0)
    flight.see(1.0, BELOW)
    flight.see(1.2, (32, 28, 8, 8), kind='updated')  # 2.5 m on, and its radius is 3.5 m
    flight.see(1.4, BELOW, NORTH, kind='updated')
    flight.see(1.6, BELOW, kind='cleared')
    flight.see(1.8, BELOW)
    flight.see(2.0, BELOW, kind='cleared')
    rows = flight.alerts()
    assert [(row['kind'], row['t_s'], row['until_s'], len(row['regions'])) for row in rows] == [
        ('raised', 1.0, 1.6, 1), ('updated', 1.4, 1.6, 1), ('raised', 1.8, 2.0, 1)]
    assert rows[1]['regions'][0]['north_m'] == pytest.approx(10.0, abs=0.01)
    assert (rows[0]['stamp_ns'], rows[0]['until_ns']) == (S, 1_600_000_000)


def test_where_no_header_has_a_stamp_the_time_of_the_bag_pairs():
    flight = Flight(clock='bag')
    flight.send_all(1.0)
    flight.send('/fix', fix(longitude=20.0), 1.2, 0.0)
    flight.see(1.2, BELOW)
    assert flight.alerts()[0]['regions'][0]['lon'] == 20.0
    assert flight.places.section()['track'][-1]['t_s'] == 1.2


@pytest.mark.parametrize('fixes', [1, 2, MAX_POINTS - 1, MAX_POINTS, MAX_POINTS + 1, 12_345])
def test_a_long_track_is_thinned_evenly(fixes):
    track = FlightTrack()
    for i in range(fixes):
        track.add(BagMessage('/fix', i, 0, fix(longitude=i / 1e5)))
        track.add(BagMessage('/fix', i, 0, fix(latitude=math.nan)))
    times = [at_ns for at_ns, _, _ in track.points()]
    assert track.fixes == fixes
    assert min(fixes, MAX_POINTS // 2) <= len(times) <= MAX_POINTS
    assert (times[0], times[-1]) == (0, fixes - 1)
    steps = {later - earlier for earlier, later in zip(times, times[1:-1])}
    assert len(steps) <= 1


def test_longitudes_are_told_from_minus_180_to_180():
    track = FlightTrack()
    for longitude in (190.0, -200.0, 180.0, -92.0000001):
        track.add(BagMessage('/fix', 0, 0, fix(longitude=longitude)))
    assert [longitude for _, _, longitude in track.points()] == [-170.0, 160.0, 180.0,
                                                                 -92.0000001]


def test_the_nodes_words_give_the_same_rows():
    alert = Alert('person-1', PERSON, 'person', (Region(0, 0, 2, 2, 4.0, 0.5),), S, S)
    event = AlertEvent('raised', alert, 'ACTIVE', S)
    words = {'lat': '0.0000000 nan', 'lon': '10.0000898 nan', 'radius_m': '7.3 nan',
             'geo_note': 'not geotagged: region 2: why'}
    placed = placed_in_words(event, words)
    assert placed == PlacedEvent(event, [(0.0, 10.0000898, 7.3), None], words['geo_note'])
    assert placed_in_words(event, dict.fromkeys(words, '')).places == []
    [row] = places_section({}, FlightTrack(), [placed], 0)['alerts']
    assert row['regions'][0] == {'lat': 0.0, 'lon': 10.0000898, 'radius_m': 7.3, 'east_m': 0.0,
                                 'north_m': 0.0}  # without a track it is its own origin


@pytest.mark.parametrize(('text', 'message'), [
    ('geo.pitch: 45', "unknown parameter 'geo.pitch'; did you mean 'geo.pitch_deg'"),
    ('geo.height_m: -3', 'geo.height_m: expected 0 to 20000, got -3'),
    ('geo.yaw_deg: north', "geo.yaw_deg: expected -180 to 180, got 'north'")])
def test_what_the_node_would_refuse_is_refused(tmp_path, text, message):
    (tmp_path / 'p.yaml').write_text(f'/**: {{ros__parameters: {{{text}}}}}')
    with pytest.raises(ConfigError, match=r'p\.yaml: ') as caught:
        load_geo_parameters(tmp_path / 'p.yaml')
    assert message in str(caught.value)


def test_the_shipped_values_are_the_defaults():
    assert load_geo_parameters(None) == GeoParameters()


def test_the_nodes_table_has_the_same_values_and_ranges():
    from evit_seg.ros.params import TABLE
    rows = {row.name[len('geo.'):]: row for row in TABLE if row.name.startswith('geo.')}
    assert {name: (row.low, row.high) for name, row in rows.items()} == GEO_LIMITS
    assert GeoParameters(**{name: row.default for name, row in rows.items()}) == GeoParameters()


@pytest.mark.parametrize(('latitude', 'longitude'), [(0, 0), (46.8, -92.0), (-33.0, 179.9999),
                                                     (84.0, 10.0)])
def test_offsets_undo_places(latitude, longitude):
    for east_m, north_m in ((0, 0), (100, 0), (-30, 250)):
        there = place_at(latitude, longitude, east_m, north_m)
        assert offset_m(latitude, longitude, *there) == pytest.approx((east_m, north_m), abs=1e-4)
