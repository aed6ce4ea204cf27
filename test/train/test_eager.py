# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The textbook way beside a bundle: the same mask, timed in the same turns."""
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='eager PyTorch is what is timed')
pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import eager, export  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a run of four steps, exported."""
    root = tmp_path_factory.mktemp('eager')
    scenes = write_scenes(root)
    train_stage.main(parse(train_stage, '--out', root / 'run', *TINY, f'data.train=[{scenes}]'))
    found = RunDir.open(root / 'run')
    export.export(found)
    return found


def test_eager_gives_the_mask_that_flies(run):
    frame = np.random.default_rng(1).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    frame = cv2.resize(frame, (160, 96), interpolation=cv2.INTER_CUBIC)
    network = load_network(run, 14)
    segmenter = Segmenter.open(str(run.path / 'bundle' / 'run'), threads=1)
    mask = eager.eager_mask(network, frame, run.config().input)
    flown = segmenter(frame, 'bgr').mask_HW
    assert len(np.unique(flown)) > 1
    assert np.mean(mask == flown) > 0.999
    assert np.mean(mask == segmenter(frame, 'rgb').mask_HW) < 0.999  # colours are told apart


def test_each_is_timed_against_eager(run, tmp_path, capsys):
    bundle = run.path / 'bundle' / 'run'
    out = tmp_path / 'eager.json'
    assert eager.main(parse(eager, '--run', run.path, bundle, f'{bundle}:fp32', '--threads', 1,
                            '--rounds', 3, '--size', '160x96', '--json', out)) == 0
    result = json.loads(out.read_text(encoding='utf-8'))
    names = [row['name'] for row in result['rows']]
    assert names == ['eager run', str(bundle), f'{bundle}:fp32']
    assert result['rows'][0]['ratio_to_eager'] == 1.0
    assert all(row['ms']['p50'] > 0 for row in result['rows'])
    assert result['size'] == [96, 160] and result['input_size'] == [64, 96]
    assert f'{bundle}:fp32' in capsys.readouterr().out


@pytest.mark.parametrize('options', [['--size', '160'], ['--rounds', 0], ['--threads', 0]])
def test_wrong_options_are_refused(run, options):
    with pytest.raises(ConfigError, match='eager: expected'):
        eager.main(parse(eager, '--run', run.path, run.path / 'bundle' / 'run', *options))
