# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Alerts with a place on the ground: what goes in over ROS, and what the events say."""
from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
from tiny_bundle import anchor_colours

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402, I100
from evit_seg.core.geo import Camera, geotag, NotGeotagged, Pose, PoseErrors  # noqa: E402
from evit_seg.ros.params import check_values  # noqa: E402
from evit_seg.ros.position import Positions  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from ros_rig import FakeClock, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CameraInfo, NavSatFix, NavSatStatus  # noqa: E402
from std_msgs.msg import Float64  # noqa: E402

BACKGROUND, PERSON = 0, 10
BOX = (16, 8, 8, 16)
CAMERA = Camera(50.0, 60.0, 31.5, 30.0)
POSE = Pose(46.8426071, -91.9945599, 39.8, 46.0)
ERRORS = PoseErrors(2.0, 2.0, 5.0, 2.0)
"""The errors are the parameters' defaults."""


def scene(*boxes):
    image_HWC = np.full((64, 64, 3), anchor_colours()[BACKGROUND], np.uint8)
    for x, y, w, h in boxes:
        image_HWC[y:y + h, x:x + w] = anchor_colours()[PERSON]
    return image_HWC


def calibration(**changes):
    given = {'width': 64, 'height': 64, 'distortion_model': 'plumb_bob',
             'k': [50.0, 0.0, 31.5, 0.0, 60.0, 30.0, 0.0, 0.0, 1.0]}
    return CameraInfo(**{**given, **changes})


class Drone:
    """A node that raises an alert on one frame, and the topics a drone publishes beside it."""

    def __init__(self, rig, **parameters):
        self.rig, self.clock = rig, FakeClock()
        self.node = rig.start_node(clock=self.clock, **{
            'alert__classes': ['person'], 'alert__person__confirm_k': 1,
            'alert__person__confirm_n': 1, 'alert__person__clear_after_s': 0, **parameters})
        self.events = rig.record(DiagnosticArray, '/seg_node/alert_events')
        self._image = rig.camera()
        self._publishers = {
            kind: rig.client.create_publisher(type_, kind, qos_profile_sensor_data)
            for kind, type_ in (('fix', NavSatFix), ('heading', Float64), ('height', Float64),
                                ('camera_info', CameraInfo))}
        self.frames = 0

    def send(self, topic, message):
        """Publish until the node holds the message: best effort may lose it."""
        def arrived():
            self._publishers[topic].publish(message)
            return self._held(topic) == message
        wait_until(arrived, f'{topic} at the node')

    def _held(self, topic):
        pipeline, positions = self.node.pipeline, self.node.pipeline.positions
        if topic == 'camera_info':
            return pipeline.camera_info
        track = {'fix': positions.fixes, 'heading': positions.headings_deg,
                 'height': positions.heights_m}[topic]
        newest = track.nearest(self.clock.ns)
        content = None if newest is None else newest[1]
        return Float64(data=content) if isinstance(content, float) else content

    def fix(self, **changes):
        fix = NavSatFix(**{'latitude': POSE.latitude_deg, 'longitude': POSE.longitude_deg,
                           **changes})
        fix.status.status = NavSatStatus.STATUS_FIX
        fix.header.stamp.sec, fix.header.stamp.nanosec = divmod(self.clock.ns, 10 ** 9)
        self.send('fix', fix)

    def send_all(self, *but):
        if 'fix' not in but:
            self.fix()
        for topic, message in (('heading', Float64(data=POSE.heading_deg)),
                               ('height', Float64(data=POSE.height_m)),
                               ('camera_info', calibration())):
            if topic not in but:
                self.send(topic, message)

    def _fly(self, image_HWC):
        self._image(raw_message(image_HWC, self.clock.ns))
        self.frames += 1
        self.rig.wait_count('processed', self.frames)
        self.clock.advance(0.001)

    def alert(self, *boxes):
        """Return the values of the event that raises an alert; it is cleared again."""
        known = len(self.events)
        for image_HWC in (scene(*(boxes or (BOX,))), scene(), scene()):
            self._fly(image_HWC)
        wait_until(lambda: len(self.events) == known + 2, 'the alert to be raised and cleared')
        (raised,), (cleared,) = (array.status for array in self.events[known:])
        assert (raised.name, cleared.name) == ('raised', 'cleared')
        found = {pair.key: pair.value for pair in raised.values}
        again = {pair.key: pair.value for pair in cleared.values}
        for key in ('lat', 'lon', 'radius_m', 'geo_note'):
            assert found[key] == again[key], 'a cleared alert lay where it was last seen'
        return found


