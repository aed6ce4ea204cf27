# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy allows what the node does, and nothing else."""
from __future__ import annotations

from xml.etree import ElementTree

from evit_seg.core.share import share_file
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

OF_VISION_MSGS = {'/seg_node/alerts', '/seg_node/label_info'}


def allowed(kind, right):
    root = ElementTree.parse(share_file('config/sros2/seg_node.policy.xml')).getroot()
    names = [entry.text for group in root.iter(f'{kind}s') if group.get(right) == 'ALLOW'
             for entry in group]
    assert len(set(names)) == len(names) > 0
    return {name.replace('~', '/seg_node') if name[0] == '~' else '/' + name.lstrip('/')
            for name in names}


def test_the_policy_is_the_nodes_own_list(rig):
    used = set()
    for transport in ('raw', 'compressed'):
        node = rig.start_node(image__transport=transport, use_sim_time=True)
        used |= {subscription.topic_name for subscription in node.subscriptions}
        if transport == 'raw':
            node.close()
    publishers = {publisher.topic_name for publisher in node.publishers}
    assert allowed('topic', 'subscribe') - {'/parameter_events'} == used - {'/parameter_events'}
    # Made by the middleware's own library for each node, not by rclpy: its log, its state.
    hidden = {'/rosout', '/seg_node/transition_event'}
    assert allowed('topic', 'publish') - OF_VISION_MSGS - hidden == \
        publishers - OF_VISION_MSGS - hidden
    offered = {name for name, _ in rig.client.get_service_names_and_types_by_node('seg_node', '/')}
    assert allowed('service', 'reply') == offered
