# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Who was really there: events.csv and objects.csv of a flight, brought onto the bag's stamps."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evit_seg.core.alerts import Alert, AlertRule
from evit_seg.core.appearances import (
    ObjectBox,
    read_events,
    read_objects,
    score_appearances,
    ScoredFrame,
    VisibleSpan,
)
from evit_seg.core.errors import InputError
from evit_seg.replay.image_source import read_frames_csv
from evit_seg.replay.make_bag import CUSTOM_DATA_ZERO
from evit_seg.replay.truth import pair_stamps

SAME_TIME_NS = 1_000_000
"""Stamps and the rounded times of frames.csv that differ by less are one frame's."""


@dataclass(frozen=True)
class Annotations:
    """Boxes and spans of a flight; `frames` are (file stem, time in s) in the flight's order."""

    objects: list[ObjectBox]
    events: list[VisibleSpan] | None
    frames: list[tuple[str, float]]

    @classmethod
    def read(cls, objects: Path, events: Path | None) -> Annotations:
        """Read the files; frames.csv, which gives the times, lies beside objects.csv."""
        table = objects.parent / 'frames.csv'
        if not table.is_file():
            raise InputError(f'{table} is not there; it says at what time the frames of '
                             f'{objects.name} were taken')
        return cls(read_objects(objects), read_events(events) if events else None,
                   read_frame_times(table))

    def name_frames(self, stamps_ns: Sequence[int], custom_data: Mapping[str, str]) \
            -> tuple[dict[int, tuple[str, float]], list[str]]:
        """
        Return bag frame -> (stem, time in s), and notes for the user.

        InputError when no frame can be named.
        """
        named_ns, notes = stamps_of_times([time_s for _, time_s in self.frames], stamps_ns,
                                          custom_data)
        pairs = pair_stamps(stamps_ns, named_ns, SAME_TIME_NS)
        if len(pairs) < min(len(stamps_ns), len(named_ns)):
            if len(pairs) < 2:
                raise InputError('objects.csv does not go with this bag: the times of its '
                                 'frames.csv are not those of the stamps (was the bag re-timed '
                                 'with --rate?)')
            notes.append(f'{len(stamps_ns) - len(pairs)} of {len(stamps_ns)} frames of the bag '
                         'are not in frames.csv')
        return {index: self.frames[row] for index, row in pairs.items()}, notes

    def score(self, frames: Sequence[ScoredFrame], rules: Sequence[AlertRule],
              min_height_px: float) -> list[dict[str, Any]]:
        """
        Return recall and false alerts of every class with a rule.

        The files are taken for the whole truth: an alert of a class without a row is false.
        Beside what core scores, `active_s` is how long alerts were active, and `idle_active_s`
        how much of that no object of the class was to be seen, of any height: an alert that never
        clears is never false either, and only these two numbers tell.
        """
        return [{**score_appearances(frames, self.objects, rule.slug, confirm_n=rule.confirm_n,
                                     min_height_px=min_height_px, events=self.events).to_dict(),
                 **self._active_times(frames, rule.slug)} for rule in rules]

    def in_view(self, frames: Sequence[ScoredFrame], slug: str) -> list[bool]:
        """Return whether an object of the class, of any height, is to be seen in each frame."""
        visible = {box.frame for box in self.objects if box.slug == slug}
        return [frame.name in visible for frame in frames]

    def _active_times(self, frames: Sequence[ScoredFrame], slug: str) -> dict[str, float]:
        times = time_on(frames, slug, self.in_view(frames, slug))
        return {'active_s': round(times.on_s, 3), 'idle_active_s': round(times.idle_s, 3)}


def read_frame_times(table: Path) -> list[tuple[str, float]]:
    """Return stem and time in s of each row of a frames.csv; InputError where a time lacks."""
    frames = [(Path(name).stem, facts.time_s) for name, facts in read_frames_csv(table).items()]
    timed = [(name, time_s) for name, time_s in frames if time_s is not None]
    if len(timed) < len(frames) or not frames:
        raise InputError(f'{table}: expected a time_s in every row')
    return timed


def stamps_of_times(times_s: Sequence[float], stamps_ns: Sequence[int],
                    custom_data: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """
    Return the bag's stamp of each time of frames.csv, and notes for the user.

    make_bag leaves the stamp of time 0 in the bag; for other bags the first stamp is taken for
    the first row of frames.csv.
    """
    if CUSTOM_DATA_ZERO in custom_data:
        zero_ns, notes = int(custom_data[CUSTOM_DATA_ZERO]), []
    else:
        zero_ns = stamps_ns[0] - round(times_s[0] * 1e9)
        notes = ['the bag does not say when its flight began: its first frame is taken for the '
                 'first row of frames.csv']
    return [zero_ns + round(time_s * 1e9) for time_s in times_s], notes


@dataclass(frozen=True)
class TimeOn:
    """Seconds an alert was on, those without its class in view, and all without it in view."""

    flight_s: float
    on_s: float
    idle_s: float
    empty_s: float


def time_on(frames: Sequence[ScoredFrame], slug: str, in_view: Sequence[bool]) -> TimeOn:
    """Return the times of one class; a frame stands for the time up to the next one."""
    flight_ns = on_ns = idle_ns = empty_ns = 0
    for frame, after, visible in zip(frames, frames[1:], in_view):
        step_ns = max(0, after.stamp_ns - frame.stamp_ns)
        flight_ns += step_ns
        empty_ns += 0 if visible else step_ns
        if any(alert.slug == slug for alert in frame.alerts):
            on_ns += step_ns
            idle_ns += 0 if visible else step_ns
    return TimeOn(flight_ns / 1e9, on_ns / 1e9, idle_ns / 1e9, empty_ns / 1e9)


def scored_frames(names: Mapping[int, tuple[str, float]], stamps_ns: Sequence[int],
                  alerts: Mapping[int, tuple[Alert, ...]]) -> list[ScoredFrame]:
    """Return the frames that have both a name and alerts, the latter by frame of the bag."""
    return [ScoredFrame(*names[index], stamps_ns[index], active)
            for index, active in sorted(alerts.items()) if index in names]
