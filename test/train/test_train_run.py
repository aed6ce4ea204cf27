# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny network goes the whole way: trained, resumed, exported, opened by the Segmenter."""
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import self_test  # noqa: E402, I100
from evit_seg.core.errors import BundleError, ConfigError, InputError  # noqa: E402
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import evaluate as evaluate_stage  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import InputConfig, ModelConfig  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from tiny_runs import losses, parse, TINY, write_scenes  # noqa: E402


@pytest.fixture
def scenes(tmp_path):
    return write_scenes(tmp_path)


def train(scenes, out, *overrides):
    folder = f'[{scenes}]'
    args = parse(train_stage, '--out', out, *TINY, f'data.train={folder}',
                 f'data.validation={folder}', *overrides)
    assert train_stage.main(args) == 0
    return RunDir.open(out)


def test_train_export_open_and_evaluate(scenes, tmp_path, capsys):
    run = train(scenes, tmp_path / 'run')
    assert sorted(losses(run)) == [1, 2, 3, 4]
    assert [p.name for p in run.checkpoints()] == ['step_000002.safetensors',
                                                   'step_000004.safetensors']
    export_stage.main(parse(export_stage, '--run', run.path, '--out', tmp_path / 'tiny'))
    segmenter = Segmenter.open(str(tmp_path / 'tiny'), threads=1)
    assert self_test(segmenter) == 1.0
    manifest = segmenter.manifest
    assert manifest.provenance['parity_with_torch']['agreement'] >= 0.999
    assert manifest.normalise['mean'] == list(run.config().input.mean)
    assert manifest.variants[0].stride == 4 and manifest.variants[0].ir_version <= 10
    result = segmenter(np.zeros((48, 80, 3), np.uint8))
    assert result.mask_HW.shape == (48, 80) and result.logits_CHW.shape == (14, 16, 24)

    json_path = tmp_path / 'scores.json'
    evaluate_stage.main(parse(evaluate_stage, '--bundle', tmp_path / 'tiny', '--data',
                              scenes.parent, '--split', 'train', '--json', json_path))
    assert json.loads(json_path.read_text())['data']['frames'] == 4
    assert 'mIoU' in capsys.readouterr().out


def test_the_bundle_computes_what_the_trained_weights_compute(scenes, tmp_path):
    run = train(scenes, tmp_path / 'run', 'optim.steps=2')
    export_stage.export(run, tmp_path / 'tiny')
    model = build_model(run.config().model, 14)
    model.load_state_dict(run.load_checkpoint().part('ema'))
    model.eval()
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    config = InputConfig()
    normalised = (image.astype(np.float64) - config.mean) / config.std
    with torch.no_grad():
        wanted = model(torch.from_numpy(normalised.transpose(2, 0, 1)[None]).float())[0].numpy()
    got = Segmenter.open(str(tmp_path / 'tiny'), threads=1).engine.infer(image)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(scenes, tmp_path):
    whole = losses(train(scenes, tmp_path / 'whole'))
    run = train(scenes, tmp_path / 'cut')
    run.checkpoints()[-1].unlink()  # as if it had been interrupted after step 2
    (run.path / 'log.jsonl').unlink()
    train_stage.main(parse(train_stage, '--resume', run.path))
    assert losses(run) == {step: whole[step] for step in (3, 4)}


def test_a_run_starts_from_the_averaged_weights_of_another(scenes, tmp_path):
    first = train(scenes, tmp_path / 'first')
    second = train(scenes, tmp_path / 'second', f'model.initial={first.path}', 'optim.steps=1',
                   'optim.learning_rate=0', 'optim.weight_decay=0')
    old, new = (run.load_checkpoint().part('ema') for run in (first, second))
    assert torch.equal(old['head.weight'], new['head.weight'])
    (parent,) = second.provenance()['parents']
    assert parent['step'] == 4 and parent['command'] == first.provenance()['command']
    with pytest.raises(ConfigError, match=r'model\.initial: .* holds another network'):
        train(scenes, tmp_path / 'third', f'model.initial={first.path}',
              'model.widths=[4, 4, 4, 8, 8]')


def test_a_run_is_not_overwritten_and_resume_takes_no_new_settings(scenes, tmp_path):
    train(scenes, tmp_path / 'run', 'optim.steps=1')
    with pytest.raises(ConfigError, match='not overwritten'):
        train(scenes, tmp_path / 'run')
    with pytest.raises(ConfigError, match='leave out'):
        train_stage.main(parse(train_stage, '--resume', tmp_path / 'run', '--out', 'x'))
    with pytest.raises(InputError, match='expected a run folder'):
        RunDir.open(tmp_path / 'nothing')
    with pytest.raises(InputError, match='expected a checkpoint'):
        RunDir.open(tmp_path / 'run').load_checkpoint('77')


def _cut_a_png(scenes):
    path = scenes / 'GT' / '2.png'
    path.write_bytes(path.read_bytes()[:-30])
    return r'GT/2\.png'


def _colour_a_mask(scenes):
    cv2.imwrite(str(scenes / 'GT' / '1.png'), np.zeros((96, 128, 3), np.uint8))
    return r'GT/1\.png.*one channel'


def _write_an_unknown_id(scenes):
    cv2.imwrite(str(scenes / 'GT' / '3.png'), np.full((96, 128), 200, np.uint8))
    return r'GT/3\.png.*200'


def _empty_the_folder(scenes):
    for path in scenes.glob('*/*.png'):
        path.unlink()
    return 'train/IMG'


@pytest.mark.parametrize('spoil', [_cut_a_png, _colour_a_mask, _write_an_unknown_id,
                                   _empty_the_folder])
def test_bad_data_are_named_before_anything_is_made(scenes, tmp_path, spoil):
    said = spoil(scenes)
    with pytest.raises(InputError, match=said):
        train(scenes, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_truncated_checkpoint_is_named(scenes, tmp_path):
    run = train(scenes, tmp_path / 'run', 'optim.steps=1')
    path = run.checkpoints()[-1]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match='step_000001'):
        run.load_checkpoint()


def test_export_fails_where_the_graph_and_torch_disagree():
    torch.manual_seed(0)
    config = InputConfig(height=64, width=96)
    tiny = ModelConfig(widths=(4, 4, 8, 8, 8))
    one, other = (export_stage.Deployed(build_model(tiny, 14), config).eval() for _ in range(2))
    model = export_stage.export_onnx(one, config, 17)
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    assert export_stage.check_parity(model, one, [image])['agreement'] == 1.0
    with pytest.raises(BundleError, match='agree on'):
        export_stage.check_parity(model, other, [image])


def test_the_demo_network_keeps_its_size():
    model = build_model(ModelConfig(), 14)
    parameters = sum(p.numel() for p in model.parameters())
    assert 0.85e6 < parameters < 1.0e6
    deployed = export_stage.Deployed(model, InputConfig()).eval()
    assert len(export_stage.export_onnx(deployed, InputConfig(), 17)) <= 4e6


def test_an_unknown_network_is_named():
    with pytest.raises(ConfigError, match="got 'unet'"):
        build_model(ModelConfig(name='unet'), 14)
