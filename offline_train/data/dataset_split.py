# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The splits of a data set as lists of ids: found on disk, hashed, described for the manifest."""
from __future__ import annotations

from dataclasses import dataclass
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from evit_seg.core.errors import InputError
from offline_train.data.dataset import DatasetSpec
from offline_train.data.folder import Pair


@dataclass(frozen=True)
class Split:
    """One split: the ids of its images that have a mask, sorted, and their files in that order."""

    name: str
    ids: Tuple[str, ...]
    pairs: Tuple[Pair, ...]

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the ids: sorted by code point, each followed by a newline."""
        return hashlib.sha256(''.join(f'{i}\n' for i in sorted(self.ids)).encode()).hexdigest()


@dataclass(frozen=True)
class Walk:
    """What lies in the folders of a split, complete or not."""

    name: str
    split: Split
    without_mask: Tuple[Path, ...]
    """Images whose mask is missing."""
    without_image: Tuple[Path, ...]
    """Masks whose image is missing."""
    ambiguous: Tuple[Tuple[Path, Path], ...]
    """Two files of one id under one pattern, or two images of one id under several."""
    unlisted: Tuple[Path, ...]
    """Images in the split's folder that the split list does not hold."""
    lost: Tuple[str, ...]
    """Ids of the split list that have no image."""
    folders: Tuple[Path, ...]
    """The image folders that were looked at and exist."""

    @property
    def absent(self) -> bool:
        """Whether the split has no folder at all, as of a part that was not downloaded."""
        return not self.folders


def walk_split(spec: DatasetSpec, root: Path, name: str) -> Walk:
    """Return what lies in the folders of a split; InputError for an unreadable split list."""
    folder = spec.folder_of(name)
    listed = _read_list(spec, root)
    clashes: List[Tuple[Path, Path]] = []
    images = _first_of([_index(root, pattern, folder, clashes) for pattern in spec.images],
                       clashes)
    masks = _first_of([_index(root, pattern, folder, clashes) for pattern in spec.masks], [])
    unlisted: List[Path] = []
    lost: List[str] = []
    if spec.split_list:
        wanted = set(listed.get(name, ()))
        lost = sorted(wanted - set(images))
        if _has_split(spec):  # otherwise all splits share one folder and the list selects
            unlisted = sorted(images[i] for i in set(images) - wanted)
        images = {key: path for key, path in images.items() if key in wanted}
        masks = {key: path for key, path in masks.items() if key in wanted}
    ids = tuple(sorted(set(images) & set(masks)))
    return Walk(
        name=name,
        split=Split(name, ids, tuple(Pair(images[i], masks[i]) for i in ids)),
        without_mask=tuple(images[i] for i in sorted(set(images) - set(masks))),
        without_image=tuple(masks[i] for i in sorted(set(masks) - set(images))),
        ambiguous=tuple(clashes), unlisted=tuple(unlisted), lost=tuple(lost),
        folders=tuple(sorted({path for pattern in spec.images
                              for path in image_folders(root, pattern, folder)})))


def open_split(spec: DatasetSpec, root: Path, name: str) -> Split:
    """Return a split that is complete; InputError names the first file that is missing."""
    walk = walk_split(spec, root, name)
    if walk.without_mask:
        raise InputError(f'{walk.without_mask[0]}: expected a mask as in '
                         f'{" or ".join(spec.masks)}; {len(walk.without_mask)} are missing')
    if walk.ambiguous:
        first, second = walk.ambiguous[0]
        raise InputError(f'{first}: expected one file of that id, {second} is another')
    if walk.lost:
        raise InputError(f'{root / spec.split_list}: names {walk.lost[0]!r} in {name}, but there '
                         'is no image of that id')
    if not walk.split.ids:
        raise InputError(f'{root}: {empty_text(spec, name)}')
    return walk.split


