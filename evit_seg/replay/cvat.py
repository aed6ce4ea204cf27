# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
To the annotation tool CVAT and back: masks in its format "Segmentation mask 1.1".

A zip of `labelmap.txt` (`label:red,green,blue::`), `SegmentationClass/<id>.png` in those colours,
`ImageSets/Segmentation/<subset>.txt` with the ids and, optionally, `JPEGImages/`; see
https://docs.cvat.ai/docs/dataset_management/formats/format-smask. Labels are slugs: CVAT itself
calls what nobody drew on `background`, which is LPCV's slug for it too.

    python -m evit_seg.replay.cvat corrected.zip HARVEST

brings corrected masks back: they replace the model's, and their frames move from the split
`prelabelled` to `train`.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import json
from pathlib import Path, PurePosixPath
import sys
import zipfile

import cv2
from evit_seg.core.errors import ConfigError, EvitSegError, InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, load_label_map, slugify
import numpy as np

Colour = tuple[int, int, int]
IGNORE_LABEL = 'ignore'
"""The label of pixels that are to have none: 255 in our masks."""
IGNORE_COLOURS = ((224, 224, 192), (255, 255, 255), (1, 1, 1))
"""Of these the first that no class has; VOC's colour of void comes first."""
PRELABELLED, CORRECTED = 'prelabelled', 'train'
DATASET_FILE = 'harvest.yaml'


def palette(labels: LabelMap) -> dict[str, Colour]:
    """
    Return label -> RGB of every class, and of IGNORE_LABEL.

    ConfigError where two classes share a colour, or another class than `background` is black:
    CVAT paints black what nobody drew on.
    """
    colours: dict[str, Colour] = {}
    owners: dict[Colour, str] = {(0, 0, 0): 'background'}
    for entry in labels:
        owner = owners.setdefault(entry.colour, entry.slug)
        if owner != entry.slug:
            raise ConfigError(f'colour {entry.colour!r}: expected one class for each colour of '
                              f'the label map, got {entry.slug!r} beside {owner!r}; CVAT cannot '
                              'tell them apart')
        if entry.slug == IGNORE_LABEL:
            raise ConfigError(f'the label map has a class {IGNORE_LABEL!r}, which stands for '
                              'pixels without a label here; give it another slug')
        colours[entry.slug] = entry.colour
    colours[IGNORE_LABEL] = next(c for c in IGNORE_COLOURS if c not in owners)
    return colours


def cvat_labels(labels: LabelMap) -> str:
    """Return the labels as CVAT's raw label editor takes them when a task is made."""
    rows = [{'name': label, 'color': '#{:02x}{:02x}{:02x}'.format(*colour), 'attributes': []}
            for label, colour in palette(labels).items()]
    return json.dumps(rows, indent=1) + '\n'


class CvatWriter:
    """Writes a zip of masks and images, frame by frame; a context manager."""

    def __init__(self, path: Path, labels: LabelMap) -> None:
        self._colours = palette(labels)
        self._bgr = np.zeros((256, 3), np.uint8)
        for entry in labels:
            self._bgr[entry.id] = entry.colour[::-1]
        self._bgr[IGNORE_INDEX] = self._colours[IGNORE_LABEL][::-1]
        self._ids: list[str] = []
        self._zip = zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED)  # images are packed already

    def __enter__(self) -> CvatWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, image_name: str, image: bytes, mask_HW: np.ndarray) -> None:
        """Add a frame: its image file as it is, its mask of class ids and 255."""
        name = Path(image_name).stem
        self._ids.append(name)
        self._put(f'JPEGImages/{image_name}', image)
        self._put(f'SegmentationClass/{name}.png',
                  cv2.imencode('.png', self._bgr[mask_HW])[1].tobytes())

    def close(self) -> None:
        """Write the lists and close the file."""
        rows = ['# label:color_rgb:parts:actions'] + [
            f'{label}:{",".join(map(str, colour))}::' for label, colour in self._colours.items()]
        self._put('labelmap.txt', '\n'.join(rows).encode() + b'\n')
        self._put('ImageSets/Segmentation/default.txt',
                  ''.join(f'{name}\n' for name in self._ids).encode())
        self._zip.close()

    def _put(self, name: str, content: bytes) -> None:
        # With a fixed time, the same frames make the same file.
        self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


