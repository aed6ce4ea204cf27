# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle that has seen real ground: what it is, whose images it must not hold."""
from __future__ import annotations

from evit_seg.core.bundle import find_bundle, open_bundle, select_variant, self_test
from evit_seg.core.labels import load_label_map
from evit_seg.core.segmenter import Segmenter
import pytest


@pytest.fixture(scope='module')
def bundle():
    return open_bundle(find_bundle('fast'))


def test_it_is_small_and_runs_on_old_onnx_runtimes(bundle):
    assert {v.precision for v in bundle.manifest.variants} == {'fp32', 'int8'}
    assert sum(variant.bytes for variant in bundle.manifest.variants) <= 8e6
    assert all(v.opset <= 17 and v.ir_version <= 10 for v in bundle.manifest.variants)
    assert bundle.manifest.label_map == load_label_map()


def test_its_manifest_and_card_say_whose_data_it_saw(bundle):
    (data,) = bundle.manifest.data
    assert 'Semantic Drone' in data['name'] and 'non-commercial' in data['licence']
    assert data['url'] == 'http://dronedataset.icg.tugraz.at'
    card = (bundle.folder / 'README.md').read_text()
    assert data['url'] in card and 'non-commercial' in card


def test_the_card_has_the_scores_of_the_manifest(bundle):
    card = (bundle.folder / 'README.md').read_text()
    miou = bundle.manifest.scores['validation']['miou']
    assert f'| fp32 | {miou:.3f} |' in card


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_it_computes_what_was_exported(bundle, precision):
    variant = select_variant(bundle, 'onnxruntime', precision=precision)
    assert variant.precision == precision
    segmenter = Segmenter.open(str(bundle.folder), threads=2, precision=precision)
    assert self_test(segmenter) >= {'fp32': 0.999, 'int8': 0.98}[precision]
    segmenter.close()
