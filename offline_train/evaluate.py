# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Score a bundle on labelled images through core's Segmenter: what is measured is what flies."""
from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, NOT_FLOOD
from evit_seg.core.machine import machine_facts
from evit_seg.core.metrics import resize_truth, ScoreAccumulator
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.data.dataset import DatasetSpec, load_dataset, MaskSpec, Source
from offline_train.data.dataset_frames import DatasetFrames
from offline_train.data.dataset_split import data_entry, open_split, Split
from offline_train.data.folder import Frames, IMAGE_SUFFIXES
from offline_train.scoring.against import (
    check_comparable,
    compare,
    read_result,
    recall_warnings,
)
from offline_train.scoring.object_recall import ObjectRecall
from offline_train.scoring.table import format_scores
from tqdm import tqdm

STAGES = ('pre', 'infer', 'post')
SIZES = {'native': None, '512': (512, 512)}
"""Names of --compare-at and the (height, width) that masks are compared at."""
TIME_SOURCE = ('seconds_per_image: median over the frames of pre + infer + post, one image at a '
               'time, on this machine')
EPILOG = """
examples:
  offline_train evaluate --bundle my_bundle --data scenes --split val
  offline_train evaluate --bundle student --precision int8 --dataset lpcv2023 --root LPCV \\
      --compare-at 512 --json runs/student/evaluate.json
  offline_train evaluate --bundle student --against teacher.json --strict \\
      --dataset semantic_drone --root drone

Every file is opened before the first is scored; a bad one is named and the exit code is 2. With
--against, a recall of Person or a class marked rare that is more than 10 points below the other's
is a line that begins with WARNING (and `warnings` in the JSON); with --strict the exit code is
then 1. mIoU is over one confusion matrix of all images; LPCV Dice is the mean over images.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument('--bundle', required=True, help='bundle folder or name under models/')
    parser.add_argument('--precision', help='variant to score, such as fp32, fp16 or int8 '
                                            "(default: the manifest's first)")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument('--data', type=Path, metavar='DIR',
                      help="folder with DIR/SPLIT/IMG and GT, masks in the bundle's class ids")
    data.add_argument('--dataset', metavar='NAME_OR_YAML',
                      help='a shipped data set, or a YAML file that describes your own')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='folder of --dataset (default: root of its YAML)')
    parser.add_argument('--split', default='val', help='part of the data (default %(default)s)')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='only so many frames, evenly spread')
    parser.add_argument('--compare-at', choices=SIZES, default='native',
                        help="size of the masks compared: the images' own, or 512x512 with the "
                             'truth resized to its nearest pixel (default %(default)s)')
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='engine threads, 0: all cores')
    parser.add_argument('--provider', default='cpu', help='engine provider (default %(default)s)')
    parser.add_argument('--against', metavar='OTHER',
                        help='bundle to compare with (its first variant), or the .json of its '
                             'evaluation on the same data')
    parser.add_argument('--strict', action='store_true',
                        help='exit code 1 when --against gives a warning')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the result here as well')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train evaluate`."""
    _check_options(args)
    segmenter = Segmenter.open(args.bundle, precision=args.precision, threads=args.threads,
                               provider=args.provider)
    against: Optional[Dict[str, Any] | Segmenter] = None
    if args.against:
        against = read_result(Path(args.against)) if args.against.endswith('.json') else \
            Segmenter.open(args.against, threads=args.threads, provider=args.provider)
    frames, entry = open_data(args, segmenter.label_map)
    if isinstance(against, Segmenter):
        check_label_map(against.label_map, segmenter.label_map, args.against)
    elif against is not None:
        check_comparable(against, entry, segmenter.label_map, args.against)
    size_hw = SIZES[args.compare_at]
    result = _score(segmenter, frames, entry, size_hw, args.threads)
    if against is not None:
        other = _score(against, frames, entry, size_hw, args.threads) \
            if isinstance(against, Segmenter) else against
        bundle = other['bundle']
        result['warnings'] = recall_warnings(
            result['confusion'], other['confusion'], segmenter.label_map,
            f'{bundle["name"]} ({bundle["precision"]})')
        result['against'] = compare(result, other)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2, allow_nan=False) + '\n',
                             encoding='utf-8')
    print(format_scores(result))
    return 1 if args.strict and result['warnings'] else 0


def open_data(args: argparse.Namespace, label_map: LabelMap) -> Tuple[Frames, Dict[str, Any]]:
    """
    Return the frames that the arguments name, every file read once, and the `data` of the result.

    ConfigError for a data set of other classes than `label_map`; InputError names a bad file.
    """
    spec = load_dataset(args.dataset) if args.dataset else folder_spec(args, label_map)
    check_label_map(spec.label_map, label_map, f'data set {spec.name}')
    split = open_split(spec, spec.at(args.root or args.data), args.split)
    split = limited(split, args.limit)
    frames = DatasetFrames(spec, split, keep_not_flood=True)
    return frames, {**data_entry(spec, split), 'compare_at': args.compare_at}


