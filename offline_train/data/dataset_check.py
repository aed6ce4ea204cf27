# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Walk a data set and say what is wrong with it, file by file, and what is in it."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
import hashlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from evit_seg.core.errors import InputError
from evit_seg.core.labels import IGNORE_INDEX, NOT_FLOOD
import numpy as np
from offline_train.data.dataset import DatasetSpec
from offline_train.data.dataset_duplicates import difference_hash, equal_content, near_pairs
from offline_train.data.dataset_masks import MaskReader, read_bytes_and_image, shape_error
from offline_train.data.dataset_split import (
    data_entry,
    empty_text,
    Walk,
    walk_split,
)
from offline_train.data.folder import Pair
from tqdm import tqdm

NEAR_BITS = 6
"""Bits two difference hashes may differ in and still count as the same view."""
KINDS = {
    'empty': 'splits without images',
    'missing_mask': 'images without a mask',
    'missing_image': 'masks without an image',
    'ambiguous': 'two files for one id',
    'split_list': 'folder and split list disagree',
    'unreadable': 'files that are cut, damaged or of the wrong kind',
    'shape': 'masks of another size than their image',
    'unknown_value': 'mask values the data set does not explain',
    'unlabelled': 'masks without a labelled pixel',
    'duplicate': 'images with the same bytes',
    'near_duplicate': 'views that are in two splits',
}
"""Kinds of findings, in the order they are reported."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `file` relative to the root, `message` a sentence about it."""

    kind: str
    split: str
    file: str
    message: str


@dataclass(frozen=True)
class _Looked:
    """What one pair showed: pixel counts (classes + [254, 255]), digest and hash of the image."""

    findings: Tuple[Finding, ...]
    counts: np.ndarray
    digest: str
    view: Optional[np.ndarray]


def check(spec: DatasetSpec, root: Path, splits: Sequence[str] = (), *, jobs: int = 1,
          near_bits: int = NEAR_BITS, progress: bool = True) -> Dict[str, Any]:
    """
    Return the report on a data set as plain lists and dicts.

    splits: those to look at; none means all whose folder exists. near_bits: -1 leaves
    near-duplicates out. InputError when there is nothing to look at.
    """
    walks = [walk_split(spec, root, name) for name in (splits or spec.splits)]
    present = [walk for walk in walks if splits or not walk.absent]
    if not present or all(walk.absent for walk in present):
        raise InputError(f'{root}: is it the folder of {spec.name}? '
                         f'{empty_text(spec, (splits or list(spec.splits))[0])}, '
                         'nor the folders they would be in')
    findings = [finding for walk in present for finding in _walk_findings(spec, root, walk)]
    tasks = [(walk.name, pair) for walk in present for pair in walk.split.pairs]
    looked = list(_look_at_all(spec, root, tasks, jobs, progress))
    findings += [finding for item in looked for finding in item.findings]
    findings += _duplicates(root, tasks, looked, near_bits)
    order = list(KINDS)
    findings.sort(key=lambda f: (order.index(f.kind), f.split, f.file))
    return {
        'dataset': spec.name, 'root': str(root),
        'splits': {walk.name: _split_report(spec, walk) for walk in present},
        'absent': [walk.name for walk in walks if walk not in present],
        'classes': _class_report(spec, [walk.name for walk in present], tasks, looked),
        'findings': [asdict(finding) for finding in findings],
    }


def _walk_findings(spec: DatasetSpec, root: Path, walk: Walk) -> Iterator[Finding]:
    def say(kind: str, path: Path, message: str) -> Finding:
        return Finding(kind, walk.name, _relative(path, root), message)
    if not walk.split.ids and not walk.without_mask:
        yield say('empty', walk.folders[0] if walk.folders else root, empty_text(spec, walk.name))
    for path in walk.without_mask:
        yield say('missing_mask', path, f'no mask as in {" or ".join(spec.masks)}')
    for path in walk.without_image:
        yield say('missing_image', path, f'no image as in {" or ".join(spec.images)}')
    for first, second in walk.ambiguous:
        yield say('ambiguous', second, f'has the id of {_relative(first, root)}, which is taken')
    for path in walk.unlisted:
        yield say('split_list', path, f'is not in {walk.name} of {spec.split_list}')
    for lost in walk.lost:
        yield say('split_list', root / spec.split_list,
                  f'names {lost!r} in {walk.name}, but there is no image of that id')


