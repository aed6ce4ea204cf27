# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The tests' end of processes that run beside them: a node, a camera; and a client in ROS."""
from __future__ import annotations

import json
import os
from pathlib import Path
import select
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, List, Mapping
from unittest import mock

from evit_seg.core.health import OUTCOMES
import psutil
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_rig import next_domain, wait_until
from sensor_msgs.msg import Image

HERE = Path(__file__).resolve().parent
SECONDS_TO_START = 180.0
SECONDS_TO_END = 60.0
TRANSPORT = {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}  # as the launch file sets it


class Child:
    """A Python process that is told by lines of JSON and answers with lines of JSON."""

    def __init__(self, script: str, options: Dict[str, Any], log: Path, domain: int,
                 environment: Mapping[str, str] = TRANSPORT) -> None:
        self._log = log
        with log.open('wb') as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / script), json.dumps(options)], stderr=errors,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1],
                env={**os.environ, **environment, 'ROS_DOMAIN_ID': str(domain)})
        self.facts = psutil.Process(self._process.pid)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Return the answer to a command; AssertionError with the log if the process fell."""
        self.tell(do, **arguments)
        return self.answer()

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command whose answer is fetched later."""
        try:
            print(json.dumps({'do': do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise AssertionError(self.last_words()) from None

    def answer(self) -> Any:
        """Wait for an answer; there is one pipe of whole lines, so what is ready is a line."""
        assert select.select([self._process.stdout], [], [], SECONDS_TO_START)[0], 'no answer'
        line = self._process.stdout.readline()
        assert line, self.last_words()
        return json.loads(line)

    def last_words(self) -> str:
        """Return how the process ended and the end of its log."""
        code = self._process.wait(SECONDS_TO_START)
        return f'exit code {code}: {self._log.read_text(errors="replace")[-3000:]}'

    def close(self) -> int:
        """Let it end; returns its exit code, -9 if it would not."""
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            return self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return -9
        finally:
            self._process.kill()
            self._process.stdout.close()


class NodeChild(Child):
    """seg_node in a process of its own, in a ROS domain of its own."""

    def __init__(self, bundle: Path, log: Path, period_s: float = 0.0, arenas: int = 0,
                 **parameters: Any) -> None:
        self.domain = next_domain()
        environment = {**TRANSPORT, **({'MALLOC_ARENA_MAX': str(arenas)} if arenas else {})}
        given = {'model': str(bundle), **{n.replace('__', '.'): v for n, v in parameters.items()}}
        super().__init__('node_host.py', {'period_s': period_s, 'parameters': given}, log,
                         self.domain, environment)
        self.ask('state')  # it answers when it is active

    def counts(self) -> Dict[str, int]:
        """Return the counters as they stand."""
        return dict(self.ask('state')['counts'])

    def held(self) -> Dict[str, float]:
        """Return resident memory, threads and file descriptors of the process."""
        with self.facts.oneshot():
            return {'rss_mb': self.facts.memory_info().rss / 1e6,
                    'threads': self.facts.num_threads(), 'fds': self.facts.num_fds()}


def balanced(counts: Dict[str, int]) -> bool:
    """Tell whether every frame received stands in exactly one place."""
    return counts['received'] == counts['in_work'] + sum(counts[name] for name in OUTCOMES)


class Client:
    """A node of the tests' own in a child's domain, spun in a thread."""

    def __init__(self, domain: int) -> None:
        self._context = Context()
        with mock.patch.dict(os.environ, TRANSPORT):
            rclpy.init(context=self._context, domain_id=domain)
            self.node = rclpy.create_node('field', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def listen(self, take: Callable[[Image], None]) -> None:
        """Hand the node's masks to `take`, in the client's thread."""
        self.node.create_subscription(Image, '/seg_node/mask', take, QoSProfile(
            depth=100, reliability=ReliabilityPolicy.RELIABLE))

    def camera(self, kind: Any = Image, topic: str = '/image_raw') -> Any:
        """Return a publisher that the node's subscription has been matched with."""
        publisher = self.node.create_publisher(kind, topic, 1)
        wait_until(lambda: publisher.get_subscription_count() > 0, f'the node to hear {topic}')
        return publisher

    def service(self, kind: Any, name: str) -> Any:
        """Return a client of a service that is there."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(SECONDS_TO_START)
        return client

    def close(self) -> None:
        """Leave the domain."""
        self._closing.set()
        self._thread.join(SECONDS_TO_START)
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


def growth_percent(samples: List[float], reference: slice) -> float:
    """Return by how much the last twentieth of the samples lies above the reference, in %."""
    last = samples[-max(len(samples) // 20, 1):]
    before = sorted(samples[reference])[len(samples[reference]) // 2]
    return round((sorted(last)[len(last) // 2] / before - 1) * 100, 2)
