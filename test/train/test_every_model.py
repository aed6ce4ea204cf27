# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Each network by name learns a step, is exported for old and new boards, and segments."""
from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
onnx = pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import self_test  # noqa: E402, I100
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.models.zoo import MODELS  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402

OWN = ['bilateral', 'pidnet_s', 'token_pyramid']
IR_VERSIONS = {13: 7, 17: 8}
# Most of this file's time (11, 23 and 21 of 94 s on one core); sisters have the same operators,
# so one opset each is enough.
LARGE = {'upernet_swinv2_t': [17], 'upernet_swinv2_b': [13], 'segformer_b5': [13]}

needs_zoo = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None
        for name in ('timm', 'segmentation_models_pytorch')),
    reason='timm and segmentation_models.pytorch are not installed')
NAMES = [name if name in OWN else pytest.param(name, marks=needs_zoo) for name in MODELS]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'), count=2)


@pytest.fixture
def folder(tmp_path):
    """Return a folder that is emptied at once: a checkpoint may take 1.7 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_a_network_learns_a_step_is_exported_and_segments(name, scenes, folder):
    args = parse(train_stage, '--out', folder / 'run', *TINY, f'model.name={name}',
                 f'data.train=[{scenes}]', 'input.width=64', 'augment.crop_width=32',
                 'optim.steps=1')
    assert train_stage.main(args) == 0
    run = RunDir.open(folder / 'run')
    assert np.isfinite(run.records()[0]['loss'])
    for opset in LARGE.get(name, IR_VERSIONS):
        bundle = export_stage.export(run, folder / f'opset_{opset}', opset=opset)
        variant = bundle.manifest.variants[0]
        assert (variant.opset, variant.ir_version) == (opset, IR_VERSIONS[opset])
        assert variant.stride == MODELS[name].stride
        assert bundle.manifest.provenance['gmacs'] > 0
        segmenter = Segmenter.open(str(bundle.folder), threads=1)
        assert self_test(segmenter) == 1.0
        result = segmenter(np.zeros((48, 80, 3), np.uint8))
        assert result.mask_HW.shape == (48, 80)
        assert result.logits_CHW.shape == (14, 64 // variant.stride, 64 // variant.stride)
        assert np.isfinite(result.logits_CHW).all()
        segmenter.close()
