# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The course of a live run: wait for each other, play in time, wait for the last answers."""
from __future__ import annotations

from collections.abc import Callable, Sequence
import time
from typing import Protocol

from evit_seg.core.errors import InputError
from evit_seg.replay.bag import Bag, BagMessage, ImageTopic
from evit_seg.replay.recording import Recording
from tqdm import tqdm

READY_TIMEOUT_S = 90.0
"""For the node to load, try and warm up its model on a slow machine."""
DRAIN_TIMEOUT_S = 30.0
"""For the answers still to come after the last frame."""
LOCKSTEP_TIMEOUT_S = 10.0
"""For one answer; a frame that is lost or unreadable gets none."""
SILENCE_TIMEOUT_S = 60.0
"""For the next report of a node while frames are played; it is due once a second."""
TIMELESS = 'nothing comes on /clock'
"""In the sentence of a node that has not heard the time of the bag yet."""
LATE_S = 0.02
"""A frame published this much later than it was due counts as late."""
POLL_S = 0.05
TICK_S = 0.02
"""How often the time of the bag is told while nothing else is to be published."""
REPORT_EVERY_S = 1.0
"""How often the node reports; twice that is waited for before the next look."""


class Others(Protocol):
    """What is published beside the images."""

    def tell_time(self, bag_ns: int) -> None:
        """Publish the time of the bag."""

    def publish(self, message: BagMessage) -> None:
        """Publish one message of the bag."""


class Link(Protocol):
    """The way to the node: what is published, what is recorded."""

    recording: Recording

    @property
    def others(self) -> Others:
        """Return what publishes the topics beside the images."""

    def missing(self) -> Sequence[str]:
        """Return what has not found its other side: nothing once the node and we have matched."""

    def publish(self, index: int, message: BagMessage) -> None:
        """Publish one frame of the bag."""


class Process(Protocol):
    """The node's process."""

    def check(self) -> None:
        """Raise an EvitSegError if it is not running any more."""

    def sample_memory(self) -> None:
        """Note its resident memory."""

    def last_words(self) -> str:
        """Return what it logged last."""


def wait_until_ready(link: Link, node: Process, start_ns: int) -> None:
    """
    Wait until both sides have found each other, and the node has reported since.

    That report makes sure that the node, too, had the time to find us, and that it knows the time
    of the bag, which is told to be `start_ns` meanwhile. InputError, with what is waited for and
    what the node says, where it does not come about in time.
    """
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    matched_at: int | None = None
    missing: Sequence[str] = ()
    while True:
        node.check()
        link.recording.check()
        report = link.recording.report
        link.others.tell_time(start_ns)
        if matched_at is None:
            missing = link.missing()
            matched_at = None if missing else report.number
        if matched_at is not None and report.number > matched_at \
                and report.values.get('state') == 'active' and TIMELESS not in report.sentence:
            return
        if time.monotonic() > deadline_s:
            raise InputError(f'seg_node was not ready within {READY_TIMEOUT_S:g} s; waited for '
                             f'{", ".join(missing) or "its report that it is active"}; it says: '
                             f'{report.sentence or "nothing"}; {node.last_words()}')
        link.recording.wait_for_report(report.number, POLL_S)


def play(link: Link, node: Process, bag: Bag, image: ImageTopic, rate: float, *,
         others: Sequence[str] = (), lockstep: bool = False, progress: bool = False) -> None:
    """
    Publish the frames at `rate` times the pace at which they were recorded.

    With them, the messages of the topics `others` and the time of the bag. With `lockstep`, no
    frame before the one before it is answered, or given up. Messages that cannot be deserialised
    cannot be sent on; bag_eval counts them.
    """
    recording = link.recording
    start: tuple[float, int] | None = None
    index = -1
    bar = tqdm(total=image.messages, unit='frame', desc='live', disable=None if progress else True)

    def check() -> None:
        node.check()
        recording.check()
        recording.check_alive(SILENCE_TIMEOUT_S)
    for message in bag.messages([image.name, *others]):
        if message.topic == image.name:
            index += 1
            bar.update()
        if isinstance(message.content, Exception):
            continue
        start = start or (time.monotonic(), message.bag_ns)
        due_s = start[0] + (message.bag_ns - start[1]) / 1e9 / rate
        late_s = _wait_until_due(link.others, due_s, message.bag_ns, rate, check)
        if message.topic != image.name:
            link.others.publish(message)
            continue
        if late_s > LATE_S and not lockstep:
            recording.late_frames += 1
        if not recording.sent_s:
            recording.first_ns = message.bag_ns
        link.publish(index, message)
        if lockstep:
            recording.wait_for_answer(index, LOCKSTEP_TIMEOUT_S)
        check()
        node.sample_memory()
    bar.close()
    recording.modes.end()
    if not recording.sent_s:
        raise InputError(f'{bag.path}: no message of {image.name} can be deserialised')


def _wait_until_due(others: Others, due_s: float, bag_ns: int, rate: float,
                    check: Callable[[], None]) -> float:
    """
    Wait for a message's turn, telling the time of the bag; return how late it is, in s.

    `check` ends the wait by an error when there is nobody to wait for any more.
    """
    while True:
        check()
        early_s = due_s - time.monotonic()
        others.tell_time(bag_ns - max(0, round(early_s * rate * 1e9)))
        if early_s <= 0:
            return -early_s
        time.sleep(min(early_s, TICK_S))


def drain(link: Link, node: Process) -> None:
    """
    Wait for the last answers, then for a report of the node that holds the final counts.

    The newest frame is never replaced: its mask comes, unless it was lost on the way or could not
    be read, and then the node's counts come to rest. InputError where neither happens in time.
    """
    recording = link.recording
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    last = max(recording.sent_s)
    before: dict[str, str] = {}
    while time.monotonic() < deadline_s:
        recording.wait_for_report(recording.report.number, 2 * REPORT_EVERY_S)
        node.check()
        recording.check()
        node.sample_memory()
        counts = {key: value for key, value in recording.report.values.items()
                  if key.startswith('frames ')}
        if counts.get('frames in_work') == '0':
            counted = int(counts['frames processed']) >= len(recording.answered_s)
            if counts == before or (last in recording.answered_s and counted):
                return
        before = counts
    counts = {name[len('frames '):]: count for name, count in before.items()}
    raise InputError(f'seg_node did not come to rest within {DRAIN_TIMEOUT_S:g} s; waited for '
                     f'reports in which no frame is in work and nothing changes, of '
                     f'{len(recording.sent_s)} frames sent; its last: {counts}; it says: '
                     f'{recording.report.sentence or "nothing"}')
