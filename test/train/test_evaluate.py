# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The command `offline_train evaluate` on a bundle whose masks are known by hand."""
from __future__ import annotations

import json

import cv2
from evit_seg.core.bundle import encode_golden, write_bundle
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import load_label_map
from evit_seg.core.manifest import Manifest, Variant
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train import cli
from offline_train.scoring.against import recall_warnings
import pytest
from tiny_bundle import anchor_colours, painted_frame, tiny_onnx, write_tiny_bundle
import yaml

LPCV = load_label_map()
BACKGROUND, FLOOD, PERSON, VEHICLE = 0, 7, 10, 13
COLOURS = anchor_colours()
DATASET = {'name': 'mine', 'licence': 'none', 'images': ['{split}/IMG/{id}.png'],
           'masks': ['{split}/GT/{id}.png'], 'splits': {'val': 'val'},
           'mask': {'encoding': 'ids', 'ignore': [255]}}


def write_pair(folder, name, image_ids, truth):
    """Write a frame in the colours of ids, which the tiny bundle answers with, and its truth."""
    for part, pixels in (('IMG', COLOURS[image_ids][..., ::-1]), ('GT', truth)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / part / f'{name}.png'), pixels)


def halves(left, right, at=32):
    ids = np.full((64, 64), left, np.uint8)
    ids[:, at:] = right
    return ids


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path / 'tiny')


@pytest.fixture
def scenes(tmp_path):
    """Return a folder with two frames under val/; what they score is worked out in the tests."""
    truth = halves(BACKGROUND, PERSON)
    truth[:16, 32:] = VEHICLE  # predicted as Person
    truth[:8, :32], truth[8:16, :32] = 255, 254
    write_pair(tmp_path / 'scenes' / 'val', 'a', halves(BACKGROUND, PERSON), truth)
    flood = np.full((64, 64), FLOOD, np.uint8)
    truth = flood.copy()
    truth[32:48], truth[48:] = 254, 255
    write_pair(tmp_path / 'scenes' / 'val', 'b', flood, truth)
    return tmp_path / 'scenes'


def run(tmp_path, bundle, *words, expect=0):
    """Run the command; return its JSON."""
    out = tmp_path / 'out.json'
    out.unlink(missing_ok=True)
    code = cli.main(['evaluate', '--bundle', str(bundle), '--threads', '1', '--json', str(out),
                     *map(str, words)])
    assert code == expect
    return json.loads(out.read_text()) if out.exists() else None


@pytest.mark.parametrize(('compare_at', 'scale'), [('native', 1), ('512', 64)])
def test_the_scores_by_hand(tmp_path, bundle, scenes, compare_at, scale):
    result = run(tmp_path, bundle, '--data', scenes, '--compare-at', compare_at)
    confusion = np.array(result['confusion'])
    expected = np.zeros((14, 14), np.int64)
    expected[BACKGROUND, BACKGROUND] = expected[PERSON, PERSON] = 48 * 32 * scale
    expected[VEHICLE, PERSON] = 16 * 32 * scale
    expected[FLOOD, FLOOD] = 32 * 64 * scale
    assert confusion.tolist() == expected.tolist()
    scores = result['scores']
    assert scores['dataset']['miou'] == pytest.approx((1 + 3 / 4 + 0 + 1) / 4)
    assert scores['dataset']['accuracy'] == pytest.approx(10 / 11)
    # LPCV: image a has Background 1, Person 2 * 48 / (48 + 64), Vehicle 0; image b Flood 1.
    assert scores['lpcv']['dice'] == pytest.approx(((1 + 6 / 7 + 0) / 3 + 1) / 2)
    assert scores['flood_iou'] == pytest.approx(2 / 3)  # of b: 32 rows of 48, 254 counts there
    person = next(row for row in scores['classes'] if row['slug'] == 'person')
    assert (person['iou'], person['precision'], person['recall']) == (0.75, 0.75, 1.0)
    assert person['dice'] == pytest.approx(6 / 7)


def test_what_else_the_result_holds(tmp_path, bundle, scenes):
    result = run(tmp_path, bundle, '--data', scenes)
    assert result['kind'] == 'evaluate' and result['warnings'] == []
    assert result['bundle']['name'] == 'tiny' and result['bundle']['precision'] == 'fp32'
    data = result['data']
    assert (data['name'], data['split'], data['frames'], data['size'], data['compare_at']) == (
        'scenes', 'val', 2, [64, 64], 'native')
    assert len(data['split_sha256']) == 64
    rows = {slug: [(r['objects'], r['hit']) for r in rows if r['objects']]
            for slug, rows in result['object_recall'].items()}
    assert rows == {'fire_flare': [], 'person': [(1, 1)], 'vehicle': [(1, 0)]}
    scores = result['scores']
    seconds = scores['seconds_per_image']
    assert seconds > 0 and set(result['median_ms']) == {'pre', 'infer', 'post'}
    assert scores['paper_score'] == pytest.approx(scores['dataset']['miou'] / seconds)
    assert scores['lpcv']['score'] == pytest.approx(scores['lpcv']['dice'] / seconds)
    assert 'pre + infer + post' in result['time_source'] and result['machine']['cores']


