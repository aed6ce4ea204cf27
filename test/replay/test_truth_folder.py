# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Masks from a folder score as masks from a topic do, however their stamps are told."""
from __future__ import annotations

import json
from pathlib import Path
import shutil

import cv2
from evit_seg.core.errors import ConfigError, FrameError, InputError
from evit_seg.replay import bag_eval
from evit_seg.replay.bag import Bag
from evit_seg.replay.evaluate import evaluate
from evit_seg.replay.truth_folder import masks_of_bag, TruthFolder
import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle
from tiny_flight import cells, grown, pack, report_of, START_NS, write_flight

COUNT = 6
SEEN = cells(*((row, 1) for row in range(8)))  # straight edges: exact at 64 x 64 too
TRUTH = cells(*((row, column) for row in range(8) for column in (1, 2)))
STAMPS_NS = [START_NS + i * 100_000_000 for i in range(COUNT)]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


@pytest.fixture(scope='module')
def flight(tmp_path_factory) -> Path:
    """Return 6 frames: the person is answered in one column and lies in two."""
    return write_flight(tmp_path_factory.mktemp('folder') / 'flight',
                        [SEEN] * COUNT, [TRUTH] * COUNT)


@pytest.fixture(scope='module')
def labelled_bag(flight) -> Path:
    return pack(flight)


@pytest.fixture(scope='module')
def bag(tmp_path_factory, flight) -> Path:
    """Return the bag without a label topic."""
    folder = tmp_path_factory.mktemp('bare') / 'bare'
    shutil.copytree(flight, folder, ignore=shutil.ignore_patterns('GT'))
    return pack(folder)


def name_masks(flight: Path, folder: Path, name) -> Path:
    folder.mkdir()
    for i in range(COUNT):
        shutil.copy(flight / 'GT' / f'f{i:03}.png', folder / f'{name(i)}.png')
    return folder


def by_nanoseconds(flight: Path, tmp_path: Path) -> Path:
    return name_masks(flight, tmp_path / 'masks', lambda i: STAMPS_NS[i])


def by_seconds(flight: Path, tmp_path: Path) -> Path:
    return name_masks(flight, tmp_path / 'masks', lambda i: f'{START_NS // 10**9}_{i}00000000')


def by_index(flight: Path, tmp_path: Path) -> Path:
    folder = name_masks(flight, tmp_path / 'masks', lambda i: f'mask{i}')
    rows = [f'{stamp_ns},mask{i}.png' for i, stamp_ns in enumerate(STAMPS_NS)]
    (folder / 'index.csv').write_text('\n'.join(['stamp_ns,file', *reversed(rows)]))
    return folder


def by_nanoseconds_beside_a_flight(flight: Path, tmp_path: Path) -> Path:
    (tmp_path / 'frames.csv').write_text((flight / 'frames.csv').read_text())
    return by_nanoseconds(flight, tmp_path)


def by_stem(flight: Path, tmp_path: Path) -> Path:
    return flight / 'GT'


def by_flight(flight: Path, tmp_path: Path) -> Path:
    return flight


@pytest.mark.parametrize('place', [by_nanoseconds, by_seconds, by_index, by_stem, by_flight,
                                   by_nanoseconds_beside_a_flight])
def test_a_folder_scores_as_the_topic_does(tmp_path, flight, labelled_bag, bag, tiny, place):
    wanted = report_of(labelled_bag, tiny)
    report = report_of(bag, tiny, truth_folder=place(flight, tmp_path))
    assert wanted['counts']['scored'] == COUNT
    for key in ('scores', 'counts', 'sizes', 'flicker', 'notes'):
        assert report[key] == wanted[key], key
    person = next(row for row in report['scores']['classes'] if row['slug'] == 'person')
    assert (person['iou'], person['recall']) == (0.5, 0.5)
    assert report['bag']['truth_topic'] is None
    assert report['bag']['truth_folder'] in ('masks', 'GT', 'flight')


def test_unmatched_masks_and_frames_are_counted_and_may_be_tolerated(tmp_path, flight, bag, tiny):
    # two masks as they should be, one 1 ms late, one of another time
    off_ns = [0, 0, 1_000_000, 10**12]
    folder = tmp_path / 'masks'
    folder.mkdir()
    for i, off in enumerate(off_ns):
        shutil.copy(flight / 'GT' / 'f000.png', folder / f'{STAMPS_NS[i] + off}.png')
    segmenter_report = report_of(bag, tiny, truth_folder=folder)
    counts = segmenter_report['counts']
    assert (counts['labels'], counts['scored']) == (4, 2)
    assert (counts['images_without_label'], counts['labels_without_image']) == (4, 2)
    out = tmp_path / 'r.json'
    assert bag_eval.main([str(bag), '--model', str(tiny), '--truth-folder', str(folder),
                          '--tolerance-ms', '1', '--json', str(out), '--quiet']) == 0
    [run] = json.loads(out.read_text())['runs']
    assert (run['counts']['scored'], run['counts']['labels_without_image']) == (3, 1)
    assert run['bag']['truth_folder'] == 'masks'


