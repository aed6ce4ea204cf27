# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Two bundles over one bag: where they differ, by hand.

The fine one has cells of 8 px, the coarse one of 32 px, which answer with the class nearest to
their mean colour: of a cell that holds a quarter of another class, its own.
"""
from __future__ import annotations

import json
from pathlib import Path

import cv2
from evit_seg.core.alert_rule import AlertRule
from evit_seg.core.decode import Frame
from evit_seg.core.errors import InputError
from evit_seg.core.regions import find_regions
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.disagreement import ALERT_WEIGHT, disagreement
from evit_seg.replay.observer import SeenFrame
from evit_seg.replay.spool import difference_hash, doubt, FrameSpool, in_step, read_spool
import numpy as np
import pytest
from spooled import write_spool
from tiny_bundle import anchor_colours, write_tiny_bundle

BACKGROUND, PERSON, ROAD = 0, 10, 12


def picture(*boxes):
    image_HWC = np.zeros((64, 64, 3), np.uint8)
    for class_id, x, y, w, h in boxes:
        image_HWC[y:y + h, x:x + w] = anchor_colours()[class_id][::-1]
    return image_HWC


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('flight') / 'f'
    (folder / 'IMG').mkdir(parents=True)
    frames = [picture(), picture((PERSON, 8, 8, 16, 16)), picture((ROAD, 32, 0, 32, 64)),
              picture((ROAD, 24, 0, 40, 64))]
    for i, image in enumerate(frames):
        cv2.imwrite(str(folder / 'IMG' / f'f{i}.png'), image)
    (folder / 'frames.csv').write_text('file,time_s\n' + ''.join(
        f'f{i}.png,{i / 10}\n' for i in range(len(frames))))
    assert make_bag.main([str(folder), '--out', str(folder.parent / 'flown')]) == 0
    return folder.parent / 'flown'


@pytest.fixture(scope='module')
def bundles(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp('bundles')
    return [str(write_tiny_bundle(folder / name, stride=stride))
            for name, stride in (('fine', 8), ('coarse', 32))]


def run(bag, bundles, tmp_path, *options):
    out = tmp_path / 'report.json'
    models = [part for bundle in bundles for part in ('--model', bundle)]
    assert bag_eval.main([str(bag), *models, '--json', str(out), '--threads', '1', '--quiet',
                          *options]) == 0
    return json.loads(out.read_text())


def test_the_frames_to_look_at_by_hand(bag, bundles, tmp_path):
    report = run(bag, bundles, tmp_path)
    (found,) = report['disagreement']
    fine, coarse = found['models']
    assert fine != coarse, 'two bundles of one name can be told apart'
    # The person fills 16 of 64 px both ways, and a fourth of the coarse cell: 1/16 of the
    # picture. The road's edge is 8 px further left for the fine one: 1/8.
    assert (found['bag'], found['frames']) == ('flown', 4)
    assert found['mean_share'] == pytest.approx((1 / 16 + 1 / 8) / 4)
    person, edge = found['worst']
    assert (person['index'], person['t_s'], person['share']) == (1, 0.1, 1 / 16)
    assert person['seen_by_one'] == [{'class': 'person', 'by': fine}]
    assert person['confusion'] == [{'a': 'person', 'b': 'background', 'share': 1 / 16}]
    assert person['weighted'] == pytest.approx(ALERT_WEIGHT / 16)
    assert (edge['index'], edge['share'], edge['weighted']) == (3, 1 / 8, 1 / 8)
    assert edge['seen_by_one'] == []
    assert edge['confusion'] == [{'a': 'road_railway_bridge', 'b': 'background', 'share': 1 / 8}]
    assert all('spool' not in one for one in report['runs'])


def test_what_is_printed(bag, bundles, tmp_path, capsys):
    fine, _ = run(bag, bundles, tmp_path)['disagreement'][0]['models']
    said = capsys.readouterr().out
    assert 'differ on 4.69% of the pixels; frames to look at:' in said
    assert f'0.10 s   6.25%  person by {fine} alone; person / background 6.2%' in said


@pytest.mark.parametrize('strength, seen, close', [
    (0.0, (), ()), (1.0, ('person',), ()),
    (0.48, (), ('person',)),  # the logit of the person is 0.4 below the background's
    (0.55, ('person',), ('person',))])  # ... 1.0 above it, and 0.5 above two other classes'
def test_a_class_is_close_where_little_would_turn_it_over(bundles, tmp_path, strength, seen,
                                                          close):
    segmenter = Segmenter.open(bundles[0], threads=1)
    rules = [AlertRule(PERSON, 'person', min_confidence=0.3)]
    image_HWC = np.zeros((64, 64, 3), np.uint8)
    image_HWC[16:48, 16:48] = np.round(anchor_colours()[PERSON] * strength)
    result = segmenter(image_HWC)
    regions = find_regions(result.logits_CHW, result.geometry, rules, 1.0)
    with FrameSpool(tmp_path / 's', rules, segmenter) as spool:
        spool.take_frame(SeenFrame(3, 7, Frame(image_HWC, 'rgb'), result, regions, [], ()))
    segmenter.close()
    head, frames = read_spool(tmp_path / 's')
    (frame,) = frames
    assert (frame.index, frame.stamp_ns, frame.mask_HW.shape) == (3, 7, (8, 8))
    assert (frame.seen, frame.close, head.alert_slugs) == (seen, close, ('person',))


def test_one_bundle_has_nobody_to_disagree_with(bag, bundles, tmp_path):
    assert run(bag, bundles[:1], tmp_path)['disagreement'] == []


def spool(path, *frames, slugs=('background', 'person'), stamps=None):
    return write_spool(path, [{'index': index, 'mask': mask,
                               'stamp_ns': (stamps or {}).get(index, index)}
                              for index, mask in frames], slugs)


def test_frames_that_one_run_lacks_are_passed_over(tmp_path):
    zero = np.zeros((2, 2), np.uint8)
    first = spool(tmp_path / 'a', (0, zero), (2, zero), (3, zero))
    second = spool(tmp_path / 'b', (0, zero), (1, zero), (3, zero), (4, zero))
    assert [[frame.index for frame in frames] for frames in in_step([first, second])] == [
        [0, 0], [3, 3]]


def test_runs_over_other_frames_are_refused(tmp_path):
    zero = np.zeros((2, 2), np.uint8)
    with pytest.raises(InputError, match='frame 0 has other stamps in the other run'):
        list(in_step([spool(tmp_path / 'a', (0, zero)),
                      spool(tmp_path / 'b', (0, zero), stamps={0: 5})]))


def test_classes_go_by_their_slugs(tmp_path):
    first = spool(tmp_path / 'a', (0, np.array([[0, 1]], np.uint8)))
    second = spool(tmp_path / 'b', (0, np.array([[1, 0]], np.uint8)),
                   slugs=('person', 'background'))
    found = disagreement('bag', ('a', first), ('b', second))
    assert (found['frames'], found['mean_share'], found['worst']) == (1, 0.0, [])


def test_who_is_seen_by_one_alone_goes_before_any_share(tmp_path):
    zero, one = np.zeros((1, 10), np.uint8), np.ones((1, 10), np.uint8)
    first = write_spool(tmp_path / 'a', [
        {'index': 0, 'stamp_ns': 0, 'mask': zero}, {'index': 1, 'stamp_ns': 1, 'mask': zero},
        {'index': 2, 'stamp_ns': 2, 'mask': zero, 'seen': ['person']}])
    second = spool(tmp_path / 'b', (0, zero), (1, one), (2, zero))
    found = disagreement('bag', ('a', first), ('b', second))
    assert [(row['index'], row['share']) for row in found['worst']] == [(2, 0.0), (1, 1.0)]
    assert found['worst'][0]['seen_by_one'] == [{'class': 'person', 'by': 'a'}]


def test_only_the_worst_are_kept(tmp_path):
    one = np.zeros((1, 10), np.uint8)
    frames = [(i, (np.arange(10) < share)[None].astype(np.uint8))
              for i, share in enumerate((1, 5, 3, 5, 9))]
    found = disagreement('bag', ('a', spool(tmp_path / 'a', *((i, one) for i in range(5)))),
                         ('b', spool(tmp_path / 'b', *frames)), top=3)
    assert [row['index'] for row in found['worst']] == [4, 1, 3]
    assert found['mean_share'] == pytest.approx(23 / 50)


def test_a_spool_gives_back_what_was_put_in(tmp_path):
    mask_HW = np.arange(12, dtype=np.uint8).reshape(3, 4)
    head, frames = read_spool(spool(tmp_path / 'a', (7, mask_HW)))
    (frame,) = frames
    assert head.slugs == ('background', 'person')
    assert (frame.index, frame.mask_HW.tolist()) == (7, mask_HW.tolist())


def test_doubt_by_hand():
    logits_CHW = np.log(np.array([[[0.6, 0.2]], [[0.3, 0.2]], [[0.1, 0.6]]], np.float32))
    # Margins 0.6 - 0.3 and 0.6 - 0.2.
    assert doubt(logits_CHW, 1.0) == pytest.approx(1 - (0.3 + 0.4) / 2, abs=1e-5)
    assert doubt(logits_CHW * 2, 2.0) == pytest.approx(0.65, abs=1e-5)
    assert doubt(np.full((3, 1, 1), np.nan, np.float32), 1.0) == 1.0


def test_the_difference_hash_by_hand():
    ramp_HW = np.broadcast_to(np.arange(9, dtype=np.uint8) * 20, (8, 9))
    assert difference_hash(np.stack([ramp_HW] * 3, axis=2)) == 2 ** 64 - 1
    assert difference_hash(np.stack([ramp_HW[:, ::-1]] * 3, axis=2)) == 0
