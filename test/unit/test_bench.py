# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bench command compares like with like and says what it measured; no time is tested."""
from __future__ import annotations

import json

from evit_seg import bench
from evit_seg.core.mask import upscale_argmax
from evit_seg.core.preprocess import frame_geometry
import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle


def test_pre_post_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / 'bench.json'
    assert bench.main(['--pre-post', '--size', '160x120', '--runs', '2', '--json', str(out)]) == 0
    result = json.loads(out.read_text())
    assert len(result['pre_post']) == len(bench.MIXED_SHARES)
    for row, wanted in zip(result['pre_post'], bench.MIXED_SHARES):
        assert row['mixed_share'] == pytest.approx(wanted, abs=0.03)
        assert row['ratio'] == pytest.approx(row['textbook_ms'] / row['ours_ms'])
        assert row['ours_ms'] == pytest.approx(row['pre_ms'] + row['post_ms'])
    assert result['machine']['cores'] >= 1
    printed = capsys.readouterr().out
    assert printed.count('160x120') == len(bench.MIXED_SHARES)


def test_model_prints_stages_and_writes_json(tmp_path, capsys):
    folder = write_tiny_bundle(tmp_path / 'tiny')
    out = tmp_path / 'bench.json'
    assert bench.main(['--model', str(folder), '--size', '96x64', '--runs', '3', '--threads', '1',
                       '--json', str(out)]) == 0
    result = json.loads(out.read_text())['model']
    assert set(result['stages']) == {'pre', 'infer', 'post', 'total'}
    assert (result['height'], result['width'], result['runs']) == (64, 96, 3)
    assert result['engine'] == 'onnxruntime' and len(result['sha256']) == 64
    assert 'frames/s' in capsys.readouterr().out


def test_the_textbook_path_gives_our_mask():
    logits, _ = bench.synthetic_logits(14, (16, 16), 0.3)
    ours = upscale_argmax(logits, frame_geometry((128, 128), (128, 128), 8, 'stretch'), (128, 128))
    # OpenCV rounds otherwise in the last bit, so a near tie may go the other way.
    for plain in (bench.textbook_post, bench.interleaved_post):
        assert (plain(logits, (128, 128)) != ours).sum() <= 2


def test_the_textbook_input_is_the_normalised_frame():
    frame = np.zeros((20, 30, 3), np.uint8)
    frame[..., 2] = 255
    planes = bench.textbook_pre(frame, (8, 8))
    assert planes.dtype == np.float32 and planes.shape == (3, 8, 8)
    np.testing.assert_allclose(planes[0], 2)
    np.testing.assert_allclose(planes[1:], -2)


@pytest.mark.parametrize(('argv', 'said'), [
    (['--pre-post', '--size', '100'], 'WIDTHxHEIGHT'),
    (['--model', 'tiny', '--size', '0x10'], 'WIDTHxHEIGHT')])
def test_a_wrong_size_is_said(argv, said, capsys):
    assert bench.main(argv) == 1
    assert said in capsys.readouterr().err


def test_a_missing_bundle_has_its_exit_code(tmp_path, capsys):
    assert bench.main(['--model', str(tmp_path / 'nowhere')]) == 2
    assert 'bench: ' in capsys.readouterr().err


@pytest.mark.parametrize('argv', [[], ['--pre-post', '--runs', '0']])
def test_nothing_to_measure_is_a_usage_error(argv):
    with pytest.raises(SystemExit) as error:
        bench.main(argv)
    assert error.value.code == 2
