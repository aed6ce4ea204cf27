# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
`bag_eval`: replay bags through bundles without ROS and score what comes out.

The header's stamp is the clock, so two runs over a bag give the same numbers but for times.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator
import os
from pathlib import Path
import shlex
import sys
from typing import Any

from evit_seg.core.errors import ConfigError, EvitSegError
from evit_seg.replay.evaluate import write_json
from evit_seg.replay.gates import Gate
from evit_seg.replay.geo_files import write_maps
from evit_seg.replay.harvest import add_harvest_arguments, harvest_options
from evit_seg.replay.many import (
    evaluate_many,
    find_bags,
    open_models,
    RunOptions,
    THREADS_BESIDE_OTHERS,
)
from evit_seg.replay.page.write import write_page
from evit_seg.replay.recommended import MAX_FALSE_PER_MIN
from evit_seg.replay.table import lines_of_all


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='bag_eval', description=__doc__, epilog='Exit code 1: a gate was not held, or one '
        'of several bags could not be read; the report is written all the same.')
    parser.add_argument('bags', type=Path, nargs='+', metavar='BAG',
                        help='ROS 1 .bag, ROS 2 folder, .db3 or .mcap, or a folder of these')
    parser.add_argument('--model', action='append', metavar='BUNDLE',
                        help='bundle folder, or a name under models/; once for each to compare; '
                             'default: demo')
    parser.add_argument('--image-topic', metavar='TOPIC')
    parser.add_argument('--truth-topic', metavar='TOPIC', help='default: the only */label topic')
    parser.add_argument('--tolerance-ms', type=float, default=0.0, metavar='MS',
                        help='largest difference of the stamps of a label and its frame')
    parser.add_argument('--objects', type=Path, metavar='CSV',
                        help='objects.csv of the flight, its frames.csv beside it: the true boxes '
                             'of every class that raises alerts; of several bags a folder that '
                             'holds <stem of the bag>/objects.csv')
    parser.add_argument('--events', type=Path, metavar='CSV',
                        help='events.csv of the flight, with --objects: when who was visible; '
                             'where --objects is a folder it is taken from there')
    parser.add_argument('--truth-folder', type=Path, metavar='DIR',
                        help='PNG masks of class ids, named by stamp (<sec>_<nanosec>.png, '
                             '<ns>.png), listed in its index.csv (stamp_ns,file), or named as the '
                             'images of the frames.csv beside it; of several bags a folder that '
                             'holds <stem of the bag>/')
    parser.add_argument('--event-times', type=Path, metavar='CSV',
                        help='class,from,to: when somebody was visible, in s since the first '
                             'frame, stamps in ns or ISO 8601; `person,,` says never; of several '
                             'bags a folder that holds <stem of the bag>.csv')
    parser.add_argument('--max-false-per-min', type=float, default=MAX_FALSE_PER_MIN, metavar='F',
                        help='false alerts per minute that recommended thresholds may give; '
                             'default: %(default)s')
    parser.add_argument('--min-height-px', type=float, default=12.0, metavar='PX',
                        help='smallest appearance that should raise an alert')
    parser.add_argument('--params', type=Path, metavar='YAML',
                        help="parameter file with the alert rules; default: config/seg.yaml's")
    parser.add_argument('--fail-under', action='append', default=[], metavar='KEY=VALUE',
                        help='exit 1 where a number of a bundle over all bags is lower, or not '
                             'known: miou, person.iou, person.appearance_recall ...; repeatable')
    parser.add_argument('--fail-over', action='append', default=[], metavar='KEY=VALUE',
                        help='the same where it is higher: person.false_alerts_per_min ...')
    parser.add_argument('--partial', action='store_true',
                        help='evaluate what can be read of damaged bags')
    parser.add_argument('--jobs', type=int, default=1, metavar='N',
                        help='bags and bundles at a time, each in a process of its own')
    parser.add_argument('--threads', type=int, metavar='N',
                        help='CPU threads of each engine, 0: all cores; default: 0, and '
                             f'{THREADS_BESIDE_OTHERS} with --jobs above 1 (as many threads give '
                             'the same numbers, other numbers other last digits)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the report there')
    parser.add_argument('--html', type=Path, metavar='OUT',
                        help='write the report there as one page with pictures, charts and map '
                             '(the JSON then holds the pictures of the worst frames too)')
    parser.add_argument('--markdown', type=Path, metavar='OUT',
                        help='the same in words and tables')
    parser.add_argument('--geojson', type=Path, metavar='OUT',
                        help='write flight and alerts there as a map, where the bag has '
                             'NavSatFix; exit code 2 where no bag has')
    parser.add_argument('--kml', type=Path, metavar='OUT', help='the same for Google Earth')
    add_harvest_arguments(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    return parser


def _options(args: argparse.Namespace) -> RunOptions:
    if not args.tolerance_ms >= 0:
        raise ConfigError(f'tolerance: expected 0 ms or more, got {args.tolerance_ms!r}')
    if args.jobs < 1:
        raise ConfigError(f'jobs: expected 1 or more, got {args.jobs!r}')
    if args.threads is not None and args.threads < 0:
        raise ConfigError(f'threads: expected 0 or more, got {args.threads!r}')
    if args.events and not args.objects:
        raise ConfigError('--events says when somebody was visible but not where: it needs '
                          '--objects')
    if args.event_times and args.objects:
        raise ConfigError('expected true boxes (--objects) or marked times (--event-times), got '
                          'both')
    if args.truth_folder and args.truth_topic:
        raise ConfigError('expected ground truth from --truth-topic or from --truth-folder, got '
                          'both')
    if not args.max_false_per_min >= 0:
        raise ConfigError('max-false-per-min: expected 0 or more, '
                          f'got {args.max_false_per_min!r}')
    threads = args.threads
    if threads is None:
        threads = 0 if args.jobs == 1 else THREADS_BESIDE_OTHERS
    return RunOptions(
        image_topic=args.image_topic, truth_topic=args.truth_topic,
        tolerance_ms=args.tolerance_ms, objects=args.objects, events=args.events,
        truth_folder=args.truth_folder, event_times=args.event_times,
        max_false_per_min=args.max_false_per_min,
        min_height_px=args.min_height_px, params=args.params, threads=threads,
        partial=args.partial, progress=not args.quiet, pictures=args.html is not None)


def _say_when_too_many(jobs: int, threads: int) -> None:
    cores = len(os.sched_getaffinity(0))
    wanted = jobs * (threads or cores)
    if jobs > 1 and wanted > cores:
        _say(f'{jobs} jobs of {threads or cores} threads want {wanted} cores, there are {cores}: '
             'this takes longer than fewer would')


def _run(args: argparse.Namespace) -> dict[str, Any]:
    options = _options(args)
    gates = [Gate.parse(text, upper=False) for text in args.fail_under] + \
            [Gate.parse(text, upper=True) for text in args.fail_over]
    harvesting = harvest_options(args)
    bags = find_bags(args.bags)
    models = open_models(args.model or ['demo'], options.params)
    _say_when_too_many(args.jobs, options.threads)
    return evaluate_many(bags, models, options, args.jobs, gates, harvesting)


def _failures(content: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each bag that failed; once where it did so with every bundle."""
    models: dict[str, list[str]] = {}
    for row in content['failed']:
        models.setdefault(row['reason'], []).append(f'{row["bag"]} with {row["model"]}')
    for reason, runs in models.items():
        bag = runs[0].rpartition(' with ')[0]
        yield reason if bag in reason else f'{", ".join(runs)}: {reason}'


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, 1 for a gate or a bag that failed, or an error's exit code."""
    args = _parser().parse_args(argv)
    try:
        content = _run(args)
        if args.json:
            write_json(args.json, content)
        write_page(content, html=args.html, markdown=args.markdown,
                   command=shlex.join(['bag_eval', *(sys.argv[1:] if argv is None else argv)]))
    except EvitSegError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say('interrupted')
        return 130
    print('\n'.join(lines_of_all(content)))
    try:
        write_maps(content['runs'], args.geojson, args.kml)
    except EvitSegError as error:
        _say(str(error))
        return error.exit_code
    for line in _failures(content):
        _say(line)
    return 0 if all(gate['held'] for gate in content['gates']) and not content['failed'] else 1


def _say(line: str) -> None:
    print(f'bag_eval: {line}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
