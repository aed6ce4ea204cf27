# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""~/safe_zone over ROS: what it says of a picture, and that it never says an old one."""
from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_bundle import anchor_colours

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402, I100
from evit_seg.core.errors import LabelMapMismatch  # noqa: E402
from evit_seg.core.safe_zone import ZoneRule  # noqa: E402
from evit_seg.ros.params import check_values  # noqa: E402
from evit_seg.ros.safe_zone import zone_rule  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from ros_rig import FakeClock, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CameraInfo, NavSatFix, NavSatStatus  # noqa: E402
from std_msgs.msg import Float64  # noqa: E402
from tiny_bundle import tiny_label_map  # noqa: E402

BACKGROUND, WATER, PERSON, ROAD = 0, 7, 10, 12


def scene(*boxes, ground=BACKGROUND, what=PERSON):
    image_HWC = np.full((64, 64, 3), anchor_colours()[ground], np.uint8)
    for x, y, w, h in boxes:
        image_HWC[y:y + h, x:x + w] = anchor_colours()[what]
    return image_HWC


class Drone:
    """A node that looks for zones, and the zones it tells of."""

    def __init__(self, rig, **parameters):
        self.rig, self.clock, self.frames = rig, FakeClock(), 0
        self.node = rig.start_node(clock=self.clock, **{
            'safe_zone__publish': True, 'safe_zone__confirm_n': 1, 'safe_zone__max_rate_hz': 240.0,
            'safe_zone__min_radius_px': 1, 'safe_zone__margin_px': 0, **parameters})
        self.said = rig.record(DiagnosticArray, '/seg_node/safe_zone')
        self._image = rig.camera()

    def fly(self, image_HWC):
        """Send a frame and wait until it was worked on."""
        self.clock.advance(0.1)
        self._image(raw_message(image_HWC, self.clock.ns))
        self.frames += 1
        self.rig.wait_count('processed', self.frames)

    def look(self, image_HWC):
        """Return the values that the next message has, and how it is meant."""
        known = len(self.said)
        self.fly(image_HWC)
        return self.next_after(known)

    def next_after(self, known):
        wait_until(lambda: len(self.said) == known + 1, 'a word on the zone')
        (status,) = self.said[-1].status
        assert status.name == 'safe_zone'
        values = {pair.key: pair.value for pair in status.values}
        free = values['state'] == 'free'
        assert status.level == (DiagnosticStatus.OK if free else DiagnosticStatus.WARN)
        assert free or not any(values[key] for key in ('x', 'y', 'radius_px', 'lat', 'radius_m'))
        return {**values, 'said': status.message}


def circle(found):
    return tuple(float(found[key]) for key in ('x', 'y', 'radius_px'))


def test_a_zone_has_the_header_of_its_frame(rig):
    drone = Drone(rig)
    found = drone.look(scene())
    assert circle(found) == (27.5, 27.5, 28.0)
    assert found['said'] == 'free circle of 28.0 px'
    header = drone.said[-1].header
    assert (header.stamp.sec * 10 ** 9 + header.stamp.nanosec, header.frame_id) == (
        drone.clock.ns, 'cam/opti\u00e7al')
    # The left half is free: of two equal circles in it the one nearer to the middle.
    assert circle(drone.look(scene((32, 0, 32, 64)))) == (19.5, 27.5, 12.0)


def test_where_nothing_is_free_no_zone_is_told_and_none_from_before(rig):
    drone = Drone(rig)
    assert drone.look(scene())['state'] == 'free'
    found = drone.look(scene(ground=WATER))
    assert (found['state'], found['said']) == (
        'none', 'no zone: no place was free of other classes for 1 frames')


def test_without_the_parameter_nothing_is_said_and_nothing_is_worked_out(rig, monkeypatch):
    def fail(*_):
        raise AssertionError('worked out')
    monkeypatch.setattr('evit_seg.ros.safe_zone.zone_squares', fail)
    drone = Drone(rig, safe_zone__publish=False)
    drone.fly(scene())
    drone.fly(scene())
    assert drone.said == [] and rig.count('failed') == 0


def test_switched_on_and_off_while_it_flies(rig):
    drone = Drone(rig, safe_zone__publish=False)
    drone.fly(scene())
    assert rig.set_parameters(safe_zone__publish=True)[0].successful
    assert drone.look(scene())['state'] == 'free'
    assert rig.set_parameters(safe_zone__publish=False)[0].successful
    assert drone.look(scene())['said'] == 'no zone: safe_zone.publish is off'


def test_the_classes_to_land_on(rig):
    drone = Drone(rig, safe_zone__classes=['road_railway_bridge'])
    assert drone.look(scene())['state'] == 'none'
    assert drone.look(scene(ground=ROAD))['state'] == 'free'


def test_a_class_the_network_lacks_stops_the_node(rig):
    node = rig.make_node(safe_zone__publish=True, safe_zone__classes=['meadow'])
    assert node.start() == LabelMapMismatch.exit_code
    assert "no class 'meadow'" in str(node.fault)


def test_a_class_the_network_lacks_is_told_once_zones_are_wanted(rig):
    drone = Drone(rig, safe_zone__publish=False, safe_zone__classes=['backgroun'])
    assert rig.set_parameters(safe_zone__publish=True)[0].successful
    assert drone.look(scene())['said'] == (
        "no zone: the label map has no class 'backgroun'; did you mean 'background'?")
    assert 'no class' in drone.look(scene())['said']


