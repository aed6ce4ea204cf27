# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Frames to put in a bag: a folder of images with times, positions and masks, or a video."""
from __future__ import annotations

import calendar
from collections.abc import Iterator
import csv
from dataclasses import dataclass
from pathlib import Path
import time

import cv2
from evit_seg.core.decode import decode_compressed
from evit_seg.core.errors import FrameError, InputError
import numpy as np

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = ('.mp4', '.mov', '.avi', '.mkv', '.m4v', '.webm', '.mpg', '.mpeg')
TIME_LOCAL_FORMAT = '%Y:%m:%d %H:%M:%S'
"""EXIF's way to write a date; local time of an unknown zone, read as if it were UTC."""


@dataclass(frozen=True)
class FrameFacts:
    """What frames.csv says of one frame; None where it says nothing."""

    time_s: float | None = None
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_m: float | None = None
    relative_altitude_m: float | None = None
    yaw_deg: float | None = None
    focal_length_mm: float | None = None
    sensor_width_mm: float | None = None


@dataclass(frozen=True)
class SourceFrame:
    """One frame: image (H, W, 3) uint8 BGR, mask (H, W) uint8 of class ids or None."""

    name: str
    image_HWC: np.ndarray
    mask_HW: np.ndarray | None
    facts: FrameFacts
    encoded: bytes | None = None
    """The image file's own bytes, where it is a file."""