def test_the_time_of_an_image_is_the_median_of_its_stages_sum(tmp_path, bundle, scenes,
                                                              monkeypatch):
    write_pair(scenes / 'val', 'c', *[np.zeros((64, 64), np.uint8)] * 2)
    call = Segmenter.__call__
    spent = iter([{'pre': 1.0, 'infer': 10.0, 'post': 2.0},   # 13 ms
                  {'pre': 3.0, 'infer': 20.0, 'post': 2.0},   # 25 ms
                  {'pre': 9.0, 'infer': 2.0, 'post': 9.0}])   # 20 ms

    def timed(self, *args, **options):
        result = call(self, *args, **options)
        if options:  # frames, not the warm-up
            result.stage_ms.update(next(spent))
        return result

    monkeypatch.setattr(Segmenter, '__call__', timed)
    result = run(tmp_path, bundle, '--data', scenes)
    assert result['median_ms'] == {'pre': 3.0, 'infer': 10.0, 'post': 2.0}
    assert result['scores']['seconds_per_image'] == pytest.approx(0.020)


def test_the_table_shows_what_was_measured(tmp_path, bundle, scenes, capsys):
    run(tmp_path, bundle, '--data', scenes)
    out = capsys.readouterr().out
    assert 'tiny (fp32) on scenes, split val: 2 frames, compared at 64x64' in out
    assert 'mIoU 0.688, accuracy 0.909, LPCV Dice 0.810, flood IoU 0.667' in out
    lines = [line.split() for line in out.splitlines()]
    assert ['person', '0.750', '0.857', '0.750', '1.000', '1536'] in lines
    assert ['256-1023', '1', '0.000', '0.000', '0.000'] in lines  # Vehicle's object
    assert 'WARNING' not in out


def test_a_described_data_set_scores_as_the_plain_folder(tmp_path, bundle, scenes):
    described = {**DATASET, 'mask': {'encoding': 'ids', 'sources': [
        *({'id': c.id, 'to': c.slug} for c in LPCV), {'id': 254, 'to': 'not_flood'},
        {'id': 255, 'to': 'ignore'}]}}
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(described))
    plain = run(tmp_path, bundle, '--data', scenes)
    result = run(tmp_path, bundle, '--dataset', path, '--root', scenes)
    assert result['data']['name'] == 'mine' and result['data']['licence'] == 'none'
    assert result['confusion'] == plain['confusion']
    assert result['scores']['flood_iou'] == plain['scores']['flood_iou']
    assert result['data']['split_sha256'] == plain['data']['split_sha256']


def test_limit_takes_frames_evenly_spread_and_is_another_split(tmp_path, bundle):
    black = np.zeros((64, 64), np.uint8)
    for index, ignored_px in enumerate((1, 10, 100, 1000, 2000)):
        truth = black.copy()
        truth.ravel()[:ignored_px] = 255
        write_pair(tmp_path / 'set' / 'val', index, black, truth)
    whole = run(tmp_path, bundle, '--data', tmp_path / 'set')
    few = run(tmp_path, bundle, '--data', tmp_path / 'set', '--limit', 3)
    assert few['data']['frames'] == few['data']['images'] == 3
    assert few['scores']['compared_px'] == 3 * 4096 - 1 - 100 - 2000
    assert few['data']['split_sha256'] != whole['data']['split_sha256']


def test_images_of_several_sizes(tmp_path, bundle, scenes, capsys):
    write_pair(scenes / 'val', 'c', np.zeros((32, 48), np.uint8), np.zeros((32, 48), np.uint8))
    assert run(tmp_path, bundle, '--data', scenes)['data']['size'] is None
    assert 'several sizes' in capsys.readouterr().out
    result = run(tmp_path, bundle, '--data', scenes, '--compare-at', '512')
    assert result['data']['size'] == [512, 512]


def test_a_precision_the_bundle_has_not_is_refused(tmp_path, bundle, scenes, capsys):
    run(tmp_path, bundle, '--data', scenes, '--precision', 'int8', expect=1)
    assert 'int8; it holds onnxruntime/fp32/64x64' in capsys.readouterr().err


# -- bad data -------------------------------------------------------------------------------------

