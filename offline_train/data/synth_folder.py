# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What is written of rendered frames: images, masks, and the tables of objects and appearances."""
from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import cv2
from evit_seg.core.errors import InputError
import numpy as np
from offline_train.data.synth_draw import Picture
from offline_train.data.synth_palette import class_ids

MIN_VISIBLE_PX = 8
"""Mask pixels an instance needs in a frame to count as visible there."""
OBJECT_COLUMNS = ('frame', 'class', 'instance', 'x', 'y', 'w', 'h')
EVENT_COLUMNS = ('class', 'instance', 't_from', 't_to', 'max_height_px')


@dataclass(frozen=True)
class ObjectRow:
    """One instance in one frame: its box in pixels, from the mask pixels left visible."""

    frame: str
    slug: str
    instance: int
    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class FrameRecord:
    """What the tables need of a frame: its objects and its pixels per class, (14,) int64."""

    objects: Tuple[ObjectRow, ...]
    counts: np.ndarray


def write_frame(folder: Path, stem: str, picture: Picture, jpeg_quality: int) -> FrameRecord:
    """Write IMG/<stem>.jpg and GT/<stem>.png; return the frame's record."""
    image = cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR)
    _write(folder / 'IMG' / f'{stem}.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    _write(folder / 'GT' / f'{stem}.png', picture.ids, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    counts = np.bincount(picture.ids.ravel(), minlength=len(class_ids())).astype(np.int64)
    return FrameRecord(tuple(objects_of(stem, picture)), counts)


def _write(path: Path, image: np.ndarray, options: List[int]) -> None:
    done, data = cv2.imencode(path.suffix, image, options)
    if not done:
        raise InputError(f'{path}: OpenCV could not encode an image of {image.shape!r}')
    path.write_bytes(data.tobytes())


def objects_of(stem: str, picture: Picture) -> List[ObjectRow]:
    """Return a row for each instance with `MIN_VISIBLE_PX` or more visible pixels."""
    rows, cols = np.nonzero(picture.instances)
    numbers = picture.instances[rows, cols]
    slugs = {class_id: slug for slug, class_id in class_ids().items()}
    found = []
    for instance in np.unique(numbers):
        mine = numbers == instance
        if mine.sum() < MIN_VISIBLE_PX:
            continue
        y, x = rows[mine], cols[mine]
        found.append(ObjectRow(stem, slugs[int(picture.ids[y[0], x[0]])], int(instance),
                               int(x.min()), int(y.min()), int(np.ptp(x)) + 1,
                               int(np.ptp(y)) + 1))
    return found


def appearances(objects: Sequence[ObjectRow], times_s: Dict[str, float]) -> List[Tuple]:
    """
    Return a row of events.csv for each unbroken run of frames an instance is visible in.

    `times_s` holds every frame of the flight in order; leaving the view and coming back makes two
    rows. Rows are ordered by time, then instance.
    """
    order = {stem: index for index, stem in enumerate(times_s)}
    times = list(times_s.values())
    tracks: Dict[Tuple[str, int], List[Tuple[int, int]]] = {}
    for row in objects:
        tracks.setdefault((row.slug, row.instance), []).append((order[row.frame], row.h))
    found = []
    for (slug, instance), track in tracks.items():
        run: List[Tuple[int, int]] = []
        for at, tall in [*sorted(track), (len(times) + 1, 0)]:
            if run and at != run[-1][0] + 1:
                found.append((slug, instance, times[run[0][0]], times[run[-1][0]],
                              max(h for _, h in run)))
                run = []
            run.append((at, tall))
    return sorted(found, key=lambda r: (r[2], r[1]))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file with a header line."""
    with path.open('w', newline='', encoding='utf-8') as stream:
        writer = csv.writer(stream, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows(rows)


def write_objects(folder: Path, records: Sequence[FrameRecord]) -> None:
    """Write objects.csv of a split."""
    write_table(folder / 'objects.csv', OBJECT_COLUMNS,
                [(r.frame, r.slug, r.instance, r.x, r.y, r.w, r.h)
                 for record in records for r in record.objects])
