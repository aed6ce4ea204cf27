# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Each parameter that no other test is about: changed, and its effect seen."""
from __future__ import annotations

import array

import numpy as np
import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from evit_seg.core.errors import BundleError, ConfigError  # noqa: E402, I100
from evit_seg.ros.params import TABLE  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402
from ros_rig import FakeClock, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402


@pytest.mark.parametrize('name, value, error', [
    ('engine.precision', 'int8', 'has no variant onnxruntime/int8'),
    ('engine.height', 128, 'has no variant onnxruntime/128'),
    ('engine.provider', 'cuda', 'CUDAExecutionProvider')])
def test_an_engine_that_is_not_there_is_not_replaced(rig, name, value, error):
    node = rig.make_node(**{name: value})
    assert node.start() == 1
    assert isinstance(node.fault, (BundleError, ConfigError))
    assert error in str(node.fault)


def test_the_engines_threads_and_name_reach_the_loader(rig):
    asked = []

    def load(bundle, name, **options):
        asked.append((name, options['threads']))
        return rig.gates(bundle, name, **options)
    node = rig.make_node(engine__threads=3, engine__name='onnxruntime')
    node._load = load
    assert node.start() == 0
    assert asked == [('onnxruntime', 3)]


@pytest.mark.parametrize('reliability', ['best_effort', 'reliable'])
def test_the_reliability_of_the_subscription(rig, reliability):
    rig.start_node(image__reliability=reliability)
    wait_until(lambda: rig.client.count_subscribers('/image_raw') == 1, 'the graph')
    (info,) = rig.client.get_subscriptions_info_by_topic('/image_raw')
    assert info.qos_profile.reliability == ReliabilityPolicy[reliability.upper()]


def test_16_bit_images_are_taken_once_a_scale_is_set(rig):
    rig.start_node()
    publish = rig.camera()
    deep = raw_message(painted_frame()[0][..., :2], encoding='mono16')
    publish(deep)
    rig.wait_count('malformed', 1)
    assert rig.set_parameters(image__scale_16bit=4095)[0].successful
    publish(deep)
    rig.wait_count('processed', 1)


def test_the_quality_of_the_compressed_overlay(rig):
    clock = FakeClock()
    rig.start_node(clock=clock)
    overlays = rig.record(CompressedImage, '/seg_node/overlay/compressed', reliable=False)
    publish = rig.camera()
    noise_HWC = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    for number, quality in enumerate((95, 10), 1):
        assert rig.set_parameters(overlay__jpeg_quality=quality)[0].successful
        clock.advance(1.0)  # the rate is capped
        publish(raw_message(noise_HWC))
        wait_until(lambda n=number: len(overlays) == n, 'an overlay')
    large, small = (len(array.array('B', overlay.data)) for overlay in overlays)
    assert small < large / 2


def test_every_live_parameter_takes_its_default_back(rig):
    rig.start_node()
    for row in TABLE:
        if row.when != 'start':
            value = row.default if row.name != 'model' else str(rig.bundle)
            assert rig.set_parameters(**{row.name: value})[0].successful, row.name