def _look_at_all(spec: DatasetSpec, root: Path, tasks: Sequence[Tuple[str, Pair]], jobs: int,
                 progress: bool) -> Iterator[_Looked]:
    reader = MaskReader(spec)

    def work(task: Tuple[str, Pair]) -> _Looked:
        return _look_at(spec, reader, root, *task)
    with ThreadPoolExecutor(jobs) as pool:  # decoding leaves Python's lock
        yield from tqdm(pool.map(work, tasks), total=len(tasks), unit=' pairs',
                        disable=not progress)


def _look_at(spec: DatasetSpec, reader: MaskReader, root: Path, split: str,
             pair: Pair) -> _Looked:
    findings: List[Finding] = []

    def say(kind: str, path: Path, message: str) -> None:
        plain = message[len(f'{path}: '):] if message.startswith(f'{path}: ') else message
        findings.append(Finding(kind, split, _relative(path, root), plain))
    counts = np.zeros(len(spec.label_map) + 2, np.int64)
    digest, view, image = '', None, None
    try:
        data, image = read_bytes_and_image(pair.image)
        digest, view = hashlib.sha256(data).hexdigest(), difference_hash(image)
    except InputError as error:
        say('unreadable', pair.image, str(error))
    try:
        mask = reader.read(pair.mask)
    except InputError as error:
        say('unreadable', pair.mask, str(error))
        return _Looked(tuple(findings), counts, digest, view)
    if image is not None and (wrong := shape_error(image, mask.ids_HW)):
        say('shape', pair.mask, wrong)
    if mask.unknown:
        say('unknown_value', pair.mask, _unknown_text(mask.unknown, mask.ids_HW.size))
    every = np.bincount(mask.ids_HW.ravel(), minlength=256)
    counts[:-2] = every[:len(spec.label_map)]
    counts[-2:] = every[NOT_FLOOD], every[IGNORE_INDEX]
    if not counts[:-1].any() and not mask.unknown:
        say('unlabelled', pair.mask, 'every pixel is ignored')
    return _Looked(tuple(findings), counts, digest, view)


def _unknown_text(unknown: Dict[Tuple[int, ...], int], pixels: int) -> str:
    largest = sorted(unknown.items(), key=lambda item: -item[1])
    named = ', '.join(f'{v[0] if len(v) == 1 else list(v)} ({n} px)' for v, n in largest[:4])
    more = f' and {len(largest) - 4} more values' if len(largest) > 4 else ''
    return f'{named}{more} are not in the map, {sum(unknown.values()) / pixels:.2%} of the pixels'


def _duplicates(root: Path, tasks: Sequence[Tuple[str, Pair]], looked: Sequence[_Looked],
                near_bits: int) -> Iterator[Finding]:
    def say(kind: str, first: int, second: int, how: str) -> Finding:
        split, pair = tasks[second]
        other = _relative(tasks[first][1].image, root)
        return Finding(kind, split, _relative(pair.image, root),
                       f'{how} as {other} in {tasks[first][0]}')
    equal = set()
    for first, second in equal_content([item.digest for item in looked]):
        equal.add((first, second))
        yield say('duplicate', first, second, 'same bytes')
    if near_bits < 0:
        return
    names = list(dict.fromkeys(split for split, _ in tasks))
    groups = [names.index(split) for split, _ in tasks]
    for first, second, bits in near_pairs([item.view for item in looked], groups, near_bits):
        if (first, second) not in equal:
            yield say('near_duplicate', first, second, f'same view ({bits} of 64 bits differ)')


def _split_report(spec: DatasetSpec, walk: Walk) -> Dict[str, Any]:
    return {'images': len(walk.split.ids) + len(walk.without_mask),
            'pairs': len(walk.split.ids), 'data': data_entry(spec, walk.split),
            'ids': list(walk.split.ids)}


def _class_report(spec: DatasetSpec, names: Sequence[str], tasks: Sequence[Tuple[str, Pair]],
                  looked: Sequence[_Looked]) -> List[Dict[str, Any]]:
    """Return pixels and images of each class, of 254 and of 255, per split."""
    rows = [{'id': c.id, 'slug': c.slug} for c in spec.label_map]
    rows += [{'id': NOT_FLOOD, 'slug': 'not_flood'}, {'id': IGNORE_INDEX, 'slug': 'ignore'}]
    report = []
    for at, row in enumerate(rows):
        pixels, images = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        for (split, _), item in zip(tasks, looked, strict=True):
            pixels[split] += int(item.counts[at])
            images[split] += int(item.counts[at] > 0)
        report.append({**row, 'pixels': pixels, 'images': images})
    return report


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
