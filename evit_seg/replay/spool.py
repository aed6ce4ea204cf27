# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What a run leaves of each frame in a file, for those who compare runs or choose frames later.

A few kilobytes a frame, and nothing stays in memory: runs of several bundles over one bag are
read back side by side, however long the bag.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import json
from pathlib import Path
import struct
from typing import Any
import zlib

import cv2
from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import InputError
from evit_seg.core.regions import find_regions, Region
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.bag import BagMessage
from evit_seg.replay.observer import SeenFrame
import numpy as np

NEAR_LOGIT = 1.0
"""A class is close to its threshold if this much on its logits would change the verdict."""
_SIZES = struct.Struct('<II')


@dataclass(frozen=True)
class SpoolHead:
    """Whose masks these are: name and sha256 of the bundle, its slugs in id order, its rules'."""

    model: str
    sha256: str
    slugs: tuple[str, ...]
    alert_slugs: tuple[str, ...]


@dataclass(frozen=True)
class SpooledFrame:
    """
    One frame of a run.

    `mask_HW` is the argmax of the cells that lie in the picture, on the network's grid. `seen`
    are the slugs of alert classes with evidence, `close` those whose verdict is close. `doubt` is
    1 - the mean margin between the best and the second-best class (Scheffer et al. 2001), and
    `view` the picture's difference hash, 64 bits.
    """

    index: int
    stamp_ns: int
    first_ns: int
    mask_HW: np.ndarray
    seen: tuple[str, ...]
    close: tuple[str, ...]
    doubt: float
    view: int


class FrameSpool:
    """An observer that writes the frames of its run to a file; a context manager."""

    key = 'spool'
    topics: Sequence[str] = ()

    def __init__(self, path: Path, rules: Sequence[AlertRule], segmenter: Segmenter) -> None:
        self._rules = rules
        self._temperature = segmenter.manifest.temperature
        self._stream = path.open('wb')
        head = SpoolHead(segmenter.manifest.name, segmenter.bundle.sha256,
                         tuple(segmenter.label_map.slugs), tuple(rule.slug for rule in rules))
        self._write(vars(head), b'')

    def __enter__(self) -> FrameSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def take_message(self, message: BagMessage) -> None:
        """Take nothing: no topic is asked for."""

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Take nothing: truth plays no part."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Write one frame."""
        result = seen.result
        y0, y1, x0, x1 = result.geometry.content_cells()
        logits_CHW = np.asarray(result.logits_CHW[:, y0:y1, x0:x1], np.float32)
        if not logits_CHW.size:  # so narrow a picture that it holds the centre of no cell
            logits_CHW = np.asarray(result.logits_CHW, np.float32)
        mask_HW = logits_CHW.argmax(axis=0).astype(np.uint8)
        self._write({
            'index': seen.index, 'stamp_ns': seen.stamp_ns, 'first_ns': seen.first_ns,
            'shape': mask_HW.shape, 'seen': self._seen(seen.regions),
            'close': self._close(seen), 'doubt': doubt(logits_CHW, self._temperature),
            'view': difference_hash(seen.frame.image_HWC)}, mask_HW.tobytes())

    def section(self) -> Any:
        """Return nothing: what it writes is not for the report of this run."""
        return None

    def _seen(self, regions: Mapping[int, Sequence[Region]]) -> list[str]:
        return [rule.slug for rule in self._rules if regions.get(rule.class_id)]

    def _close(self, seen: SeenFrame) -> list[str]:
        """Return the classes that a shift of their logits by NEAR_LOGIT would turn over."""
        found = [find_regions(
            seen.result.logits_CHW, seen.result.geometry,
            [replace(rule, logit_bias=rule.logit_bias + shift) for rule in self._rules],
            self._temperature) for shift in (-NEAR_LOGIT, NEAR_LOGIT)]
        return [rule.slug for rule in self._rules
                if bool(found[0][rule.class_id]) != bool(found[1][rule.class_id])]

    def _write(self, facts: Mapping[str, Any], mask: bytes) -> None:
        words, packed = json.dumps(facts).encode(), zlib.compress(mask, 1)
        self._stream.write(_SIZES.pack(len(words), len(packed)) + words + packed)


def read_spool(path: Path) -> tuple[SpoolHead, Iterator[SpooledFrame]]:
    """Return whose spool it is, and its frames in the bag's order, one at a time."""
    records = _records(path)
    facts, _ = next(records)
    return SpoolHead(facts['model'], facts['sha256'], tuple(facts['slugs']),
                     tuple(facts['alert_slugs'])), (_frame(*record) for record in records)


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    with path.open('rb') as stream:
        while sizes := stream.read(_SIZES.size):
            words, packed = (stream.read(size) for size in _SIZES.unpack(sizes))
            yield json.loads(words), zlib.decompress(packed)


def _frame(facts: dict[str, Any], mask: bytes) -> SpooledFrame:
    mask_HW = np.frombuffer(mask, np.uint8).reshape(facts.pop('shape'))
    seen, close = tuple(facts.pop('seen')), tuple(facts.pop('close'))
    return SpooledFrame(mask_HW=mask_HW, seen=seen, close=close, **facts)


def in_step(paths: Sequence[Path]) -> Iterator[list[SpooledFrame]]:
    """
    Yield, frame by frame, what each of the runs over one bag left of it.

    Frames that not all of them have are passed over; InputError when the runs were not over the
    same frames at all.
    """
    streams = [read_spool(path)[1] for path in paths]
    newest = [next(stream, None) for stream in streams]
    while all(frame is not None for frame in newest):
        frames = [frame for frame in newest if frame is not None]
        index = max(frame.index for frame in frames)
        if all(frame.index == index for frame in frames):
            if len({frame.stamp_ns for frame in frames}) > 1:
                raise InputError(f'frame {index} has other stamps in the other run: expected runs '
                                 'over the same topic of the same bag')
            yield frames
            index += 1
        newest = [next(stream, None) if frame.index < index else frame
                  for frame, stream in zip(frames, streams)]


def doubt(logits_CHW: np.ndarray, temperature: float) -> float:
    """Return 1 - the mean over the cells of p(best) - p(second); 1 where logits are not finite."""
    top = np.partition(logits_CHW, -2, axis=0)[-2:]
    with np.errstate(invalid='ignore', over='ignore'):
        odds = np.exp((logits_CHW - top[1]) / np.float32(temperature))
        margin = (1 - np.exp((top[0] - top[1]) / np.float32(temperature))) / odds.sum(axis=0)
        mean = float(margin.mean(dtype=np.float64))
    return round(1 - mean, 6) if np.isfinite(mean) else 1.0


def difference_hash(image_HWC: np.ndarray) -> int:
    """Return 64 bits: whether each of 8 x 8 patches of the picture is darker than the next one."""
    small = cv2.resize(image_HWC, (9, 8), interpolation=cv2.INTER_AREA).sum(axis=2, dtype=np.int32)
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')
