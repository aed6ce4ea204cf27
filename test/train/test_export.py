# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What export writes: a graph that computes what torch does, for each opset, and says its size."""
from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
onnx = pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import self_test  # noqa: E402, I100
from evit_seg.core.errors import BundleError, ConfigError, InputError  # noqa: E402
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import deployed as deployed_module  # noqa: E402
from offline_train import distil as distil_stage  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import InputConfig, ModelConfig  # noqa: E402
from offline_train.deployed import (  # noqa: E402
    check_parity,
    Deployed,
    export_onnx,
    onnx_runner,
    plain_attention,
)
from offline_train.models import build_model  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402

SMALL = InputConfig(height=64, width=96)
TINY_MODEL = ModelConfig(widths=(4, 4, 8, 8, 8))


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'))


@pytest.fixture(scope='module')
def run(scenes, tmp_path_factory):
    """Return a run of four steps with a validation folder."""
    return train(tmp_path_factory.mktemp('runs') / 'mine', f'data.train=[{scenes}]',
                 f'data.validation=[{scenes}]')


def train(out, *overrides, stage=train_stage):
    assert stage.main(parse(stage, '--out', out, *TINY, *overrides)) == 0
    return RunDir.open(out)


def trained_network(run):
    model = build_model(run.config().model, 14)
    model.load_state_dict(run.load_checkpoint().part('ema'))
    return model.eval()


@pytest.mark.parametrize(('opset', 'ir_version'), [(13, 7), (17, 8)])
def test_a_bundle_opens_and_passes_its_self_test(run, tmp_path, opset, ir_version, capsys):
    out = tmp_path / 'tiny'
    assert export_stage.main(parse(export_stage, '--run', run.path, '--out', out, '--opset',
                                   opset)) == 0
    assert 'largest difference' in capsys.readouterr().out
    segmenter = Segmenter.open(str(out), threads=1)
    assert self_test(segmenter) == 1.0
    manifest = segmenter.manifest
    (variant,) = manifest.variants
    assert (variant.opset, variant.ir_version, variant.stride) == (opset, ir_version, 4)
    graph = onnx.load(out / variant.file)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.ir_version == ir_version
    assert {o.domain: o.version for o in graph.opset_import} == {'': opset}
    assert manifest.normalise['mean'] == list(run.config().input.mean)
    assert manifest.provenance['parity_with_torch']['agreement'] >= 0.999
    assert manifest.provenance['parity_with_torch']['max_difference'] < 1e-4
    assert manifest.scores['validation']['frames'] == 4
    result = segmenter(np.zeros((48, 80, 3), np.uint8))
    assert result.mask_HW.shape == (48, 80) and result.logits_CHW.shape == (14, 16, 24)


def test_the_bundle_lies_in_the_run_unless_told_otherwise(run):
    bundle = export_stage.export(run)
    assert bundle.folder == run.path / 'bundle' / 'mine' and bundle.manifest.name == 'mine'
    with pytest.raises(BundleError, match=r'not empty.*--out'):
        export_stage.export(run)


def test_parameters_and_multiply_adds_are_those_counted_by_hand(run, tmp_path):
    model, macs = trained_network(run), []

    def count(layer, _inputs, output):
        fan_in = layer.weight[0].numel()  # input channels of a group x rows x columns
        macs.append(output[0].numel() * fan_in)

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 96))
    provenance = export_stage.export(run, tmp_path / 'tiny').manifest.provenance
    assert provenance['gmacs'] == pytest.approx(sum(macs) / 1e9, abs=1e-4)
    assert provenance['parameters'] == sum(p.numel() for p in model.parameters())


def test_the_bundle_computes_what_the_trained_weights_compute(run, tmp_path):
    export_stage.export(run, tmp_path / 'tiny')
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    config = InputConfig()
    normalised = (image.astype(np.float64) - config.mean) / config.std
    with torch.no_grad():
        wanted = trained_network(run)(
            torch.from_numpy(normalised.transpose(2, 0, 1)[None]).float())[0].numpy()
    got = Segmenter.open(str(tmp_path / 'tiny'), threads=1).engine.infer(image)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_without_validation_the_training_frames_calibrate_and_are_named(scenes, tmp_path):
    run = train(tmp_path / 'run', f'data.train=[{scenes}]', 'optim.steps=1')
    scores = export_stage.export(run, tmp_path / 'tiny').manifest.scores
    assert list(scores) == ['train'] and scores['train']['split'] == 'train'


