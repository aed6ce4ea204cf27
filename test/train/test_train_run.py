# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny network is trained, interrupted, resumed; what goes wrong is named."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError, InputError  # noqa: E402, I100
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import ModelConfig  # noqa: E402
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


def test_a_run_logs_each_step_and_keeps_its_checkpoints(scenes, tmp_path):
    run = train(scenes, tmp_path / 'run')
    assert sorted(losses(run)) == [1, 2, 3, 4]
    assert [p.name for p in run.checkpoints()] == ['step_000002.safetensors',
                                                   'step_000004.safetensors']


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


def test_an_unknown_network_is_named():
    with pytest.raises(ConfigError, match="got 'unet'"):
        build_model(ModelConfig(name='unet'), 14)
