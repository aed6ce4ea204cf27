# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The camera of a measurement, in a process of its own: sends frames and takes the masks.

Reads a JSON object per line from stdin ({"rate_hz": 30, "seconds": 5}; {} looks whether the node
is ready) and answers each with one on stdout. With --with-node the node runs in this process.
"""
from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from diagnostic_msgs.msg import DiagnosticArray
from evit_seg.benchmark.frames import encode, JPEG, source_frames
from evit_seg.core.bundle import open_bundle
from evit_seg.core.errors import EvitSegError
from evit_seg.core.machine import percentiles_ms
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.utilities import get_rmw_implementation_identifier, remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

NODE = '/seg_node'
SETTLE_TIMEOUT_S = 30.0
GREETING_HW = (16, 16)


class Camera:
    """A publisher of frames and the listener of what the node says to them."""

    def __init__(self, node: Node, messages: Sequence[Any], greeting: Any) -> None:
        self._messages = messages
        self._greeting = greeting
        self._changed = threading.Condition()
        self._sent_s: Dict[int, float] = {}  # by stamp
        self._answered_s: List[Tuple[float, float]] = []  # arrival, latency
        self._reports: List[Dict[str, str]] = []
        self._settled: Dict[str, int] = {}
        suffix = '/compressed' if isinstance(greeting, CompressedImage) else ''
        self._publisher = node.create_publisher(
            type(greeting), f'/image_raw{suffix}',
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self._subscriptions = (
            node.create_subscription(Image, f'{NODE}/mask', self._on_mask, 10),
            node.create_subscription(DiagnosticArray, '/diagnostics', self._on_report, 10))

    def _on_mask(self, message: Image) -> None:
        now_s = time.perf_counter()
        stamp = message.header.stamp
        with self._changed:
            sent_s = self._sent_s.pop(stamp.sec * 10 ** 9 + stamp.nanosec, None)
            if sent_s is not None:
                self._answered_s.append((now_s, now_s - sent_s))
                self._changed.notify()

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if f'/{status.name}' == NODE:
                with self._changed:
                    self._reports.append({v.key: v.value for v in status.values})
                    self._changed.notify()

    def _send(self, message: Any) -> None:
        stamp_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10 ** 9)
        with self._changed:
            self._sent_s[stamp_ns] = time.perf_counter()
        self._publisher.publish(message)

    def ready(self, timeout_s: float = 1.0) -> bool:
        """Send a small picture, which any transport carries; tell whether a mask came back."""
        self._send(self._greeting)
        with self._changed:
            if not self._changed.wait_for(lambda: self._answered_s, timeout_s):
                return False
        self._settle(sent=None)
        return True

    def offer(self, rate_hz: float, seconds: float) -> Dict[str, Any]:
        """Send frames at a rate for so long; return what became of them."""
        before = self._settled
        with self._changed:
            self._sent_s.clear()
            self._answered_s.clear()
        sent = max(round(rate_hz * seconds), 1)
        begin_s = due_s = time.perf_counter()
        for number in range(sent):
            time.sleep(max(due_s - time.perf_counter(), 0.0))
            self._send(self._messages[number % len(self._messages)])
            # Who is late by more than a frame does not make up for it with a burst.
            due_s = max(due_s + 1 / rate_hz, time.perf_counter() - 1 / rate_hz)
        time.sleep(max(due_s - time.perf_counter(), 0.0))  # the last frame has its time too
        sending_s = time.perf_counter() - begin_s
        report = self._settle(sent)
        with self._changed:
            answers = list(self._answered_s)
        counts = {name: number - before[name] for name, number in self._settled.items()}
        latencies_ms = [latency_s * 1e3 for _, latency_s in answers]
        return {'offered_hz': rate_hz, 'sent': sent, 'sent_hz': sent / sending_s,
                'counts': counts, 'transport_loss': sent - counts['received'],
                'masks': len(answers), 'drops': 1 - len(answers) / sent,
                'masks_hz': _rate_hz([at_s for at_s, _ in answers]),
                'latency_ms': percentiles_ms(latencies_ms) if latencies_ms else None,
                'node_ms': _stage_times(report)}

    def _settle(self, sent: Optional[int]) -> Dict[str, str]:
        """Wait for a report that tells the end of every frame sent; return it."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        with self._changed:
            self._reports.clear()
            while not self._at_rest(sent):
                if not self._changed.wait(deadline_s - time.monotonic()) \
                        and time.monotonic() > deadline_s:
                    raise EvitSegError(f'{NODE} did not come to rest within '
                                       f'{SETTLE_TIMEOUT_S:g} s: last report '
                                       f'{self._reports[-1] if self._reports else None!r}')
            self._settled = _counts(self._reports[-1])
            return self._reports[-1]

    def _at_rest(self, sent: Optional[int]) -> bool:
        counts = [_counts(report) for report in self._reports]
        if not counts or counts[-1]['in_work']:
            return False
        received, processed = (counts[-1][name] - self._settled.get(name, 0)
                               for name in ('received', 'processed'))
        answered = len(self._answered_s)
        if processed == answered and received == (answered if sent is None else sent):
            return True
        # Something was lost on the way: when nothing has come for a second, nothing will.
        return counts[-1] in counts[:-1]


