# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the node tests; what they are made of stands in ros_rig.py."""
from __future__ import annotations

from pathlib import Path
import sys

import pytest
from tiny_bundle import write_tiny_bundle

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """Return the folder of a tiny bundle: 14 classes, 64 x 64, stride 8."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


@pytest.fixture
def rig(tiny):
    """Yield a client and the means to start a node beside it; closed after the test."""
    pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')
    from ros_rig import Rig
    rig = Rig(tiny)
    yield rig
    rig.close()


@pytest.fixture
def bridge(monkeypatch):
    """Yield a function that makes a companion and what is around it; closed after the test."""
    pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')
    from companion_rig import Bridge
    import evit_seg.ros.companion
    monkeypatch.setattr(evit_seg.ros.companion, 'HEARTBEAT_S', 0.05)
    made = []

    def make(**options):
        made.append(Bridge(**options))
        return made[-1]
    yield make
    for one in made:
        one.close()