class CvatMasks:
    """The masks of a zip from CVAT as class ids; InputError for what does not fit."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, labels: LabelMap) -> None:
        self._zip, self._path = archive, path
        self._names: dict[Colour, str] = {}
        self._ids: dict[Colour, int] = {}
        self.masks = {PurePosixPath(name).stem: name for name in sorted(archive.namelist())
                      if PurePosixPath(name).parent.name == 'SegmentationClass'
                      and name.endswith('.png')}
        if not self.masks:
            raise InputError(f'{path}: expected masks as SegmentationClass/<id>.png, found none; '
                             'export the task as "Segmentation mask 1.1"')
        known = {entry.slug: entry.id for entry in labels}
        known[IGNORE_LABEL] = IGNORE_INDEX
        for label, colour in (self._label_map() or palette(labels)).items():
            owner = self._names.setdefault(colour, label)
            if owner != label:
                raise InputError(f'{path}: labelmap.txt gives colour {colour!r} to {owner!r} and '
                                 f'to {label!r}')
            if slugify(label) in known:
                self._ids[colour] = known[slugify(label)]

    def _label_map(self) -> dict[str, Colour]:
        names = [name for name in self._zip.namelist()
                 if PurePosixPath(name).name == 'labelmap.txt']
        found: dict[str, Colour] = {}
        for line in self._zip.read(names[0]).decode().splitlines() if names else ():
            if not line.strip() or line.startswith('#'):
                continue
            try:
                label, colour = line.split(':')[:2]
                red, green, blue = (int(v) for v in colour.split(','))
            except ValueError:
                raise InputError(f'{self._path}: labelmap.txt: expected label:red,green,blue::, '
                                 f'got {line!r}') from None
            found[label] = (red, green, blue)
        return found

    def read(self, name: str) -> np.ndarray:
        """Return the mask of an id, uint8 (H, W): class ids, 255 without a label."""
        member = self.masks[name]
        pixels = cv2.imdecode(np.frombuffer(self._zip.read(member), np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise InputError(f'{self._path}: {member}: expected a PNG, it cannot be decoded')
        codes_HW = pixels.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)  # BGR
        mask_HW = np.zeros(codes_HW.shape, np.uint8)
        for code in np.unique(codes_HW):
            red, green, blue = (int(code) >> shift & 255 for shift in (16, 8, 0))
            here_HW = codes_HW == code
            colour = (red, green, blue)
            if colour not in self._ids:
                label = self._names.get(colour)
                whose = f'of label {label!r} ' if label else ''
                raise InputError(
                    f'{self._path}: {member}: colour {colour!r} {whose}on '
                    f'{int(here_HW.sum())} pixels is no class of the data set; draw them as one '
                    f'of its labels, or as {IGNORE_LABEL!r} to leave them out')
            mask_HW[here_HW] = self._ids[colour]
        return mask_HW


@contextmanager
def open_masks(path: Path, labels: LabelMap) -> Iterator[CvatMasks]:
    """Open a zip from CVAT; InputError where it is none."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f'{path} cannot be read as a zip: {error}') from error
    with archive:
        yield CvatMasks(archive, path, labels)


def bring_back(path: Path, harvest: Path) -> list[str]:
    """
    Take corrected masks over into a harvest; return their ids.

    Every mask is looked at before the first file is written: InputError for an unknown colour,
    another size or an id without an image leaves the folder as it was. The images move to the
    split `train`; those that CVAT does not bring stay `prelabelled`.
    """
    dataset = harvest / DATASET_FILE
    if not dataset.is_file():
        raise InputError(f'{dataset} is not there: expected a folder that bag_eval --harvest '
                         'wrote')
    with open_masks(path, load_label_map(dataset)) as masks:
        images = {name: _image(harvest, name) for name in masks.masks}
        for name, image in images.items():
            _check_size(masks.read(name), image)
        for folder in ('IMG', 'GT'):
            (harvest / CORRECTED / folder).mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            mask = harvest / CORRECTED / 'GT' / f'{name}.png'
            if not cv2.imwrite(str(mask), masks.read(name)):
                raise InputError(f'{mask} cannot be written')
            image.replace(harvest / CORRECTED / 'IMG' / image.name)
            (harvest / PRELABELLED / 'GT' / f'{name}.png').unlink(missing_ok=True)
    left = harvest / PRELABELLED
    for path in (left / 'IMG', left / 'GT', left):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # to whoever checks the data set, an empty split is an error
    return list(images)


def _image(harvest: Path, name: str) -> Path:
    for split in (PRELABELLED, CORRECTED):  # corrected once more
        for suffix in ('.jpg', '.png'):
            image = harvest / split / 'IMG' / f'{name}{suffix}'
            if image.is_file():
                return image
    raise InputError(f'{harvest} has no image {name}.jpg or .png in {PRELABELLED}/IMG or '
                     f'{CORRECTED}/IMG; is the zip of another harvest?')


def _check_size(mask_HW: np.ndarray, image: Path) -> None:
    read = cv2.imread(str(image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if read is None or read.shape[:2] != mask_HW.shape:
        got = 'no picture' if read is None else f'{read.shape[1]}x{read.shape[0]}'
        raise InputError(f'{image}: expected {mask_HW.shape[1]}x{mask_HW.shape[0]} as the mask '
                         f'has, got {got}')


def main(argv: Sequence[str] | None = None) -> int:
    """Bring masks back from the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m evit_seg.replay.cvat', description='Take masks that were corrected in '
        'CVAT over into the folder that bag_eval --harvest wrote.')
    parser.add_argument('zip', type=Path, metavar='ZIP',
                        help='export of the task as "Segmentation mask 1.1"')
    parser.add_argument('harvest', type=Path, metavar='HARVEST')
    args = parser.parse_args(argv)
    try:
        ids = bring_back(args.zip, args.harvest)
    except EvitSegError as error:
        print(f'cvat: {error}', file=sys.stderr)
        return error.exit_code
    left = len(list((args.harvest / PRELABELLED / 'IMG').glob('*')))
    print(f'{len(ids)} corrected frames are in {args.harvest / CORRECTED}, {left} are left with '
          'the labels of the model')
    return 0


if __name__ == '__main__':
    sys.exit(main())
