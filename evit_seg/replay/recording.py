# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What was sent to the node and what it answered, by frame."""
from __future__ import annotations

from dataclasses import dataclass, field
import tempfile
import threading
import time
from typing import IO

import cv2
from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.errors import InputError
from evit_seg.replay.live_modes import ModeTimeline
from evit_seg.replay.places import PlacedEvent
import numpy as np

Header = tuple[int, int, str]
"""sec, nanosec and frame_id of a header: what must come back byte for byte."""


class MaskSpool:
    """Masks as PNG in a temporary file, so that a long flight does not fill the memory."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as this
        self._places: dict[int, tuple[int, int]] = {}

    def put(self, index: int, mask_HW: np.ndarray) -> None:
        """Keep the mask of one frame, uint8 (H, W)."""
        good, data = cv2.imencode('.png', mask_HW, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not good:
            raise InputError(f'mask of frame {index}: OpenCV cannot encode {mask_HW.shape}')
        self._places[index] = (self._file.seek(0, 2), data.size)
        self._file.write(data.tobytes())

    def get(self, index: int) -> np.ndarray | None:
        """Return the mask of one frame, None where the node gave none."""
        if index not in self._places:
            return None
        offset, size = self._places[index]
        self._file.seek(offset)
        data = np.frombuffer(self._file.read(size), np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


@dataclass
class Report:
    """The newest of the node's own reports (/diagnostics): sentence, values, and when it came."""

    number: int = 0
    sentence: str = ''
    values: dict[str, str] = field(default_factory=dict)
    at_s: float = field(default_factory=lambda: time.monotonic())

    @property
    def settled(self) -> int:
        """Return how many frames have come to their end, as the report tells."""
        return int(self.values.get('frames received', 0)) - \
            int(self.values.get('frames in_work', 0))


class Recording:
    """Filled by the player's threads; everything is guarded by one condition."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.indices: dict[Header, int] = {}
        self.sent_s: dict[int, float] = {}
        self.answered_s: dict[int, float] = {}
        self.wrong_headers: list[str] = []
        self.repeated_answers = 0
        self.late_frames = 0
        self._lost = 0
        self._settled_reports = 0  # in a row, since the last frame was sent
        self.events: list[tuple[int, AlertEvent]] = []
        """With the frame that brought each."""
        self.placed: list[PlacedEvent] = []
        """The events with the places of their alerts, in the node's own words."""
        self.raised_ms: list[float] = []
        """From publishing a frame to the event of an alert that it raised."""
        self.modes = ModeTimeline()
        self.first_ns = 0
        """When the first frame was due, in the time of the bag."""
        self.notes: list[str] = []
        """What the user should know of what is played."""
        self.report = Report()
        self.fault: Exception | None = None
        self.masks = MaskSpool()

    def note_sent(self, index: int, header: Header, now_s: float) -> None:
        """Note a frame the moment before it is published."""
        with self.changed:
            self.indices[header] = index
            self.sent_s[index] = now_s
            self._settled_reports = 0

    def note_mask(self, header: Header, mask_HW: np.ndarray, now_s: float) -> None:
        """Note an answer; its header must be one that was sent."""
        with self.changed:
            index = self._index_of('mask', header)
            if index is not None and index in self.answered_s:
                self.repeated_answers += 1
            elif index is not None:
                self.answered_s[index] = now_s
                self.masks.put(index, mask_HW)
            self.changed.notify_all()

    def note_events(self, header: Header, placed: list[PlacedEvent], now_s: float) -> None:
        """Note the alert events of one frame, and where they say the alerts lie."""
        with self.changed:
            index = self._index_of('alert_events', header)
            if index is not None:
                self.placed += placed
                self.events += [(index, one.event) for one in placed]
                self.raised_ms += [(now_s - self.sent_s[index]) * 1e3 for one in placed
                                   if one.event.kind == 'raised']
            self.changed.notify_all()

    def note_report(self, sentence: str, values: dict[str, str], *, ok: bool = True,
                    bag_ns: int = 0) -> None:
        """Note the node's report of itself, and the time of the bag when it came."""
        with self.changed:
            self.report = Report(self.report.number + 1, sentence, values)
            settled = self.report.settled + self._lost >= len(self.sent_s)
            self._settled_reports = self._settled_reports + 1 if settled else 0
            if int(values.get('frames received', 0)):  # before that it can but wait for frames
                self.modes.note_report(bag_ns, ok, sentence)
            self.changed.notify_all()

    def note_mode(self, text: str, bag_ns: int) -> None:
        """Note what the node says of its mode."""
        with self.changed:
            self.modes.note_mode(bag_ns, text)

    def note_fault(self, error: Exception) -> None:
        """Note that something the node sent cannot be taken; no more will be."""
        with self.changed:
            self.fault = error
            self.changed.notify_all()

    def check(self) -> None:
        """Raise InputError if an answer of the node could not be taken."""
        if self.fault is not None:
            raise InputError(f'an answer of seg_node cannot be read: {self.fault}')

    def _index_of(self, topic: str, header: Header) -> int | None:
        if header not in self.indices:
            self.wrong_headers.append(f'{topic}: {header!r}')
        return self.indices.get(header)

    def wait_for_report(self, number: int, seconds: float) -> bool:
        """Wait for a report newer than that number; False at the deadline."""
        with self.changed:
            return self.changed.wait_for(lambda: self.report.number > number, seconds)

    def wait_for_answer(self, index: int, seconds: float) -> bool:
        """
        Wait for the mask of one frame; False at the deadline, or when none is to come.

        None is to come when the node reports that all that was sent has come to an end, twice: the
        mask may come after the first of these reports. A frame that is not heard of until the
        deadline is taken for lost.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: index in self.answered_s
                                         or self._settled_reports > 1, seconds):
                self._lost += 1
            return index in self.answered_s

    def check_alive(self, seconds: float) -> None:
        """Raise InputError when the node has not reported for so long."""
        silent_s = time.monotonic() - self.report.at_s
        if silent_s > seconds:
            raise InputError(f'waited {silent_s:.0f} s for a report of seg_node on /diagnostics, '
                             f'it comes once a second; its last one: '
                             f'{self.report.sentence or "none"}')

    def alerts_by_frame(self, frames: int) -> dict[int, tuple[Alert, ...]]:
        """
        Return the active alerts after each answered frame, as the events tell them.

        An event is the frame's own; until the next one its alert is carried along, regions as
        they were.
        """
        by_index: dict[int, list[AlertEvent]] = {}
        for index, event in self.events:
            by_index.setdefault(index, []).append(event)
        active: dict[str, Alert] = {}
        alerts = {}
        for index in range(frames):
            for event in by_index.get(index, ()):
                if event.kind in ('raised', 'updated'):
                    active[event.alert.alert_id] = event.alert
                else:
                    active.pop(event.alert.alert_id, None)
            if index in self.answered_s:
                alerts[index] = tuple(active.values())
        return alerts
