# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The command `offline_train datasets`: list the known data sets, check a folder of one.

    offline_train datasets list
    offline_train datasets check semantic_drone --root DIR [--split test] [--json OUT]

Exit code of check: 0 clean, 1 findings (or a YAML that does not fit), 2 nothing could be read.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from typing import Any, Dict, Iterator, List

from evit_seg.core.errors import ConfigError
from offline_train.data.dataset import load_dataset, shipped_datasets
from offline_train.data.dataset_check import check, KINDS, NEAR_BITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    actions.add_parser('list', help='name the data sets that come with the package')
    checking = actions.add_parser(
        'check', help='walk a folder and say what is wrong with it',
        description='Exit code 0: clean, 1: findings, 2: nothing could be read.')
    checking.add_argument('dataset', metavar='NAME_OR_YAML',
                          help='a shipped data set, or a YAML file that describes your own')
    checking.add_argument('--root', type=Path, metavar='DIR',
                          help='folder of the data (default: root of the YAML)')
    checking.add_argument('--split', action='append', default=[], metavar='NAME',
                          help='split to look at, can be repeated (default: all there are)')
    checking.add_argument('--json', metavar='OUT',
                          help='write the whole report there; - prints it instead of the table')
    checking.add_argument('--near-bits', type=int, default=NEAR_BITS, metavar='N',
                          help='of 64 bits of the difference hash, those two views in different '
                               'splits may differ in and count as one (default %(default)s; '
                               '-1: do not compare)')
    checking.add_argument('--show', type=int, default=5, metavar='N',
                          help='findings of each kind to print (default %(default)s)')
    checking.add_argument('--jobs', type=int, default=1, metavar='N',
                          help='threads (default %(default)s)')


def main(args: argparse.Namespace) -> int:
    """List or check; return the exit code."""
    if args.action == 'list':
        for name, path in shipped_datasets().items():
            spec = load_dataset(path)
            print(f'{name:16} {len(spec.label_map):3} classes  {", ".join(spec.splits):18} '
                  f'{spec.licence}')
        return 0
    for option, value, least in (('--jobs', args.jobs, 1), ('--show', args.show, 0),
                                 ('--near-bits', args.near_bits, -1)):
        if value < least:
            raise ConfigError(f'{option}: expected {least} or more, got {value!r}')
    spec = load_dataset(args.dataset)
    report = check(spec, spec.at(args.root), args.split, jobs=args.jobs,
                   near_bits=args.near_bits, progress=sys.stderr.isatty())
    text = json.dumps(report, indent=1)
    if args.json == '-':
        print(text)
    else:
        if args.json:
            Path(args.json).write_text(f'{text}\n', encoding='utf-8')
        print('\n'.join(report_lines(report, args.show)))
    return 1 if report['findings'] else 0


def report_lines(report: Dict[str, Any], show: int) -> List[str]:
    """Return the report as lines for people, at most `show` findings of each kind."""
    return [*_head(report), '', *_classes(report), '', *_findings(report['findings'], show)]


def _head(report: Dict[str, Any]) -> Iterator[str]:
    yield f'{report["dataset"]} in {report["root"]}'
    for name, split in report['splits'].items():
        yield f'{name:8} {split["images"]:6} images {split["pairs"]:6} pairs   ' \
              f'split sha256 {split["data"]["split_sha256"][:16]}'
    if report['absent']:
        yield f'not there: {", ".join(report["absent"])}'


def _classes(report: Dict[str, Any]) -> Iterator[str]:
    splits = list(report['splits'])
    totals = {name: sum(row['pixels'][name] for row in report['classes']) for name in splits}
    yield ' '.join([f'{"id":>3} {"class":34}', *(f'{name:>8} {"images":>6}' for name in splits)])
    for row in report['classes']:
        if not any(row['pixels'].values()):
            continue
        cells = [f'{row["pixels"][name] / max(1, totals[name]):8.3%} {row["images"][name]:6}'
                 for name in splits]
        yield ' '.join([f'{row["id"]:3} {row["slug"]:34}', *cells])
    unseen = [row['slug'] for row in report['classes'][:-2] if not any(row['pixels'].values())]
    if unseen:
        named = ', '.join(unseen[:14]) + (f' and {len(unseen) - 14} more'
                                          if len(unseen) > 14 else '')
        yield f'without a pixel: {named}'


def _findings(findings: List[Dict[str, str]], show: int) -> Iterator[str]:
    if not findings:
        yield 'no findings'
        return
    yield f'{len(findings)} findings'
    for kind, meaning in KINDS.items():
        mine = [finding for finding in findings if finding['kind'] == kind]
        if not mine:
            continue
        yield f'{meaning} ({kind}): {len(mine)}'
        for finding in mine[:show]:
            yield f'  {finding["file"]}: {finding["message"]}'
        if len(mine) > show:
            yield f'  and {len(mine) - show} more; --json OUT or --show N has them'
