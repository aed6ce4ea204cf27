# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node says of a topic without publishers depends on the transport it was given."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from evit_seg.ros.graph import why_silent  # noqa: E402, I100
from rclpy.qos import QoSProfile  # noqa: E402


@pytest.mark.parametrize('transports, told', [
    (None, False), ('', False), ('UDPv4', False), ('LARGE_DATA', True),
    ('LARGE_DATA?max_msg_size=1MB', True)])
def test_a_transport_that_hides_cameras_is_named(monkeypatch, transports, told):
    if transports is None:
        monkeypatch.delenv('FASTDDS_BUILTIN_TRANSPORTS', raising=False)
    else:
        monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', transports)
    nobody = SimpleNamespace(get_publishers_info_by_topic=lambda topic: [])
    said = why_silent(nobody, '/image_raw', 'sensor_msgs/msg/Image', QoSProfile(depth=1))
    assert said.startswith('nobody publishes /image_raw')
    assert (f'FASTDDS_BUILTIN_TRANSPORTS={transports} ' in said) is told
    assert ('large_data:=false' in said) is told
