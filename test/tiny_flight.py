# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Flights of 64 x 64 frames made of cells of 8 x 8, each of one class, for the tiny bundle."""
from __future__ import annotations

from pathlib import Path

import cv2
from evit_seg.core.alerts import AlertRule
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay import make_bag
from evit_seg.replay.bag import Bag
from evit_seg.replay.evaluate import evaluate
from evit_seg.replay.observers import standard_observers
import numpy as np
from tiny_bundle import anchor_colours

BACKGROUND, PERSON, ROAD = 0, 10, 12
START_NS = 1_700_000_000 * 10**9
"""Stamp of the first frame where make_bag is not told another."""
RULE = AlertRule(PERSON, 'person', min_pixels=20, min_confidence=0.5, confirm_k=3, confirm_n=5,
                 clear_after_s=1.0, cooldown_s=0.0)


def cells(*people, size=8, other=BACKGROUND):
    """Return the class of each cell, `size` x `size`: people at the given (row, column)."""
    ids = np.full((size, size), other, np.uint8)
    for row, column in people:
        ids[row, column] = PERSON
    return ids


def grown(ids):
    """Return a mask of 8 x 8 pixels for each cell."""
    return ids.repeat(8, axis=0).repeat(8, axis=1)


def write_flight(folder: Path, seen, truth=None, colours=None) -> Path:
    """
    Write 10 Hz frames: what is painted, and what the masks say.

    seen, truth: a grid of class ids per frame. colours: frame -> (64, 64, 3) RGB to paint instead.
    """
    (folder / 'IMG').mkdir(parents=True)
    rows = ['file,time_s']
    for i, ids in enumerate(seen):
        image = anchor_colours()[grown(ids)]
        image = (colours or {}).get(i, image)
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), image[..., ::-1])
        rows.append(f'f{i:03}.png,{i / 10}')
        if truth is not None:
            (folder / 'GT').mkdir(exist_ok=True)
            cv2.imwrite(str(folder / 'GT' / f'f{i:03}.png'), grown(truth[i]))
    (folder / 'frames.csv').write_text('\n'.join(rows))
    return folder


def write_boxes(folder: Path, people) -> None:
    """Write objects.csv and events.csv; people: name -> (frames, row, column) of a cell."""
    objects = ['frame,class,instance,x,y,w,h']
    events = ['class,instance,t_from,t_to,max_height_px']
    for name, (frames, row, column) in people.items():
        objects += [f'f{i:03},person,{name},{column * 8},{row * 8},8,8' for i in frames]
        events.append(f'person,{name},{frames[0] / 10},{frames[-1] / 10},8')
    (folder / 'objects.csv').write_text('\n'.join(objects))
    (folder / 'events.csv').write_text('\n'.join(events))


def pack(folder: Path, *options: str) -> Path:
    """Write the flight's bag beside it."""
    bag = folder.parent / f'{folder.name}_bag'
    assert make_bag.main([str(folder), '--out', str(bag), *options]) == 0
    return bag


def report_of(bag: Path, bundle: Path, rules=(RULE,), truth_folder=None, **options) -> dict:
    """Return the report of one run with the standard observers; options are theirs."""
    segmenter = Segmenter.open(str(bundle), threads=1)
    with Bag(bag) as opened:
        observers = standard_observers(segmenter, rules, opened.choose_image_topic().messages,
                                       **options)
        shared = {name: options[name] for name in ('annotations', 'min_height_px')
                  if name in options}
        return evaluate(opened, segmenter, rules, truth_folder=truth_folder, observers=observers,
                        **shared)
