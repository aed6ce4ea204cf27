# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The command `offline_train synth`: render a flight, or still scenes for training, as a folder.

A flight goes to DIR/flight, scenes to DIR/train and DIR/val, in the image-folder layout of the
other commands. The same arguments give the same bytes, whatever the number of processes.
"""
from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
import json
import multiprocessing
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence, Tuple, TypeVar

import cv2
from evit_seg.core.errors import ConfigError, InputError
import numpy as np
from offline_train.data.synth_flight import Flight, flight_world, FRAME_COLUMNS
from offline_train.data.synth_folder import (
    appearances,
    EVENT_COLUMNS,
    FrameRecord,
    write_frame,
    write_objects,
    write_table,
)
from offline_train.data.synth_palette import class_ids
from offline_train.data.synth_render import render
from offline_train.data.synth_scenes import scenes_of_world, VIEWS_PER_WORLD
from offline_train.data.synth_world import World
from tqdm import tqdm

GENERATOR_VERSION = 1
"""Changes whenever the same seed would give other pixels."""
_MAX_SECONDS = 380.0  # the ground is one image, and OpenCV warps none of more than 32767 pixels
_FRAMES_A_TASK = 10
Task = TypeVar('Task')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--out', type=Path, required=True, help='folder to write; must be new')
    parser.add_argument('--seed', type=int, default=0, help='0 or more (default %(default)s)')
    parser.add_argument('--size', type=parse_size, default=(1280, 720), metavar='WxH',
                        help='image size in pixels (default 1280x720)')
    parser.add_argument('--jobs', type=int, default=1, help='processes (default %(default)s)')
    parser.add_argument('--scenes', type=int, default=0, metavar='N',
                        help='render N still scenes for training instead of a flight')
    parser.add_argument('--val-share', type=float, default=0.1, metavar='SHARE',
                        help='share of the worlds that go to val (default %(default)s)')
    parser.add_argument('--seconds', type=float, default=60.0, metavar='S',
                        help='length of the flight (default %(default)s)')
    parser.add_argument('--rate', type=float, default=10.0, metavar='HZ',
                        help='frames per second of the flight (default %(default)s)')


def parse_size(text: str) -> Tuple[int, int]:
    """Return (width, height) of a text such as 1280x720; argparse says what was wrong."""
    try:
        width, height = (int(v) for v in text.lower().split('x'))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'expected WxH such as 1280x720, got {text!r}') \
            from error
    if not (64 <= width <= 8192 and 64 <= height <= 8192):
        raise argparse.ArgumentTypeError(f'expected 64 to 8192 pixels a side, got {text!r}')
    return width, height


def main(args: argparse.Namespace) -> int:
    """Render what the arguments ask for; ConfigError or InputError says what does not fit."""
    _check(args)
    if args.scenes:
        shares = _render_scenes(args)
        what: Dict[str, object] = {'scenes': args.scenes, 'val_share': args.val_share}
    else:
        shares = _render_flight(args)
        what = {'seconds': args.seconds, 'rate_hz': args.rate}
    scene = {'generator_version': GENERATOR_VERSION, 'seed': args.seed,
             'size': {'width': args.size[0], 'height': args.size[1]}, **what,
             'class_pixel_share': shares}
    (args.out / 'scene.json').write_text(json.dumps(scene, indent=2) + '\n', encoding='utf-8')
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise ConfigError(f'--seed: expected 0 or more, got {args.seed!r}')
    if args.jobs < 1:
        raise ConfigError(f'--jobs: expected 1 or more, got {args.jobs!r}')
    if args.scenes < 0:
        raise ConfigError(f'--scenes: expected 1 or more, got {args.scenes!r}')
    if not 0.0 <= args.val_share <= 1.0:
        raise ConfigError(f'--val-share: expected 0 to 1, got {args.val_share!r}')
    if not 1.0 <= args.seconds <= _MAX_SECONDS:
        raise ConfigError(f'--seconds: expected 1 to {_MAX_SECONDS:.0f}, got {args.seconds!r}; '
                          'for more, render several flights with different seeds')
    if not 0.1 <= args.rate <= 120.0:
        raise ConfigError(f'--rate: expected 0.1 to 120 Hz, got {args.rate!r}')
    if args.out.exists() and any(args.out.iterdir()):
        raise InputError(f'{args.out}: expected a new or empty folder, found files in it; '
                         'name another or remove it')


def _render_scenes(args: argparse.Namespace) -> Dict[str, Dict[str, float]]:
    worlds = -(-args.scenes // VIEWS_PER_WORLD)
    for_val = round(worlds * args.val_share)
    tasks = []
    for index in range(worlds):
        split = 'val' if index >= worlds - for_val else 'train'
        views = min(VIEWS_PER_WORLD, args.scenes - index * VIEWS_PER_WORLD)
        tasks.append((args.seed, index, args.size, views, args.out / split))
    splits: Dict[str, List[FrameRecord]] = {}
    for folder in dict.fromkeys(task[-1] for task in tasks):
        _make_split(folder)
    for task, records in zip(tasks, _run(_scene_task, tasks, args.jobs, 'worlds'), strict=True):
        splits.setdefault(task[-1].name, []).extend(records)
    for name, records in splits.items():
        write_objects(args.out / name, records)
    return {name: _shares(records) for name, records in splits.items()}


def _scene_task(task: Tuple[int, int, Tuple[int, int], int, Path]) -> List[FrameRecord]:
    seed, index, size_wh, views, folder = task
    return [write_frame(folder, f'scene_{index * VIEWS_PER_WORLD + view:06d}', picture,
                        world.look.jpeg_quality)
            for view, (picture, world) in enumerate(scenes_of_world(seed, index, size_wh, views))]


def _render_flight(args: argparse.Namespace) -> Dict[str, Dict[str, float]]:
    flight = Flight(args.seed, args.seconds, args.rate, args.size)
    folder = args.out / 'flight'
    _make_split(folder)
    tasks = [(flight, range(start, min(start + _FRAMES_A_TASK, flight.frames)), folder)
             for start in range(0, flight.frames, _FRAMES_A_TASK)]
    records = [record for part in _run(_flight_task, tasks, args.jobs, 'tens of frames')
               for record in part]
    write_objects(folder, records)
    times = {_stem(index): round(flight.time_s(index), 6) for index in range(flight.frames)}
    rows = appearances([row for record in records for row in record.objects], times)
    write_table(folder / 'events.csv', EVENT_COLUMNS, rows)
    write_table(folder / 'frames.csv', FRAME_COLUMNS,
                [flight.frame_row(i, f'{_stem(i)}.jpg') for i in range(flight.frames)])
    return {'flight': _shares(records)}


def _flight_task(task: Tuple[Flight, range, Path]) -> List[FrameRecord]:
    flight, frames, folder = task
    world = _world_of(flight)
    records = []
    for index in frames:
        time_s = flight.time_s(index)
        picture = render(world, flight.camera(time_s), time_s, flight.frame_rng(index))
        records.append(write_frame(folder, _stem(index), picture, world.look.jpeg_quality))
    return records


@lru_cache(maxsize=1)
def _world_of(flight: Flight) -> World:
    return flight_world(flight)


def _stem(index: int) -> str:
    return f'frame_{index:06d}'


def _make_split(folder: Path) -> None:
    for part in ('IMG', 'GT'):
        (folder / part).mkdir(parents=True, exist_ok=True)


def _run(work: Callable[[Task], List[FrameRecord]], tasks: Sequence[Task], jobs: int,
         unit: str) -> Iterator[List[FrameRecord]]:
    """Yield the results in the tasks' order, with a progress bar."""
    if jobs == 1:
        yield from tqdm(map(work, tasks), total=len(tasks), unit=f' {unit}')
        return
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(jobs, spawn, cv2.setNumThreads, (1,)) as pool:
        yield from tqdm(pool.map(work, tasks), total=len(tasks), unit=f' {unit}')


def _shares(records: Sequence[FrameRecord]) -> Dict[str, float]:
    counts = np.sum([record.counts for record in records], axis=0)
    return {slug: round(float(counts[class_id] / counts.sum()), 6)
            for slug, class_id in class_ids().items()}