def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])


@pytest.mark.parametrize('plain', [True, False], ids=['--data', '--dataset'])
@pytest.mark.parametrize(('spoil', 'said'), [
    (lambda val: cut(val / 'IMG' / 'z.png'), 'IMG/z.png'),
    (lambda val: cut(val / 'GT' / 'z.png'), 'GT/z.png'),
    (lambda val: cv2.imwrite(str(val / 'GT' / 'z.png'), np.zeros((64, 64, 3), np.uint8)),
     'GT/z.png: expected one channel of 8 bits'),
    (lambda val: cv2.imwrite(str(val / 'GT' / 'z.png'), np.full((64, 64), 200, np.uint8)),
     'GT/z.png: expected values the data set explains, got 200'),
    (lambda val: cv2.imwrite(str(val / 'GT' / 'z.png'), np.zeros((64, 32), np.uint8)),
     "GT/z.png: expected the image's size 64x64, got 32x64"),
    (lambda val: (val / 'GT' / 'z.png').unlink(), 'IMG/z.png: expected a mask'),
    (lambda val: [path.unlink() for path in val.glob('*/*')], 'set: expected images such as val/'),
], ids=['cut image', 'cut mask', '3 channels', 'id 200', 'size', 'no mask', 'empty'])
def test_a_bad_file_is_named_before_anything_is_scored(tmp_path, bundle, capsys, monkeypatch,
                                                       spoil, said, plain):
    black = np.zeros((64, 64), np.uint8)
    for name in 'az':
        write_pair(tmp_path / 'set' / 'val', name, black, black)
    spoil(tmp_path / 'set' / 'val')
    asked = []
    monkeypatch.setattr(Segmenter, '__call__', lambda *args, **options: asked.append(args))
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(DATASET))
    where = ['--data', tmp_path / 'set'] if plain else \
        ['--dataset', tmp_path / 'mine.yaml', '--root', tmp_path / 'set']
    assert run(tmp_path, bundle, *where, expect=2) is None
    assert said in capsys.readouterr().err
    assert not asked


def test_classes_must_be_the_bundles(tmp_path, scenes, capsys):
    few = write_tiny_bundle(tmp_path / 'few', num_classes=4)
    run(tmp_path, few, '--dataset', 'lpcv2023', '--root', scenes, expect=1)
    assert "expected the bundle's classes, id 4 is None, got 'cracks" in capsys.readouterr().err
    all14 = write_tiny_bundle(tmp_path / 'all')
    run(tmp_path, all14, '--data', scenes, '--against', few, expect=1)
    assert "few: expected the bundle's classes, id 4" in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'code', 'said'), [
    (['--strict'], 1, '--strict: expected --against'),
    (['--limit', '-1'], 1, '--limit: expected 0 or more, got -1'),
    (['--root', 'x'], 1, '--root: is the folder of --dataset'),
    (['--json', 'nowhere/x.json'], 2, 'there is no nowhere'),
    (['--split', 'test'], 2, 'expected images such as test/IMG'),
    (['--against', 'gone.json'], 2, 'gone.json: expected a readable JSON')])
def test_wrong_options_say_so(tmp_path, bundle, scenes, capsys, words, code, said):
    run(tmp_path, bundle, '--data', scenes, *words, expect=code)
    assert said in capsys.readouterr().err


# -- against another ------------------------------------------------------------------------------

def matrix(person_hits, truth_px=1000, vehicle_hits=0):
    counts = np.zeros((14, 14), np.int64)
    counts[PERSON, PERSON] = person_hits
    counts[PERSON, BACKGROUND] = truth_px - person_hits
    counts[VEHICLE, VEHICLE] = vehicle_hits
    counts[VEHICLE, PERSON] = 100 - vehicle_hits
    return counts


@pytest.mark.parametrize(('mine', 'theirs', 'warned'), [
    (300, 400, False), (299, 400, True), (800, 900, False), (799, 900, True), (900, 300, False)])
def test_the_warning_begins_above_ten_points(mine, theirs, warned):
    found = recall_warnings(matrix(mine), matrix(theirs), LPCV, 'teacher')
    assert len(found) == warned
    if warned:
        assert 'recall of person' in found[0] and '10.1 points below' in found[0]


def test_every_watched_class_is_looked_at_and_absent_ones_are_not():
    found = recall_warnings(matrix(0, vehicle_hits=50), matrix(1000, vehicle_hits=100), LPCV, 'T')
    assert [text.split(' is ')[0] for text in found] == ['recall of person', 'recall of vehicle']
    nobody = np.zeros((14, 14), np.int64)
    assert recall_warnings(nobody, nobody, LPCV, 'T') == []
    with pytest.raises(ConfigError, match='same truth'):
        recall_warnings(matrix(5), matrix(5, truth_px=1001), LPCV, 'T')


