# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
seg_node in this process, as its own main() runs it, with a line of commands beside it.

A command is a line of JSON on standard input, its answer a line of JSON on standard output:
{"do": "state"}, {"do": "feed", ...}, {"do": "fed"}. The end of the input ends the node.
"""
from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import sys
import threading
import time
from typing import Any, Dict

from builtin_interfaces.msg import Time
from evit_seg.core.engine import load_engine
from evit_seg.ros.node import SegNode
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image
from std_msgs.msg import Header


class SlowEngine:
    """The real engine, which answers no sooner than a period after it was asked."""

    def __init__(self, engine: Any, period_s: float) -> None:
        self._engine = engine
        self._period_s = period_s
        self.longest_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def infer(self, image_HWC: np.ndarray) -> np.ndarray:
        begun_s = time.monotonic()
        logits_CHW = self._engine.infer(image_HWC)
        time.sleep(max(begun_s + self._period_s - time.monotonic(), 0.0))
        self.longest_s = max(self.longest_s, time.monotonic() - begun_s)
        return logits_CHW


class Host:
    """Answers commands about a node while that spins in the main thread."""

    def __init__(self, node: SegNode) -> None:
        self._node = node
        self._feeder: Any = None
        self._fed: Dict[str, Any] = {}

    def state(self) -> Dict[str, Any]:
        """Return the counters, read at one instant, and what the process holds."""
        return {'counts': self._node.counters.snapshot(), 'phase': self._node.phase,
                'threads': sorted(thread.name for thread in threading.enumerate())}

    def longest_inference(self) -> Dict[str, Any]:
        """Return how long the slow engine took at most."""
        return {'ms': self._node.pipeline.model.segmenter.engine.longest_s * 1e3}

    def settle(self) -> Dict[str, Any]:
        """Collect cycles and give free memory back, so that what is left is in use."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc's
        return {'trimmed': trim is not None and bool(trim(0))}

    def feed(self, hz: float, seconds: float, height: int, width: int) -> Dict[str, Any]:
        """Begin to call the image subscription's callback, as a camera of that rate would."""
        (camera,) = [s for s in self._node.subscriptions if s.topic_name == '/image_raw']
        self._fed = {}
        self._feeder = threading.Thread(
            target=self._feed, args=(camera.callback, hz, seconds, height, width), daemon=True)
        self._feeder.start()
        return {}

    def _feed(self, callback: Any, hz: float, seconds: float, height: int, width: int) -> None:
        pixels = np.tile(np.arange(width, dtype=np.uint8), height * 3).tobytes()
        begun_s = time.monotonic()
        sent = 0
        while (now_s := time.monotonic() - begun_s) < seconds:
            if now_s < sent / hz:
                time.sleep(sent / hz - now_s)
                continue
            now_ns = time.time_ns()
            stamp = Time(sec=now_ns // 10 ** 9, nanosec=now_ns % 10 ** 9)
            # A copy of the pixels for each frame, as a transport would make it.
            callback(Image(header=Header(stamp=stamp, frame_id='cam'), height=height, width=width,
                           encoding='rgb8', step=3 * width, data=array.array('B', pixels)))
            sent += 1
        self._fed = {'sent': sent, 'seconds': time.monotonic() - begun_s}

    def fed(self) -> Dict[str, Any]:
        """Return what was fed, when that is over."""
        self._feeder.join()
        return self._fed

    def obey(self, answers: Any) -> None:
        """Answer commands until there are no more, then end the node."""
        for line in sys.stdin:
            command = json.loads(line)
            answer = getattr(self, command.pop('do'))(**command)
            answers.write(json.dumps(answer) + '\n')
            answers.flush()
        rclpy.try_shutdown()


def main() -> int:
    """Run the node until the input ends."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # whatever else is printed must not get between the answers
    options = json.loads(sys.argv[1])
    period_s = options['period_s']

    def load(*given: Any, **named: Any) -> Any:
        engine = load_engine(*given, **named)
        return SlowEngine(engine, period_s) if period_s else engine
    arguments = [part for name, value in options['parameters'].items()
                 for part in ('-p', f'{name}:={value}')]
    rclpy.init(args=['--ros-args', *arguments])
    node = SegNode(load=load)
    code = node.start()
    if code:
        return code
    host = Host(node)
    threading.Thread(target=host.obey, args=(answers,), name='commands', daemon=True).start()
    try:
        rclpy.spin(node)
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