def _counts(report: Dict[str, str]) -> Dict[str, int]:
    return {key[len('frames '):]: int(value) for key, value in report.items()
            if key.startswith('frames ')}


def _stage_times(report: Dict[str, str]) -> Dict[str, Dict[str, float]]:
    """Return p50 and p95 of each stage, as the node reports them of its last 256 frames."""
    ending = ' p50/p95 ms'
    pairs = {key[:-len(ending)]: value.split('/') for key, value in report.items()
             if key.endswith(ending)}
    return {stage: {'p50': float(p50), 'p95': float(p95)} for stage, (p50, p95) in pairs.items()}


def _rate_hz(times_s: Sequence[float]) -> Optional[float]:
    """Return the answers per second between the first and the last one."""
    return (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else None


def message_of(frame_HWC: np.ndarray, encoding: str) -> Any:
    """Return a BGR frame as the message a camera would publish."""
    rows = encode(frame_HWC, encoding)
    data = array.array('B', rows.tobytes())
    if encoding == JPEG:
        return CompressedImage(format='bgr8; jpeg compressed bgr8', data=data)
    return Image(height=frame_HWC.shape[0], width=frame_HWC.shape[1], encoding=encoding,
                 step=rows.size // rows.shape[0], data=data)


def message_ms(message: Any, runs: int = 20) -> Dict[str, float]:
    """Return how long rclpy's thread holds the interpreter to write and to read a message."""
    content = serialize_message(message)
    times: Dict[str, float] = {}
    for name, work in (('serialise', lambda: serialize_message(message)),
                       ('deserialise', lambda: deserialize_message(content, type(message)))):
        taken_ms = []
        for _ in range(runs):
            begin_s = time.perf_counter()
            work()
            taken_ms.append((time.perf_counter() - begin_s) * 1e3)
        times[name] = round(float(np.median(taken_ms)), 3)
    return times


def main(argv: Optional[List[str]] = None) -> int:
    """Answer the commands on stdin until it is closed."""
    argv = sys.argv if argv is None else argv
    parser = argparse.ArgumentParser(prog='camera', description=__doc__)
    parser.add_argument('--model', type=Path, required=True)
    parser.add_argument('--height', type=int, required=True)
    parser.add_argument('--width', type=int, required=True)
    parser.add_argument('--encoding', required=True)
    parser.add_argument('--with-node', action='store_true')
    args = parser.parse_args(remove_ros_args(argv)[1:])
    with contextlib.ExitStack() as stack:
        rclpy.init(args=argv)
        stack.callback(rclpy.try_shutdown)
        frames = source_frames(open_bundle(args.model), (args.height, args.width))
        messages = [message_of(frame, args.encoding) for frame in frames]
        node = rclpy.create_node('bench_camera')
        camera = Camera(node, messages, message_of(
            np.zeros((*GREETING_HW, 3), np.uint8), args.encoding))
        _spin(node, stack)
        if args.with_node:
            _start_node(stack)
        _answer({'rmw': get_rmw_implementation_identifier(),
                 'ros_distro': os.environ.get('ROS_DISTRO'),
                 'message_ms': message_ms(messages[0])})
        with contextlib.suppress(KeyboardInterrupt):  # how this process is asked to end
            for line in sys.stdin:
                _answer(_obey(camera, json.loads(line)))
    return 0


def _obey(camera: Camera, command: Dict[str, float]) -> Dict[str, Any]:
    try:
        return camera.offer(**command) if command else {'ready': camera.ready()}
    except EvitSegError as error:
        return {'error': str(error)}


def _start_node(stack: contextlib.ExitStack) -> None:
    from evit_seg.ros.node import SegNode
    node = SegNode()
    stack.callback(node.close)
    if node.start():
        raise SystemExit(str(node.fault))
    _spin(node, stack)


def _spin(node: Node, stack: contextlib.ExitStack) -> None:
    """Spin a node in a thread of its own, until the stack is unwound."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    stack.callback(node.destroy_node)
    stack.callback(thread.join, 10.0)
    stack.callback(executor.shutdown)


def _answer(content: Dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == '__main__':
    raise SystemExit(main())