@pytest.fixture
def crowd(tmp_path):
    """Return one frame, Person on its right quarter: a network of stride 64 averages it away."""
    ids = halves(BACKGROUND, PERSON, at=48)
    write_pair(tmp_path / 'crowd' / 'val', 'a', ids, ids)
    return tmp_path / 'crowd'


def test_a_student_that_loses_people_is_warned_of(tmp_path, bundle, crowd, capsys):
    student = write_tiny_bundle(tmp_path / 'student', stride=64)
    result = run(tmp_path, student, '--data', crowd, '--against', bundle)
    (warning,) = result['warnings']
    assert warning.startswith('recall of person is 0.000, 100.0 points below the 1.000 of tiny')
    out = capsys.readouterr().out
    assert f'WARNING: {warning}' in out.splitlines()
    rows = {row['slug']: row for row in result['against']['difference']['classes']}
    assert rows['person']['recall'] == -1.0 and rows['person']['iou'] == -1.0
    assert rows['background']['precision'] == pytest.approx(-0.25)
    assert rows['vehicle']['iou'] is None
    assert result['against']['difference']['miou'] == pytest.approx((0.75 + 0) / 2 - 1)
    assert ['person', '-1.000', '-1.000', '-', '-1.000'] in [s.split() for s in out.splitlines()]
    run(tmp_path, student, '--data', crowd, '--against', bundle, '--strict', expect=1)
    better = run(tmp_path, bundle, '--data', crowd, '--against', student, '--strict')
    assert better['warnings'] == []


def test_a_result_on_disk_stands_for_its_bundle(tmp_path, bundle, crowd):
    student = write_tiny_bundle(tmp_path / 'student', stride=64)
    run(tmp_path, bundle, '--data', crowd)
    teacher = (tmp_path / 'out.json').rename(tmp_path / 'teacher.json')
    read = run(tmp_path, student, '--data', crowd, '--against', teacher, '--strict', expect=1)
    scored = run(tmp_path, student, '--data', crowd, '--against', bundle)
    assert read['warnings'] == scored['warnings']
    assert read['against'] | {'scores': 0} == scored['against'] | {'scores': 0}  # but for times


def test_a_variant_is_compared_with_the_first_of_its_bundle(tmp_path, crowd):
    image_HWC, mask_HW = painted_frame()
    golden, files = encode_golden(image_HWC, mask_HW, {'fp32': 0.75, 'int8': 0.0})
    files |= {'fine.onnx': tiny_onnx(), 'coarse.onnx': tiny_onnx(stride=64)}
    variants = (Variant('fine.onnx', '', 0, 'onnxruntime', 'fp32', 64, 64, 8),
                Variant('coarse.onnx', '', 0, 'onnxruntime', 'int8', 64, 64, 64))
    write_bundle(tmp_path / 'two', Manifest('two', LPCV, variants, golden=golden,
                                            provenance={'parameters': 7, 'gmacs': 0.5}), files)
    two = tmp_path / 'two'
    assert run(tmp_path, two, '--data', crowd)['bundle']['precision'] == 'fp32'
    result = run(tmp_path, two, '--data', crowd, '--precision', 'int8', '--against', two)
    assert result['bundle']['precision'] == 'int8'
    assert (result['bundle']['parameters'], result['bundle']['gmacs']) == (7, 0.5)
    assert result['against']['bundle']['precision'] == 'fp32'
    assert result['warnings'][0].endswith('1.000 of two (fp32) (more than 10)')


@pytest.mark.parametrize(('change', 'code', 'said'), [
    ({'kind': 'bench'}, 2, "got kind 'bench'"),
    ({'confusion': None}, 2, "has no 'confusion'"),
    ({'data': {'split_sha256': '0' * 64}}, 1, 'the same data, split_sha256'),
    ({'data': {'masks_sha256': '0' * 64}}, 1, 'the same data, masks_sha256'),
    ({'data': {'compare_at': '512'}}, 1, "the same data, compare_at 'native', got '512'"),
    ({'scores': {'classes': []}}, 1, 'expected the classes background')])
def test_a_result_of_something_else_is_refused(tmp_path, bundle, crowd, capsys, change, code,
                                               said):
    content = run(tmp_path, bundle, '--data', crowd)
    for key, value in change.items():
        if value is None:
            del content[key]
        else:
            content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (tmp_path / 'other.json').write_text(json.dumps(content))
    run(tmp_path, bundle, '--data', crowd, '--against', tmp_path / 'other.json', expect=code)
    assert said in capsys.readouterr().err
