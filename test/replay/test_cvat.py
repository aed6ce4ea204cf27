# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Masks that come back from CVAT: strictly its colours, and nothing is touched when one is odd."""
from __future__ import annotations

from pathlib import Path
import zipfile

import cv2
from evit_seg.core.errors import InputError
from evit_seg.core.labels import load_label_map
from evit_seg.replay.cvat import bring_back, CvatWriter, main
from evit_seg.replay.harvest_files import dataset_yaml
import numpy as np
from offline_train.data.dataset import load_dataset
from offline_train.data.dataset_check import check
import pytest

ROAD, PERSON = 12, 10
COLOURS = {'background': (0, 0, 0), 'person': (250, 50, 83), 'road_railway_bridge': (9, 8, 7),
           'ignore': (224, 224, 192), 'tree': (1, 2, 3)}
"""As a task may have them: chosen anew, with a label too many."""


@pytest.fixture
def harvest(tmp_path) -> Path:
    """Return a harvest of two frames, 6 x 4."""
    folder = tmp_path / 'h'
    rng = np.random.default_rng(4)
    for kind in ('IMG', 'GT'):
        (folder / 'prelabelled' / kind).mkdir(parents=True)
    for name in 'ab':
        cv2.imwrite(str(folder / 'prelabelled' / 'IMG' / f'{name}.png'),
                    rng.integers(0, 256, (4, 6, 3), np.uint8))
        cv2.imwrite(str(folder / 'prelabelled' / 'GT' / f'{name}.png'),
                    np.full((4, 6), ROAD, np.uint8))
    (folder / 'harvest.yaml').write_text(dataset_yaml(load_label_map(), folder))
    return folder


def painted(*rows):
    """Return a PNG of one row of six pixels for each label, repeated to four rows."""
    image = np.array([[COLOURS[label][::-1]] * 6 for label in rows], np.uint8)
    return cv2.imencode('.png', image)[1].tobytes()


def export(path, masks, labelmap=True, folder=''):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, mask in masks.items():
            archive.writestr(f'{folder}SegmentationClass/{name}.png', mask)
        if labelmap:
            rows = ''.join(f'{label}:{r},{g},{b}::\n' for label, (r, g, b) in COLOURS.items())
            archive.writestr(f'{folder}labelmap.txt', f'# label:color_rgb:parts:actions\n{rows}')
    return path


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def test_a_corrected_mask_moves_its_frame_to_train(harvest, tmp_path, capsys):
    image = (harvest / 'prelabelled' / 'IMG' / 'a.png').read_bytes()
    given = export(tmp_path / 'x.zip', {'a': painted('background', 'person', 'road_railway_bridge',
                                                     'ignore')})
    assert main([str(given), str(harvest)]) == 0
    assert '1 corrected frames' in (said := capsys.readouterr().out) and ', 1 are left' in said
    mask = cv2.imread(str(harvest / 'train' / 'GT' / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert mask.tolist() == [[value] * 6 for value in (0, PERSON, ROAD, 255)]
    assert (harvest / 'train' / 'IMG' / 'a.png').read_bytes() == image
    assert sorted(path.name for path in (harvest / 'prelabelled').rglob('*.png')) == [
        'b.png', 'b.png']
    spec = load_dataset(harvest / 'harvest.yaml')
    report = check(spec, harvest, progress=False)
    assert report['findings'] == [] and set(report['splits']) == {'train', 'prelabelled'}


def test_once_all_are_corrected_the_other_split_is_gone(harvest, tmp_path, capsys):
    given = export(tmp_path / 'x.zip', {name: painted(*['person'] * 4) for name in 'ab'})
    assert main([str(given), str(harvest)]) == 0
    assert ' 0 are left' in capsys.readouterr().out
    report = check(load_dataset(harvest / 'harvest.yaml'), harvest, progress=False)
    assert (report['findings'], report['absent']) == ([], ['prelabelled'])


def test_what_was_corrected_may_be_corrected_again(harvest, tmp_path):
    for label, value in (('person', PERSON), ('road_railway_bridge', ROAD)):
        assert bring_back(export(tmp_path / 'x.zip', {'a': painted(*[label] * 4)}),
                          harvest) == ['a']
        mask = cv2.imread(str(harvest / 'train' / 'GT' / 'a.png'), cv2.IMREAD_UNCHANGED)
        assert (mask == value).all()


def test_our_own_zip_comes_back_as_it_went(harvest, tmp_path):
    mask_HW = np.array([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 255, 0, 0, 0],
                        [0, 0, 0, 0, 0, 0]], np.uint8)
    with CvatWriter(tmp_path / 'x.zip', load_label_map()) as writer:
        writer.add('b.png', b'', mask_HW)
    assert bring_back(tmp_path / 'x.zip', harvest) == ['b']
    assert (cv2.imread(str(harvest / 'train' / 'GT' / 'b.png'), cv2.IMREAD_UNCHANGED)
            == mask_HW).all()


def test_a_zip_with_a_folder_around_it(harvest, tmp_path):
    assert bring_back(export(tmp_path / 'x.zip', {'a': painted(*['person'] * 4)},
                             folder='task/'), harvest) == ['a']


@pytest.mark.parametrize('masks, options, said', [
    ({'a': painted(*['person'] * 4), 'b': painted('person', 'tree', 'person', 'person')}, {},
     r"SegmentationClass/b.png: colour \(1, 2, 3\) of label 'tree' on 6 pixels"),
    ({'a': painted(*['person'] * 4)}, {'labelmap': False}, r'colour \(250, 50, 83\) on 24 pixels'),
    ({'a': painted(*['person'] * 3)}, {}, 'expected 6x3 as the mask has, got 6x4'),
    ({'a': painted(*['person'] * 4), 'z': painted(*['person'] * 4)}, {}, 'has no image z.jpg'),
    ({'a': b'no picture'}, {}, 'expected a PNG'),
    ({}, {}, 'expected masks as SegmentationClass/<id>.png, found none')])
def test_what_does_not_fit_is_named_and_nothing_is_touched(harvest, tmp_path, masks, options,
                                                           said):
    before = snapshot(harvest)
    with pytest.raises(InputError, match=said):
        bring_back(export(tmp_path / 'x.zip', masks, **options), harvest)
    assert snapshot(harvest) == before


def test_two_labels_of_one_colour_are_refused(harvest, tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        archive.writestr('SegmentationClass/a.png', painted(*['person'] * 4))
        archive.writestr('labelmap.txt', 'person:250,50,83::\nvehicle:250,50,83::\n')
    with pytest.raises(InputError, match="to 'person' and to 'vehicle'"):
        bring_back(tmp_path / 'x.zip', harvest)


@pytest.mark.parametrize('content', ['person', 'person:red::', 'person:1,2::'])
def test_a_label_map_that_cannot_be_read_is_named(harvest, tmp_path, content):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
        archive.writestr('SegmentationClass/a.png', painted(*['person'] * 4))
        archive.writestr('labelmap.txt', content)
    with pytest.raises(InputError, match='expected label:red,green,blue::'):
        bring_back(tmp_path / 'x.zip', harvest)


def test_no_zip_and_no_harvest(harvest, tmp_path, capsys):
    (tmp_path / 'x.zip').write_bytes(b'no zip')
    assert main([str(tmp_path / 'x.zip'), str(harvest)]) == InputError.exit_code
    assert 'cannot be read as a zip' in capsys.readouterr().err
    assert main([str(tmp_path / 'x.zip'), str(tmp_path)]) == InputError.exit_code
    assert 'expected a folder that bag_eval --harvest wrote' in capsys.readouterr().err
