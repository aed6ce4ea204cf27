# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Each shipped YAML on a stand-in folder of two images, named as the real set's files are."""
from __future__ import annotations

import json

import cv2
from evit_seg.core.labels import load_label_map
import numpy as np
from offline_train.data.dataset import load_dataset, shipped_datasets
from offline_train.data.dataset_check import check
from offline_train.data.dataset_frames import DatasetFrames
from offline_train.data.dataset_split import open_split
import pytest

# data set -> image and mask of two pairs, values of the mask's halves, what those become
STAND_INS = {
    'lpcv2023': (
        [('LPCVC_Train_Updated/LPCVC_Train_Updated/IMG/train/train_0000.png',
          'LPCVC_Train_Updated/LPCVC_Train_Updated/GT_Updated/train/train_0000.png'),
         ('LPCVC_Val/IMG/val/val_0000.png', 'LPCVC_Val/GT/val/val_0000.png')],
        (10, 255), (10, 255)),
    'cityscapes': (
        [('leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png',
          'gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png'),
         ('leftImg8bit/val/lindau/lindau_000001_000019_leftImg8bit.png',
          'gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png')],
        (24, 9), (11, 255)),
    'ade20k': (
        [('images/training/ADE_train_00000001.jpg',
          'annotations/training/ADE_train_00000001.png'),
         ('images/validation/ADE_val_00000001.jpg',
          'annotations/validation/ADE_val_00000001.png')],
        (150, 0), (149, 255)),
    'semantic_drone': (
        [('train/IMG/000.jpg', 'train/GT/000.png'), ('val/IMG/300.jpg', 'val/GT/300.png')],
        (13, 255), (13, 255)),
    'flood_area': (
        [('train/IMG/1.jpg', 'train/GT/1.png'), ('val/IMG/7.jpg', 'val/GT/7.png')],
        (7, 254), (7, 255)),
    'synthetic': (
        [('train/IMG/scene_000000.jpg', 'train/GT/scene_000000.png'),
         ('val/IMG/scene_000001.jpg', 'val/GT/scene_000001.png')],
        (6, 0), (6, 0)),
}


def stand_in(root, name):
    pairs, halves, _ = STAND_INS[name]
    rng = np.random.default_rng(sorted(STAND_INS).index(name))
    mask = np.repeat(np.array([halves], np.uint8), 12, axis=0).repeat(8, axis=1)
    for image_path, mask_path in pairs:
        for path, pixels in ((image_path, rng.integers(0, 256, (12, 16, 3), np.uint8)),
                             (mask_path, mask)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / path), pixels)
    if load_dataset(name).split_list:
        ids = [path.rsplit('/', 1)[1][:-len('.png')] for _, path in pairs]
        (root / 'SPLIT.json').write_text(json.dumps({'train': ids[:1], 'val': ids[1:]}))
    return pairs


def test_every_shipped_data_set_has_a_stand_in():
    assert set(shipped_datasets()) == set(STAND_INS)


@pytest.mark.parametrize('name', STAND_INS)
def test_the_real_names_are_found_and_the_masks_mapped(tmp_path, name):
    pairs = stand_in(tmp_path, name)
    spec = load_dataset(name)
    for split, (image_path, mask_path) in zip(('train', 'val'), pairs, strict=True):
        opened = open_split(spec, tmp_path, split)
        assert [(p.image, p.mask) for p in opened.pairs] == [(tmp_path / image_path,
                                                              tmp_path / mask_path)]
        image, mask = DatasetFrames(spec, opened).read(0)
        assert image.shape == (12, 16, 3) and mask.dtype == np.uint8
        assert (mask[:, :8] == STAND_INS[name][2][0]).all()
        assert (mask[:, 8:] == STAND_INS[name][2][1]).all()


@pytest.mark.parametrize('name', STAND_INS)
def test_a_sound_stand_in_has_no_findings(tmp_path, name):
    stand_in(tmp_path, name)
    spec = load_dataset(name)
    report = check(spec, tmp_path, progress=False)
    assert report['findings'] == []
    assert list(report['splits']) == ['train', 'val']
    assert sum(sum(row['pixels'].values()) for row in report['classes']) == 2 * 12 * 16
    json.dumps(report)


def test_254_stays_only_where_the_flood_iou_wants_it(tmp_path):
    stand_in(tmp_path, 'flood_area')
    spec = load_dataset('flood_area')
    split = open_split(spec, tmp_path, 'val')
    assert set(np.unique(DatasetFrames(spec, split, keep_not_flood=True).read(0)[1])) == {7, 254}
    frames = DatasetFrames(spec, split)
    assert set(np.unique(frames.read(0)[1])) == {7, 255}
    assert frames.counts.sum() == frames.counts[0, 7] == 12 * 8


def test_corrected_masks_of_lpcv_come_first_and_the_others_fill_in(tmp_path):
    for part, name, value in (('IMG', 'train_0000', 9), ('IMG', 'train_0001', 99),
                              ('GT', 'train_0000', 1), ('GT', 'train_0001', 2),
                              ('GT_Updated', 'train_0000', 3)):
        path = tmp_path / part / 'train' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((4, 4), value, np.uint8))
    spec = load_dataset('lpcv2023')
    frames = DatasetFrames(spec, open_split(spec, tmp_path, 'train'))
    assert [int(frames.read(i)[1][0, 0]) for i in range(2)] == [3, 2]


def test_label_maps():
    assert load_dataset('lpcv2023').label_map == load_label_map()
    cityscapes = load_dataset('cityscapes').label_map
    assert len(cityscapes) == 19
    assert (cityscapes.slugs[0], cityscapes.slugs[18]) == ('road', 'bicycle')
    ade20k = load_dataset('ade20k').label_map
    assert len(ade20k) == 150
    assert (ade20k.slugs[0], ade20k.slugs[12], ade20k.slugs[149]) == ('wall', 'person', 'flag')
    assert load_label_map(shipped_datasets()['cityscapes']) == cityscapes
