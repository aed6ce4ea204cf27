# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Image folders with masks: list the pairs, read them, keep decoded copies.

Layout A: `FOLDER/IMG/<id>.jpg|png` beside `FOLDER/GT/<id>.png`, masks of one byte a pixel, class
ids, 255 without a label, 254 "anything but flood" (training takes it as without a label).
Decoding a 1280x720 pair costs as much as cutting ten crops of it, so the cache pays on two cores.
"""
from __future__ import annotations

from dataclasses import dataclass
import hashlib
from pathlib import Path
import tempfile
from typing import Callable, List, Protocol, Sequence, Tuple

import cv2
from evit_seg.core.errors import InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, NOT_FLOOD
import numpy as np
from offline_train.data.dataset_masks import read_image

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg')


@dataclass(frozen=True)
class Pair:
    """One image and its mask."""

    image: Path
    mask: Path


class Frames(Protocol):
    """Decoded pairs by index: images RGB uint8 (H, W, 3), masks uint8 (H, W) of ids and 255."""

    counts: np.ndarray
    """(frames, classes) int64: pixels of each class in each frame."""

    def __len__(self) -> int:
        """Return the number of frames."""

    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return image and mask of a frame."""


def list_pairs(folders: Sequence[str | Path]) -> List[Pair]:
    """Return the pairs of folders in layout A, by name; InputError names what is missing."""
    pairs = []
    for folder in map(Path, folders):
        if not (folder / 'IMG').is_dir() or not (folder / 'GT').is_dir():
            raise InputError(f'{folder}: expected a folder with IMG/ and GT/ in it '
                             '(such as DIR/train), found none')
        images = sorted(p for p in (folder / 'IMG').iterdir()
                        if p.suffix.lower() in IMAGE_SUFFIXES)
        found = [Pair(path, folder / 'GT' / f'{path.stem}.png') for path in images]
        missing = [pair.mask for pair in found if not pair.mask.is_file()]
        if missing:
            raise InputError(f'{missing[0]}: expected a mask for the image of that name; '
                             f'{len(missing)} of {len(found)} are missing')
        if not found:
            raise InputError(f'{folder / "IMG"}: expected {", ".join(IMAGE_SUFFIXES)}, found none')
        pairs += found
    return pairs


def read_pair(pair: Pair, classes: int) -> Tuple[np.ndarray, np.ndarray]:
    """
    Return the RGB image (H, W, 3) and mask (H, W) of a pair; InputError names a bad file.

    The mask is as it lies: ids below `classes`, 254 and 255.
    """
    image = read_image(pair.image)  # cv2.imread fills a cut JPEG with grey and says nothing
    mask = _decode_mask(pair.mask)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise InputError(f'{pair.mask}: expected one channel of 8 bits with class ids, '
                         f'got {mask.dtype} {mask.shape}')
    if mask.shape != image.shape[:2]:
        raise InputError(f"{pair.mask}: expected the image's size {image.shape[:2]}, "
                         f'got {mask.shape}')
    outside = (mask >= classes) & (mask < NOT_FLOOD)
    if outside.any():
        raise InputError(f'{pair.mask}: expected ids below {classes}, 254 or 255, '
                         f'got {int(mask[outside][0])}')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask


def _decode_mask(path: Path) -> np.ndarray:
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if read is None:
        raise InputError(f'{path}: expected an image, it cannot be decoded')
    return np.asarray(read)


class PairReader(Protocol):
    """How a pair is read for training: `FolderReader` here, `DatasetReader` for a data set."""

    classes: int
    identity: str
    """What besides the files decides on the masks; part of a cache's name."""

    def read(self, pair: Pair) -> Tuple[np.ndarray, np.ndarray]:
        """Return RGB image (H, W, 3) and mask (H, W) of ids and 255."""


class FolderReader:
    """Pairs of layout A, whose masks hold the label map's ids."""

    def __init__(self, label_map: LabelMap) -> None:
        self.classes = len(label_map)
        self.identity = repr(label_map.slugs)

    def read(self, pair: Pair) -> Tuple[np.ndarray, np.ndarray]:
        """Return RGB image (H, W, 3) and mask (H, W) of ids and 255."""
        image, mask = read_pair(pair, self.classes)
        mask[mask == NOT_FLOOD] = IGNORE_INDEX
        return image, mask


