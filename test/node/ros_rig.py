# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A node under test and a client beside it, over real ROS 2, in a domain of their own."""
from __future__ import annotations

import array
import contextlib
import itertools
import os
import threading
import time

from builtin_interfaces.msg import Time
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import EngineHang, EvitSegError
from evit_seg.ros.node import SegNode
from evit_seg.ros.pipeline import Clocks
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

DEADLINE_S = 30.0
_numbers = itertools.count()


def wait_until(condition, what):
    """Wait for a condition; the deadline only ends a test that would hang."""
    pause = threading.Event()
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f'waited {DEADLINE_S} s for {what}'
        pause.wait(0.002)


def next_domain():
    """Return a ROS domain of its own for each test, and for test runs at the same time."""
    return 1 + (os.getpid() * 13 + next(_numbers)) % 100


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.ns = 1_700_000_000_000_000_000

    def clocks(self):
        return Clocks(lambda: self.ns, lambda: self.ns / 1e9)

    def advance(self, seconds):
        self.ns += round(seconds * 1e9)


class GatedEngine:
    """The real engine behind a gate; while that is shut, each frame waits for `let_through`."""

    def __init__(self, engine):
        self._engine = engine
        self._open = threading.Event()
        self._open.set()
        self._passes = threading.Semaphore(0)
        self.entered = 0
        self.failing = None
        self.closed = False

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def shut(self):
        self._open.clear()

    def open(self):  # noqa: A003
        self._open.set()
        self._passes.release()

    def let_through(self):
        self._passes.release()

    def infer(self, image_HWC):
        self.entered += 1
        if not self._open.is_set():
            assert self._passes.acquire(timeout=DEADLINE_S)
        if self.failing is not None:
            raise self.failing
        return self._engine.infer(image_HWC)

    def close(self):
        self.closed = True
        self._engine.close()


class Gates:
    """Loads real engines behind gates, when `may_load`; the newest is `engine`."""

    def __init__(self):
        self.engines = []
        self.may_load = threading.Event()
        self.may_load.set()

    def __call__(self, *args, **options):
        assert self.may_load.wait(DEADLINE_S)
        self.engines.append(GatedEngine(load_engine(*args, **options)))
        return self.engines[-1]

    @property
    def engine(self):
        return self.engines[-1]


class Rig:
    """A spinning node under test and a spinning client in one context."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.context = Context()
        self.domain = next_domain()
        rclpy.init(context=self.context, domain_id=self.domain)
        self._spun = []
        self.ended_by = []
        self.node = None
        self.client = self._spin(rclpy.create_node('client', context=self.context))
        self.gates = Gates()

    def _spin(self, node):
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)
        thread = threading.Thread(target=self._run, args=(executor,), daemon=True)
        thread.start()
        self._spun.append((node, executor, thread))
        return node

    def _run(self, executor):
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except EvitSegError as error:  # what main makes the process's exit code of
            self.ended_by.append(error)

    def make_node(self, clock=None, namespace=None, **parameters):
        """Make the node, not started; parameters with `__` for the dot."""
        given = {} if self.bundle is None else {'model': str(self.bundle)}
        given.update({name.replace('__', '.'): value for name, value in parameters.items()})
        self.node = SegNode(
            load=self.gates, clocks=None if clock is None else clock.clocks(),
            context=self.context, namespace=namespace, parameter_overrides=[
                Parameter(name, value=value) for name, value in given.items()])
        return self.node

    def start_node(self, **options):
        """Make the node, start it and let it spin."""
        node = self.make_node(**options)
        assert node.start() == 0, node.fault
        return self._spin(node)

    def spin_node(self):
        return self._spin(self.node)

    def record(self, kind, topic, latched=False, reliable=True, match=True):
        """Return the list that the client's messages of a topic go into."""
        qos = QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched
                        else DurabilityPolicy.VOLATILE))
        got = []
        self.client.create_subscription(kind, topic, got.append, qos)
        if match:
            (publisher,) = [p for p in self.node.publishers if p.topic_name == topic]
            wait_until(lambda: publisher.get_subscription_count() > 0, f'a listener of {topic}')
        return got

    def camera(self, kind=None, topic='image_raw'):
        """Return a function that publishes a message and waits until the node has received it."""
        publisher = self.client.create_publisher(kind or Image, topic, 1)
        # Both sides must know of each other, or the first frame is lost.
        wait_until(lambda: publisher.get_subscription_count() > 0, f'the node to hear {topic}')
        (listener,) = [s for s in self.node.subscriptions if s.topic_name == publisher.topic_name]
        wait_until(lambda: listener.get_publisher_count() > 0, f'the node to know {topic}')

        def publish(message):
            before = self.count('received')
            publisher.publish(message)
            wait_until(lambda: self.count('received') > before, 'the frame to arrive')
        return publish

    def count(self, what):
        return self.node.counters.snapshot()[what]

    def wait_count(self, what, number):
        wait_until(lambda: self.count(what) == number, f'{what} == {number}, '
                                                       f'now {self.node.counters.snapshot()}')

    def call(self, kind, name, request):
        """Call a service of the node and return its answer."""
        client = self.client.create_client(kind, name)
        assert client.wait_for_service(DEADLINE_S)
        future = client.call_async(request)
        wait_until(future.done, f'an answer of {name}')
        return future.result()

    def set_parameters(self, **values):
        """Set parameters through the node's service; returns a result for each."""
        request = SetParameters.Request(parameters=[
            Parameter(name.replace('__', '.'), value=value).to_parameter_msg()
            for name, value in values.items()])
        return self.call(SetParameters, f'{self.node.get_fully_qualified_name()}/set_parameters',
                         request).results

    def change_state(self, transition):
        """Ask the node for a lifecycle transition; returns whether it succeeded."""
        return self.call(ChangeState, '/seg_node/change_state', ChangeState.Request(
            transition=Transition(id=transition))).success

    def close(self):
        self.gates.may_load.set()
        for engine in self.gates.engines:
            engine.open()
        for _, executor, thread in self._spun:
            executor.shutdown()
            thread.join(DEADLINE_S)
        if self.node is not None:
            with contextlib.suppress(EngineHang):
                self.node.close()
            self.node.destroy_node()
        self.client.destroy_node()
        self.context.try_shutdown()


def raw_message(image_HWC, stamp_ns=1_700_000_000_123_456_789, encoding='rgb8', padding=0,
                frame_id='cam/opti\u00e7al'):
    """Return an Image message of uint8 (H, W, C), its rows padded with a class colour."""
    height, width = image_HWC.shape[:2]
    rows = image_HWC.reshape(height, -1)
    if padding:
        rows = np.concatenate([rows, np.full((height, padding), 255, np.uint8)], axis=1)
    message = Image(header=Header(stamp=Time(sec=stamp_ns // 10 ** 9, nanosec=stamp_ns % 10 ** 9),
                                  frame_id=frame_id),
                    height=height, width=width, encoding=encoding, step=rows.shape[1],
                    is_bigendian=1)
    message.data = array.array('B', rows.tobytes())
    return message


def mask_of(message):
    """Return the class ids (H, W) of a mask message."""
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
