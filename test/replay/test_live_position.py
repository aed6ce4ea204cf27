# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Geotags of a played bag: what make_bag writes reaches the node, and comes back as a place."""
from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace

import cv2
from evit_seg.core.geo import Camera, geotag, Pose, PoseErrors
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.bag import Bag
from evit_seg.replay.live_position import copy_fields, position_topics
import numpy as np
import pytest
from tiny_bundle import anchor_colours, write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
BACKGROUND, PERSON = 0, 10
TOPICS = {'/fix': 'fix', '/heading': 'heading', '/height': 'height',
          '/camera/camera_info': 'camera_info'}
BOX = (16, 8, 16, 24)
FRAMES = 6


def paint_flight(folder: Path) -> Path:
    """Write 3 s at 2 Hz; the drone hovers over a person."""
    (folder / 'IMG').mkdir(parents=True)
    rows = ['file,time_local,latitude_deg,longitude_deg,altitude_m,relative_altitude_m,yaw_deg,'
            'gimbal_pitch_deg,focal_length_mm,time_s']
    x, y, w, h = BOX
    image = np.full((64, 64, 3), anchor_colours()[BACKGROUND][::-1], np.uint8)
    image[y:y + h, x:x + w] = anchor_colours()[PERSON][::-1]
    for i in range(FRAMES):
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), image)
        rows.append(f'f{i:03}.png,,46.002,-91.5,202,42,-98,-90,3.0,{i / 2}')
    (folder / 'frames.csv').write_text('\n'.join(rows))
    return folder


@pytest.fixture
def bag(tmp_path) -> Path:
    flight = paint_flight(tmp_path / 'flight')
    assert make_bag.main([str(flight), '--out', str(tmp_path / 'bag'), '--sensor-width-mm',
                          '6.0', '--quiet']) == 0
    return tmp_path / 'bag'


def test_the_topics_are_found_by_type_and_name(bag):
    with Bag(bag) as opened:
        assert position_topics(opened, opened.choose_image_topic()) == (TOPICS, [])


class Listing:
    """Stands in for a bag: its topics."""

    def __init__(self, **topic_types: str) -> None:
        self.topic_types = {name.replace('__', '/'): kind for name, kind in topic_types.items()}


def test_the_names_of_mavros_are_known(bag):
    listing = Listing(
        __mavros__global_position__global='sensor_msgs/msg/NavSatFix',
        __mavros__global_position__compass_hdg='std_msgs/msg/Float64',
        __mavros__global_position__rel_alt='std_msgs/msg/Float64',
        __mavros__other='std_msgs/msg/Float64')
    with Bag(bag) as opened:
        assert position_topics(listing, opened.choose_image_topic()) == ({
            '/mavros/global_position/global': 'fix',
            '/mavros/global_position/compass_hdg': 'heading',
            '/mavros/global_position/rel_alt': 'height'}, [])
        listing.topic_types['/mavros/raw/fix'] = 'sensor_msgs/msg/NavSatFix'
        topics, _ = position_topics(listing, opened.choose_image_topic())
        assert topics['/mavros/raw/fix'] == 'fix'
        listing.topic_types['/b/fix'] = 'sensor_msgs/msg/NavSatFix'
        topics, notes = position_topics(listing, opened.choose_image_topic())
        assert 'fix' not in topics.values()
        assert notes[0].startswith('fix is not used: the bag has /b/fix, /mavros/raw/fix')


def test_what_is_not_certain_is_not_played(bag):
    float_ = 'std_msgs/msg/Float64'
    listing = Listing(__a__height=float_, __b__height=float_, __heading='std_msgs/msg/Float32',
                      __other__camera_info='sensor_msgs/msg/CameraInfo',
                      __gnss__fix='sensor_msgs/msg/NavSatFix')
    with Bag(bag) as opened:
        topics, notes = position_topics(listing, opened.choose_image_topic())
    assert topics == {'/gnss/fix': 'fix'}
    assert notes == ['height is not used: the bag has /a/height, /b/height, and nothing says '
                     "which of them is the drone's"]


def test_messages_are_copied_whole(bag):
    messages = pytest.importorskip('sensor_msgs.msg', reason='needs ROS 2')
    with Bag(bag) as opened:
        found = {message.topic: message.content for message in opened.messages(list(TOPICS))}
    fix, info = messages.NavSatFix(), messages.CameraInfo()
    copy_fields(found['/fix'], fix)
    copy_fields(found['/camera/camera_info'], info)
    assert (fix.latitude, fix.longitude, fix.altitude) == (46.002, -91.5, 202.0)
    assert (fix.status.status, fix.status.service) == (0, 1)
    assert (fix.header.stamp.sec, fix.header.stamp.nanosec) == (1_700_000_002, 500_000_000)
    assert (info.width, info.height, info.distortion_model) == (64, 64, 'plumb_bob')
    assert list(info.k) == [32.0, 0.0, 31.5, 0.0, 32.0, 31.5, 0.0, 0.0, 1.0]
    assert list(info.d) == [0.0] * 5
    assert info.header.frame_id == 'camera'
    assert info.roi.do_rectify is False
    ros1 = SimpleNamespace(**{name.upper() if name in 'dkrp' else name: value
                              for name, value in vars(found['/camera/camera_info']).items()})
    again = messages.CameraInfo()
    copy_fields(ros1, again)
    assert again == info


def test_an_alert_of_a_played_bag_has_the_place_of_its_frame(tmp_path, bag):
    pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')
    tiny = write_tiny_bundle(tmp_path / 'tiny')
    assert bag_eval.main([str(bag), '--model', str(tiny), '--json',
                          str(tmp_path / 'replay.json'), '--quiet']) == 0
    result = subprocess.run(
        [sys.executable, '-m', 'evit_seg.replay.live', str(bag), '--model', str(tiny), '--out',
         str(tmp_path / 'live'), '--reliable', '--lockstep', '--rate', '5',
         '--compare', str(tmp_path / 'replay.json')],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / 'live' / 'report.json').read_text())
    [replay] = json.loads((tmp_path / 'replay.json').read_text())['runs']
    assert report['places'] == replay['places']
    places = report['places']['alerts']
    assert [(place['kind'], place['alert_id']) for place in places] == [('raised', 'person-1')]
    assert [point['lat'] for point in report['places']['track']] == [46.002] * FRAMES
    camera = Camera(32.0, 32.0, 31.5, 31.5)  # 3 mm on a sensor of 6 mm and 64 px
    tag = geotag(BOX, camera, Pose(46.002, -91.5, 42.0, -98.0), PoseErrors(2.0, 2.0, 5.0, 2.0))
    [region] = places[0]['regions']
    assert (region['lat'], region['lon'], region['radius_m'], places[0]['geo_note']) == (
        round(tag.latitude_deg, 7), round(tag.longitude_deg, 7), round(tag.radius_m, 1), '')
    assert 'alerts   1 raised, 1 of them geotagged' in result.stdout
    assert 'compare  the same alerts as bag_eval, on the same frames' in result.stdout
    points = json.loads((tmp_path / 'live' / 'alerts.geojson').read_text())['features']
    assert points[1]['geometry']['coordinates'] == [region['lon'], region['lat']]
    assert (tmp_path / 'live' / 'alerts.kml').is_file()
