# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""README's tables of topics are those of the node."""
from __future__ import annotations

from pathlib import Path
import re

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

ROOT = Path(__file__).resolve().parents[2]
OF_VISION_MSGS = {'~/alerts': 'vision_msgs/Detection2DArray',
                  '~/label_info': 'vision_msgs/LabelInfo'}
# ROS's own, on any node.
OF_ROS = {'/parameter_events', '/rosout', '/clock'}


def table(head):
    """Return topic to type of the README table whose first cell is `head`."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    rows = re.search(rf'^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)', text, re.MULTILINE).group(1)
    found = {}
    for row in rows.splitlines():
        topics, kind = row.split('|')[1:3]
        for topic in re.findall('`([^`]+)`', topics):
            found[topic] = kind.strip(' `').split('`')[0]
    return found


def of_node(entities):
    """Return the same of a node's publishers or subscriptions, its own ones only."""
    return {re.sub('^/', '', e.topic_name.replace('/seg_node/', '~/')): type_name(e.msg_type)
            for e in entities if e.topic_name not in OF_ROS}


def type_name(kind):
    return f'{kind.__module__.split(".")[0]}/{kind.__name__}'


def test_the_topics_of_the_readme_are_the_nodes(rig):
    listened = {}
    for transport in ('raw', 'compressed'):
        node = rig.start_node(image__transport=transport)
        listened.update(of_node(node.subscriptions))
        if transport == 'raw':
            node.close()
    assert table('in') == listened
    published = {name.lstrip('/'): kind for name, kind in table('out').items()}
    assert {**of_node(node.publishers), **OF_VISION_MSGS} == published
    assert set(OF_VISION_MSGS) <= set(published)
