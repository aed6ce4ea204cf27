# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A step is the same step on one process, on two, and worked through in parts."""
from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import load_config  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from tiny_runs import losses, parse, TINY, write_scenes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# Mean cross entropy and fixed BatchNorm: what a crop contributes does not depend on its company.
PLAIN = ['loss.class_weight_power=0', 'loss.ohem_keep=1', 'optim.freeze_batch_norm=true',
         'optim.batch=4', 'optim.steps=5']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'))


@pytest.fixture(scope='module')
def alone(scenes, tmp_path_factory):
    """Return the run of one process."""
    return train(scenes, tmp_path_factory.mktemp('alone') / 'run')


def arguments(scenes, out, *overrides):
    return ['--out', str(out), *TINY, *PLAIN, f'data.train=[{scenes}]', *overrides]


def train(scenes, out, *overrides):
    train_stage.main(parse(train_stage, *arguments(scenes, out, *overrides)))
    return RunDir.open(out)


def test_two_processes_have_the_losses_of_one(scenes, alone, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
               '2', '-m', 'offline_train', 'train']
    done = subprocess.run(command + arguments(scenes, tmp_path / 'run'), cwd=ROOT, text=True,
                          capture_output=True, timeout=120,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    assert '2 x cpu' in done.stdout
    two = losses(RunDir.open(tmp_path / 'run'))
    assert len(two) == 5
    assert list(two.values()) == pytest.approx(list(losses(alone).values()), abs=1e-5)


def test_a_step_in_parts_has_the_loss_and_weights_of_a_whole_one(scenes, alone, tmp_path):
    parts = train(scenes, tmp_path / 'run', 'optim.accumulate=2')
    assert list(losses(parts).values()) == pytest.approx(list(losses(alone).values()), abs=1e-5)
    one, other = (run.load_checkpoint().part('model') for run in (alone, parts))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


def test_frozen_batch_norm_keeps_its_statistics(scenes, alone, tmp_path):
    moving = train(scenes, tmp_path / 'run', 'optim.freeze_batch_norm=false')
    means = [{name: value for name, value in run.load_checkpoint().part('model').items()
              if name.endswith('running_mean')} for run in (alone, moving)]
    assert all((value == 0).all() for value in means[0].values())
    assert any((value != 0).any() for value in means[1].values())


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ConfigError, match=r'multiple of optim\.accumulate 3'):
        load_config(None, [*TINY, 'optim.accumulate=3', 'optim.batch=4'])


def test_the_log_is_also_tensorboard_events(alone):
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events = reader.EventAccumulator(str(alone.path / 'tensorboard'))
    events.Reload()
    assert {'loss', 'terms/labels', 'learning_rate'} <= set(events.Tags()['scalars'])
    got = {event.step: event.value for event in events.Scalars('loss')}
    assert got == pytest.approx(losses(alone), rel=1e-6)
