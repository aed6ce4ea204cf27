# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Time one part of several runs' networks, such as the backbone, in ONNX Runtime, in turns.

The part takes a float image, normalised, and answers with its maps: no camera bytes, no mask.
"""
from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
import time
from typing import Any, Dict, List, Sequence
import warnings

from evit_seg.core.errors import ConfigError
from evit_seg.core.machine import machine_facts, percentiles_ms
import numpy as np
from offline_train.data.sources import label_map_of
from offline_train.deployed import plain_attention
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network
import onnxruntime
import torch
from torch import nn
from tqdm import tqdm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train part_times`."""
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='run folders, the first '
                        'is what the others are compared with')
    parser.add_argument('--part', default='backbone',
                        help='dotted name of a module that takes the image (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=2, help='(default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=21, help='(default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the result here as well')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train part_times`."""
    if args.rounds < 1 or args.threads < 1:
        raise ConfigError('part_times: expected --rounds and --threads from 1, got '
                          f'{args.rounds!r} and {args.threads!r}')
    result = measure([RunDir.open(path) for path in args.runs], args.part,
                     threads=args.threads, rounds=args.rounds)
    for row in result['rows']:
        print(f'{row["name"]:30} {row["parameters"]:>10} parameters {row["ms"]["p50"]:8.1f} ms '
              f'{row["ratio_to_first"]:6.3f} of the first')
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 0


def measure(runs: Sequence[RunDir], part: str, *, threads: int, rounds: int) -> Dict[str, Any]:
    """Return parameters and milliseconds of a part of each run; ratios are medians of rounds."""
    parts, sessions, feeds = [], [], []
    for run in runs:
        size = run.config().input
        with plain_attention():
            network = load_network(run, len(label_map_of(run.config().data)))
        try:
            parts.append(network.get_submodule(part))
        except AttributeError as error:
            raise ConfigError(f'--part: {run.path} has no {part!r}, it has '
                              f'{", ".join(n for n, _ in network.named_children())}') from error
        image_NCHW = torch.zeros(1, 3, size.height, size.width)
        sessions.append(_session(parts[-1], image_NCHW, threads))
        feeds.append({'image': image_NCHW.numpy()})
    times_ms: List[List[float]] = [[] for _ in runs]
    for number in tqdm(range(-2, rounds), unit='round', disable=None, leave=False):
        for session, feed, times in zip(sessions, feeds, times_ms, strict=True):
            start_s = time.perf_counter()
            session.run(None, feed)
            if number >= 0:
                times.append((time.perf_counter() - start_s) * 1e3)
    rows = [{'name': run.path.name, 'parameters': sum(p.numel() for p in module.parameters()),
             'size': [run.config().input.height, run.config().input.width],
             'ms': percentiles_ms(times),
             'ratio_to_first': round(float(np.median(np.divide(times, times_ms[0]))), 4)}
            for run, module, times in zip(runs, parts, times_ms, strict=True)]
    return {'kind': 'part_times', 'part': part, 'threads': threads, 'rounds': rounds,
            'rows': rows, 'machine': machine_facts()}


def _session(module: nn.Module, image_NCHW: torch.Tensor,
             threads: int) -> onnxruntime.InferenceSession:
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # as in deployed.py: traced shapes are constants
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(module, (image_NCHW,), buffer,  # type: ignore[arg-type]
                          input_names=['image'], opset_version=17,
                          dynamo=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(buffer.getvalue(), options,
                                        providers=['CPUExecutionProvider'])
