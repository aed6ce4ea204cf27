# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Long service: memory, threads and file descriptors of a node's process stay where they were.

Frames of three sizes and encodings, alerts that come and go, the overlay and the confidence
listened to: all that could pile up has its chance.
"""
from __future__ import annotations

import contextlib
import gc
import queue

import pytest
from tiny_bundle import anchor_colours, painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

import cv2  # noqa: E402, I100
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from node_child import balanced, Client, growth_percent  # noqa: E402
import numpy as np  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from ros_rig import raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

FRAMES = 10_000
STARTS = 100
LOOK_EVERY = 50
ARENAS = 2
SCENE_FRAMES = 40
RETRY_S = 0.5
CYCLE = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
         Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)


def scenes():
    """Return pairs of an image and its encoding; alerts rise in some and clear in others."""
    full, _ = painted_frame(hw=(240, 320))
    bare = np.full((256, 256, 3), anchor_colours()[0], np.uint8)
    grey = cv2.cvtColor(full, cv2.COLOR_RGB2GRAY)[..., None]
    return [(full, 'rgb8'), (bare, 'bgr8'), (grey, 'mono8')]


class Service:
    """A camera that sends the next frame when the last one was answered."""

    def __init__(self, child):
        self.client = Client(child.domain)
        self.child = child
        self._masks = queue.Queue()
        self.client.listen(self._masks.put)
        for kind, topic in ((Image, 'confidence'), (CompressedImage, 'overlay/compressed')):
            self.client.node.create_subscription(
                kind, f'/seg_node/{topic}', lambda _: None, qos_profile_sensor_data)
        self._camera = self.client.camera()
        self._scenes = scenes()
        self._sent = 0

    def answer(self):
        """
        Send a frame and wait for its mask.

        A node that has only just started may not know the camera yet: then the next frame is
        sent, as a camera would.
        """
        while True:
            self._sent += 1
            image_HWC, encoding = self._scenes[self._sent // SCENE_FRAMES % len(self._scenes)]
            stamp_ns = 10 ** 18 + self._sent * 10 ** 8
            self._camera.publish(raw_message(image_HWC, stamp_ns, encoding, padding=5))
            try:
                while self._stamp_ns(self._masks.get(timeout=RETRY_S)) != stamp_ns:
                    continue
            except queue.Empty:
                continue
            return

    @staticmethod
    def _stamp_ns(mask):
        return mask.header.stamp.sec * 10 ** 9 + mask.header.stamp.nanosec

    def held(self):
        """Return what the process holds between two frames."""
        wait_until(lambda: self.child.counts()['in_work'] == 0, 'the worker to be idle')
        return self.child.held()

    def held_in_use(self):
        """Return the same after free memory was given back, and what it was before."""
        before = self.held()
        self.child.ask('settle')
        return {**self.held(), 'untrimmed_mb': before['rss_mb']}

    def left_over(self, before):
        """
        Return the threads and file descriptors that there are now and were not in `before`.

        Some come for a moment, as for the file of a temperature: so it is given time to let go.
        """
        least = {name: min(look[name] for look in before) for name in ('threads', 'fds')}

        def more():
            held = self.held()
            return {f'{name}_left_over': held[name] - few for name, few in least.items()}
        with contextlib.suppress(AssertionError):
            wait_until(lambda: max(more().values()) <= 0, 'nothing to be left over')
        return more()


def memory(looks, first, name='rss_mb'):
    """Return how a memory has changed since look `first`."""
    values_mb = [look[name] for look in looks]
    reference = slice(first, first + max(len(looks) // 20, 1))
    return {name: [round(value, 1) for value in values_mb[::max(len(looks) // 10, 1)]],
            name.replace('_mb', '_growth_percent'): growth_percent(values_mb, reference)}


@pytest.fixture
def serve(start_host):
    """Return a function that starts a node and the camera that it serves."""
    services = []

    def start(**options):
        services.append(Service(start_host(image__reliability='reliable', mask__confidence=True,
                                           **options)))
        return services[-1]
    yield start
    for service in services:
        service.client.close()


def test_ten_thousand_frames(field, serve):
    service = serve()
    count = field.scaled(FRAMES)
    service.answer()
    looks = [service.held()]
    for number in range(1, count + 1):
        service.answer()
        if number % LOOK_EVERY == 0:
            looks.append(service.held())
    counts = service.child.counts()
    assert balanced(counts)
    after = max(len(looks) // 10, 1)
    numbers = {'frames': count, 'counts': counts,
               'answered_or_replaced': counts['processed'] + counts['replaced'],
               **memory(looks, after), **service.left_over(looks[after:after + 5])}
    field.hold('soak: frames', numbers, {
        'answered_or_replaced': ('==', counts['received']), 'threads_left_over': ('<=', 0),
        'fds_left_over': ('<=', 0)}, {'rss_growth_percent': ('<', 1.0)})
    assert service.child.close() == 0


def test_a_hundred_starts_and_stops(field, serve):
    # Each start has new threads, and glibc a heap for each until it has eight a core: with all of
    # them a leak would be lost in the noise.
    service = serve(arenas=ARENAS)
    starts = field.scaled(STARTS)
    change = service.client.service(ChangeState, '/seg_node/change_state')

    def step(transition):
        future = change.call_async(
            ChangeState.Request(transition=Transition(id=transition)))
        wait_until(future.done, 'the transition')
        assert future.result().success
    for _ in range(len(scenes()) * SCENE_FRAMES):  # what each scene needs has then been seen
        service.answer()
    looks = [service.held_in_use()]
    for _ in range(starts):
        for transition in CYCLE:
            step(transition)
        for _ in range(3):
            service.answer()
        looks.append(service.held_in_use())
    after = max(starts // 10, 1)
    numbers = {'starts': starts, 'malloc_arena_max': ARENAS, **memory(looks, after),
               'counts': service.child.counts(),
               **memory(looks, after, 'untrimmed_mb'),
               **service.left_over(looks[after:after + 3])}
    assert balanced(numbers['counts'])
    field.hold('soak: lifecycle', numbers, {
        'threads_left_over': ('<=', 0), 'fds_left_over': ('<=', 0)},
        {'rss_growth_percent': ('<', 1.0)})
    assert service.child.close() == 0


def test_a_frame_is_freed_without_the_garbage_collector(rig):
    """
    A frame in a reference cycle lives until a full collection: at 1080p that is 6 MB each.

    An exception that is kept is such a cycle: its traceback holds the frame that was worked on.
    """
    rig.start_node(alert__default__confirm_k=1)
    publish = rig.camera()
    image_HWC, _ = painted_frame()
    publish(raw_message(image_HWC))
    rig.wait_count('in_work', 0)
    gc.collect()
    gc.disable()
    try:
        for number in range(20):
            publish(raw_message(image_HWC, 10 ** 18 + number * 10 ** 8, frame_id='freed'))
            publish(raw_message(image_HWC[:, :7], encoding='hsv8', frame_id='freed'))
            rig.wait_count('in_work', 0)
        alive = [item for item in gc.get_objects()
                 if isinstance(item, Image) and item.header.frame_id == 'freed']
    finally:
        gc.enable()
    assert len(alive) <= 2, f'{len(alive)} of 40 frames are still there'
