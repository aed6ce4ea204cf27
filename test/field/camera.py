# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A camera in a process of its own: publishes at a rate, or a burst, as it is told on its input.

{"do": "play", "hz": ..., "seconds": ...} stamps frames with the system's clock and answers with
what was sent. {"do": "burst", "frames": n} publishes them at once, stamped 1 s, 2 s, ... since the
camera began. {"do": "meet"} answers when somebody listens.
"""
from __future__ import annotations

import array
import json
import os
import sys
import time
from typing import Any, Dict

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image


class Camera:
    """Publishes one picture again and again; only the stamp changes."""

    def __init__(self, height: int, width: int, reliable: bool) -> None:
        self._node = rclpy.create_node('camera')
        self._publisher = self._node.create_publisher(Image, '/image_raw', QoSProfile(
            depth=1, reliability=(ReliabilityPolicy.RELIABLE if reliable
                                  else ReliabilityPolicy.BEST_EFFORT)))
        self._message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
        row = np.arange(3 * width, dtype=np.uint32).astype(np.uint8)
        self._message.data = array.array('B', np.tile(row, height).tobytes())
        self._message.header.frame_id = 'cam'
        self._sent = 0

    def _send(self, stamp_ns: int) -> None:
        stamp = self._message.header.stamp
        stamp.sec, stamp.nanosec = stamp_ns // 10 ** 9, stamp_ns % 10 ** 9
        self._publisher.publish(self._message)
        self._sent += 1

    def meet(self) -> Dict[str, Any]:
        """Wait for a listener."""
        while not self._publisher.get_subscription_count():
            rclpy.spin_once(self._node, timeout_sec=0.05)
        return {}

    def play(self, hz: float, seconds: float) -> Dict[str, Any]:
        """Publish at a rate; a camera that comes too late does not slow down for it."""
        begun_s, before = time.monotonic(), self._sent
        while (now_s := time.monotonic() - begun_s) < seconds:
            due_s = (self._sent - before) / hz
            if now_s < due_s:
                time.sleep(due_s - now_s)
                continue
            self._send(time.time_ns())
        return {'sent': self._sent - before, 'seconds': time.monotonic() - begun_s}

    def burst(self, frames: int) -> Dict[str, Any]:
        """Publish frames as fast as it goes."""
        for _ in range(frames):
            self._send((self._sent + 1) * 10 ** 9)
        return {'sent': self._sent}


def main() -> None:
    """Obey until the input ends."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    rclpy.init()
    camera = Camera(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        answers.write(json.dumps(getattr(camera, command.pop('do'))(**command)) + '\n')
        answers.flush()
    rclpy.shutdown()


if __name__ == '__main__':
    main()