def expected(box, camera=CAMERA, errors=ERRORS, **pose):
    """Return what the pure function says, as the events write it."""
    tag = geotag(box, camera, Pose(**{**vars(POSE), **pose}), errors)
    return f'{tag.latitude_deg:.7f}', f'{tag.longitude_deg:.7f}', f'{tag.radius_m:.1f}'


def place(found):
    return found['lat'], found['lon'], found['radius_m']


def test_an_alert_carries_the_place_of_each_region(rig):
    drone = Drone(rig)
    drone.send_all()
    found = drone.alert()
    assert found['bbox'] == ','.join(map(str, BOX))
    assert (place(found), found['geo_note']) == (expected(BOX), '')
    other = (40, 40, 16, 16)
    found = drone.alert(BOX, other)
    assert found['bbox'] == '40,40,16,16 16,8,8,16'
    assert [text.split(' ') for text in place(found)] == [
        list(pair) for pair in zip(expected(other), expected(BOX))]


@pytest.mark.parametrize('topic, said', [
    ('fix', 'not geotagged: no position on /fix; '),
    ('heading', 'not geotagged: no heading on /heading; '),
    ('height', 'not geotagged: no height above ground on /height; '),
    ('camera_info', 'not geotagged: no camera_info on /camera_info; ')])
def test_what_is_missing_is_said(rig, topic, said):
    drone = Drone(rig)
    drone.send_all(topic)
    found = drone.alert()
    assert place(found) == ('', '', '')
    assert found['geo_note'].startswith(said)
    drone.send_all()
    assert drone.alert()['geo_note'] == ''


@pytest.mark.parametrize('topic', ['fix', 'heading', 'height'])
def test_what_is_stale_gives_no_geotag(rig, topic):
    drone = Drone(rig)
    drone.send_all()
    drone.clock.advance(1.5)
    drone.send_all(topic)
    found = drone.alert()
    assert place(found) == ('', '', '')
    assert f' on /{topic} is 1.5 s older than the image, geo.max_age_s is 1 s' \
        in found['geo_note']
    assert found['geo_note'].startswith('not geotagged: the ')
    assert rig.set_parameters(geo__max_age_s=2)[0].successful
    assert place(drone.alert()) == expected(BOX)


def test_the_position_nearest_to_the_image_counts(rig):
    drone = Drone(rig)
    drone.send_all()
    drone.clock.advance(0.4)
    drone.send('heading', Float64(data=90.0))
    drone.send('height', Float64(data=20.0))
    drone.fix(latitude=10.0, longitude=179.9999999)
    assert place(drone.alert()) == expected(BOX, heading_deg=90.0, height_m=20.0,
                                            latitude_deg=10.0, longitude_deg=179.9999999)
    drone.clock.advance(-0.38)  # an image that was long under way
    assert place(drone.alert()) == expected(BOX)


@pytest.mark.parametrize('fix, said', [
    ({'status': -1}, 'the receiver on /fix has no fix (status -1, '),
    ({'latitude': math.nan}, '/fix says latitude nan, longitude -91.9945599; '),
    ({'longitude': math.inf}, 'longitude inf; '),
    ({'latitude': 90.1}, 'latitude 90.1'),
    ({'position_covariance_type': 2, 'position_covariance': [-1.0] + [0.0] * 8},
     'the covariance on /fix is -1.0, 0.0 m2'),
    ({'position_covariance_type': 2, 'position_covariance': [math.nan] * 9},
     'the covariance on /fix is nan')])
def test_a_fix_that_is_none_is_refused(fix, said):
    positions = Positions()
    positions.topics['fix'] = '/fix'
    message = NavSatFix(latitude=POSE.latitude_deg, longitude=POSE.longitude_deg)
    message.status.status = fix.pop('status', 0)
    for name, value in fix.items():
        setattr(message, name, value)
    positions.fixes.add(0, message)
    positions.headings_deg.add(0, 0.0)
    positions.heights_m.add(0, 10.0)
    with pytest.raises(NotGeotagged) as caught:
        positions.view(0, (64, 64), calibration(), check_values({})[1].geo)
    assert said in str(caught.value)


