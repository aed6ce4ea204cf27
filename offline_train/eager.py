# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Time a run's network as papers fly it, in eager PyTorch, in turns with bundles.

Frame in, mask out, both ways: the textbook way resizes, normalises in floats, runs the network
as it was trained, scales the logits up to the frame and takes the argmax.
"""
from __future__ import annotations

import argparse
from functools import partial
import json
from pathlib import Path
import time
from typing import Any, Callable, Dict, List, Tuple

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.machine import machine_facts, percentiles_ms
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.config import InputConfig
from offline_train.data.sources import label_map_of
from offline_train.distillation.teacher import normalise
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network
import torch
from torch import nn
from tqdm import tqdm

EPILOG = """\
offline_train eager --run runs/paper runs/paper/bundle/paper runs/small/bundle/small --threads 2
The ratio of a bundle is its time over eager's of the same round, median over the rounds; at 0.33
it is three times as fast."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train eager`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument('--run', type=Path, required=True, help='run folder: the eager network')
    parser.add_argument('bundles', nargs='+', metavar='BUNDLE[:PRECISION]',
                        help='bundle folders, each timed in its first variant or the one named')
    parser.add_argument('--threads', type=int, default=2, help='of both (default: %(default)s)')
    parser.add_argument('--size', default='1280x720', metavar='WxH',
                        help="the camera's frame and the mask (default: %(default)s)")
    parser.add_argument('--rounds', type=int, default=21, help='(default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the result here as well')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train eager`."""
    width, _, height = args.size.partition('x')
    if not (width.isdecimal() and height.isdecimal()) or args.rounds < 1 or args.threads < 1:
        raise ConfigError('eager: expected --size WxH, --rounds and --threads from 1, got '
                          f'{args.size!r}, {args.rounds!r}, {args.threads!r}')
    result = measure(RunDir.open(args.run), args.bundles, (int(height), int(width)),
                     threads=args.threads, rounds=args.rounds)
    for row in result['rows']:
        print(f'{row["name"]:40} {row["ms"]["p50"]:9.1f} ms {row["ratio_to_eager"]:8.3f} of eager')
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 0


def measure(run: RunDir, bundles: List[str], size_hw: Tuple[int, int], *, threads: int,
            rounds: int) -> Dict[str, Any]:
    """Return milliseconds per frame and their ratio to eager's, eager first; two warm-ups."""
    config = run.config()
    network = load_network(run, len(label_map_of(config.data)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    pairs = [name.partition(':') for name in bundles]
    segmenters = [Segmenter.open(folder, precision=precision or None, threads=threads)
                  for folder, _, precision in pairs]
    blots_HWC = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    frame_HWC = cv2.resize(blots_HWC, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    times_ms: List[List[float]] = [[] for _ in range(1 + len(segmenters))]
    calls: List[Callable[[], Any]] = [partial(eager_mask, network, frame_HWC, config.input),
                                      *(partial(s, frame_HWC, 'bgr') for s in segmenters)]
    for number in tqdm(range(-2, rounds), unit='round', disable=None, leave=False):
        for call, times in zip(calls, times_ms, strict=True):
            start_s = time.perf_counter()
            call()
            if number >= 0:
                times.append((time.perf_counter() - start_s) * 1e3)
    torch.set_num_threads(before)
    rows = [{'name': name, 'ms': percentiles_ms(times),
             'ratio_to_eager': round(float(np.median(np.divide(times, times_ms[0]))), 4)}
            for name, times in zip([f'eager {run.path.name}', *bundles], times_ms, strict=True)]
    for segmenter in segmenters:
        segmenter.close()
    return {'kind': 'eager', 'size': list(size_hw), 'threads': threads, 'rounds': rounds,
            'input_size': [config.input.height, config.input.width], 'rows': rows,
            'machine': machine_facts()}


@torch.no_grad()
def eager_mask(network: nn.Module, image_HWC: np.ndarray, config: InputConfig) -> np.ndarray:
    """Return the class ids (H, W) of a BGR frame: bilinear logits at its size, then argmax."""
    seen_HWC = cv2.resize(image_HWC, (config.width, config.height))[..., ::-1]
    logits_NCHW = network(normalise(torch.from_numpy(seen_HWC.copy())[None], config))
    full_NCHW = nn.functional.interpolate(logits_NCHW, size=image_HWC.shape[:2], mode='bilinear')
    mask_HW: np.ndarray = full_NCHW[0].argmax(0).to(torch.uint8).numpy()
    return mask_HW