def folder_spec(args: argparse.Namespace, label_map: LabelMap) -> DatasetSpec:
    """Return the description of --data: layout A, masks in the bundle's ids, 254 and 255."""
    sources = (*(Source(to=c.slug, id=c.id) for c in label_map),
               Source(to='not_flood', id=NOT_FLOOD), Source(to='ignore', id=IGNORE_INDEX))
    return DatasetSpec(
        name=args.data.resolve().name, licence='',
        images=tuple(f'{{split}}/IMG/{{id}}{suffix}' for suffix in IMAGE_SUFFIXES),
        masks=('{split}/GT/{id}.png',), splits={args.split: args.split},
        mask=MaskSpec(encoding='ids', sources=sources), label_map=label_map)


def check_label_map(found: LabelMap, expected: LabelMap, where: str) -> None:
    """Raise ConfigError at the first class that two label maps do not share."""
    for index in range(max(len(found), len(expected))):
        got, wanted = (m.slugs[index] if index < len(m) else None for m in (found, expected))
        if got != wanted:
            raise ConfigError(f"{where}: expected the bundle's classes, id {index} is {wanted!r}, "
                              f'got {got!r}; scores need one label map, so take a bundle that was '
                              'trained on these classes or map them in a YAML of your own')


def limited(split: Split, limit: int) -> Split:
    """Return `limit` pairs of a split, evenly spread from first to last; all of them for 0."""
    if not 0 < limit < len(split.ids):
        return split
    chosen = np.linspace(0, len(split.ids) - 1, limit).round().astype(int).tolist()
    return replace(split, ids=tuple(split.ids[i] for i in chosen),
                   pairs=tuple(split.pairs[i] for i in chosen))


def evaluate(segmenter: Segmenter, frames: Frames, *,
             size_hw: Optional[Tuple[int, int]] = None) -> Dict[str, Any]:
    """
    Return the scores, the confusion matrix, recall by object size and median times of a bundle.

    frames: masks may hold 254. size_hw: height and width that masks are compared at, the images'
    own when None. `data` holds the number of frames and their size, None where sizes differ.
    """
    scores = ScoreAccumulator(len(segmenter.label_map))
    objects = ObjectRecall(segmenter.label_map)
    stages_ms: List[List[float]] = []
    sizes = set()
    segmenter.warm_up()
    for index in tqdm(range(len(frames)), unit='frame', disable=None, leave=False):
        image_HWC, truth_HW = frames.read(index)
        truth_HW = resize_truth(truth_HW, size_hw or truth_HW.shape)
        answer = segmenter(image_HWC, 'rgb', mask_hw=size_hw)
        scores.add(truth_HW, answer.mask_HW)
        objects.add(truth_HW, answer.mask_HW)
        stages_ms.append([answer.stage_ms[stage] for stage in STAGES])
        sizes.add(truth_HW.shape)
    seconds = float(np.median(np.sum(stages_ms, axis=1))) / 1e3
    return {
        'kind': 'evaluate',
        'bundle': _bundle_facts(segmenter),
        'data': {'frames': len(frames),
                 'size': list(next(iter(sizes))) if len(sizes) == 1 else None},
        'scores': scores.result(segmenter.label_map, seconds),
        'confusion': scores.matrix.tolist(),
        'object_recall': objects.result(),
        'median_ms': {stage: round(float(value), 3) for stage, value
                      in zip(STAGES, np.median(stages_ms, axis=0), strict=True)},
    }


def _score(segmenter: Segmenter, frames: Frames, entry: Dict[str, Any],
           size_hw: Optional[Tuple[int, int]], threads: int) -> Dict[str, Any]:
    result = evaluate(segmenter, frames, size_hw=size_hw)
    segmenter.close()
    result['data'] = {**entry, **result['data']}
    return {**result, 'engine': segmenter.engine.name, 'provider': segmenter.engine.provider,
            'threads': threads, 'time_source': TIME_SOURCE, 'machine': machine_facts(),
            'warnings': []}


def _bundle_facts(segmenter: Segmenter) -> Dict[str, Any]:
    manifest, engine = segmenter.manifest, segmenter.engine
    return {'name': manifest.name, 'sha256': segmenter.bundle.sha256,
            'precision': engine.precision, 'input_hw': list(engine.input_hw),
            'parameters': manifest.provenance.get('parameters'),
            'gmacs': manifest.provenance.get('gmacs')}


def _check_options(args: argparse.Namespace) -> None:
    """Raise for options that do not go together, before minutes are spent on scores."""
    for option, value in (('--limit', args.limit), ('--threads', args.threads)):
        if value < 0:
            raise ConfigError(f'{option}: expected 0 or more, got {value!r}')
    if args.root and args.data:
        raise ConfigError(f'--root: is the folder of --dataset, got {str(args.root)!r} beside '
                          f'--data {str(args.data)!r}; leave one of them out')
    if args.strict and not args.against:
        raise ConfigError('--strict: expected --against OTHER beside it, nothing is compared')
    if args.json is not None and not args.json.resolve().parent.is_dir():
        raise InputError(f'--json: expected an existing folder, there is no {args.json.parent}')
