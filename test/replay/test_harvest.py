# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The frames worth most to label: which are taken, in what files, and back from CVAT."""
from __future__ import annotations

import csv
from dataclasses import replace
import json
from pathlib import Path
import re
import zipfile

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelClass, LabelMap, load_label_map
from evit_seg.replay import bag_eval, cvat, make_bag
from evit_seg.replay.harvest import choose, HarvestBag, HarvestOptions
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
from offline_train.data.dataset import load_dataset
from offline_train.data.dataset_check import check
import pytest
from spooled import write_spool
from tiny_bundle import anchor_colours, write_tiny_bundle

BACKGROUND, PERSON, ROAD = 0, 10, 12
ONE = np.zeros((1, 1), np.uint8)


def picture(*boxes, ground=BACKGROUND):
    image_HWC = np.empty((64, 64, 3), np.uint8)
    image_HWC[:] = anchor_colours()[ground][::-1]
    for class_id, x, y, w, h in boxes:
        image_HWC[y:y + h, x:x + w] = anchor_colours()[class_id][::-1]
    return image_HWC


@pytest.fixture(scope='module')
def bundles(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp('bundles')
    return [str(write_tiny_bundle(folder / name, stride=stride))
            for name, stride in (('fine', 8), ('coarse', 32))]


def bag_of(folder: Path, images, *options) -> Path:
    (folder / 'IMG').mkdir(parents=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / 'IMG' / f'f{i}.png'), image)
    (folder / 'frames.csv').write_text('file,time_s\n' + ''.join(
        f'f{i}.png,{i / 10}\n' for i in range(len(images))))
    assert make_bag.main([str(folder), '--out', str(folder.parent / 'my flight'), *options]) == 0
    return folder.parent / 'my flight'


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    return bag_of(tmp_path_factory.mktemp('flight') / 'f', [
        picture(), picture((PERSON, 8, 8, 16, 16)), picture((ROAD, 32, 0, 32, 64)),
        picture((ROAD, 24, 0, 40, 64))])


def reap(bag, bundles, out, *options):
    models = [part for bundle in bundles for part in ('--model', bundle)]
    report = out.parent / 'report.json'
    code = bag_eval.main([str(bag), *models, '--json', str(report), '--threads', '1', '--quiet',
                          '--harvest-out', str(out), '--harvest-gap-s', '0', *options])
    return json.loads(report.read_text())['harvest'] if code == 0 else code


@pytest.fixture(scope='module')
def reaped(bag, bundles, tmp_path_factory):
    """Return the folder of a harvest and its report; not to be changed."""
    out = tmp_path_factory.mktemp('harvest') / 'h'
    return out, reap(bag, bundles, out, '--harvest', '4')


def test_what_is_taken_and_why(reaped):
    out, found = reaped
    with (out / 'harvest.csv').open(newline='') as stream:
        rows = list(csv.DictReader(stream))
    # Frame 1: a person that one bundle sees alone (1) on 1/16 of the picture, times 20 at most 1.
    # Frame 3: the two differ on 1/8. Frame 0 looks as frame 1 does but for the person.
    assert [row['file'] for row in rows] == [f'my_flight_00000{i}.png' for i in (1, 3, 2)]
    assert [float(row['score']) - float(row['doubt']) for row in rows] == [
        pytest.approx(expected, abs=1e-5) for expected in (2, 1 / 8, 0)]
    assert [row['seen_by_one'] for row in rows] == ['person', '', '']
    assert (rows[0]['bag'], rows[0]['index'], rows[0]['t_s']) == ('my flight', '1', '0.1')
    assert rows[0]['model'] == 'tiny' and re.fullmatch('[0-9a-f]{64}', rows[0]['model_sha256'])
    assert (found['asked'], found['written']) == (4, 3)
    assert found['note'] == ('3 of 4 frames: of the other 1 each lies within 0 s of one of them, '
                             'or looks like it')


def test_images_and_masks_of_the_first_bundle(reaped):
    out, _ = reaped
    image = cv2.imread(str(out / 'prelabelled' / 'IMG' / 'my_flight_000001.png'))
    assert (image == picture((PERSON, 8, 8, 16, 16))).all()
    mask = cv2.imread(str(out / 'prelabelled' / 'GT' / 'my_flight_000001.png'),
                      cv2.IMREAD_UNCHANGED)
    assert mask.shape == (64, 64) and set(np.unique(mask)) == {BACKGROUND, PERSON}
    assert mask[16, 16] == PERSON and mask[48, 48] == BACKGROUND