def test_a_folder_of_another_flight_is_said(tmp_path, flight, bag, tiny):
    folder = name_masks(flight, tmp_path / 'masks', lambda i: i)
    report = report_of(bag, tiny, truth_folder=folder)
    assert (report['scores'], report['sizes']) == (None, None)
    assert report['notes'][0] == 'no label of masks has the stamp of a frame: no scores ' \
                                 '(see --tolerance-ms)'


def test_masks_outside_frames_csv_and_the_bag_are_told_apart(tmp_path, flight, bag):
    folder = tmp_path / 'flight'
    shutil.copytree(flight, folder)
    shutil.copy(folder / 'GT' / 'f000.png', folder / 'GT' / 'other.png')
    with Bag(bag) as opened:
        found = TruthFolder.open(folder, STAMPS_NS[:4], opened.custom_data)
    assert found.stamps_ns == tuple(STAMPS_NS)  # two of them of frames that are not in the bag
    assert found.notes == ('1 of 7 masks of flight have no stamp in frames.csv and were left '
                           'out',)


def test_without_the_zero_of_make_bag_the_first_frame_is_taken(flight):
    found = TruthFolder.open(flight / 'GT', [5 * 10**9, 5 * 10**9 + 100_000_000], {})
    assert found.stamps_ns[:2] == (5 * 10**9, 5 * 10**9 + 100_000_000)
    assert 'does not say when its flight began' in found.notes[0]


def test_masks_are_read_when_they_are_needed_and_bad_ones_counted(tmp_path, flight, bag, tiny):
    folder = by_nanoseconds(flight, tmp_path)
    (folder / f'{STAMPS_NS[1]}.png').write_bytes(b'not a PNG')
    cv2.imwrite(str(folder / f'{STAMPS_NS[2]}.png'), np.zeros((64, 64, 3), np.uint8))
    found = TruthFolder.open(folder, STAMPS_NS, {})
    assert np.array_equal(found.read(0), grown(TRUTH))
    with pytest.raises(FrameError, match='got no image'):
        found.read(1)
    report = report_of(bag, tiny, truth_folder=folder)
    counts = report['counts']
    assert (counts['malformed_labels'], counts['scored']) == (2, COUNT - 2)
    assert '2 labels cannot be decoded' in report['notes'][0]
    assert str(tmp_path) not in json.dumps(report)


def test_masks_of_another_size_are_resized_and_said(tmp_path, flight, bag, tiny):
    folder = by_nanoseconds(flight, tmp_path)
    cv2.imwrite(str(folder / f'{STAMPS_NS[0]}.png'), grown(TRUTH)[::2, ::2])
    report = report_of(bag, tiny, truth_folder=folder)
    assert (report['counts']['labels_resized'], report['counts']['scored']) == (1, COUNT)


def test_what_cannot_be_a_truth_folder_is_said(tmp_path, flight, bag, tiny):
    empty = tmp_path / 'empty'
    empty.mkdir()
    with pytest.raises(InputError, match='expected PNG masks, found none'):
        TruthFolder.open(empty, STAMPS_NS, {})
    strange = name_masks(flight, tmp_path / 'strange', lambda i: f'mask{i}')
    with pytest.raises(InputError, match=r'1700000000_250000000\.png.*index\.csv'):
        TruthFolder.open(strange, STAMPS_NS, {})
    (strange / 'index.csv').write_text('stamp_ns,file\n5,mask0.png\n6,mask9.png\n')
    with pytest.raises(InputError, match=r"names 'mask9\.png'"):
        TruthFolder.open(strange, STAMPS_NS, {})
    (strange / 'index.csv').write_text('stamp_ns,file\n5,mask0.png\n6,mask0.png\n')
    with pytest.raises(InputError, match='each file once'):
        TruthFolder.open(strange, STAMPS_NS, {})
    with Bag(bag) as opened, pytest.raises(ConfigError, match='from a topic or from a folder'):
        evaluate(opened, None, [], truth_topic='/label', truth_folder=flight)


def test_of_several_bags_each_finds_its_own_masks(tmp_path, flight):
    assert masks_of_bag(flight, Path('a.bag')) == flight  # one folder for all, by stamp
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    assert masks_of_bag(tmp_path, Path('x/a.mcap')) == tmp_path / 'a'
    assert masks_of_bag(tmp_path, Path('x/c.mcap')) is None
    assert masks_of_bag(tmp_path / 'none', Path('a.bag')) == tmp_path / 'none'