def test_a_run_on_images_without_masks_has_no_scores(run, scenes, tmp_path):
    student = train(tmp_path / 'student', f'data.unlabeled=[{scenes}/IMG]',
                    'data.unlabeled_fraction=1', f'teacher.path={run.path}', 'distil.mse=1',
                    'distil.labels=0', 'optim.steps=1', stage=distil_stage)
    manifest = export_stage.export(student, tmp_path / 'tiny').manifest
    assert manifest.scores == {} and manifest.temperature == 1.0


def test_the_golden_image_can_be_one_that_may_be_passed_on(run, tmp_path):
    ours = np.random.default_rng(5).integers(0, 256, (64, 96, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'ours.png'), ours)
    args = parse(export_stage, '--run', run.path, '--out', tmp_path / 'tiny', '--golden',
                 tmp_path / 'ours.png')
    assert export_stage.main(args) == 0
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'tiny' / 'golden_image.png')), ours)
    with pytest.raises(InputError, match=r'absent\.png'):
        export_stage.export(run, tmp_path / 'other', golden=tmp_path / 'absent.png')


def test_what_cannot_be_exported_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(ConfigError, match='--opset: expected 13 to 18, got 12'):
        export_stage.export(run, tmp_path / 'tiny', opset=12)
    with pytest.raises(ConfigError, match='--golden: expected 0 to 3 or an image file, got 4'):
        export_stage.export(run, tmp_path / 'tiny', golden=4)
    assert not (tmp_path / 'tiny').exists()


def test_export_fails_where_the_graph_and_torch_disagree():
    torch.manual_seed(0)
    one, other = (Deployed(build_model(TINY_MODEL, 14), SMALL).eval() for _ in range(2))
    run_one = onnx_runner(export_onnx(one, SMALL, 17))
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    assert check_parity('a', run_one, one, [image])['agreement'] == 1.0
    with pytest.raises(BundleError, match='agree on'):
        check_parity('a', run_one, other, [image])
    with pytest.raises(BundleError, match='not finite'):
        check_parity('a', lambda image: run_one(image) * np.float32(np.nan), one, [image])


def test_the_share_of_equal_cells_is_counted_over_all_frames():
    def constant(winner):
        def run(_image):
            logits = torch.zeros(1, 3, 10, 10)
            logits[:, winner] = 1
            return logits
        return run

    network = constant(1)
    changed = iter([0, 2])  # cells that a variant answers otherwise, frame by frame

    def run(image):
        logits = constant(1)(image).numpy()
        logits[0, 2].reshape(-1)[:next(changed)] = 2
        return logits

    images = [np.zeros((20, 20, 3), np.uint8)] * 2
    with pytest.raises(BundleError, match=r'agree on 0\.9900'):
        check_parity('a', run, network, images)
    changed = iter([0, 1])
    assert check_parity('a', run, network, images, 'fp16') == {
        'agreement': 0.995, 'max_difference': 2.0, 'frames': 2}


@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
def test_attention_is_plain_while_a_network_is_built_and_what_it_was_afterwards():
    from timm.layers import set_fused_attn, use_fused_attn
    before = use_fused_attn()
    try:
        set_fused_attn(True)
        with plain_attention():
            assert not use_fused_attn()
        assert use_fused_attn() and not use_fused_attn(experimental=True)
        with pytest.raises(KeyError), plain_attention():
            raise KeyError
        assert use_fused_attn()
    finally:
        set_fused_attn(before)


def test_without_timm_attention_is_left_alone(monkeypatch):
    monkeypatch.setattr(deployed_module.importlib.util, 'find_spec', lambda name: None)
    with plain_attention():
        pass


def test_the_demo_network_keeps_its_size():
    model = build_model(ModelConfig(), 14)
    assert 0.85e6 < sum(p.numel() for p in model.parameters()) < 1.0e6
    deployed = Deployed(model, InputConfig()).eval()
    assert len(export_onnx(deployed, InputConfig(), 17)) <= 4e6
