# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Measure what each attention and FFN block of a run costs here, as a table for gates.cost.

Milliseconds of one block alone in ONNX Runtime, at the run's input size. On the target board the
same table may hold milliseconds or millijoules measured there: only proportions count.
"""
from __future__ import annotations

import argparse
from pathlib import Path

from evit_seg.core.errors import ConfigError
from offline_train.compression.block_costs import write_table
from offline_train.data.sources import label_map_of
from offline_train.deployed import plain_attention
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train block_costs`."""
    parser.add_argument('--run', type=Path, required=True, help='run folder')
    parser.add_argument('--out', type=Path, required=True, help='new JSON file: block name to ms')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
offline_train block_costs --run runs/a --out costs.json
offline_train distil ... model.initial=runs/a gates.weight=0.5 gates.cost=costs.json
offline_train prune --run runs/gated --out runs/cut --closed-gates"""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train block_costs`."""
    if args.out.exists():
        raise ConfigError(f'--out: {args.out} exists and is not overwritten; name another')
    run = RunDir.open(args.run)
    config = run.config()
    with plain_attention():
        network = load_network(run, len(label_map_of(config.data)))
    write_table(args.out, network, (config.input.height, config.input.width))
    print(f'wrote {args.out}')
    return 0
