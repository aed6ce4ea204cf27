# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One result file each: what `evaluate` and `bench` wrote, checked before anything is drawn."""
from __future__ import annotations

from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

from evit_seg.core.errors import InputError

KINDS = ('evaluate', 'bench')


@dataclass(frozen=True)
class BundleRef:
    """The bundle a result is about; `sha256` and `precision` together tell it from all others."""

    name: str
    sha256: str
    precision: str
    parameters: Optional[int]
    gmacs: Optional[float] = None


@dataclass(frozen=True)
class DataKey:
    """What scores were taken on: only scores of one key stand in one table."""

    name: str
    split: str
    frames: Optional[int]
    size_hw: Optional[Tuple[int, int]]
    masks_sha256: str = ''
    """Of the truth; the same split with corrected masks is other data."""

    def __str__(self) -> str:
        masks = f' (masks {self.masks_sha256[:8]})' if self.masks_sha256 else ''
        return f'{self.short}{masks}'

    @property
    def short(self) -> str:
        """Return its name where space is short."""
        frames = '' if self.frames is None else f', {self.frames} frames'
        size = size_text(self.size_hw) or "each image's own size"
        return f'{self.name}, split {self.split}{frames}, compared at {size}'


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class, 0 to 1; None where nothing defines them."""

    slug: str
    name: str
    iou: Optional[float]
    precision: Optional[float]
    recall: Optional[float]
    truth_px: Optional[int]


@dataclass(frozen=True)
class SizeBin:
    """How many objects of min_px to max_px pixels (None: no upper end) were found."""

    slug: str
    min_px: float
    max_px: Optional[float]
    objects: int
    recall: Optional[float]


@dataclass(frozen=True)
class Evaluation:
    """A file of `offline_train evaluate --json`."""

    path: Path
    bundle: BundleRef
    data: DataKey
    miou: Optional[float]
    accuracy: Optional[float]
    dice: Optional[float]
    classes: Tuple[ClassScore, ...]
    object_recall: Tuple[SizeBin, ...]

    def of_class(self, slug: str) -> Optional[ClassScore]:
        """Return the scores of a class, None if the label map has none of that slug."""
        return next((row for row in self.classes if row.slug == slug), None)


@dataclass(frozen=True)
class Bench:
    """A file of `offline_train bench --json`; memory in MB of 10^6 bytes, None: not measured."""

    path: Path
    bundle: BundleRef
    setup: str
    """Machine, engine, provider and threads, in words."""
    load: Optional[float]
    """One-minute load of the machine at the measurement."""
    frame_hw: Optional[Tuple[int, int]]
    """Of the camera's frame and the mask; the network's own input may be smaller."""
    input_hw: Optional[Tuple[int, int]]
    p50_ms: Optional[float]
    p95_ms: Optional[float]
    fps: Optional[float]
    gmacs: Optional[float]
    peak_rss_mb: Optional[float]
    gpu_mb: Optional[float]
    energy_mj: Optional[float]
    energy_source: str
    notes: Tuple[str, ...]
    """What bench says makes these figures less certain."""


def size_text(size_hw: Optional[Tuple[int, int]]) -> str:
    """Return (height, width) as people say it, width first: '1280x720'; '' for None."""
    return '' if size_hw is None else f'{size_hw[1]}x{size_hw[0]}'


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; InputError names a file that is none."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: expected a readable JSON file: {error}; write it again with '
                         'evaluate or bench, or move it away') from error


def parse_evaluation(content: Mapping[str, Any], path: Path) -> Evaluation:
    """Return what an evaluate file says; InputError names the file and the key."""
    file = _File(path, content)
    digest = file.get('data.masks_sha256') or file.get('data.split_sha256')
    rows = file.rows('scores.classes')
    return Evaluation(
        path, _bundle(file),
        DataKey(file.text('data.name'), file.text('data.split'), file.integer('data.frames'),
                file.size('data.size'), str(digest or '')),
        miou=file.number('scores.dataset.miou'), accuracy=file.number('scores.dataset.accuracy'),
        dice=file.number('scores.lpcv.dice'),
        classes=tuple(ClassScore(row.text('slug'), str(row.get('name') or row.text('slug')),
                                 row.number('iou'), row.number('precision'),
                                 row.number('recall'), row.integer('truth_px'))
                      for row in rows),
        object_recall=tuple(_size_bins(file)))


def _size_bins(file: _File) -> List[SizeBin]:
    by_class = file.get('object_recall') or {}
    if not isinstance(by_class, dict):
        raise file.wrong('object_recall', 'a mapping of classes to lists', by_class)
    bins = []
    for slug in by_class:
        for row in file.rows(f'object_recall.{slug}'):
            bins.append(SizeBin(str(slug), row.number('min_px') or 0.0, row.number('max_px'),
                                row.integer('objects') or 0, row.number('recall')))
    return bins


def parse_bench(content: Mapping[str, Any], path: Path) -> Bench:
    """Return what a bench file says; InputError names the file and the key."""
    file = _File(path, content)
    return Bench(
        path, _bundle(file), _setup(file), file.number('machine.load_1min'), file.size('size'),
        file.size('input_size'),
        p50_ms=file.number('latency_ms.p50'), p95_ms=file.number('latency_ms.p95'),
        fps=file.number('fps'), gmacs=file.number('gmacs'),
        peak_rss_mb=file.number('peak_rss_mb'), gpu_mb=file.number('gpu_mb'),
        energy_mj=file.number('energy_mj_per_frame'),
        energy_source=str(file.get('energy_source') or ''),
        notes=tuple(str(note) for note in file.get('notes') or ()))


def _bundle(file: _File) -> BundleRef:
    return BundleRef(file.text('bundle.name'), file.text('bundle.sha256'),
                     file.text('bundle.precision'), file.integer('bundle.parameters'),
                     file.number('bundle.gmacs'))


def _setup(file: _File) -> str:
    cores, threads = file.integer('machine.cores'), file.integer('threads')
    board, mode = file.get('machine.board'), file.get('machine.power_mode')
    provider = file.get('provider')
    gpu = str(file.get('gpu_source') or '').partition(':')[0] \
        if provider not in (None, 'cpu') and file.get('gpu_mb') is not None else ''
    machine = [str(board or file.text('machine.processor')), f'{cores} cores' if cores else '',
               gpu, f'power mode {mode}' if mode else '']
    runtime = ' '.join(str(part) for part in (file.text('engine'), provider) if part)
    counted = f'{threads} thread{"s" if threads > 1 else ""}' if threads else \
        "the engine's choice of threads"
    return f'{", ".join(part for part in machine if part)}; {runtime}, {counted}'


class _File:
    """A mapping out of a file, read by dotted keys; errors name the file and the key."""

    def __init__(self, path: Path, content: Any, where: str = '') -> None:
        self.path = path
        self._content = content
        self._where = where

    def get(self, key: str) -> Any:
        """Return the value, None where it is missing."""
        found: Any = self._content
        for part in key.split('.'):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def text(self, key: str) -> str:
        """Return a value that must be there, a string that is not empty."""
        value = self.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, 'a text', value)
        return value

    def number(self, key: str) -> Optional[float]:
        """Return a finite number, None where it is missing."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) \
                or not math.isfinite(value):
            raise self.wrong(key, 'a finite number or null', value)
        return float(value)

    def integer(self, key: str) -> Optional[int]:
        """Return a whole number, None where it is missing."""
        value = self.number(key)
        if value is not None and value != int(value):
            raise self.wrong(key, 'a whole number or null', value)
        return None if value is None else int(value)

    def size(self, key: str) -> Optional[Tuple[int, int]]:
        """Return [height, width] in pixels, None where it is missing."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 \
                or not all(isinstance(v, int) and v > 0 for v in value):
            raise self.wrong(key, '[height, width] or null', value)
        return value[0], value[1]

    def rows(self, key: str) -> List[_File]:
        """Return a list of mappings, empty where it is missing."""
        value = self.get(key) or []
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise self.wrong(key, 'a list of mappings', value)
        return [_File(self.path, row, f'{key}[{i}].') for i, row in enumerate(value)]

    def wrong(self, key: str, wanted: str, value: Any) -> InputError:
        """Return the error for a value that does not fit."""
        return InputError(f'{self.path}: {self._where}{key}: expected {wanted}, got {value!r}; '
                          'is it a file of this version of evaluate or bench?')
