# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
`make_bag`: a folder of images or a video becomes a rosbag2 that any ROS 2 plays.

Topics: the image (bgr8, or jpeg/png), and where the source knows them `label` (mono8 class ids
with the image's own stamp), `camera_info`, `/fix`, `/heading` (degrees clockwise from north) and
`/height` (m above ground). One frame is in memory at a time.
"""
from __future__ import annotations

import argparse
from pathlib import Path
import shutil
import sys
from typing import Final

from evit_seg.core.errors import ConfigError, EvitSegError, InputError
from evit_seg.replay.bag_writer import FrameWriter, Topics
from evit_seg.replay.image_source import ImageFolder, open_source, VideoFile
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from tqdm import tqdm

START_S = 1_700_000_000
"""Stamp of the first frame unless the source has dates: the same source gives the same bag."""
EARLIEST_DATE_S = 1_000_000_000
LATEST_DATE_S = 2 ** 31
"""A time_s between these is a date (s since 1970) and becomes the stamp as it is."""
DEFAULT_RATE_HZ = 10.0
CUSTOM_DATA_ZERO = 'evit_seg.time_zero_ns'
"""metadata.yaml's key for the stamp of `time_s == 0`; absent where the times are not kept."""
RETIMED_TOLERANCE_S = 1e-3
BAG_VERSION: Final = 8
"""rosbag2's format before Jazzy changed how QoS is written: Humble to Kilted play it."""
STORAGES = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}


def plan_times(source: ImageFolder | VideoFile, rate_hz: float | None) \
        -> tuple[list[float] | None, float, list[str]]:
    """
    Return (the frames' own times in s or None, else the rate, what to tell the user).

    Own times are kept unless `rate_hz` is given and differs from them.
    """
    if rate_hz is not None and not 0.001 <= rate_hz <= 1000:
        raise ConfigError(f'rate: expected 0.001 to 1000 Hz, got {rate_hz!r}')
    times_s = source.times_s
    if times_s is None:
        return None, *_plan_rate(source.rate_hz, rate_hz)
    if rate_hz is None:
        if any(later <= earlier for earlier, later in zip(times_s, times_s[1:])):
            raise InputError('the times in frames.csv do not increase; re-time them with --rate')
        return times_s, 0.0, []
    shift_s = max(abs(t - times_s[0] - i / rate_hz) for i, t in enumerate(times_s))
    if shift_s <= RETIMED_TOLERANCE_S:
        return times_s, 0.0, []
    period_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    return None, rate_hz, [
        f're-timed: in frames.csv the frames are {period_s:.3g} s apart, in the bag '
        f'{1 / rate_hz:.3g} s; motion looks {period_s * rate_hz:.3g} times as fast']


def _plan_rate(own_hz: float, rate_hz: float | None) -> tuple[float, list[str]]:
    if rate_hz is None:
        if own_hz > 0:
            return own_hz, []
        return DEFAULT_RATE_HZ, [f'the source has no times; the bag has {DEFAULT_RATE_HZ:g} Hz '
                                 '(set --rate)']
    if own_hz > 0 and abs(own_hz - rate_hz) > 1e-3:
        return rate_hz, [f're-timed: the video has {own_hz:.4g} Hz, the bag {rate_hz:g} Hz']
    return rate_hz, []


def _time_zero_ns(times_s: list[float] | None) -> int:
    """Return the stamp of time_s == 0."""
    if times_s is None:
        return START_S * 1_000_000_000
    if times_s[0] >= EARLIEST_DATE_S and times_s[-1] < LATEST_DATE_S:
        return 0
    return START_S * 1_000_000_000 - round(times_s[0] * 1e9)


def write_bag(source: ImageFolder | VideoFile, out: Path, *, rate_hz: float | None = None,
              storage: str = 'sqlite3', topics: Topics | None = None,
              compressed: str | None = None, sensor_width_mm: float | None = None,
              progress: bool = False) -> tuple[dict[str, int], list[str]]:
    """
    Write the bag folder `out`; return messages per topic and notes for the user.

    An existing `out` is refused (InputError); after an error nothing of it is left.
    """
    if out.exists():
        raise InputError(f'{out} exists already; name another folder or remove it')
    times_s, rate_hz, notes = plan_times(source, rate_hz)
    zero_ns = _time_zero_ns(times_s)
    writer = Writer(out, version=BAG_VERSION, storage_plugin=STORAGES[storage])
    if times_s is not None:
        writer.set_custom_data(CUSTOM_DATA_ZERO, str(zero_ns))
    try:
        with writer:
            frames = FrameWriter(writer, topics or Topics(), compressed, sensor_width_mm)
            bar = tqdm(source, total=len(source) or None, unit='frame', desc='make_bag',
                       disable=None if progress else True)  # None: on a terminal
            for index, frame in enumerate(bar):
                seconds = times_s[index] if times_s is not None else index / rate_hz
                frames.write(frame, zero_ns + round(seconds * 1e9))
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)  # half a bag would look like a whole one
        if isinstance(error, (WriterError, OSError)):
            raise InputError(f'{out}: {error}') from error
        raise
    return dict(frames.counts), notes + source.notes


def _notes_on_gaps(counts: dict[str, int], topics: Topics, frames: int) -> list[str]:
    notes = []
    if topics.camera_info not in counts:
        notes.append('no camera_info is written, and geotags need it: it takes a focal length in '
                     'frames.csv and a sensor width (there, or --sensor-width-mm)')
    if 0 < counts.get(topics.label, 0) < frames:
        notes.append(f'{frames - counts[topics.label]} of {frames} frames have no mask')
    return notes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='make_bag', description=__doc__)
    parser.add_argument('source', type=Path, metavar='SRC',
                        help='folder of images, split folder with IMG/ and GT/, or a video file')
    parser.add_argument('--out', type=Path, required=True, metavar='BAG', help='new folder')
    parser.add_argument('--rate', type=float, metavar='HZ',
                        help='frames per second; default: the times of frames.csv or the video')
    parser.add_argument('--masks', type=Path, metavar='DIR',
                        help='folder of <image stem>.png masks; default: SRC/GT where it exists')
    parser.add_argument('--storage', choices=sorted(STORAGES), default='sqlite3')
    parser.add_argument('--topic', default='/camera/image_raw', help='image topic')
    parser.add_argument('--compressed', choices=('jpeg', 'png'),
                        help='write <topic>/compressed instead of raw images')
    parser.add_argument('--sensor-width-mm', type=float, metavar='MM',
                        help='for camera_info, which geotags need; default: the column of '
                             'frames.csv')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or the error's exit code after one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        topics = Topics(args.topic)
        if args.sensor_width_mm is not None and not args.sensor_width_mm > 0:
            raise ConfigError(f'sensor width: expected mm above 0, got {args.sensor_width_mm!r}')
        source = open_source(args.source, args.masks)
        counts, notes = write_bag(
            source, args.out, rate_hz=args.rate, storage=args.storage, topics=topics,
            compressed=args.compressed, sensor_width_mm=args.sensor_width_mm,
            progress=not args.quiet)
    except EvitSegError as error:
        print(f'make_bag: {error}', file=sys.stderr)
        return error.exit_code
    frames = counts[f'{topics.image}/compressed' if args.compressed else topics.image]
    print(f'{args.out}: {frames} frames')
    for topic, count in sorted(counts.items()):
        print(f'  {topic}  {count}')
    for note in notes + _notes_on_gaps(counts, topics, frames):
        print(f'note: {note}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
