# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Time the optimiser steps of several configurations side by side, for controls of equal compute.

A distilled student pays for its teacher. To be compared at equal time, the student without one
must make more steps: by the ratio measured here, the arms' steps interleaved on one machine.
"""
from __future__ import annotations

import argparse
from itertools import islice
import json
from pathlib import Path
import time
from typing import Any, Dict, List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.machine import machine_facts
import numpy as np
from offline_train.config import load_config, TrainConfig
from offline_train.data.sources import open_sources, Sources
from offline_train.objective import Batch
from offline_train.train import accelerator_for, batches, open_state
from offline_train.training_state import TrainingState
import torch

BATCHES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train step_times`."""
    parser.add_argument('--config', type=Path, help='YAML that all arms share')
    parser.add_argument('--arm', action='append', required=True, metavar='"NAME key=value ..."',
                        help='one arm: its name and its overrides; the first is the reference')
    parser.add_argument('--rounds', type=int, default=15, help='steps of each arm')
    parser.add_argument('--json', type=Path, help='write the times here as well')
    parser.add_argument('overrides', nargs='*', metavar='section.key=value',
                        help='overrides of all arms')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
offline_train step_times --config config/train/distil.yaml --arm none \\
  --arm "cwd teacher.path=runs/teacher distil.cwd=3.0" run.threads=1"""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train step_times`."""
    arms: Dict[str, TrainConfig] = {}
    for text in args.arm:
        name, *overrides = text.split()
        if name in arms or '=' in name:
            raise ConfigError(f'--arm: expected a new name and overrides, got {text!r}')
        arms[name] = load_config(args.config, [*args.overrides, *overrides])
    result = {'machine': machine_facts(), 'rounds': args.rounds,
              'arms': step_times(arms, args.rounds)}
    print(f'{"arm":<20}{"median ms":>10}{"ratio":>7}')
    for row in result['arms']:
        print(f'{row["name"]:<20}{row["median_ms"]:>10.1f}{row["ratio"]:>7.3f}')
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 0


def step_times(arms: Dict[str, TrainConfig], rounds: int) -> List[Dict[str, Any]]:
    """
    Return median step times in ms, and the median of their ratios to the first arm's step.

    Each round makes one step of every arm, so that noise of the machine meets them alike. The
    crops are made beforehand: loading them costs every arm the same. The first round is left out.
    """
    prepared = {name: _prepare(config) for name, config in arms.items()}
    times_ms: Dict[str, List[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, (state, crops) in prepared.items():
            started_s = time.perf_counter()
            state.update(crops[number % len(crops)])
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                times_ms[name].append(1e3 * (time.perf_counter() - started_s))
    first = np.array(next(iter(times_ms.values())))
    return [{'name': name, 'median_ms': round(float(np.median(times)), 2),
             'ratio': round(float(np.median(np.array(times) / first)), 4)}
            for name, times in times_ms.items()]


def _prepare(config: TrainConfig) -> Tuple[TrainingState, Sequence[Batch]]:
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    accelerator = accelerator_for(config)
    sources: Sources = open_sources(config.data)
    state = open_state(config, sources, accelerator)
    return state, list(islice(batches(sources, config, 0, accelerator), BATCHES))
