# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a data set's YAML may say, and how masks are read and splits hashed by it."""
from __future__ import annotations

import hashlib
import json
import random

import cv2
from evit_seg.core.errors import ConfigError, InputError
import numpy as np
from offline_train.data.dataset import load_dataset
from offline_train.data.dataset_masks import MaskReader
from offline_train.data.dataset_split import data_entry, open_split
import pytest
import yaml

PLAIN = {'name': 'mine', 'licence': 'none', 'images': ['{split}/IMG/{id}.png'],
         'masks': ['{split}/GT/{id}.png'], 'splits': {'train': 'train', 'val': 'val'},
         'mask': {'encoding': 'ids'}}
COLOURS = {'encoding': 'colours', 'sources': [
    {'name': 'person', 'colour': [255, 22, 96], 'to': 'person'},
    {'name': 'conflicting', 'colour': [255, 0, 0], 'to': 'ignore'}]}


def described(tmp_path, **changes):
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump({**PLAIN, **changes}))
    return load_dataset(path)


def write_pair(root, split, name, value=3):
    rng = np.random.default_rng([*split.encode(), *name.encode()])
    for part, pixels in (('IMG', rng.integers(0, 256, (8, 8, 3), np.uint8)),
                         ('GT', np.full((8, 8), value, np.uint8))):
        (root / split / part).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / split / part / f'{name}.png'), pixels)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'licens': 'x'}, r"unknown key 'licens'; did you mean 'licence'"),
    ({'mask': {'encodin': 'ids'}}, r"unknown key 'mask.encodin'; did you mean 'encoding'"),
    ({'mask': {'sources': [{'id': 1, 'too': 'person'}]}}, r"'mask.sources\[0\].too'.*'to'"),
    ({'mask': {'sources': [{'id': 1, 'to': 'persn'}]}}, r"class 'persn'; did you mean 'person'"),
    ({'mask': {'sources': [{'id': 1}]}}, r'mask.sources\[0\].to: expected a value'),
    ({'mask': {'encoding': 'palette'}}, 'expected one of ids, colours, threshold'),
    ({'mask': {'encoding': 'colours'}}, r'expected a colour \[r, g, b\]'),
    ({'mask': {'encoding': 'threshold', 'above': 'fire_flare', 'otherwise': ''}},
     'mask.otherwise: unknown class'),
    ({'mask': {'sources': [{'id': 1, 'to': 'person'}, {'id': 1, 'to': 'vehicle'}]}}, 'twice'),
    ({'mask': {'sources': [{'id': 256, 'to': 'person'}]}}, 'expected ids 0 to 255, got 256'),
    ({'mask': {'first_id': 250}}, 'mask.first_id: expected 0 to 242'),
    ({'mask': []}, r'mask: expected a section with keys, got \[\]'),
    ({'images': 'IMG/{id}.png'}, 'images: expected a list'),
    ({'images': ['IMG/{split}.png']}, r'expected patterns below the root with \{id\} once'),
    ({'images': ['../{split}/{id}.png']}, r"got '\.\./"),
    ({'masks': ['GT/{id}.png']}, r'expected \{split\}'),
    ({'splits': {'train': 3}}, 'splits.train: expected str, got 3'),
    ({'licence': True}, 'licence: expected str, got True'),
    ({'classes': [{'id': 0}]}, 'expected id, name and colour'),
])
def test_a_wrong_yaml_says_where_and_what(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        described(tmp_path, **changes)


def test_names_files_and_roots_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"'cityscape'; did you mean 'cityscapes'"):
        load_dataset('cityscape')
    with pytest.raises(InputError, match=r'gone\.yaml: expected a readable YAML'):
        load_dataset(tmp_path / 'gone.yaml')
    spec = described(tmp_path)
    with pytest.raises(ConfigError, match='--root DIR'):
        spec.at(None)
    with pytest.raises(InputError, match='nowhere: expected the folder of mine'):
        spec.at(tmp_path / 'nowhere')
    with pytest.raises(ConfigError, match=r"unknown split 'trian'; did you mean 'train'"):
        spec.folder_of('trian')
    assert described(tmp_path, root=str(tmp_path)).at(None) == tmp_path


