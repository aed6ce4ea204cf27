# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`offline_train bench` says what it measured, without torch; no duration is tested."""
from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace

from evit_seg.core.bundle import open_bundle, write_bundle
from evit_seg.core.errors import BundleError, BundleMissing, ConfigError, EvitSegError, InputError
from evit_seg.core.machine import thermal_state
import numpy as np
from offline_train import bench
from offline_train.measuring import memory as bench_memory
from offline_train.measuring.power import Found
from offline_train.measuring.text import bench_notes, bench_text
import pytest
from tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
SPEC_KEYS = {'kind', 'bundle', 'machine', 'engine', 'provider', 'threads', 'size', 'latency_ms',
             'fps', 'gmacs', 'rss_mb', 'peak_rss_mb', 'swap_mb', 'gpu_mb', 'energy_mj_per_frame',
             'energy_source', 'paper_score'}


def parsed(*argv):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args([str(arg) for arg in argv])


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a tiny bundle with two precisions (of the same numbers) and a known size."""
    folder = tmp_path_factory.mktemp('bench') / 'plain'
    plain = open_bundle(write_tiny_bundle(folder))
    variant = plain.manifest.variants[0]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    del files['manifest.yaml']
    manifest = replace(plain.manifest, variants=(variant, replace(variant, precision='fp16')),
                       provenance={'parameters': 2702, 'gmacs': 0.000172})
    return write_bundle(folder.with_name('tiny'), manifest, files)


def evaluation(path, bundle, precision, miou=0.5, **other):
    content = {'kind': 'evaluate', 'bundle': {'sha256': bundle.sha256, 'precision': precision},
               'data': {'name': 'scenes', 'split': 'val', 'frames': 7, 'size': [48, 96]},
               'scores': {'dataset': {'miou': miou}}, **other}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope='module')
def written(tiny, tmp_path_factory):
    """Run the stage on both precisions; return what was printed and the two results."""
    out = tmp_path_factory.mktemp('out')
    fp16 = evaluation(out / 'evaluate.json', tiny, 'fp16')
    script = ('import argparse, sys\nfrom offline_train import bench\n'
              'parser = argparse.ArgumentParser()\nbench.add_arguments(parser)\n'
              'code = bench.main(parser.parse_args())\n'
              "print('IMPORTED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
              'sys.exit(code)')
    done = subprocess.run(
        [sys.executable, '-c', script, str(tiny.folder), '--precision', 'fp32', '--precision',
         'fp16', '--threads', '1', '--runs', '6', '--warm-up', '1', '--size', '96x48',
         '--evaluate', str(fp16), '--energy-seconds', '1', '--idle-seconds', '0',
         '--json', str(out / 'results')],
        stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    files = sorted((out / 'results').iterdir())
    assert [path.name for path in files] == ['bench_1_tiny_fp32.json', 'bench_2_tiny_fp16.json']
    return done.stdout, [json.loads(path.read_text()) for path in files]


def test_each_bundle_has_its_result(written, tiny):
    _, results = written
    for result, precision in zip(results, ('fp32', 'fp16')):
        assert set(result) >= SPEC_KEYS and result['kind'] == 'bench'
        assert result['bundle'] == {'name': 'tiny', 'sha256': tiny.sha256, 'file': 'tiny.onnx',
                                    'precision': precision, 'parameters': 2702}
        assert result['gmacs'] == 0.000172
        assert result['file_mb'] == round((tiny.folder / 'tiny.onnx').stat().st_size / 1e6, 3)
        assert (result['engine'], result['provider'], result['threads']) == (
            'onnxruntime', 'cpu', 1)
        assert (result['size'], result['input_size']) == ([48, 96], [64, 64])
        assert (result['runs'], result['in_turns']) == (6, 2)


def test_figures_of_a_result_agree_with_one_another(written):
    _, (first, second) = written
    for result in (first, second):
        latency = result['latency_ms']
        assert 0 < latency['p50'] <= latency['p95'] <= latency['p99'] <= latency['max']
        assert result['fps'] == pytest.approx(1000 / latency['mean'], rel=1e-4)
        parts = sum(result['stage_ms'][stage]['mean'] for stage in ('pre', 'infer', 'post'))
        assert parts == pytest.approx(latency['mean'], abs=3e-3)
        assert result['peak_rss_mb'] >= result['rss_mb'] > result['rss_before_mb'] > 1
        assert result['swap_mb'] >= 0 and result['system_mb'] > result['rss_mb']
        assert result['gpu_mb'] is None and result['gpu_source'] == 'the provider is cpu'
        assert (result['energy_mj_per_frame'] is None) == (
            result['energy_source'].startswith('none ('))
    assert first['ratio_to_first'] == {'p25': 1, 'p50': 1, 'p75': 1}
    assert second['ratio_to_first']['p50'] > 0
    assert first['paper_score'] is None and first['miou'] is None
    assert second['paper_score'] == pytest.approx(0.5 * second['fps'], rel=1e-3)
    assert second['miou_source'] == 'scenes/val, 7 frames of 96x48'


def test_the_reader_is_told(written):
    printed, (first, _) = written
    for text in ('1. tiny fp32', '2. tiny fp16', 'whole call', 'engine', 'FPS (1000 / mean',
                 'parameters 2,702', 'peak', '/ seconds per image', 'load '):
        assert text in printed
    for note in first['notes']:
        assert f'note: {note}' in printed
    assert any('p99 of 6 frames' in note for note in first['notes'])


def test_neither_torch_nor_onnx_is_needed(written):
    printed, _ = written
    imported = printed.partition('IMPORTED ')[2].split()
    assert 'onnxruntime' in imported
    assert not {'torch', 'torchvision', 'timm', 'onnx', 'psutil'} & set(imported)


def test_missing_facts_are_null(tmp_path):
    target, = bench.plan(parsed(write_tiny_bundle(tmp_path / 'plain')))
    ones = {stage: [1.0, 1.0] for stage in bench.STAGES}
    engine = SimpleNamespace(engine=SimpleNamespace(name='onnxruntime', provider='cpu'))
    result = bench._result(target, engine, ones, 'noise')
    assert result['bundle']['parameters'] is None and result['gmacs'] is None
    assert result['latency_ms']['mean'] == 3 and result['fps'] == 333.333
    assert result['size'] == [64, 64]
    assert bench._number(True) is None and bench._number(float('nan')) is None


def test_ratio_is_taken_round_by_round():
    first = {'pre': [1, 10, 1], 'infer': [1, 10, 2], 'post': [2, 20, 1]}
    own = {'pre': [2, 10, 2], 'infer': [2, 20, 4], 'post': [4, 30, 2]}
    assert bench.ratio(own, first) == {'p25': 1.75, 'p50': 2.0, 'p75': 2.0}


def test_frames_take_turns_and_show_the_same_scene(tmp_path):
    targets = bench.plan(parsed(write_tiny_bundle(tmp_path / 'a'),
                                write_tiny_bundle(tmp_path / 'b', hw=(32, 48))))
    order = []

    def stub(name):
        def call(frame_HWC, colour):
            order.append((name, frame_HWC.shape[:2]))
            return SimpleNamespace(stage_ms=dict.fromkeys(bench.STAGES, 1.0))
        call.engine = SimpleNamespace(name='stub', provider='cpu')
        return call
    results = bench.measure(targets, [stub('a'), stub('b')], Found(None, {}), runs=3, warm_up=2,
                            energy_s=1, idle_s=1)
    a, b = ('a', (64, 64)), ('b', (32, 48))
    assert order == [a, a, b, b, a, b, a, b, a, b]
    assert [r['frames'] for r in results] == ['golden frame of tiny'] * 2
    (first, *others), small = bench.camera_frames(targets)[0]
    assert len(small) == 4 and small[0].shape == (32, 48, 3)
    assert not any(np.array_equal(first, other) for other in others)


def test_a_bundle_without_golden_frame_gets_noise(tmp_path):
    target, = bench.plan(parsed(write_tiny_bundle(tmp_path / 'a')))
    bare = replace(target.bundle, manifest=replace(target.bundle.manifest, golden=None))
    frames, content = bench.camera_frames([replace(target, bundle=bare)])
    assert content.startswith('noise') and frames[0][0].std() > 30


@pytest.mark.parametrize(('argv', 'error', 'said'), [
    (['--size', '640'], ConfigError, 'WIDTHxHEIGHT'),
    (['--precision', 'int8'], BundleError, 'no variant'),
    (['--miou', '0.5', '--miou', '0.6'], ConfigError, 'expected 1 value'),
    (['--miou', '60.5'], ConfigError, '0 to 1'),
    (['--miou', 'nan'], ConfigError, '0 to 1'),
    (['--miou', '0.5', '--evaluate', 'x.json'], ConfigError, 'expected one of them'),
    (['--evaluate', 'nowhere.json'], InputError, 'nowhere.json'),
    ([ROOT / 'nowhere'], BundleMissing, 'nowhere')])
def test_wrong_requests_are_said_before_anything_is_measured(tiny, argv, error, said):
    with pytest.raises(error, match=said):
        bench.plan(parsed(tiny.folder, *argv))


def test_an_evaluation_must_be_of_what_is_measured(tiny, tmp_path):
    good = evaluation(tmp_path / 'good.json', tiny, 'fp32', 0.61)
    assert [t.miou for t in bench.plan(parsed(tiny.folder, tiny.folder, '--evaluate', good))] \
        == [0.61, 0.61]
    for argv, said in (
            (['--precision', 'fp16', '--evaluate', good], 'not among those measured'),
            (['--evaluate', good, '--evaluate', good], 'was given before'),
            (['--evaluate', evaluation(tmp_path / 'k.json', tiny, 'fp32', kind='bench')],
             "kind is 'bench'"),
            (['--evaluate', evaluation(tmp_path / 'm.json', tiny, 'fp32', None)], 'TypeError'),
            (['--evaluate', evaluation(tmp_path / 'd.json', tiny, 'fp32', data=[])],
             'AttributeError|TypeError')):
        with pytest.raises(InputError, match=said):
            bench.plan(parsed(tiny.folder, *argv))


def test_where_the_json_goes(tiny, tmp_path):
    one, two = (bench.plan(parsed(*[tiny.folder] * number)) for number in (1, 2))
    assert bench.output_files(tmp_path / 'b.json', one) == [tmp_path / 'b.json']
    assert bench.output_files(tmp_path, one) == [tmp_path / 'bench_1_tiny_fp32.json']
    assert [path.name for path in bench.output_files(tmp_path / 'new', two)] == [
        'bench_1_tiny_fp32.json', 'bench_2_tiny_fp32.json']
    for wrong in ('b.json', 'file'):
        (tmp_path / 'file').touch()
        with pytest.raises(ConfigError, match='expected a folder'):
            bench.output_files(tmp_path / wrong, two)


@pytest.mark.parametrize('argv', [['--runs', '0'], ['--threads', '-1'], ['--idle-seconds', 'x']])
def test_numbers_out_of_range_are_usage_errors(argv):
    with pytest.raises(SystemExit):
        parsed('demo', *argv)


def test_an_error_of_the_memory_child_is_raised_here(tiny, tmp_path):
    with pytest.raises(EvitSegError, match=r'engine\.provider') as error:
        bench_memory.measure_memory(tiny.folder, precision='fp32', height=64, provider='no_such',
                                    threads=1, size=(64, 64))
    assert error.value.exit_code == 1


def test_a_memory_child_that_dies_is_said(tiny, monkeypatch):
    monkeypatch.setattr(bench_memory.subprocess, 'run', lambda *args, **kwargs: SimpleNamespace(
        returncode=-9, stdout=''))
    with pytest.raises(EvitSegError, match='signal 9'):
        bench_memory.measure_memory(tiny.folder, precision='fp32', height=64, provider='cpu',
                                    threads=1, size=(64, 64))


def quiet(tmp_path):
    """Return a result that has nothing to be warned about but the missing sensor."""
    state = {**thermal_state(tmp_path), 'cpu_mhz': [900.0, 2000.0],
             'cpu_max_mhz': [2000.0, 2000.0]}
    return {'machine': {'load_1min': 1.0, 'cores': 2, 'governor': 'performance'}, 'runs': 100,
            'in_turns': 1, 'thermal': {'start': state, 'end': dict(state)}, 'energy': {},
            'energy_above_idle_mj_per_frame': 3.0, 'energy_source': 'none (x)'}


def test_a_quiet_machine_gets_no_note(tmp_path):
    assert bench_notes(quiet(tmp_path)) == []


@pytest.mark.parametrize(('change', 'said'), [
    ({'machine': {'load_1min': 1.1, 'cores': 2, 'governor': None}}, 'may be noise'),
    ({'machine': {'load_1min': 0, 'cores': 2, 'governor': 'ondemand'}}, "'ondemand'"),
    ({'runs': 99}, 'p99 of 99'), ({'in_turns': 2}, 'colder caches'),
    ({'energy': None}, 'none (x)'), ({'energy_above_idle_mj_per_frame': -0.1}, 'not above zero'),
    ({'end': {'cpu_mhz': [900.0, 1700.0]}}, 'from 100% to 85%'),
    ({'end': {'throttled': '0x50005'}}, 'flags 0x50005')])
def test_each_doubt_is_noted(tmp_path, change, said):
    result = {**quiet(tmp_path), **change}
    result['thermal']['end'].update(change.get('end', {}))
    note, = bench_notes(result)
    assert said in note


def test_a_sensor_and_heat_are_printed(written):
    _, (result, _) = written
    state = {'temperature_c': {'cpu': 41.0}, 'cpu_mhz': [500.0], 'cpu_max_mhz': [1000.0],
             'throttled': None}
    energy = {'watts': 5.0, 'idle_watts': None, 'frames': 9, 'seconds': 1.0}
    text = bench_text([{**result, 'thermal': {'start': state, 'end': state}, 'energy': energy,
                        'energy_mj_per_frame': 12.345, 'energy_source': 'rapl: CPU'}])
    for said in ('12.3 mJ per frame, above idle -', '5.00 W at work, - at rest', 'by rapl: CPU',
                 'cpu 41 -> 41 C', 'fastest CPU at 50% -> 50%'):
        assert said in text
