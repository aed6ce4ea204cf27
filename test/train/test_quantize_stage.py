# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The stage `quantize`: a bundle gets an int8 variant that passes its self-test, or it fails."""
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
onnx = pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import open_bundle, select_variant, self_test  # noqa: E402, I100
from evit_seg.core.errors import BundleError, ConfigError  # noqa: E402
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import quantize as stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402

HEAD = '/network/head/Conv'  # of four channels: what this tiny network cannot have in 8 bits


def write_easy_scenes(root):
    """Return frames of four blocks in three colours: a network learns them with a margin."""
    scenes = write_scenes(root)
    colours = np.array([[20, 20, 20], [230, 40, 40], [40, 230, 230]], np.uint8)
    for index, path in enumerate(sorted((scenes / 'GT').iterdir())):
        mask = (np.arange(4).reshape(2, 2) + index) % 3
        mask = mask.repeat(48, axis=0).repeat(64, axis=1)
        cv2.imwrite(str(path), mask.astype(np.uint8))
        cv2.imwrite(str(scenes / 'IMG' / path.name), colours[mask])
    return scenes


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Return an fp32 bundle of a run that has learnt a little."""
    root = tmp_path_factory.mktemp('plain')
    scenes = write_easy_scenes(root)
    args = parse(train_stage, '--out', root / 'run', *TINY, f'data.train=[{scenes}]',
                 f'data.validation=[{scenes}]', 'optim.steps=40', 'optim.learning_rate=0.02',
                 'run.validate_every=40')
    assert train_stage.main(args) == 0
    assert export_stage.main(parse(export_stage, '--run', root / 'run')) == 0
    return root / 'run' / 'bundle' / 'run'


def in_float(bundle):
    """Return the convolutions of the int8 variant whose weights are floats."""
    graph = onnx.load(bundle.folder / 'model_int8.onnx').graph
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return [n.name for n in graph.node if n.op_type == 'Conv' and n.input[1] in floats]


def quantize(plain, out, *words):
    args = parse(stage, '--bundle', plain, '--run', plain.parents[1], '--out', out, *words)
    assert stage.main(args) == 0
    return open_bundle(out)


@pytest.fixture(scope='module')
def bundle(plain, tmp_path_factory):
    out = tmp_path_factory.mktemp('int8') / 'eight'
    return quantize(plain, out, '--keep-float', HEAD, '--min-agreement', '0.9', '--max-float', '0',
                    '--report', out.parent / 'tensors')


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_each_variant_passes_the_self_test(bundle, precision):
    segmenter = Segmenter.open(str(bundle.folder), precision=precision, threads=1)
    assert segmenter.engine.precision == precision
    assert self_test(segmenter) >= {'fp32': 0.999, 'int8': 0.98}[precision]
    segmenter.close()


def test_the_old_variants_are_as_they_were_and_opened_first(plain, bundle):
    assert [v.precision for v in bundle.manifest.variants] == ['fp32', 'int8']
    assert select_variant(bundle) == select_variant(open_bundle(plain))
    assert (bundle.folder / 'model.onnx').read_bytes() == (plain / 'model.onnx').read_bytes()
    assert bundle.manifest.name == 'eight'
    assert bundle.manifest.temperature == open_bundle(plain).manifest.temperature


def test_the_manifest_says_how_it_was_made(plain, bundle):
    row = select_variant(bundle, precision='int8')
    model = onnx.load(bundle.folder / row.file)
    assert (row.file, row.opset, row.ir_version) == ('model_int8.onnx', 17, 8)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert len(model.opset_import) == 1
    provenance = bundle.manifest.provenance
    assert provenance['int8'] == {
        'calibration': 'percentile', 'percentile': 99.99, 'frames': 4, 'weights_bits': 8,
        'float_nodes': [HEAD],
        'class_agreement': provenance['int8']['class_agreement']}
    assert 0.9 <= provenance['int8']['class_agreement'] <= 1
    assert 0.98 <= provenance['parity_with_torch_int8']['agreement'] <= 1
    old = open_bundle(plain).manifest.provenance
    assert provenance['parity_with_torch'] == old['parity_with_torch']
    assert provenance['parents'][0]['command'] == old['command']
    assert bundle.manifest.golden.min_agreement['int8'] == 0.98


def test_int8_stands_first_where_asked_for_and_named_nodes_stay_in_float(plain, tmp_path):
    first = quantize(plain, tmp_path / 'first', '--first', '--keep-float', HEAD,
                     '--min-agreement', '0.9', '--calibration', 'minmax', '--frames', '2')
    assert select_variant(first).precision == 'int8'
    facts = first.manifest.provenance['int8']
    assert (facts['float_nodes'], facts['frames'], facts['calibration']) == ([HEAD], 2, 'minmax')
    assert in_float(first) == [HEAD]


def test_the_report_names_scale_and_zero_point_of_every_tensor(bundle):
    rows = json.loads((bundle.folder.parent / 'tensors.json').read_text())
    graph = onnx.load(bundle.folder / 'model_int8.onnx').graph
    quantized = {n.input[0] for n in graph.node if n.op_type == 'QuantizeLinear'}
    quantized = {name.removesuffix('_QuantizeLinear_Input') for name in quantized}
    assert {r['tensor'] for r in rows if r['kind'] == 'activation'} == quantized
    weights = [r for r in rows if r['kind'] == 'weight']
    assert len(weights) == sum(n.op_type == 'Conv' for n in graph.node) - 1
    assert in_float(bundle) == [HEAD]
    assert all(r['dtype'] == 'int8' and r['zero_point'] == 0 and r['sqnr_db'] > 25
               for r in weights)
    table = (bundle.folder.parent / 'tensors.md').read_text().splitlines()
    assert len(table) == len(rows) + 2 and table[2].startswith(f'| {rows[0]["tensor"]} |')


def test_a_bundle_that_has_int8_is_refused(bundle, plain, tmp_path):
    with pytest.raises(ConfigError, match=r'expected a bundle without an int8 .*fp32, int8'):
        stage.main(parse(stage, '--bundle', bundle.folder, '--run', plain.parents[1], '--out',
                         tmp_path / 'twice'))
    assert not (tmp_path / 'twice').exists()


def test_a_folder_with_something_in_it_is_not_written_to(bundle, plain):
    with pytest.raises(BundleError, match='exists and is not empty'):
        stage.main(parse(stage, '--bundle', plain, '--run', plain.parents[1], '--out',
                         bundle.folder))


@pytest.mark.parametrize('words, message', [
    (['--frames', '0'], '--frames: expected 1 or more, got 0'),
    (['--max-float', '-1'], '--max-float: expected 0 or more, got -1'),
    (['--min-agreement', '98'], '--min-agreement: expected 0 to 1, got 98.0'),
    (['--percentile', '40'], '--percentile: expected above 50 up to 100, got 40.0'),
    (['--keep-float', 'nonesuch'], "--keep-float: expected the name of a node, got 'nonesuch'")])
def test_options_out_of_range_are_named(plain, tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        quantize(plain, tmp_path / 'out', *words)


def test_it_fails_and_says_by_how_much(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, 'quantize_mixed', lambda *args, **kwargs: stage.Mixed(
        (plain / 'model.onnx').read_bytes(), (), 1.0, ()))
    monkeypatch.setattr(stage, '_golden_agreement', lambda draft: 0.75)
    with pytest.raises(BundleError, match=r'0\.7500 of the golden mask agrees in int8, at least '
                       r'0\.98'):
        quantize(plain, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_the_run_must_be_the_one_of_the_bundle(plain, tmp_path):
    args = parse(train_stage, '--out', tmp_path / 'other', *TINY, 'optim.steps=0',
                 'input.height=32', f'data.train=[{plain.parents[2] / "train"}]')
    assert train_stage.main(args) == 0
    with pytest.raises(ConfigError, match=r'whose input is 64x96, got one of 32x96'):
        stage.main(parse(stage, '--bundle', plain, '--run', tmp_path / 'other', '--out',
                         tmp_path / 'out'))
