# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bench command compares like with like and says what it measured; no time is tested."""
from __future__ import annotations

import json
import re

from evit_seg import bench
from evit_seg.benchmark import node as node_benchmark
from evit_seg.benchmark.frames import encode, source_frames
from evit_seg.benchmark.table import node_table
from evit_seg.core.bundle import open_bundle
from evit_seg.core.errors import ConfigError
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


class Peak:
    """A setup that keeps up to so many frames a second."""

    def __init__(self, peak_hz):
        self.peak_hz = peak_hz

    def offer(self, rate_hz, seconds, purpose):
        return {'offered_hz': rate_hz, 'drops': 0.0 if rate_hz <= self.peak_hz else 0.2}


@pytest.mark.parametrize('peak_hz', [8.8, 9.9, 10.0, 10.7, 11.3])
def test_the_peak_is_found_from_below_and_from_above(peak_hz):
    runs = list(node_benchmark._climb(Peak(peak_hz), 10.0, 1.0))
    kept = [run['offered_hz'] for run in runs if not run['drops']]
    dropped = [run['offered_hz'] for run in runs if run['drops']]
    assert max(kept) <= peak_hz < min(dropped) < 1.051 * max(kept)
    assert len(runs) <= node_benchmark.PEAK_STEPS


def test_a_node_that_answers_nothing_ends_the_climb():
    assert len(list(node_benchmark._climb(Peak(0.0), 10.0, 1.0))) == node_benchmark.PEAK_STEPS


def test_rounds_without_an_answer_do_not_count():
    runs = [{'setup': 'one_process', 'masks_hz': hz} for hz in (8.0, None, 9.0)]
    row = node_benchmark._cost_row([10.0, 10.0, 12.0], runs, 'one_process')
    assert row['rounds_hz'] == [8.0, None, 9.0]
    assert row['ratios'] == [0.8, None, 0.75]
    assert (row['ratio'], row['node_hz']) == (pytest.approx(0.775), 8.5)
    assert node_benchmark._cost_row([10.0], [], 'one_process')['ratio'] is None


def test_the_node_table_shows_what_did_not_come_as_a_dash():
    run = {'setup': 'two_processes', 'purpose': 'flood', 'offered_hz': 12.0, 'sent': 12,
           'transport_loss': 12, 'drops': 1.0, 'masks_hz': None, 'latency_ms': None,
           'node_ms': {}, 'cpu_cores': {'node': None}, 'rss_mb': {'now': None}}
    cost = {'two_processes': {'node_hz': None, 'ratio': None, 'peak_hz': None}}
    text = node_table({'name': 'tiny', 'engine': 'onnxruntime', 'provider': 'cpu',
                       'precision': 'fp32', 'width': 96, 'height': 64, 'encoding': 'bgr8',
                       'transport': 'default', 'bare_hz': 10.0, 'ros_cost': cost,
                       'runs': [run]})
    assert 'bare Segmenter 10.0 frames/s' in text
    assert 'two processes: - frames/s, - % of the bare one' in text
    assert text.splitlines()[-1].split() == [
        'two', 'flood', '12.0', '12', '12', '100.0%', '-', '-', '-', '-', '-', '-']


def test_without_ros_one_sentence_says_what_is_missing(tmp_path, monkeypatch, capsys):
    folder = write_tiny_bundle(tmp_path / 'tiny')
    monkeypatch.setattr(node_benchmark.importlib.util, 'find_spec', lambda name: None)
    assert bench.main(['--node', str(folder)]) == 1
    said = capsys.readouterr().err
    assert 'rclpy' in said and len(said.splitlines()) == 1


@pytest.mark.parametrize('argv', [['--rates', '0'], ['--rates', '5,x'], ['--seconds', '0'],
                                  ['--rounds', '0'], ['--encoding', 'hsv8'],
                                  ['--transport', 'tcp'], ['--setup', 'three_processes']])
def test_node_arguments_that_make_no_sense_are_usage_errors(argv):
    with pytest.raises(SystemExit) as error:
        bench.main(['--node', 'tiny', *argv])
    assert error.value.code == 2


def test_an_odd_size_has_no_nv12():
    with pytest.raises(ConfigError, match='even size, got 5x4'):
        encode(np.zeros((4, 5, 3), np.uint8), 'nv12')


def test_frames_are_the_golden_picture_moved(tmp_path):
    bundle = open_bundle(write_tiny_bundle(tmp_path / 'tiny'))
    frames = source_frames(bundle, (32, 48))
    assert {frame.shape for frame in frames} == {(32, 48, 3)}
    assert len({frame.tobytes() for frame in frames}) == len(frames)
    np.testing.assert_array_equal(np.roll(frames[0], 12, axis=1), frames[1])


def test_the_commit_is_that_of_this_checkout(monkeypatch, tmp_path):
    commit = bench.source_commit()
    if commit is not None:  # an archive has none
        assert re.fullmatch('[0-9a-f]{40}(-dirty)?', commit)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert bench.source_commit() is None