def test_the_receivers_own_covariance_takes_the_place_of_the_parameter(rig):
    drone = Drone(rig, geo__position_error_m=50.0)
    drone.send_all()
    assert place(drone.alert()) == expected(BOX, errors=replace(ERRORS, position_m=50.0))
    # Standard deviations 5 and 3 along axes turned by 45 degrees: the larger one counts.
    drone.fix(position_covariance_type=NavSatFix.COVARIANCE_TYPE_KNOWN,
              position_covariance=[17.0, 8.0, 0.0, 8.0, 17.0, 0.0, 0.0, 0.0, 99.0])
    assert place(drone.alert()) == expected(BOX, errors=replace(ERRORS, position_m=5.0))


@pytest.mark.parametrize('name, value, wanted', [
    ('height_m', 25.0, lambda: expected(BOX, height_m=25.0)),
    ('pitch_deg', 60.0, lambda: expected(BOX, pitch_deg=60.0)),
    ('yaw_deg', -90.0, lambda: expected(BOX, heading_deg=POSE.heading_deg - 90.0)),
    ('position_error_m', 9.0, lambda: expected(BOX, errors=replace(ERRORS, position_m=9.0))),
    ('height_error_m', 9.0, lambda: expected(BOX, errors=replace(ERRORS, height_m=9.0))),
    ('heading_error_deg', 40.0, lambda: expected(BOX, errors=replace(ERRORS, heading_deg=40.0))),
    ('tilt_error_deg', 9.0, lambda: expected(BOX, errors=replace(ERRORS, tilt_deg=9.0)))])
def test_each_parameter_changes_the_next_geotag(rig, name, value, wanted):
    drone = Drone(rig)
    drone.send_all()
    before = place(drone.alert())
    assert rig.set_parameters(**{f'geo.{name}': value})[0].successful
    after = place(drone.alert())
    assert after == wanted() != before


def test_a_fixed_height_needs_no_topic(rig):
    drone = Drone(rig, geo__height_m=25.0)
    drone.send_all('height')
    assert place(drone.alert()) == expected(BOX, height_m=25.0)


def test_a_region_without_a_place_leaves_its_place_in_the_list(rig):
    drone = Drone(rig, geo__pitch_deg=30.0)
    drone.send_all()
    low = (0, 40, 16, 16)  # the other box reaches up to the horizon
    found = drone.alert(low, (40, 0, 8, 8))
    assert found['bbox'] == '0,40,16,16 40,0,8,8'
    assert place(found) == tuple(f'{text} nan' for text in expected(low, pitch_deg=30.0))
    assert found['geo_note'].startswith('not geotagged: region 2: the region reaches up to ')


@pytest.mark.parametrize('info, said', [
    (calibration(width=32), 'is of 32x64, the image has 64x64'),
    (calibration(k=[0.0] * 9), 'says focal lengths 0 and 0 px; calibrate the camera'),
    (calibration(d=[math.inf]), 'says focal lengths'),
    (calibration(d=[0.1], distortion_model='omni'), "region 1: the calibration's distortion")])
def test_a_calibration_that_cannot_be_used_is_said(rig, info, said):
    drone = Drone(rig)
    drone.send_all('camera_info')
    drone.send('camera_info', info)
    assert said in drone.alert()['geo_note']


def test_a_binned_region_of_the_sensor_has_its_own_pinhole(rig):
    drone = Drone(rig)
    drone.send_all('camera_info')
    info = calibration(width=256, height=200, binning_x=2, binning_y=2,
                       k=[100.0, 0.0, 40.0 + 63.5, 0.0, 120.0, 20.0 + 60.5, 0.0, 0.0, 1.0])
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 40, 20, 128, 128
    drone.send('camera_info', info)
    assert place(drone.alert()) == expected(BOX)


def test_the_topics_follow_their_remaps_and_are_left_with_the_node(rig):
    node = rig.start_node(namespace='/drone')
    names = ('fix', 'heading', 'height')
    assert [node.pipeline.positions.topics[name] for name in names] == \
        [f'/drone/{name}' for name in names]
    for name in names:
        wait_until(lambda n=name: rig.client.count_subscribers(f'/drone/{n}') == 1, name)
        (info,) = rig.client.get_subscriptions_info_by_topic(f'/drone/{name}')
        assert info.qos_profile.reliability == qos_profile_sensor_data.reliability
    node.trigger_deactivate()
    for name in names:
        wait_until(lambda n=name: rig.client.count_subscribers(f'/drone/{n}') == 0, name)
