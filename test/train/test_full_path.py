# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The way of a user, command by command: images, teacher, student, bundles, scores, report."""
from __future__ import annotations

import json

import pytest

pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('onnx', reason='export needs onnx')
pytest.importorskip('matplotlib', reason='the report draws')

from evit_seg.core.bundle import self_test  # noqa: E402, I100
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train.cli import main  # noqa: E402

SETTINGS = ['input.height=96', 'input.width=128', 'augment.crop_height=64',
            'augment.crop_width=96', 'optim.batch=4', 'optim.steps=8', 'optim.warm_up=2',
            'optim.precision=fp32', 'run.validate_every=8', 'run.log_every=2', 'run.threads=1',
            'run.device=cpu', 'data.workers=0', 'data.name=synthetic']


def offline_train(*words):
    """Run one command as a user does; it must end well."""
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder in which every command of the way was run."""
    root = tmp_path_factory.mktemp('way')
    scenes, runs = root / 'scenes', root / 'runs'
    offline_train('synth', '--out', scenes, '--scenes', 16, '--size', '192x144', '--val-share',
                  0.25, '--seed', 2)
    data = [f'data.train=[{scenes}/train]', f'data.validation=[{scenes}/val]']
    offline_train('train', '--out', runs / 'teacher', *SETTINGS, *data,
                  'model.widths=[8, 8, 16, 16, 16]')
    offline_train('distil', '--out', runs / 'student', *SETTINGS, *data,
                  'model.name=token_pyramid', f'teacher.path={runs}/teacher', 'distil.cwd=1',
                  'distil.mse=0.1')
    for name in ('teacher', 'student'):
        run = runs / name
        offline_train('export', '--run', run)
        against = ['--against', runs / 'teacher' / 'evaluate.json'] if name == 'student' else []
        offline_train('evaluate', '--bundle', run / 'bundle' / name, '--data', scenes, '--split',
                      'val', '--threads', 1, '--json', run / 'evaluate.json', *against)
        offline_train('bench', run / 'bundle' / name, '--runs', 3, '--warm-up', 1, '--threads', 1,
                      '--energy-seconds', 1, '--idle-seconds', 0, '--evaluate',
                      run / 'evaluate.json', '--json', run / 'bench.json')
    offline_train('report', runs, '--out', root / 'report', '--panels', 'synthetic', scenes,
                  'val', '--bundles', f'teacher={runs}/teacher/bundle/teacher',
                  f'student={runs}/student/bundle/student', '--rows', 1)
    return root


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def test_sixteen_scenes_are_rendered(folder):
    assert len(list((folder / 'scenes').glob('*/IMG/*'))) == 16


def test_the_student_learns_from_labels_and_teacher(folder):
    records = [json.loads(line) for line in
               (folder / 'runs' / 'student' / 'log.jsonl').read_text().splitlines()]
    terms = [r['terms'] for r in records if 'terms' in r]
    assert all(set(t) == {'labels', 'cwd', 'mse'} for t in terms)
    assert terms[-1]['labels'] < terms[0]['labels']


@pytest.mark.parametrize(('name', 'stride'), [('teacher', 4), ('student', 8)])
def test_its_bundle_flies(folder, name, stride):
    segmenter = Segmenter.open(str(folder / 'runs' / name / 'bundle' / name), threads=1)
    assert self_test(segmenter) == 1.0 and segmenter.engine.stride == stride


@pytest.mark.parametrize('name', ['teacher', 'student'])
def test_scores_and_costs_are_of_the_same_bundle(folder, name):
    run = folder / 'runs' / name
    scored, timed = read(run / 'evaluate.json'), read(run / 'bench.json')
    assert scored['kind'] == 'evaluate' and timed['kind'] == 'bench'
    assert scored['bundle']['sha256'] == timed['bundle']['sha256']
    assert scored['data']['frames'] == len(list((folder / 'scenes' / 'val' / 'IMG').iterdir()))
    assert 0 < scored['scores']['dataset']['miou'] < 1
    assert timed['paper_score'] == pytest.approx(
        scored['scores']['dataset']['miou'] * timed['fps'], rel=0.01)
    assert timed['gmacs'] > 0


def test_the_report_names_both(folder):
    text = (folder / 'report' / 'report.md').read_text(encoding='utf-8')
    table = (folder / 'report' / 'table2.csv').read_text(encoding='utf-8')
    for name in ('teacher', 'student'):
        assert name in text and name in table
    assert list((folder / 'report' / 'figures').glob('*.png'))
