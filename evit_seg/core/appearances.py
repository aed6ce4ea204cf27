# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Score alerts against who was really there: appearances hit, and false alerts per minute.

An *appearance* is an instance that was visible at the stated height or more in at least
`confirm_n` consecutive frames. It is a *hit* if, within its span + `confirm_n` frames, an active
alert had a region that overlaps its true box. A *false alert* is a span of an active alert that
overlapped no true object of its class, of any height. The two are always reported together. The
*time to alert* runs from an appearance's first frame to the one in which the alert that hit it was
raised; it is 0 where that alert was on before, and those are told apart: an alert that never goes
out would look perfect.

Two details the definition leaves open. A region counts in the frame it was found in, not in later
frames that only carry it along. And a true box lives on for `confirm_n` frames after the instance
went out of sight, for hits and false alerts alike: an alert comes that much late by design.
"""
from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

from evit_seg.core.alerts import Alert
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.regions import Region

_Row = TypeVar('_Row')
_SAME_TIME_S = 1e-3  # times in the two files are rounded; frames lie further apart than this


@dataclass(frozen=True)
class ObjectBox:
    """A true box in one frame: `frame` is the image file's stem, the rest source pixels."""

    frame: str
    slug: str
    instance: str
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class VisibleSpan:
    """When an instance was visible, both ends included, in the seconds of frames.csv."""

    slug: str
    instance: str
    t_from_s: float
    t_to_s: float
    max_height_px: float


@dataclass(frozen=True)
class ScoredFrame:
    """
    One processed frame and the alerts that were active after it.

    `name` is the stem that objects.csv uses, `time_s` its time in frames.csv, `stamp_ns` the
    stamp the tracker was given.
    """

    name: str
    time_s: float
    stamp_ns: int
    alerts: Tuple[Alert, ...]


@dataclass(frozen=True)
class Appearance:
    """
    An instance that should raise an alert: the names of the first and the last frame of it.

    `time_to_alert_s` is None without a hit; `already_on` where the alert was on before it came.
    """

    instance: str
    first_frame: str
    last_frame: str
    max_height_px: float
    hit: bool
    time_to_alert_s: Optional[float] = None
    already_on: bool = False


@dataclass(frozen=True)
class AppearanceScore:
    """Recall and false alerts of one class; None where nothing defines them."""

    slug: str
    min_height_px: float
    confirm_n: int
    hits: int
    recall: Optional[float]
    active_spans: int
    false_alerts: int
    minutes: float
    false_alerts_per_min: Optional[float]
    appearances: Tuple[Appearance, ...]
    left_out: int
    """Times an instance was visible, but too small or too shortly for an appearance."""

    def to_dict(self) -> Dict[str, Any]:
        """Return the score as JSON can hold it, the appearances as a list."""
        return asdict(self)


def read_objects(path: Path) -> List[ObjectBox]:
    """Read objects.csv: `frame,class,instance,x,y,w,h`; InputError says the line."""
    return read_rows(path, ('frame', 'class', 'instance', 'x', 'y', 'w', 'h'),
                     lambda row: ObjectBox(row['frame'], row['class'], row['instance'],
                                           *(float(row[name]) for name in 'xywh')))


def read_events(path: Path) -> List[VisibleSpan]:
    """Read events.csv: `class,instance,t_from,t_to,max_height_px`; InputError says the line."""
    return read_rows(path, ('class', 'instance', 't_from', 't_to', 'max_height_px'),
                     lambda row: VisibleSpan(row['class'], row['instance'], float(row['t_from']),
                                             float(row['t_to']), float(row['max_height_px'])))


def score_appearances(frames: Sequence[ScoredFrame], objects: Sequence[ObjectBox], slug: str, *,
                      min_height_px: float, confirm_n: int,
                      events: Optional[Sequence[VisibleSpan]] = None) -> AppearanceScore:
    """
    Score the alerts of one class; `frames` are all processed frames in order.

    `min_height_px` is the stated height at source size, `confirm_n` the alert rule's. The span of
    an appearance is its row in `events`; without them, each unbroken run of frames with a box.
    InputError if objects there are, but none of their frames was processed.
    """
    if confirm_n < 1:
        raise ConfigError(f'confirm_n: expected 1 or more, got {confirm_n!r}')
    index_of = {frame.name: index for index, frame in enumerate(frames)}
    if objects and not any(box.frame in index_of for box in objects):
        raise InputError(f'objects: none of their frames (such as {objects[0].frame!r}) is among '
                         f'the {len(frames)} processed (such as '
                         f'{frames[0].name if frames else None!r}); do they belong together?')
    boxes: Dict[str, Dict[int, ObjectBox]] = {}
    for box in objects:
        if box.slug == slug and box.frame in index_of:
            boxes.setdefault(box.instance, {})[index_of[box.frame]] = box
    seen = _instances_seen(frames, boxes, slug, confirm_n)
    spans = active_spans(frames, slug)
    appearances = []
    left_out = 0
    for instance, first, last in _spans(frames, boxes, slug, events):
        heights = {i: box.h for i, box in boxes[instance].items() if first <= i <= last}
        if _longest_run([i for i, h in heights.items() if h >= min_height_px]) < confirm_n:
            left_out += 1
        else:
            hit = next((index for index in range(first, min(last + confirm_n + 1, len(frames)))
                        if instance in seen[index]), None)
            appearances.append(Appearance(
                instance, frames[first].name, frames[last].name, max(heights.values()),
                hit is not None, *time_to_alert([f.stamp_ns for f in frames], spans, first, hit)))
    false_alerts = sum(not any(seen[i] for i in span) for span in spans)
    hits = sum(appearance.hit for appearance in appearances)
    minutes = covered_minutes([frame.stamp_ns for frame in frames])
    return AppearanceScore(
        slug, min_height_px, confirm_n, hits, hits / len(appearances) if appearances else None,
        len(spans), false_alerts, minutes, false_alerts / minutes if minutes else None,
        tuple(appearances), left_out)