def test_the_check_of_the_trainer_finds_nothing(reaped):
    out, _ = reaped
    spec = load_dataset(out / 'harvest.yaml')
    assert spec.label_map == load_label_map()
    report = check(spec, spec.at(None), progress=False)
    assert report['findings'] == []
    assert (list(report['splits']), report['absent']) == (['prelabelled'], ['train'])
    assert report['splits']['prelabelled']['pairs'] == 3


def test_the_same_flight_gives_the_same_files(reaped, bag, bundles, tmp_path):
    out, found = reaped
    again = tmp_path / 'h'
    assert reap(bag, bundles, again, '--harvest', '4') == found
    files = sorted(path.relative_to(out) for path in out.rglob('*') if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob('*') if path.is_file())
    for file in files:
        if file.name != 'harvest.yaml':  # it names the folder
            assert (out / file).read_bytes() == (again / file).read_bytes(), file


def test_a_folder_that_holds_something_is_left_alone(bag, bundles, tmp_path, capsys):
    (tmp_path / 'h').mkdir()
    (tmp_path / 'h' / 'mine').touch()
    assert reap(bag, bundles, tmp_path / 'h', '--harvest', '1') == ConfigError.exit_code
    assert 'expected a folder that is empty or not there yet' in capsys.readouterr().err
    assert reap(bag, bundles, tmp_path / 'i', '--harvest', '0') == ConfigError.exit_code
    assert reap(bag, bundles, tmp_path / 'i') == ConfigError.exit_code


def test_pixels_the_model_is_not_sure_of_get_no_label(bag, bundles, tmp_path):
    reap(bag, bundles[:1], tmp_path / 'h', '--harvest', '1', '--harvest-ignore-below', '0.976')
    (path,) = (tmp_path / 'h' / 'prelabelled' / 'GT').iterdir()
    # p is 0.979 on the background, whose colour has three neighbours among the classes', and 0.973
    # on the person with its four.
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert (mask[16, 16], mask[48, 48]) == (255, BACKGROUND)
    with zipfile.ZipFile(tmp_path / 'h' / 'cvat.zip') as archive:
        painted = cv2.imdecode(np.frombuffer(
            archive.read(f'SegmentationClass/{path.name}'), np.uint8), cv2.IMREAD_COLOR)
    assert (painted.reshape(-1, 3) == (192, 224, 224)).all(axis=1).any()


def test_a_jpeg_stays_as_the_camera_sent_it(bundles, tmp_path):
    bag = bag_of(tmp_path / 'f', [picture((ROAD, 32, 0, 32, 64))], '--compressed', 'jpeg')
    reap(bag, bundles[:1], tmp_path / 'h', '--harvest', '1')
    (image,) = (tmp_path / 'h' / 'prelabelled' / 'IMG').iterdir()
    assert image.suffix == '.jpg' and image.read_bytes()[:3] == b'\xff\xd8\xff'
    assert load_dataset(tmp_path / 'h' / 'harvest.yaml')


def bag_with(path, frames, spools=1):
    paths = tuple(write_spool(path.parent / f'{path.name}{i}', [
        {'index': index, 'stamp_ns': round(t_s * 1e9), 'mask': ONE, 'doubt': doubt, 'view': view}
        for index, (t_s, doubt, view) in enumerate(frames)]) for i in range(spools))
    return HarvestBag(path, None, paths)


def views(number):
    """Return views that differ from one another in eight bits or more."""
    return [0xff << 8 * i for i in range(number)]


def taken(bags, tmp_path, count, **options):
    picked, left = choose(bags, HarvestOptions(count, tmp_path / 'out', **options))
    return [[row.index for row in rows] for rows in picked], left


def test_frames_lie_apart_and_the_best_come_first(tmp_path):
    a, b, c, d, e = views(5)
    frames = [(0.0, 0.5, a), (1.0, 0.9, b), (2.0, 0.8, c), (3.0, 0.1, d), (3.1, 0.2, e)]
    assert taken([bag_with(tmp_path / 'a', frames)], tmp_path, 3) == ([[1, 4]], 3)
    assert taken([bag_with(tmp_path / 'a', frames)], tmp_path, 3, gap_s=1.0) == ([[0, 1, 2]], 0)
    assert taken([bag_with(tmp_path / 'a', frames)], tmp_path, 2, gap_s=0.0) == ([[1, 2]], 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 3),
                          st.sampled_from([0, 0x3f, 0x7f, 0xff, 0xff00, 0xfff0])),
                max_size=12, unique_by=lambda frame: frame[:2]),
       st.integers(1, 6), st.sampled_from([0.0, 2.0, 3.0]))