class DecodedFrames:
    """
    Frames decoded at each reading; sizes may differ.

    Opening them reads every file once, so that a bad one is named before any step is spent on it.
    """

    def __init__(self, pairs: Sequence[Pair], reader: PairReader) -> None:
        self._pairs = list(pairs)
        self._reader = reader
        self.counts = np.stack([_count(self.read(i)[1], reader.classes)
                                for i in range(len(self._pairs))])

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return image and mask of a frame."""
        return self._reader.read(self._pairs[index])


class CachedFrames:
    """
    Frames decoded once into memory-mapped files that processes share; sizes may differ.

    A pair that is listed several times, so that it is drawn more often, is kept once.
    """

    def __init__(self, pairs: Sequence[Pair], reader: PairReader, cache: Path,
                 progress: Callable[[str], None]) -> None:
        unique = list(dict.fromkeys(pairs))
        row = {pair: index for index, pair in enumerate(unique)}
        self._rows = [row[pair] for pair in pairs]
        folder = cache / _fingerprint(unique, reader)
        if not folder.is_dir():
            _fill_cache(folder, unique, reader, progress)
        self._images = np.memmap(folder / 'images.bin', np.uint8, 'r')
        self._masks = np.memmap(folder / 'masks.bin', np.uint8, 'r')
        self._sizes = np.load(folder / 'sizes.npy')
        self._starts = np.concatenate([[0], np.cumsum(self._sizes.prod(axis=1))])
        self.counts = np.load(folder / 'counts.npy')[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return image and mask of a frame as views of the map, not to be written to."""
        row = self._rows[index]
        height, width = self._sizes[row]
        start, end = self._starts[row:row + 2]
        return (self._images[3 * start:3 * end].reshape(height, width, 3),
                self._masks[start:end].reshape(height, width))


def open_pairs(pairs: Sequence[Pair], reader: PairReader, cache: str,
               progress: Callable[[str], None] = print) -> Frames:
    """Return the frames of pairs, cached where `cache` names a folder."""
    if cache:
        return CachedFrames(pairs, reader, Path(cache), progress)
    return DecodedFrames(pairs, reader)


def open_frames(folders: Sequence[str | Path], label_map: LabelMap, cache: str,
                progress: Callable[[str], None] = print) -> Frames:
    """Return the frames of folders in layout A, cached where `cache` names a folder."""
    return open_pairs(list_pairs(folders), FolderReader(label_map), cache, progress)


def split_sha256(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of a split: names and contents of its masks, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.image.name.encode())
        digest.update(pair.mask.read_bytes())
    return digest.hexdigest()


def _count(mask_HW: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(mask_HW.ravel(), minlength=256)[:classes].astype(np.int64)


def _fingerprint(pairs: Sequence[Pair], reader: PairReader) -> str:
    digest = hashlib.sha256(f'frames of any size {reader.identity}'.encode())
    for pair in pairs:
        for path in (pair.image, pair.mask):
            stat = path.stat()
            digest.update(f'{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n'.encode())
    return digest.hexdigest()[:16]


def _fill_cache(folder: Path, pairs: Sequence[Pair], reader: PairReader,
                progress: Callable[[str], None]) -> None:
    """
    Decode all pairs into a folder that gets its final name only when it is whole.

    Runs that start together decode each for itself; the first to end gives the cache.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'{folder.name}.') as made:
        partial = Path(made) / 'partial'
        partial.mkdir()
        _decode(partial, folder, pairs, reader, progress)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _decode(partial: Path, folder: Path, pairs: Sequence[Pair], reader: PairReader,
            progress: Callable[[str], None]) -> None:
    sizes = np.zeros((len(pairs), 2), np.int64)
    counts = np.zeros((len(pairs), reader.classes), np.int64)
    with open(partial / 'images.bin', 'wb') as images, open(partial / 'masks.bin', 'wb') as masks:
        for index, pair in enumerate(pairs):
            image, mask = reader.read(pair)
            images.write(np.ascontiguousarray(image).data)
            masks.write(np.ascontiguousarray(mask).data)
            sizes[index], counts[index] = mask.shape, _count(mask, reader.classes)
            if index % 500 == 499:
                progress(f'decoded {index + 1} of {len(pairs)} pairs into {folder}')
    np.save(partial / 'sizes.npy', sizes)
    np.save(partial / 'counts.npy', counts)