def test_the_smallest_radius_and_the_margin(rig):
    drone = Drone(rig)
    right_half = scene((32, 0, 32, 64))
    assert circle(drone.look(right_half))[2] == 12.0
    assert rig.set_parameters(safe_zone__margin_px=16.0)[0].successful
    assert circle(drone.look(right_half)) == (11.5, 27.5, 4.0)
    assert rig.set_parameters(safe_zone__min_radius_px=5)[0].successful
    assert drone.look(right_half)['said'] == (
        'no zone: the largest free circle has 4.0 px, expected 5 or more')


def test_a_class_that_raises_alerts_is_given_room(rig):
    drone = Drone(rig, safe_zone__margin_px=16.0,
                  alert__classes=['flood_water_river_sea'])
    half = scene((32, 0, 32, 64), what=WATER)
    assert circle(drone.look(half))[2] == 4.0


def test_the_smallest_confidence(rig):
    unsure = np.full((64, 64, 3), (60, 60, 60), np.uint8)  # nearest to the background's 0, 0, 0
    drone = Drone(rig, safe_zone__min_confidence=0.9)
    assert drone.look(unsure)['state'] == 'none'
    assert rig.set_parameters(safe_zone__min_confidence=0)[0].successful
    assert drone.look(unsure)['state'] == 'free'


def test_a_zone_must_have_been_free_for_some_frames(rig):
    drone = Drone(rig, safe_zone__confirm_n=3)
    assert [drone.look(scene())['state'] for _ in range(3)] == ['none', 'none', 'free']
    assert rig.set_parameters(safe_zone__confirm_n=2)[0].successful
    assert drone.look(scene())['said'] == 'no zone: 1 of the 2 frames that confirm one were seen'


def test_the_rate_is_capped_but_a_lost_zone_is_told_at_once(rig):
    drone = Drone(rig, safe_zone__max_rate_hz=1.0)
    assert drone.look(scene())['state'] == 'free'
    drone.fly(scene())
    assert len(drone.said) == 1
    assert drone.look(scene(ground=WATER))['state'] == 'none'
    drone.fly(scene())
    drone.fly(scene())
    drone.clock.advance(1.0)
    assert drone.look(scene())['state'] == 'free'
    assert len(drone.said) == 3


def test_a_zone_is_withdrawn_when_no_frame_comes(rig):
    drone = Drone(rig, stale_after_s=1.5)
    drone.look(scene())
    known = len(drone.said)
    drone.clock.advance(1.6)
    assert drone.next_after(known)['said'] == (
        'no zone: no frame for more than 1.5 s (stale_after_s)')


def test_metres_and_degrees_where_the_position_is_known(rig):
    drone = Drone(rig)
    assert drone.look(scene())['geo_note'].startswith('not geotagged: no camera_info')
    positions, send = drone.node.pipeline.positions, {
        topic: rig.client.create_publisher(kind, topic, qos_profile_sensor_data)
        for topic, kind in (('fix', NavSatFix), ('heading', Float64), ('height', Float64),
                            ('camera_info', CameraInfo))}
    fix = NavSatFix(latitude=46.8, longitude=-92.0)
    fix.status.status = NavSatStatus.STATUS_FIX
    fix.header.stamp.sec, fix.header.stamp.nanosec = divmod(drone.clock.ns, 10 ** 9)
    messages = {'fix': fix, 'heading': Float64(data=0.0), 'height': Float64(data=50.0),
                'camera_info': CameraInfo(width=64, height=64, k=[
                    100.0, 0.0, 31.5, 0.0, 100.0, 31.5, 0.0, 0.0, 1.0])}
    held = {'fix': lambda: positions.fixes.nearest(0),
            'heading': lambda: positions.headings_deg.nearest(0),
            'height': lambda: positions.heights_m.nearest(0),
            'camera_info': lambda: drone.node.pipeline.camera_info}
    for topic, message in messages.items():
        def arrived(topic=topic, message=message):
            send[topic].publish(message)  # best effort may lose it
            return held[topic]() is not None
        wait_until(arrived, f'{topic} at the node')
    found = drone.look(scene())
    # 50 m up a pixel is half a metre; the centre lies 4 px left of and above the axis.
    assert circle(found) == (27.5, 27.5, 28.0)
    assert (found['radius_m'], found['geo_note']) == ('14.00', '')
    north_m = (float(found['lat']) - 46.8) * 111_170
    east_m = (float(found['lon']) + 92.0) * 111_320 * math.cos(math.radians(46.8))
    assert (east_m, north_m) == (pytest.approx(-2, abs=0.02), pytest.approx(2, abs=0.02))
    assert float(found['error_m']) > 4


def test_the_parameters_make_the_rule():
    labels = tiny_label_map()
    defaults = zone_rule(check_values({})[1], labels)
    assert defaults == ZoneRule((BACKGROUND, ROAD), (6, PERSON, 13))
    given = check_values({'safe_zone.classes': ['background'], 'safe_zone.min_radius_px': 9,
                          'safe_zone.margin_px': 3, 'safe_zone.min_confidence': 0.25,
                          'safe_zone.confirm_n': 7, 'alert.classes': []})[1]
    assert zone_rule(given, labels) == ZoneRule((BACKGROUND,), (6, PERSON, 13), 9, 3, 0.25, 7)