def test_the_choice_is_the_greedy_one(tmp_path, frames, count, gap_s):
    frames = sorted(frames)
    bags = [bag_with(tmp_path / f'{place}', [(t_s, doubt / 10, view) for where, t_s, doubt, view
                                             in frames if where == place]) for place in (0, 1)]
    expected = []
    numbers = {frame: sum(other[0] == frame[0] for other in frames[:i])
               for i, frame in enumerate(frames)}
    for frame in sorted(frames, key=lambda f: (-f[2], f)):
        if len(expected) < count and all(
                (frame[0] != other[0] or abs(frame[1] - other[1]) >= gap_s)
                and bin(frame[3] ^ other[3]).count('1') > 6 for other in expected):
            expected.append(frame)
    picked, left = taken(bags, tmp_path, count, gap_s=gap_s)
    assert picked == [sorted(numbers[f] for f in expected if f[0] == place) for place in (0, 1)]
    assert left == (len(frames) - len(expected) if len(expected) < count else 0)


def test_the_best_of_all_bags_are_taken(tmp_path):
    a, b, c, d = views(4)
    bags = [bag_with(tmp_path / 'a', [(0.0, 0.2, a), (9.0, 0.4, b)]),
            bag_with(tmp_path / 'b', [(0.0, 0.3, c), (9.0, 0.1, d)])]
    assert taken(bags, tmp_path, 2) == ([[1], [0]], 0)
    assert taken(bags, tmp_path, 9) == ([[0, 1], [0, 1]], 0)


def test_a_view_like_one_that_is_taken_is_not(tmp_path):
    bag = bag_with(tmp_path / 'a', [(0.0, 0.9, 0), (9.0, 0.8, 0b111111), (18.0, 0.1, 0b1111111)])
    assert taken([bag], tmp_path, 3) == ([[0, 2]], 1)


def test_of_bags_with_one_name_each_file_has_its_own(tmp_path):
    bags = [replace(bag_with(tmp_path / name, [(0.0, 0.1, view)]), path=tmp_path / name / 'x.bag')
            for name, view in zip('ab', views(2))]
    picked, _ = choose(bags, HarvestOptions(2, tmp_path / 'out'))
    assert [row.file for rows in picked for row in rows] == ['x_000000', 'x_2_000000']


def test_the_zip_is_as_cvat_wants_it(reaped):
    out, _ = reaped
    labels = load_label_map()
    with zipfile.ZipFile(out / 'cvat.zip') as archive:
        names = set(archive.namelist())
        listed = archive.read('ImageSets/Segmentation/default.txt').decode().split('\n')
        lines = archive.read('labelmap.txt').decode().splitlines()
        painted = cv2.imdecode(np.frombuffer(archive.read(
            'SegmentationClass/my_flight_000001.png'), np.uint8), cv2.IMREAD_COLOR)
    ids = [f'my_flight_00000{i}' for i in (1, 2, 3)]
    assert listed == [*ids, '']
    assert names == {'labelmap.txt', 'ImageSets/Segmentation/default.txt',
                     *(f'JPEGImages/{name}.png' for name in ids),
                     *(f'SegmentationClass/{name}.png' for name in ids)}
    assert lines[1:] == [f'{c.slug}:{",".join(map(str, c.colour))}::' for c in labels] + [
        'ignore:224,224,192::']
    assert tuple(painted[16, 16][::-1]) == labels.by_slug('person').colour
    rows = json.loads((out / 'cvat_labels.json').read_text())
    assert rows[10] == {'name': 'person', 'color': '#ff00ff', 'attributes': []}


@pytest.mark.parametrize('classes, said', [
    ([('background', (0, 0, 0)), ('tree', (9, 9, 9)), ('grass', (9, 9, 9))], "'grass' beside"),
    ([('tree', (0, 0, 0))], "'tree' beside 'background'"),
    ([('ignore', (1, 2, 3))], "has a class 'ignore'")])
def test_colours_that_cvat_cannot_tell_apart_are_refused(classes, said):
    labels = LabelMap(tuple(LabelClass(i, slug, slug, colour)
                            for i, (slug, colour) in enumerate(classes)))
    with pytest.raises(ConfigError, match=said):
        cvat.palette(labels)
