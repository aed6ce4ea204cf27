# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
`bag_eval --harvest`: the frames from which a model would learn most, with its own masks drawn in.

Every run leaves a little of each frame in a spool; when all runs are done, the frames are chosen
over all bags, and only these are read again.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
import re
from typing import Any

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.bag import Bag, BagMessage
from evit_seg.replay.cvat import cvat_labels, CvatWriter, DATASET_FILE, PRELABELLED
from evit_seg.replay.disagreement import pair_shares, weighted_share
from evit_seg.replay.harvest_files import dataset_yaml, Picked, write_frame, write_index
from evit_seg.replay.spool import in_step, read_spool, SpooledFrame, SpoolHead
import numpy as np

NEAR_BITS = 6
"""Views whose difference hashes differ in this many of 64 bits or fewer are taken for the same."""
CVAT_FILE = 'cvat.zip'
LABELS_FILE = 'cvat_labels.json'
_SCORED = np.dtype([('bag', np.int32), ('index', np.int64), ('stamp_ns', np.int64),
                    ('score', np.float64), ('view', np.uint64)])


@dataclass(frozen=True)
class HarvestOptions:
    """
    How many frames go where.

    Frames of one bag lie `gap_s` or more apart. Pixels with a probability below `ignore_below`
    get no label; ConfigError for values that make no sense.
    """

    count: int
    out: Path
    gap_s: float = 2.0
    ignore_below: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f'harvest: expected 1 frame or more, got {self.count!r}')
        if not self.gap_s >= 0:
            raise ConfigError(f'harvest-gap-s: expected 0 s or more, got {self.gap_s!r}')
        if not 0 <= self.ignore_below < 1:
            raise ConfigError('harvest-ignore-below: expected 0 to 1, less than 1, got '
                              f'{self.ignore_below!r}')
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ConfigError(f'{self.out}: expected a folder that is empty or not there yet, '
                              'or labels that were corrected might be lost')


@dataclass(frozen=True)
class HarvestBag:
    """A bag that was read, its image topic, and the spools of all bundles' runs over it."""

    path: Path
    image_topic: str | None
    spools: tuple[Path, ...]
    partial: bool = False