def time_to_alert(stamps_ns: Sequence[int], spans: Sequence[Sequence[int]], first: int,
                  hit: Optional[int]) -> Tuple[Optional[float], bool]:
    """
    Return how long after frame `first` the alert of frame `hit` was raised, and if it was before.

    Indices into `stamps_ns`; `spans` are those of `active_spans`. (None, False) without a hit.
    """
    raised = next((span[0] for span in spans if hit in span), None)
    if raised is None:
        return None, False
    return max(0, stamps_ns[raised] - stamps_ns[first]) / 1e9, raised < first


def _instances_seen(frames: Sequence[ScoredFrame], boxes: Dict[str, Dict[int, ObjectBox]],
                    slug: str, confirm_n: int) -> List[List[str]]:
    """Return per frame the instances whose true box a region found in that frame overlaps."""
    seen = []
    for index, frame in enumerate(frames):
        regions = [region for alert in frame.alerts for region in alert.regions
                   if alert.slug == slug and alert.last_seen_ns == frame.stamp_ns]
        found = []
        for instance, at in boxes.items() if regions else ():
            newest = next((i for i in range(index, index - confirm_n - 1, -1) if i in at), None)
            if newest is not None and any(_overlap(region, at[newest]) for region in regions):
                found.append(instance)
        seen.append(found)
    return seen


def _overlap(region: Region, box: ObjectBox) -> bool:
    """Return whether they share any area; a region's box is as coarse as the grid."""
    return (region.x < box.x + box.w and box.x < region.x + region.w
            and region.y < box.y + box.h and box.y < region.y + region.h)


def _spans(frames: Sequence[ScoredFrame], boxes: Dict[str, Dict[int, ObjectBox]], slug: str,
           events: Optional[Sequence[VisibleSpan]]) -> Iterator[Tuple[str, int, int]]:
    """Yield (instance, first, last): the frames with a box of each time it was visible."""
    if events is None:
        for instance, at in boxes.items():
            for run in _runs(sorted(at)):
                yield instance, run[0], run[-1]
        return
    for event in events:
        if event.slug != slug:
            continue
        inside = [i for i in sorted(boxes.get(event.instance, ()))
                  if event.t_from_s - _SAME_TIME_S <= frames[i].time_s
                  <= event.t_to_s + _SAME_TIME_S]
        if inside:
            yield event.instance, inside[0], inside[-1]


def _runs(indices: Sequence[int]) -> List[List[int]]:
    """Return the runs of consecutive numbers in a sorted sequence."""
    runs: List[List[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _longest_run(indices: Sequence[int]) -> int:
    return max((len(run) for run in _runs(sorted(indices))), default=0)


def active_spans(frames: Sequence[ScoredFrame], slug: str) -> List[List[int]]:
    """Return the frame indices of every stretch in which one alert id was active."""
    at: Dict[str, List[int]] = {}
    for index, frame in enumerate(frames):
        for alert in frame.alerts:
            if alert.slug == slug:
                at.setdefault(alert.alert_id, []).append(index)
    return [run for indices in at.values() for run in _runs(indices)]


def covered_minutes(stamps_ns: Sequence[int]) -> float:
    """
    Return the time the frames cover, each up to the next and the last as long as the mean.

    A stamp that goes back starts a new epoch and covers no time.
    """
    steps_ns = [max(0, after - before) for before, after in zip(stamps_ns, stamps_ns[1:])]
    return sum(steps_ns) * (len(stamps_ns) / len(steps_ns)) / 60e9 if steps_ns else 0.0


def read_rows(path: Path, columns: Tuple[str, ...], make: Callable[[Dict[str, str]], _Row]
              ) -> List[_Row]:
    """Return what `make` makes of each row; InputError says the line it is wrong in."""
    try:
        with open(path, newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f'{path}: expected the columns {",".join(columns)}, got '
                                 f'{reader.fieldnames!r}; {", ".join(missing)} missing')
            rows = []
            for row in reader:
                try:
                    rows.append(make(row))
                except (TypeError, ValueError) as error:
                    raise InputError(f'{path}, line {reader.line_num}: {error}, '
                                     f'got {row!r}') from error
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{path}: cannot be read as CSV: {error}') from error
