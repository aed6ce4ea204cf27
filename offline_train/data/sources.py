# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a run learns from and is scored on, as its configuration names it."""
from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap, load_label_map
import numpy as np
from offline_train.config import DataConfig
from offline_train.data.dataset import load_dataset
from offline_train.data.dataset_frames import DatasetReader
from offline_train.data.dataset_masks import read_image
from offline_train.data.dataset_split import data_entry, open_split
from offline_train.data.folder import (
    Frames,
    IMAGE_SUFFIXES,
    list_pairs,
    open_frames,
    open_pairs,
    split_sha256,
)


@dataclass(frozen=True)
class Sources:
    """Opened data: every file was read once, so a bad one was named before the first step."""

    label_map: LabelMap
    train: Optional[Frames]
    validation: Optional[Frames]
    unlabeled: Optional[Frames]
    entry: Dict[str, Any]
    """What the manifest says of the training data."""


def label_map_of(config: DataConfig) -> LabelMap:
    """Return the classes a configuration's data are labelled with; nothing else is opened."""
    if config.dataset:
        return load_dataset(config.dataset).label_map
    return load_label_map(Path(config.label_map) if config.label_map else None)


def open_sources(config: DataConfig) -> Sources:
    """
    Open the data set or the folders a configuration names, masks checked.

    ConfigError where it names both or neither, InputError for a bad or missing file.
    """
    unlabeled = UnlabeledFrames(list_images(config.unlabeled)) if config.unlabeled else None
    if config.dataset:
        return _open_dataset(config, unlabeled)
    if not config.train and unlabeled is None:
        raise ConfigError('data: expected dataset and root, or train folders with IMG/ and GT/, '
                          'such as data.train=[scenes/train], or unlabeled folders for a teacher')
    label_map = label_map_of(config)
    train, validation = (open_frames(folders, label_map, config.cache) if folders else None
                         for folders in (config.train, config.validation))
    entry = {'name': config.name, 'licence': config.licence, 'url': config.url}
    if config.train:
        entry['split_sha256'] = split_sha256(list_pairs(config.train))
    return Sources(label_map, train, validation, unlabeled, entry)


def _open_dataset(config: DataConfig, unlabeled: Optional[Frames]) -> Sources:
    if config.train or config.validation or config.label_map:
        raise ConfigError(f'data: expected the data set {config.dataset!r} or the folders of '
                          'train, validation and a label_map, got both')
    spec = load_dataset(config.dataset)
    root = spec.at(config.root)
    reader = DatasetReader(spec)
    split = open_split(spec, root, config.train_split)
    validation = open_pairs(open_split(spec, root, config.validation_split).pairs, reader,
                            config.cache) if config.validation_split else None
    return Sources(spec.label_map, open_pairs(split.pairs, reader, config.cache), validation,
                   unlabeled, data_entry(spec, split))


class UnlabeledFrames:
    """Images without masks: every pixel is 255, so that only a teacher can say what they show."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self.counts = np.zeros((len(self._paths), 0), np.int64)
        for path in self._paths:
            read_image(path)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return the RGB image (H, W, 3) and a mask (H, W) of 255."""
        image = cv2.cvtColor(read_image(self._paths[index]), cv2.COLOR_BGR2RGB)
        return image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8)


def list_images(folders: Sequence[str | Path]) -> List[Path]:
    """Return the images in folders and all folders below, by path; InputError for none."""
    found = []
    for folder in map(Path, folders):
        here = sorted(Path(top) / name for top, _, names in os.walk(folder, followlinks=True)
                      for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
        if not here:
            raise InputError(f'{folder}: expected a folder with {", ".join(IMAGE_SUFFIXES)}, '
                             'found no such file')
        found += here
    return found
