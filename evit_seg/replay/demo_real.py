# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The user's own pictures through the real node: an overlay to look at, alerts, times.

python -m evit_seg.replay.demo_real SOURCE --out demo-real/

SOURCE is a bag, a folder of images or a video. Nothing of it is known beforehand, so nothing is
scored unless a bag brings labels of its own.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
import sys
from typing import Any

from evit_seg.core.errors import EvitSegError
from evit_seg.replay.demo import clear, read_json, run_step, say
from evit_seg.replay.image_source import IMAGE_SUFFIXES, open_source, VIDEO_SUFFIXES
from evit_seg.replay.make_bag import write_bag

PARTS = ('own.bag', 'live')
"""What a run leaves in its folder, and what the next one replaces."""


def is_pictures(source: Path) -> bool:
    """Whether `source` is a video or a folder of images; anything else is for `Bag` to judge."""
    if not source.is_dir():
        return source.suffix.lower() in VIDEO_SUFFIXES
    if (source / 'metadata.yaml').is_file():
        return False
    images = source / 'IMG' if (source / 'IMG').is_dir() else source
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in images.iterdir())


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Pack the pictures into a bag unless they are one, play it, and return live's report."""
    clear(args.out, PARTS)
    bag = args.source
    notes: list[str] = []
    if is_pictures(args.source):
        bag = args.out / 'own.bag'
        say(f'1/2 writing {args.source} as a bag')
        _, notes = write_bag(open_source(args.source), bag, rate_hz=args.rate, progress=True)
    say('2/2 playing it to seg_node')
    words = [str(bag), '--model', args.model, '--out', str(args.out / 'live'), '--no-compare']
    if args.image_topic:
        words += ['--image-topic', args.image_topic]
    if not args.in_time:
        words.append('--lockstep')
    run_step('evit_seg.replay.live', words)
    report = read_json(args.out / 'live' / 'report.json')
    report['notes'] = [*notes, *report['notes']]
    return report


def lines(report: dict[str, Any], out: Path) -> Iterator[str]:
    """Yield the lines to print."""
    counts, latency = report['counts'], report['timing']['latency_ms']
    yield f'model   {report["model"]["name"]} on {report["bag"]["name"]}, ' \
          f'{counts["answered"]} of {counts["sent"]} frames answered'
    yield f'times   publish to mask p50 {latency["p50"]:.0f} ms, p95 {latency["p95"]:.0f} ms'
    raised = [event for event in report['alerts'] if event['kind'] == 'raised']
    yield f'alerts  {len(raised)} raised'
    yield from (f'        {event["t_s"]:8.2f} s  {event["alert_id"]}' for event in raised)
    scores = report['scores']
    yield f'mIoU    {scores["dataset"]["miou"]:.3f}' if scores else \
        'mIoU    no ground truth: look at the pictures'
    yield f'video   {out / "live" / "overlay.mp4"}'
    yield f'image   {out / "live" / "poster.png"}'
    yield from (f'note: {note}' for note in report['notes'])


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or the error's exit code after one line on stderr."""
    parser = argparse.ArgumentParser(prog='demo_real', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, metavar='SOURCE')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--model', default='fast', help='bundle folder, or a name under models/; '
                        'default: %(default)s')
    parser.add_argument('--rate', type=float, metavar='HZ',
                        help='frames per second of images without times')
    parser.add_argument('--image-topic', metavar='TOPIC', help='of a bag with several')
    parser.add_argument('--in-time', action='store_true',
                        help='play at the pace of the recording and drop what comes too fast; '
                             'default: answer every frame')
    args = parser.parse_args(argv)
    try:
        report = run(args)
    except EvitSegError as error:
        print(f'demo_real: {error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('demo_real: interrupted', file=sys.stderr)
        return 130
    print('\n'.join(['', *lines(report, args.out)]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
