# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bad data is found, named with its file, and stops a run before its first step."""
from __future__ import annotations

import json
import subprocess
import sys

import cv2
from evit_seg.core.errors import InputError
import numpy as np
from offline_train import cli
from offline_train.data.dataset import load_dataset
from offline_train.data.dataset_check import check
from offline_train.data.dataset_duplicates import difference_hash, near_pairs
from offline_train.data.dataset_frames import DatasetFrames
from offline_train.data.dataset_split import open_split
import pytest

SPEC = load_dataset('synthetic')


def scene(seed):
    cells = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    return cv2.resize(cells, (72, 64), interpolation=cv2.INTER_CUBIC)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def root(tmp_path):
    """Two sound pairs in train, one in val."""
    for seed, (split, name) in enumerate((('train', 'a'), ('train', 'b'), ('val', 'c'))):
        write(tmp_path / split / 'IMG' / f'{name}.jpg', scene(seed))
        write(tmp_path / split / 'GT' / f'{name}.png', np.full((64, 72), seed, np.uint8))
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def as_jpeg(path):
    path.write_bytes(cv2.imencode('.jpg', np.zeros((64, 72), np.uint8))[1].tobytes())


BAD_FILES = [
    ('GT/b.png', cut, 'unreadable', 'truncated'),
    ('IMG/b.jpg', cut, 'unreadable', 'truncated'),
    ('IMG/b.jpg', lambda p: p.write_bytes(b''), 'unreadable', 'empty'),
    ('GT/b.png', lambda p: p.write_bytes(b'no image'), 'unreadable', 'expected a PNG'),
    ('GT/b.png', as_jpeg, 'unreadable', 'values are exact'),
    ('GT/b.png', lambda p: write(p, np.zeros((64, 72, 3), np.uint8)), 'unreadable',
     'got 3 channels of 8 bits, all equal'),
    ('GT/b.png', lambda p: write(p, scene(5)), 'unreadable', 'mask.encoding: colours'),
    ('GT/b.png', lambda p: write(p, np.zeros((64, 72), np.uint16)), 'unreadable', '16 bits'),
    ('GT/b.png', lambda p: write(p, np.full((64, 72), 200, np.uint8)), 'unknown_value', '200'),
    ('GT/b.png', lambda p: write(p, np.full((64, 72), 254, np.uint8)), 'unknown_value', '254'),
    ('GT/b.png', lambda p: write(p, np.zeros((72, 64), np.uint8)), 'shape',
     "expected the image's size 72x64, got 64x72 (turned"),
]


@pytest.mark.parametrize(('file', 'spoil', 'kind', 'said'), BAD_FILES)
def test_a_bad_file_is_found_and_stops_training(root, file, spoil, kind, said):
    spoil(root / 'train' / file)
    finding, = check(SPEC, root, progress=False)['findings']
    assert (finding['kind'], finding['split'], finding['file']) == (kind, 'train', f'train/{file}')
    assert said in finding['message']
    with pytest.raises(InputError) as stopped:
        DatasetFrames(SPEC, open_split(SPEC, root, 'train'))
    assert str(root / 'train' / file) in str(stopped.value)


def test_webp_named_jpg_is_read_and_cut_webp_is_found(root):
    data = cv2.imencode('.webp', scene(7))[1].tobytes()
    path = root / 'train' / 'IMG' / 'b.jpg'
    path.write_bytes(data)
    assert check(SPEC, root, progress=False)['findings'] == []
    path.write_bytes(data[:-30])
    finding, = check(SPEC, root, progress=False)['findings']
    assert finding['kind'] == 'unreadable' and 'WebP' in finding['message']


def test_missing_masks_and_images(root):
    (root / 'train' / 'GT' / 'a.png').unlink()
    (root / 'train' / 'IMG' / 'b.jpg').unlink()
    found = {f['kind']: f['file'] for f in check(SPEC, root, progress=False)['findings']}
    assert found == {'missing_mask': 'train/IMG/a.jpg', 'missing_image': 'train/GT/b.png'}
    with pytest.raises(InputError, match=r'IMG/a\.jpg: expected a mask'):
        open_split(SPEC, root, 'train')


def test_two_images_of_one_id(root):
    write(root / 'train' / 'IMG' / 'a.png', scene(9))
    finding, = check(SPEC, root, progress=False)['findings']
    assert (finding['kind'], finding['file']) == ('ambiguous', 'train/IMG/a.png')
    with pytest.raises(InputError, match=r'a\.jpg: expected one file of that id'):
        open_split(SPEC, root, 'train')


def test_an_unlabelled_mask(root):
    write(root / 'train' / 'GT' / 'a.png', np.full((64, 72), 255, np.uint8))
    finding, = check(SPEC, root, progress=False)['findings']
    assert (finding['kind'], finding['file']) == ('unlabelled', 'train/GT/a.png')


