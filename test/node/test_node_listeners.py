# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""No work for topics that nobody listens to; alerts are found all the same."""
from __future__ import annotations

import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402, I100
from evit_seg.core import segmenter as segmenter_module  # noqa: E402
from ros_rig import raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

GRID_HW = (8, 8)


@pytest.fixture
def mask_sizes(monkeypatch):
    """Return the list that the size of every mask made goes into."""
    sizes = []
    upscale = segmenter_module.upscale_argmax

    def noted(logits_CHW, geometry, out_hw):
        sizes.append(tuple(out_hw))
        return upscale(logits_CHW, geometry, out_hw)
    monkeypatch.setattr(segmenter_module, 'upscale_argmax', noted)
    return sizes


@pytest.mark.parametrize('kind, topic, reliable', [
    (Image, 'mask', True), (Image, 'confidence', True), (CameraInfo, 'camera_info', True),
    (Image, 'overlay', False), (CompressedImage, 'overlay/compressed', False)])
def test_a_mask_is_made_for_whom_it_is_wanted(rig, mask_sizes, kind, topic, reliable):
    rig.start_node(mask__confidence=True)
    publish = rig.camera()
    publish_info = rig.client.create_publisher(CameraInfo, 'camera_info', 1)
    image_HWC, _ = painted_frame()
    source_hw = image_HWC.shape[:2]
    assert source_hw != GRID_HW
    info = CameraInfo(height=source_hw[0], width=source_hw[1])
    wait_until(lambda: publish_info.get_subscription_count() > 0, 'the node to hear camera_info')
    publish_info.publish(info)
    wait_until(lambda: rig.node.pipeline.camera_info is not None, 'the calibration')
    mask_sizes.clear()
    publish(raw_message(image_HWC))
    rig.wait_count('processed', 1)
    assert mask_sizes == [GRID_HW]
    got = rig.record(kind, f'/seg_node/{topic}', reliable=reliable)
    publish(raw_message(image_HWC))
    wait_until(lambda: got, f'a message on {topic}')
    assert mask_sizes[1:] == [source_hw]
    assert getattr(got[0], 'height', source_hw[0]) == source_hw[0]


def test_alerts_need_no_mask(rig, mask_sizes):
    rig.start_node(alert__default__confirm_k=1, alert__default__confirm_n=1)
    events = rig.record(DiagnosticArray, '/seg_node/alert_events')
    publish = rig.camera()
    mask_sizes.clear()
    publish(raw_message(painted_frame()[0]))
    wait_until(lambda: events, 'an alert')
    assert {status.name for status in events[0].status} == {'raised'}
    assert mask_sizes == [GRID_HW]
