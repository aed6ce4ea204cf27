# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle that ships with the package says what it is and computes what was exported."""
from __future__ import annotations

from evit_seg.core.bundle import find_bundle, open_bundle, self_test
from evit_seg.core.labels import load_label_map
from evit_seg.core.segmenter import Segmenter
import pytest


@pytest.fixture(scope='module')
def bundle():
    return open_bundle(find_bundle('demo'))


def test_it_is_small_and_runs_on_old_onnx_runtimes(bundle):
    (variant,) = bundle.manifest.variants
    assert variant.bytes <= 4e6
    assert variant.opset <= 17 and variant.ir_version <= 10
    assert (variant.input_hw, variant.stride) == ((384, 640), 4)


def test_its_manifest_says_where_it_comes_from(bundle):
    manifest = bundle.manifest
    assert 'demonstration' in manifest.description.lower()
    assert 'synthetic' in manifest.description.lower()
    assert manifest.data[0]['licence'] == 'Apache-2.0'
    assert len(manifest.data[0]['split_sha256']) == 64
    assert manifest.provenance['git'] and manifest.provenance['command']
    assert manifest.provenance['parity_with_torch']['agreement'] >= 0.999
    assert 0 < manifest.scores['validation']['miou'] < 1
    assert manifest.label_map == load_label_map()


def test_it_computes_what_was_exported(bundle):
    segmenter = Segmenter.open(str(bundle.folder), threads=2)
    assert self_test(segmenter) >= 0.999
    segmenter.close()
