# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Score a bundle on an image folder through core's Segmenter: what is measured is what flies."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List

from evit_seg.core.metrics import ScoreAccumulator
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.data.folder import list_pairs, read_pair

STAGES = ('pre', 'infer', 'post')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train evaluate`."""
    parser.add_argument('--bundle', required=True, help='bundle folder or name under models/')
    parser.add_argument('--data', type=Path, required=True, help='folder with the splits')
    parser.add_argument('--split', default='val', help='split: DIR/SPLIT holds IMG/ and GT/')
    parser.add_argument('--limit', type=int, default=0, help='only so many frames, evenly spread')
    parser.add_argument('--threads', type=int, default=0, help='engine threads, 0: all cores')
    parser.add_argument('--json', type=Path, help='write the scores here as well')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train evaluate`."""
    segmenter = Segmenter.open(args.bundle, threads=args.threads)
    result = evaluate(segmenter, args.data / args.split, limit=args.limit)
    result['data'] = {'folder': args.data.name, 'split': args.split, **result['data']}
    print(format_scores(result))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    segmenter.close()
    return 0


def evaluate(segmenter: Segmenter, folder: Path, *, limit: int = 0) -> Dict[str, Any]:
    """
    Return the three scores at the images' own size, and median stage times in ms.

    folder: holds IMG/ and GT/. limit: 0 takes all frames.
    """
    pairs = list_pairs([folder])
    if 0 < limit < len(pairs):
        chosen = np.linspace(0, len(pairs) - 1, limit).round().astype(int)
        pairs = [pairs[int(i)] for i in chosen]
    classes = len(segmenter.label_map)
    accumulator = ScoreAccumulator(classes)
    times: Dict[str, List[float]] = {stage: [] for stage in STAGES}
    segmenter.warm_up()
    for pair in pairs:
        image_HWC, truth_HW = read_pair(pair, classes)
        result = segmenter(image_HWC, 'rgb')
        accumulator.add(truth_HW, result.mask_HW)
        for stage in STAGES:
            times[stage].append(result.stage_ms[stage])
    return {
        'bundle': {'name': segmenter.manifest.name, 'sha256': segmenter.bundle.sha256},
        'data': {'frames': len(pairs), 'size': list(truth_HW.shape)},
        'scores': accumulator.result(segmenter.label_map),
        'median_ms': {stage: round(float(np.median(values)), 2)
                      for stage, values in times.items()},
    }


def format_scores(result: Dict[str, Any]) -> str:
    """Return the scores as a short table for a terminal."""
    scores, data = result['scores'], result['data']
    lines = [f'{result["bundle"]["name"]} on {data["folder"]}/{data["split"]}, {data["frames"]} '
             f'frames of {data["size"][0]}x{data["size"][1]}:',
             f'dataset mIoU {_shown(scores["dataset"]["miou"])}, '
             f'accuracy {_shown(scores["dataset"]["accuracy"])}, '
             f'LPCV Dice {_shown(scores["lpcv"]["dice"])}',
             f'{"class":<28}{"IoU":>7}{"precision":>11}{"recall":>8}']
    lines += [f'{row["slug"]:<28}{_shown(row["iou"]):>7}{_shown(row["precision"]):>11}'
              f'{_shown(row["recall"]):>8}' for row in scores['classes']]
    times = ', '.join(f'{stage} {value}' for stage, value in result['median_ms'].items())
    return '\n'.join([*lines, f'median ms: {times}'])


def _shown(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
