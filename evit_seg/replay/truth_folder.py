# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Ground truth from a folder of PNG masks: which stamp each belongs to, and reading one at a time.

Three ways to say the stamp, looked for in this order: an `index.csv` in the folder
(`stamp_ns,file`), a frames.csv in the folder or beside it (`file,time_s`: a flight that make_bag
packed, its masks named as its images), the file's own name (`<sec>_<nanosec>.png`, `<ns>.png`).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
import re

import cv2
from evit_seg.core.appearances import read_rows
from evit_seg.core.errors import FrameError, InputError
from evit_seg.replay.annotations import read_frame_times, SAME_TIME_NS, stamps_of_times
from evit_seg.replay.image_source import read_frames_csv
from evit_seg.replay.truth import pair_stamps
import numpy as np

INDEX_FILE = 'index.csv'
FRAMES_FILE = 'frames.csv'
_STAMP_NAME = re.compile(r'(?:(?P<sec>\d+)_(?P<nanosec>\d{1,9})|(?P<ns>\d+))')


@dataclass(frozen=True)
class TruthFolder:
    """Masks and their stamps, in the order of the stamps; nothing is read before it is asked."""

    folder: Path
    files: tuple[Path, ...]
    stamps_ns: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, image_ns: Sequence[int],  # noqa: A003
             custom_data: Mapping[str, str]) -> TruthFolder:
        """
        Find the masks of a folder, or of its `GT/`, and put them on the bag's clock.

        `image_ns` and `custom_data` are the bag's; a frames.csv needs them. InputError where
        there is no mask, or one whose stamp cannot be told.
        """
        masks = folder / 'GT' if (folder / 'GT').is_dir() else folder
        files = sorted(masks.glob('*.png'))
        if not files:
            raise InputError(f'{masks}: expected PNG masks, found none')
        notes: list[str] = []
        table = next((path for path in (masks / FRAMES_FILE, masks.parent / FRAMES_FILE)
                      if path.is_file() and _names_any(path, files)), None)
        if (masks / INDEX_FILE).is_file():
            stamps = _indexed(masks / INDEX_FILE, files)
        elif table is not None:
            stamps, notes = _flight_stamps(table, files, image_ns, custom_data)
        else:
            stamps = {path: _named_stamp(path) for path in files}
        unknown = len(files) - len(stamps)
        if unknown:
            notes.append(f'{unknown} of {len(files)} masks of {folder.name} have no stamp in '
                         f'{(table or masks / INDEX_FILE).name} and were left out')
        ordered = sorted(stamps, key=lambda path: (stamps[path], path.name))
        return cls(folder, tuple(ordered), tuple(stamps[path] for path in ordered), tuple(notes))

    def read(self, index: int) -> np.ndarray:
        """Return the class ids (H, W) uint8 of a mask; FrameError where the file holds none."""
        path = self.files[index]
        mask_HW = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if mask_HW is None or mask_HW.ndim != 2 or mask_HW.dtype != np.uint8:
            got = 'no image' if mask_HW is None else f'{mask_HW.shape} {mask_HW.dtype}'
            raise FrameError(f'{path.parent.name}/{path.name}: expected a PNG of one 8-bit '
                             f'channel of class ids, got {got} (a palette does not count: its '
                             'colours are read)')
        return np.asarray(mask_HW)


def masks_of_bag(folder: Path, bag: Path) -> Path | None:
    """
    Return where the masks of one of several bags lie: in a folder of its stem, or in `folder`.

    None where the folder holds those of other bags alone.
    """
    own = folder / bag.stem
    if own.is_dir():
        return own
    shared = not folder.is_dir() or (folder / 'GT').is_dir() or any(folder.glob('*.png'))
    return folder if shared or not any(entry.is_dir() for entry in folder.iterdir()) else None


def _indexed(index: Path, files: Sequence[Path]) -> dict[Path, int]:
    """Return the stamps of index.csv; InputError where it names a mask that is not there."""
    rows = read_rows(index, ('stamp_ns', 'file'),
                     lambda row: (index.parent / row['file'], int(row['stamp_ns'])))
    known = set(files)
    for path, _ in rows:
        if path not in known:
            raise InputError(f'{index} names {path.name!r}, which is not a PNG mask in '
                             f'{index.parent}')
    if len(dict(rows)) < len(rows):
        raise InputError(f'{index}: expected each file once, got one of them twice')
    return dict(rows)


def _names_any(table: Path, files: Sequence[Path]) -> bool:
    """Return whether a frames.csv is about these masks, not those of a folder beside them."""
    stems = {Path(name).stem for name in read_frames_csv(table)}
    return any(path.stem in stems for path in files)


def _flight_stamps(table: Path, files: Sequence[Path], image_ns: Sequence[int],
                   custom_data: Mapping[str, str]) -> tuple[dict[Path, int], list[str]]:
    """Return the stamps of the masks' stems: the bag's own, where it holds the frame."""
    times = read_frame_times(table)
    named_ns, notes = stamps_of_times([time_s for _, time_s in times], image_ns, custom_data)
    stamp_of = {stem: stamp_ns for (stem, _), stamp_ns in zip(times, named_ns, strict=True)}
    for index, row in pair_stamps(image_ns, named_ns, SAME_TIME_NS).items():
        stamp_of[times[row][0]] = image_ns[index]
    return {path: stamp_of[path.stem] for path in files if path.stem in stamp_of}, notes


def _named_stamp(path: Path) -> int:
    match = _STAMP_NAME.fullmatch(path.stem)
    if match is None:
        raise InputError(f'{path}: expected a name such as 1700000000_250000000.png or '
                         f'1700000000250000000.png, or {INDEX_FILE} (stamp_ns,file) in the '
                         f'folder, or a {FRAMES_FILE} beside it')
    if match['ns'] is not None:
        return int(match['ns'])
    return int(match['sec']) * 10**9 + int(match['nanosec'])