def add_harvest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --harvest and what belongs to it."""
    parser.add_argument('--harvest', type=int, metavar='N',
                        help='write the N frames worth most to label, with the masks of the first '
                             '--model, for CVAT and offline_train')
    parser.add_argument('--harvest-out', type=Path, metavar='DIR', help='where; a new folder')
    parser.add_argument('--harvest-gap-s', type=float, default=2.0, metavar='S',
                        help='frames of one bag are so far apart or more; default: 2')
    parser.add_argument('--harvest-ignore-below', type=float, default=0.0, metavar='P',
                        help='pixels of which the model is less sure get no label (255); '
                             'default: 0, all get one')


def harvest_options(args: argparse.Namespace) -> HarvestOptions | None:
    """Return what the arguments ask for, None without --harvest."""
    if (args.harvest is None) != (args.harvest_out is None):
        raise ConfigError('--harvest N and --harvest-out DIR: expected both or neither')
    if args.harvest is None:
        return None
    return HarvestOptions(args.harvest, args.harvest_out, args.harvest_gap_s,
                          args.harvest_ignore_below)


def harvest(bags: Sequence[HarvestBag], model: str, options: HarvestOptions,
            threads: int = 0) -> dict[str, Any]:
    """
    Choose frames, write them with the masks of `model`, and return the report on it.

    In `out`: prelabelled/{IMG,GT}, harvest.csv, the data set's YAML, and for CVAT a zip and the
    labels. The same bags, bundles and engine threads give the same files.
    """
    picked, left = choose(bags, options)
    segmenter = Segmenter.open(model, threads=threads)
    try:
        labels = segmenter.label_map
        _make_folders(options.out)
        rows = []
        with CvatWriter(options.out / CVAT_FILE, labels) as cvat:
            for bag, frames in zip(bags, picked):
                rows += [write_frame(message, row, segmenter, options.out, options.ignore_below,
                                     cvat) for message, row in _read_again(bag, frames)]
    finally:
        segmenter.close()
    write_index(options.out, rows)
    (options.out / LABELS_FILE).write_text(cvat_labels(labels), encoding='utf-8')
    (options.out / DATASET_FILE).write_text(dataset_yaml(labels, options.out), encoding='utf-8')
    return {'out': options.out.name, 'asked': options.count, 'written': len(rows),
            'note': '' if not left else f'{len(rows)} of {options.count} frames: of the other '
            f'{left} each lies within {options.gap_s:g} s of one of them, or looks like it',
            'frames': [asdict(row) for row in rows]}


def _make_folders(out: Path) -> None:
    try:
        for folder in ('IMG', 'GT'):
            (out / PRELABELLED / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{out} cannot be made: {error}') from error


def harvest_lines(found: dict[str, Any] | None) -> list[str]:
    """Return the lines to print of what `harvest` returned; none of None."""
    if found is None:
        return []
    lines = [f'harvest: {found["written"]} frames in {found["out"]}, for CVAT in {CVAT_FILE}']
    return lines + ([f'note: harvest: {found["note"]}'] if found['note'] else [])


def choose(bags: Sequence[HarvestBag],
           options: HarvestOptions) -> tuple[list[list[Picked]], int]:
    """
    Return the chosen frames per bag, in the bag's order, and how many are left if too few.

    Greedily: the frame with the highest score, then the next one that lies far enough from all
    chosen ones in time and looks different.
    """
    scored = np.fromiter(((place, frames[0].index, frames[0].stamp_ns, score_of(heads, frames)[0],
                           frames[0].view)
                          for place, bag in enumerate(bags)
                          for heads, frames in _frames_of(bag)), _SCORED)
    scored = scored[np.lexsort((scored['index'], scored['bag'], -scored['score']))]
    alive = np.ones(len(scored), bool)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < options.count and alive.any():
        best = scored[int(alive.argmax())]
        chosen.add((int(best['bag']), int(best['index'])))
        apart_ns = np.abs(scored['stamp_ns'] - best['stamp_ns'])
        alive &= (scored['bag'] != best['bag']) | (apart_ns >= options.gap_s * 1e9)
        alive &= _bits_apart(scored['view'], best['view']) > NEAR_BITS
        alive &= ~((scored['bag'] == best['bag']) & (scored['index'] == best['index']))
    stems = _stems(bags)
    picked = [[_picked(stems[place], bag, heads, frames) for heads, frames in _frames_of(bag)
               if (place, frames[0].index) in chosen] for place, bag in enumerate(bags)]
    return picked, len(scored) - len(chosen) if len(chosen) < options.count else 0


def score_of(heads: list[SpoolHead], frames: list[SpooledFrame]) \
        -> tuple[float, list[str], list[str], float, float]:
    """Return score, close classes, classes seen by one bundle alone, doubt and difference."""
    close = sorted({slug for frame in frames for slug in frame.close})
    alone = sorted({slug for frame in frames for slug in frame.seen
                    if any(slug not in other.seen for other in frames)})
    doubt = sum(frame.doubt for frame in frames) / len(frames)
    alert_slugs = {slug for head in heads for slug in head.alert_slugs}
    differs = max((weighted_share(
        {pair: share for pair, share in pair_shares(
            [heads[a], heads[b]], (frames[a], frames[b])).items() if pair[0] != pair[1]},
        alert_slugs) for a, b in combinations(range(len(frames)), 2)), default=0.0)
    differs = min(1.0, differs)
    return round(len(close) + len(alone) + doubt + differs, 6), close, alone, doubt, differs


def _frames_of(bag: HarvestBag) -> Iterator[tuple[list[SpoolHead], list[SpooledFrame]]]:
    heads = [read_spool(path)[0] for path in bag.spools]
    for frames in in_step(bag.spools):
        yield heads, frames


def _bits_apart(views: np.ndarray, view: np.uint64) -> np.ndarray:
    different = np.bitwise_xor(views, view).view(np.uint8).reshape(-1, 8)
    return np.unpackbits(different, axis=1).sum(axis=1)


def _stems(bags: Sequence[HarvestBag]) -> list[str]:
    """Return a name for each bag's files: its own, with a number where two have the same."""
    stems: list[str] = []
    for bag in bags:
        stem = re.sub(r'[^A-Za-z0-9_-]+', '_', bag.path.stem) or 'bag'
        number = 2
        name = stem
        while name in stems:
            name, number = f'{stem}_{number}', number + 1
        stems.append(name)
    return stems


def _picked(stem: str, bag: HarvestBag, heads: list[SpoolHead],
            frames: list[SpooledFrame]) -> Picked:
    score, close, alone, doubt, differs = score_of(heads, frames)
    first = frames[0]
    return Picked(f'{stem}_{first.index:06}', bag.path.name, first.index, first.stamp_ns,
                  (first.stamp_ns - first.first_ns) / 1e9, score, round(doubt, 6),
                  round(differs, 6), ' '.join(close), ' '.join(alone))


def _read_again(bag: HarvestBag, rows: Sequence[Picked]) -> Iterator[tuple[BagMessage, Picked]]:
    wanted = {row.index: row for row in rows}
    if not wanted:
        return
    last = max(wanted)
    with Bag(bag.path, partial=bag.partial) as opened:
        topic = opened.choose_image_topic(bag.image_topic).name
        for index, message in enumerate(opened.messages([topic])):
            if index in wanted:
                yield message, wanted[index]
            if index == last:
                return