class ImageFolder:
    """
    The images of a folder in the order of their frames.csv, else of their names.

    A flat folder holds the images (and frames.csv); a split folder of layout A holds them in
    `IMG/` and the masks in `GT/<stem>.png`. InputError where there is nothing to read.
    """

    def __init__(self, folder: Path, masks: Path | None = None) -> None:
        self.images_folder = folder / 'IMG' if (folder / 'IMG').is_dir() else folder
        self.masks_folder = masks
        if masks is None and (folder / 'GT').is_dir():
            self.masks_folder = folder / 'GT'
        if self.masks_folder is not None and not self.masks_folder.is_dir():
            raise InputError(f'{self.masks_folder} is not a folder of masks')
        self.notes: list[str] = []
        self.rate_hz = 0.0  # unknown: a folder has times or nothing
        table = folder / 'frames.csv'
        self.facts = read_frames_csv(table) if table.is_file() else {}
        self.files = self._list_files(folder)

    def _list_files(self, folder: Path) -> list[Path]:
        found = sorted(path for path in self.images_folder.iterdir()
                       if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            splits = sorted(path.parent.name for path in folder.glob('*/IMG'))
            hint = f'; it holds the splits {", ".join(splits)}: name one of them' if splits else ''
            raise InputError(f'{self.images_folder} holds no images '
                             f'({", ".join(IMAGE_SUFFIXES)}){hint}')
        if not self.facts:
            return found
        listed = [self.images_folder / name for name in self.facts]
        absent = [path.name for path in listed if not path.is_file()]
        if absent:
            raise InputError(f'{folder / "frames.csv"} names {len(absent)} images that are not in '
                             f'{self.images_folder}, the first is {absent[0]!r}')
        if len(found) > len(listed):
            self.notes.append(f'{len(found) - len(listed)} images are not in frames.csv and were '
                              'left out')
        return listed

    def __len__(self) -> int:
        return len(self.files)

    @property
    def times_s(self) -> list[float] | None:
        """Return the times of the frames, s, or None where frames.csv gives none for some."""
        times = [self._facts_of(path).time_s for path in self.files]
        known = [value for value in times if value is not None]
        return known if len(known) == len(times) else None

    def _facts_of(self, path: Path) -> FrameFacts:
        return self.facts.get(path.name, FrameFacts())

    def __iter__(self) -> Iterator[SourceFrame]:
        for path in self.files:
            encoded = path.read_bytes()
            image_HWC = _decode(path, encoded)
            yield SourceFrame(path.name, image_HWC, self._read_mask(path, image_HWC),
                              self._facts_of(path), encoded)

    def _read_mask(self, image_path: Path, image_HWC: np.ndarray) -> np.ndarray | None:
        if self.masks_folder is None:
            return None
        path = self.masks_folder / f'{image_path.stem}.png'
        if not path.is_file():
            return None
        mask_HW = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if mask_HW is None or mask_HW.ndim != 2 or mask_HW.dtype != np.uint8:
            got = 'no image' if mask_HW is None else f'{mask_HW.shape} {mask_HW.dtype}'
            raise InputError(f'{path}: expected a mask of one uint8 channel, got {got}')
        if mask_HW.shape != image_HWC.shape[:2]:
            raise InputError(f'{path}: expected the size of its image {image_HWC.shape[:2]}, '
                             f'got {mask_HW.shape}')
        return mask_HW


class VideoFile:
    """The frames of a video, decoded one at a time; InputError where OpenCV cannot open it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f'{path}: OpenCV cannot open it as a video')
        self._count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.rate_hz = float(self._capture.get(cv2.CAP_PROP_FPS))

    def __len__(self) -> int:
        return self._count

    @property
    def times_s(self) -> None:
        """Videos are timed by their frame rate."""
        return None

    def __iter__(self) -> Iterator[SourceFrame]:
        index = 0
        while True:
            good, image_HWC = self._capture.read()
            if not good:
                break
            yield SourceFrame(f'{self.path.name}#{index}', image_HWC, None, FrameFacts())
            index += 1
        self._capture.release()
        if index == 0:
            raise InputError(f'{self.path}: the video holds no frame that OpenCV can decode')
        if index < self._count:
            self.notes.append(f'the video says {self._count} frames, {index} could be decoded')


def open_source(path: Path, masks: Path | None = None) -> ImageFolder | VideoFile:
    """Return the frames of a folder or video; InputError where `path` is neither."""
    if path.is_dir():
        return ImageFolder(path, masks)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        if masks is not None:
            raise InputError('masks go with a folder of images, not with a video')
        return VideoFile(path)
    what = 'does not exist' if not path.exists() else \
        f'is neither a folder nor a video ({", ".join(VIDEO_SUFFIXES)})'
    raise InputError(f'{path} {what}')


def read_frames_csv(path: Path) -> dict[str, FrameFacts]:
    """
    Read frames.csv: file name -> facts, in its order.

    Times come from `time_s`, or from `time_local` ('2016:06:23 16:31:59') in s since 1970 as if
    it were UTC. Other columns of FrameFacts may be missing or blank.
    """
    with path.open(newline='', encoding='utf-8') as stream:
        rows = csv.DictReader(stream)
        if 'file' not in (rows.fieldnames or ()):
            raise InputError(f'{path}: expected a column `file`, got {rows.fieldnames!r}')
        facts = {}
        for row in rows:
            if row['file'] in facts:
                raise InputError(f'{path}:{rows.line_num}: {row["file"]!r} stands twice')
            try:
                facts[row['file']] = _facts_of_row(row)
            except ValueError as error:
                raise InputError(f'{path}:{rows.line_num}: {error}') from error
    return facts


def _facts_of_row(row: dict[str, str]) -> FrameFacts:
    values = {name: float(row[name]) if row.get(name) else None
              for name in FrameFacts.__dataclass_fields__}
    if values['time_s'] is None and row.get('time_local'):
        moment = time.strptime(row['time_local'], TIME_LOCAL_FORMAT)
        values['time_s'] = float(calendar.timegm(moment))
    return FrameFacts(**values)


def _decode(path: Path, encoded: bytes) -> np.ndarray:
    """Return BGR; truncated JPEG and PNG files are refused, which OpenCV alone would not do."""
    if path.suffix.lower() in ('.jpg', '.jpeg', '.png'):
        try:
            return decode_compressed(encoded).image_HWC
        except FrameError as error:
            raise InputError(f'{path}: {error}') from error
    image_HWC = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image_HWC is None:
        raise InputError(f'{path}: OpenCV cannot read it as an image')
    return image_HWC
