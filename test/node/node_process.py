# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node as a process of its own, and a camera in this one that hears what it answers."""
from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from ros_rig import next_domain, raw_message
from sensor_msgs.msg import Image

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_START = 180  # many at once, on a busy machine
MAIN = """
import sys
sys.argv = ['seg_node', '--ros-args', *sys.argv[1:]]
raise SystemExit(node_module.main())
"""


class Peer:
    """
    A camera that publishes to the node's process, 20 frames/s, and records what comes back.

    `script` is run in the process before main, with `node_module` imported. `image_HWC` is what
    the camera sees, None while it is silent.
    """

    def __init__(self, script=''):
        self._script = f'import evit_seg.ros.node as node_module\n{script}{MAIN}'
        self.domain = next_domain()
        self.image_HWC = None
        self.sent = 0
        self.masks, self.reports = [], []
        self.process = None
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115  closed in __exit__
        self._context = Context()
        rclpy.init(context=self._context, domain_id=self.domain)
        self._node = rclpy.create_node('camera', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        # Test runs at the same time may share a domain; they do not share a name.
        self._namespace = f'/drone{os.getpid()}'
        self.name = f'{self._namespace}/seg_node'
        self._camera = self._node.create_publisher(Image, f'{self._namespace}/image_raw', 1)
        self._node.create_subscription(Image, f'{self.name}/mask', self.masks.append, 10)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._hear, 10)
        self._node.create_timer(0.05, self._send)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _send(self):
        if self.image_HWC is not None:
            self.sent += 1
            self._camera.publish(raw_message(self.image_HWC, 10 ** 18 + self.sent))

    def _hear(self, report):
        if f'/{report.status[0].name}' == self.name:
            self.reports.append(report)

    def start(self, *parameters):
        """Start the node's process with parameters such as 'model:=demo'."""
        given = [word for parameter in parameters for word in ('-p', parameter)]
        self.process = subprocess.Popen(
            [sys.executable, '-c', self._script, '-r', f'__ns:={self._namespace}', *given],
            cwd=ROOT, text=True,
            env=dict(os.environ, ROS_DOMAIN_ID=str(self.domain), PYTHONUNBUFFERED='1'),
            stdout=self._log, stderr=subprocess.STDOUT)

    def spin_until(self, condition, what):
        """Publish and listen until something is so; the process must live that long."""
        deadline = time.monotonic() + SECONDS_TO_START
        while not condition():
            assert time.monotonic() < deadline, f'waited {SECONDS_TO_START} s for {what}'
            assert self.process.poll() is None, self.output()
            self._executor.spin_once(timeout_sec=0.1)

    def spin_until_it_ends(self, within_s=SECONDS_TO_START):
        """Publish and listen until the process ends; returns its exit code and output."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f'the process did not end within {within_s} s'
            self._executor.spin_once(timeout_sec=0.1)
        return self.process.returncode, self.output()

    def output(self):
        """Return what the processes have printed so far."""
        self._log.seek(0)
        return self._log.read()

    def sentences(self):
        """Return the sentences on /diagnostics so far."""
        return [report.status[0].message for report in self.reports]

    def number(self, name):
        """Return a value of the last report, '' before the first one."""
        pairs = self.reports[-1].status[0].values if self.reports else ()
        return next((pair.value for pair in pairs if pair.key == name), '')