def test_empty_and_foreign_folders(root, tmp_path_factory):
    for path in (root / 'val' / 'IMG').iterdir():
        path.rename(path.with_suffix('.bmp'))
    found = check(SPEC, root, progress=False)['findings']
    assert [f['kind'] for f in found] == ['empty', 'missing_image']
    assert found[0]['file'] == 'val/IMG' and 'val/IMG/{id}.jpg' in found[0]['message']
    with pytest.raises(InputError, match='expected images such as val/IMG'):
        open_split(SPEC, root, 'val')
    empty = tmp_path_factory.mktemp('nothing')
    with pytest.raises(InputError, match=r'nothing.*is it the folder of evit_seg synthetic'):
        check(SPEC, empty, progress=False)


def test_the_split_list_and_the_folder_disagree(tmp_path):
    for seed, name in enumerate(('1', '2')):
        write(tmp_path / 'train' / 'IMG' / f'{name}.jpg', scene(seed))
        write(tmp_path / 'train' / 'GT' / f'{name}.png', np.full((64, 72), 7, np.uint8))
    (tmp_path / 'SPLIT.json').write_text(json.dumps({'train': ['1', '3']}))
    report = check(load_dataset('flood_area'), tmp_path, progress=False)
    said = {f['file']: f['message'] for f in report['findings']}
    assert said == {'train/IMG/2.jpg': 'is not in train of SPLIT.json',
                    'SPLIT.json': "names '3' in train, but there is no image of that id"}


def test_duplicates_and_near_duplicates_across_splits(root):
    original = root / 'train' / 'IMG' / 'a.jpg'
    for split, name in (('train', 'same'), ('val', 'near')):
        write(root / split / 'GT' / f'{name}.png', np.full((64, 72), 1, np.uint8))
    (root / 'train' / 'IMG' / 'same.jpg').write_bytes(original.read_bytes())
    darker = (cv2.imread(str(original)) * 0.8).astype(np.uint8)
    write(root / 'val' / 'IMG' / 'near.jpg', darker)
    found = check(SPEC, root, progress=False)['findings']
    assert [(f['kind'], f['file']) for f in found][:1] == [('duplicate', 'train/IMG/same.jpg')]
    assert {f['kind'] for f in found[1:]} == {'near_duplicate'}
    assert all(f['file'] == 'val/IMG/near.jpg' for f in found[1:])
    found = check(SPEC, root, near_bits=-1, progress=False)['findings']
    assert [f['kind'] for f in found] == ['duplicate']


def test_hashes_are_compared_bit_by_bit_between_groups_only():
    one = np.zeros(64, bool)
    other = one.copy()
    other[:6] = True
    far = ~one
    assert near_pairs([one, other, far, one], [0, 1, 1, 0], 6) == [(0, 1, 6), (3, 1, 6)]
    assert near_pairs([one, other, far, one], [0, 1, 1, 0], 5) == []
    assert near_pairs([one, None], [0, 1], 64) == []
    assert difference_hash(np.full((64, 72, 3), 90, np.uint8)) is None
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (64, 90, 3))
    assert difference_hash(np.ascontiguousarray(ramp)).all()


def test_pixels_and_images_are_counted_per_class_and_split(root):
    mask = np.full((64, 72), 10, np.uint8)
    mask[:2] = 255
    write(root / 'train' / 'GT' / 'a.png', mask)
    report = check(SPEC, root, jobs=2, progress=False)
    rows = {row['slug']: row for row in report['classes']}
    assert rows['person']['pixels'] == {'train': 62 * 72, 'val': 0}
    assert rows['person']['images'] == {'train': 1, 'val': 0}
    assert rows['ignore']['pixels'] == {'train': 2 * 72, 'val': 0}
    assert rows['building_undamaged']['images'] == {'train': 0, 'val': 1}
    assert report['absent'] == ['flight']
    assert report['splits']['train']['ids'] == ['a', 'b']


def test_the_command_and_its_exit_codes(root, tmp_path_factory, capsys):
    assert cli.main(['datasets', 'list']) == 0
    assert 'cityscapes        19 classes' in capsys.readouterr().out
    command = ['datasets', 'check', 'synthetic', '--root']
    assert cli.main([*command, str(root)]) == 0
    printed = capsys.readouterr().out
    assert 'no findings' in printed and 'not there: flight' in printed
    cut(root / 'train' / 'GT' / 'b.png')
    out = tmp_path_factory.mktemp('out') / 'report.json'
    assert cli.main([*command, str(root), '--split', 'train', '--json', str(out)]) == 1
    assert 'train/GT/b.png: PNG: expected chunks' in capsys.readouterr().out
    assert json.loads(out.read_text())['findings'][0]['file'] == 'train/GT/b.png'
    assert cli.main([*command, str(root), '--split', 'val', '--json', '-']) == 0
    assert json.loads(capsys.readouterr().out)['splits']['val']['images'] == 1
    assert cli.main([*command, str(root / 'train')]) == 2
    assert 'is it the folder of' in capsys.readouterr().err
    assert cli.main([*command, str(root), '--jobs', '0']) == 1


def test_the_command_needs_no_torch():
    code = "import sys, offline_train.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False, timeout=120).returncode == 0
