# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The arguments of `bench --node`."""
from __future__ import annotations

import argparse
from typing import Optional, Tuple

from evit_seg.benchmark.frames import ENCODINGS
from evit_seg.benchmark.node import NodeBench, SETUPS
from evit_seg.benchmark.processes import TRANSPORTS


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only --node reads."""
    group = parser.add_argument_group(
        '--node', 'Frames/s of the node and of the bare Segmenter, measured in turns; the highest '
        'rate at less than 5 %% drops; latency, stage times, processor time and memory at fixed '
        'rates. The camera runs in a process of its own, then in the process of the node.')
    default = NodeBench('')
    group.add_argument('--rates', type=_rates, default=default.rates_hz, metavar='HZ,HZ',
                       help='fixed rates (default: 5,10,30)')
    group.add_argument('--seconds', type=_seconds, default=default.seconds,
                       help='length of each measurement (default: %(default)s)')
    group.add_argument('--rounds', type=_rounds, default=default.rounds,
                       help='turns of bare Segmenter and node (default: %(default)s)')
    group.add_argument('--encoding', choices=ENCODINGS, default=default.encoding,
                       help='of the frames; jpeg goes out as CompressedImage '
                       '(default: %(default)s)')
    group.add_argument('--transport', choices=sorted(TRANSPORTS), default=default.transport,
                       help='FASTDDS_BUILTIN_TRANSPORTS in every process: LARGE_DATA or unset '
                       '(default: %(default)s)')
    group.add_argument('--setup', choices=SETUPS, action='append',
                       help='only this one (default: both)')


def node_bench(args: argparse.Namespace, size_hw: Optional[Tuple[int, int]]) -> NodeBench:
    """Return what the arguments ask for."""
    return NodeBench(
        args.node, source_hw=size_hw or NodeBench.source_hw, encoding=args.encoding,
        transport=args.transport, setups=tuple(args.setup or SETUPS), rates_hz=args.rates,
        seconds=args.seconds, rounds=args.rounds, threads=args.threads, engine=args.engine,
        provider=args.provider, precision=args.precision)


def _rates(text: str) -> Tuple[float, ...]:
    return tuple(_seconds(part) for part in text.split(','))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f'expected 0.1 to 3600, got {text!r}')
    return value


def _rounds(text: str) -> int:
    if not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f'expected 1 to 1000, got {text!r}')
    return int(text)
