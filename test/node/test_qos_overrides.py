# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ROS's own `qos_overrides` parameters reach the node's topics."""
from __future__ import annotations

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from rclpy.qos import qos_profile_sensor_data, ReliabilityPolicy  # noqa: E402, I100
from ros_rig import wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402


def test_the_reliability_of_a_subscription_and_of_a_publisher(rig):
    rig.start_node(**{'qos_overrides./image_raw.subscription.reliability': 'reliable',
                      'qos_overrides./seg_node/mask.publisher.reliability': 'best_effort',
                      'qos_overrides./seg_node/mask.publisher.depth': 3})
    wait_until(lambda: rig.client.count_subscribers('/image_raw') == 1
               and rig.client.count_publishers('/seg_node/mask') == 1, 'the graph')
    (camera,) = rig.client.get_subscriptions_info_by_topic('/image_raw')
    (mask,) = rig.client.get_publishers_info_by_topic('/seg_node/mask')
    (untouched,) = rig.client.get_publishers_info_by_topic('/seg_node/confidence')
    assert camera.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert mask.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert untouched.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert rig.node.get_parameter('qos_overrides./seg_node/mask.publisher.depth').value == 3


def test_a_publisher_that_the_override_shuts_out_is_named(rig):
    node = rig.start_node(
        **{'qos_overrides./image_raw.subscription.reliability': 'reliable'})
    rig.client.create_publisher(Image, 'image_raw', qos_profile_sensor_data)
    wait_until(lambda: rig.client.count_publishers('/image_raw') == 1, 'the graph')
    assert 'reliab' in node._inputs.silent_because()


def test_the_node_goes_through_its_life_with_an_override(rig):
    node = rig.start_node(**{'qos_overrides./seg_node/mask.publisher.reliability': 'best_effort'})
    for trigger in (node.trigger_deactivate, node.trigger_cleanup, node.trigger_configure,
                    node.trigger_activate):
        trigger()
        assert node.fault is None
    (mask,) = rig.client.get_publishers_info_by_topic('/seg_node/mask')
    assert mask.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_an_override_of_a_topic_that_is_not_there_is_said(rig, capfd):
    rig.start_node(**{'qos_overrides./image_rwa.subscription.reliability': 'reliable'})
    assert 'qos_overrides./image_rwa.subscription.reliability: this node has no such topic' in \
        capfd.readouterr().err
