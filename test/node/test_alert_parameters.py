# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every threshold of an alert, for all classes at the start and for one in flight: its effect."""
from __future__ import annotations

import numpy as np
import pytest
from tiny_bundle import anchor_colours

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402, I100
from ros_rig import raw_message, wait_until  # noqa: E402

PERSON = 10
START_NS = 1_700_000_000_000_000_000


def frame(letter):
    """Return a frame of class 0, for 'P' with a square of 24 px of class Person."""
    image_HWC = np.full((64, 64, 3), anchor_colours()[0], np.uint8)
    if letter == 'P':
        image_HWC[16:40, 16:40] = anchor_colours()[PERSON]
    return image_HWC


def fly(rig, pattern):
    """Publish a frame each half second, by the stamps, and return the kinds of all events."""
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    publish = rig.camera()
    told = []
    rig.node.pipeline._outputs.publish_events = _noting(
        told, rig.node.pipeline._outputs.publish_events)
    for number, letter in enumerate(pattern):
        publish(raw_message(frame(letter), START_NS + number * 500_000_000))
        rig.wait_count('processed', number + 1)
    wait_until(lambda: len(events) == len(told), 'all events')
    return [status.name for message in events for status in message.status]


def _noting(told, publish):
    def publish_and_note(*args):
        told.append(args)
        publish(*args)
    return publish_and_note


@pytest.mark.parametrize(('name', 'value', 'pattern', 'without', 'with_it'), [
    ('min_pixels', 1000, 'PPP', ['raised'], []),
    ('min_confidence', 1.0, 'PPP', ['raised'], []),
    ('confirm_k', 2, 'PP', [], ['raised']),
    ('confirm_n', 3, 'P.P.P', ['raised'], []),
    ('clear_after_s', 1.0, 'PPP...', ['raised'], ['raised', 'cleared']),
    ('cooldown_s', 0.0, 'PPP.....P', ['raised', 'cleared', 'raised'], ['raised', 'cleared']),
    ('logit_bias', -20.0, 'PPP', ['raised'], []),
])
@pytest.mark.parametrize('way', ['not at all', 'for all at the start', 'for one in flight'])
def test_a_threshold_changes_what_is_raised_and_cleared(rig, name, value, pattern, without,
                                                        with_it, way):
    given = {f'alert__default__{name}': value} if way == 'for all at the start' else {}
    rig.start_node(alert__classes=['person'], **given)
    if way == 'for one in flight':
        assert rig.set_parameters(**{f'alert__person__{name}': value})[0].successful
    assert fly(rig, pattern) == (without if way == 'not at all' else with_it)