def test_source_ids_may_be_mapped_to_our_classes(tmp_path):
    spec = described(tmp_path, mask={'sources': [{'id': 24, 'name': 'person', 'to': 'person'},
                                                 {'id': 25, 'name': 'rider', 'to': 'person'},
                                                 {'id': 26, 'name': 'car', 'to': 'vehicle'}]})
    cv2.imwrite(str(tmp_path / 'm.png'), np.array([[24, 25, 26, 27]], np.uint8))
    mask = MaskReader(spec).read(tmp_path / 'm.png')
    assert mask.ids_HW.tolist() == [[10, 10, 13, 255]]
    assert mask.unknown == {(27,): 1}


def test_colours_are_rgb_and_unknown_ones_are_counted(tmp_path):
    rgb = np.array([[[255, 22, 96], [255, 0, 0], [96, 22, 255], [96, 22, 255]]], np.uint8)
    cv2.imwrite(str(tmp_path / 'm.png'), rgb[..., ::-1])
    mask = MaskReader(described(tmp_path, mask=COLOURS)).read(tmp_path / 'm.png')
    assert mask.ids_HW.tolist() == [[10, 255, 255, 255]]
    assert mask.unknown == {(96, 22, 255): 2}


@pytest.mark.parametrize('channels', [1, 3])
def test_a_threshold_takes_grey_and_colour_files(tmp_path, channels):
    spec = described(tmp_path, mask={'encoding': 'threshold', 'threshold': 127,
                                     'above': 'flood_water_river_sea', 'otherwise': 'not_flood'})
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    cv2.imwrite(str(tmp_path / 'm.png'), grey if channels == 1 else cv2.merge([grey] * 3))
    assert MaskReader(spec).read(tmp_path / 'm.png').ids_HW.tolist() == [[254, 254, 7, 7]]


def test_the_split_hash_is_that_of_the_sorted_ids_whatever_the_order_of_the_files(tmp_path):
    names = [f'{i:03d}' for i in range(12)]
    hashes = set()
    for attempt in range(3):
        root = tmp_path / str(attempt)
        random.Random(attempt).shuffle(names)
        for name in names:
            write_pair(root, 'train', name)
        hashes.add(open_split(described(tmp_path), root, 'train').sha256)
    lines = ''.join(f'{name}\n' for name in sorted(names))
    assert hashes == {hashlib.sha256(lines.encode()).hexdigest()}


def test_the_manifest_entry_follows_ids_and_labels(tmp_path):
    spec = described(tmp_path, url='https://example.org')
    write_pair(tmp_path, 'train', 'a')
    first = data_entry(spec, open_split(spec, tmp_path, 'train'))
    assert {key: first[key] for key in ('name', 'licence', 'url', 'split', 'images')} == {
        'name': 'mine', 'licence': 'none', 'url': 'https://example.org', 'split': 'train',
        'images': 1}
    write_pair(tmp_path, 'train', 'a', value=4)
    relabelled = data_entry(spec, open_split(spec, tmp_path, 'train'))
    assert relabelled['split_sha256'] == first['split_sha256']
    assert relabelled['masks_sha256'] != first['masks_sha256']
    write_pair(tmp_path, 'train', 'b')
    grown = data_entry(spec, open_split(spec, tmp_path, 'train'))
    assert grown['split_sha256'] != first['split_sha256']


def test_a_split_list_chooses_from_one_folder(tmp_path):
    for name in 'abc':
        write_pair(tmp_path, 'all', name)
    (tmp_path / 'lists.json').write_text(json.dumps({'train': ['c', 'a'], 'val': ['b']}))
    spec = described(tmp_path, images=['all/IMG/{id}.png'], masks=['all/GT/{id}.png'],
                     split_list='lists.json')
    assert open_split(spec, tmp_path, 'train').ids == ('a', 'c')
    assert open_split(spec, tmp_path, 'val').ids == ('b',)
    (tmp_path / 'lists.json').write_text(json.dumps({'train': ['d'], 'val': []}))
    with pytest.raises(InputError, match=r"lists\.json: names 'd' in train"):
        open_split(spec, tmp_path, 'train')
    (tmp_path / 'lists.json').unlink()
    with pytest.raises(InputError, match=r'lists\.json: expected a readable JSON'):
        open_split(spec, tmp_path, 'train')