def empty_text(spec: DatasetSpec, name: str) -> str:
    """Return the message for a split without images."""
    wanted = ' or '.join(p.replace('{split}', spec.folder_of(name)) for p in spec.images)
    return f'expected images such as {wanted}, found none'


def data_entry(spec: DatasetSpec, split: Split) -> Dict[str, Any]:
    """
    Return the manifest's `data` entry of a split: what it was, and how to know it again.

    `masks_sha256` is over the masks' names and bytes, so a corrected label changes it.
    """
    digest = hashlib.sha256()
    for key, pair in zip(split.ids, split.pairs, strict=True):
        digest.update(f'{key}\n'.encode())
        try:
            digest.update(hashlib.sha256(pair.mask.read_bytes()).digest())
        except OSError as error:
            raise InputError(f'{pair.mask}: expected a readable file: {error}') from error
    return {'name': spec.name, 'licence': spec.licence, 'url': spec.url, 'split': split.name,
            'images': len(split.ids), 'split_sha256': split.sha256,
            'masks_sha256': digest.hexdigest()}


def image_folders(root: Path, pattern: str, folder: str) -> List[Path]:
    """Return the existing folders below which a pattern's files lie."""
    before = pattern.split('{id}')[0].replace('{split}', folder)
    fixed = before.rsplit('/', 1)[0] if '/' in before else ''
    if fixed == '**':
        return [root]
    if fixed.startswith('**/'):
        return [path for path in _folders(root)
                if f'/{path.relative_to(root).as_posix()}'.endswith(f'/{fixed[3:]}')]
    path = root / fixed
    return [path] if path.is_dir() else []


def _folders(root: Path) -> Iterator[Path]:
    for path, names, _ in os.walk(root, followlinks=True):
        names[:] = sorted(n for n in names if not n.startswith('.'))
        yield Path(path)


def _index(root: Path, pattern: str, folder: str,
           clashes: List[Tuple[Path, Path]]) -> Dict[str, Path]:
    """Return the files of a pattern by id; two of one id (a.jpg, a.JPG) go to `clashes`."""
    found: Dict[str, Path] = {}
    for top in image_folders(root, pattern, folder):
        matcher = _matcher(pattern, folder)
        for base in _folders(top):
            for file in sorted(os.listdir(base)):
                path = base / file
                matched = matcher.fullmatch(path.relative_to(root).as_posix())
                if file.startswith('.') or matched is None or not path.is_file():
                    continue
                if found.get(matched['id'], path) != path:
                    clashes.append((found[matched['id']], path))
                found.setdefault(matched['id'], path)
    return found


def _matcher(pattern: str, folder: str) -> re.Pattern[str]:
    text = re.escape(pattern.replace('{split}', folder))
    text = text.replace(re.escape('{id}'), '(?P<id>.+)')
    if pattern.startswith('**/'):
        text = '(?:.+/)?' + text[len(re.escape('**/')):]
    return re.compile(text, re.IGNORECASE)


def _first_of(indexes: Sequence[Dict[str, Path]],
              clashes: List[Tuple[Path, Path]]) -> Dict[str, Path]:
    """Return the files by id, earlier patterns first; ids that several have go to `clashes`."""
    merged: Dict[str, Path] = {}
    for index in indexes:
        for key, path in index.items():
            if key in merged and merged[key] != path:
                clashes.append((merged[key], path))
            merged.setdefault(key, path)
    return merged


def _has_split(spec: DatasetSpec) -> bool:
    return any('{split}' in pattern for pattern in spec.images)


def _read_list(spec: DatasetSpec, root: Path) -> Dict[str, List[str]]:
    """Return the ids of each split as the split list says; empty without one."""
    if not spec.split_list:
        return {}
    path = root / spec.split_list
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: expected a readable JSON file of {{split: [ids]}}: '
                         f'{error}') from error
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise InputError(f'{path}: expected a mapping of splits to lists of ids')
    return {str(name): [str(i) for i in ids] for name, ids in content.items()}
