# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A run that rounds as int8 does: resumed, on two processes, distilled, exported."""
from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train import distil as distil_stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import load_config  # noqa: E402
from offline_train.export import export  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import write_cut_run  # noqa: E402
from tiny_runs import losses, parse, TINY, write_scenes  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
ROOT = Path(__file__).resolve().parents[2]
QUANT = ['quant.enabled=true', 'quant.observe=1', 'quant.freeze=0.75']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'))


@pytest.fixture(scope='module')
def plain(scenes, tmp_path_factory):
    """Return a float run of four steps."""
    return run_of(train_stage, scenes, tmp_path_factory.mktemp('plain') / 'run')


@pytest.fixture(scope='module')
def rounded(scenes, plain, tmp_path_factory):
    """Return a run of four steps that starts from the float run and learns from it, rounding."""
    return run_of(distil_stage, scenes, tmp_path_factory.mktemp('rounded') / 'run', *QUANT,
                  f'model.initial={plain.path}', f'teacher.path={plain.path}', 'distil.mse=1',
                  'distil.labels=0', 'optim.freeze_batch_norm=true', 'run.validate_every=1',
                  'run.keep=9')


def run_of(stage, scenes, out, *overrides):
    stage.main(parse(stage, '--out', out, *TINY, f'data.train=[{scenes}]', *overrides))
    return RunDir.open(out)


def test_a_checkpoint_holds_the_ranges_beside_a_plain_network(plain, rounded):
    checkpoint = rounded.load_checkpoint()
    wanted = set(build_model(rounded.config().model, 14).state_dict())
    assert set(checkpoint.part('model')) == set(checkpoint.part('ema')) == wanted
    assert set(checkpoint.part('quant')) == {'low', 'high', 'seen'}
    assert checkpoint.part('quant')['seen'].tolist() == [3.0] * 30  # frozen for the fourth step
    assert plain.load_checkpoint().part('quant') == {}


def test_only_what_rounding_adds_is_left_to_learn(plain, rounded):
    """The student starts as its teacher: in float the first loss would be 0."""
    assert 1e-7 < losses(rounded)[1] < 0.1 * losses(plain)[1], (losses(rounded), losses(plain))


def test_ranges_grow_while_watched_and_stand_still_after_their_part(rounded):
    highs = [rounded.load_checkpoint(str(step)).part('quant')['high'] for step in (1, 2, 3, 4)]
    assert not torch.equal(highs[1], highs[2])
    assert torch.equal(highs[2], highs[3])


def test_a_resumed_run_has_the_numbers_of_an_uninterrupted_one(rounded, tmp_path):
    resumed = RunDir.create(tmp_path / 'run', rounded.config())
    resumed.save_checkpoint(2, rounded.load_checkpoint('2').tensors, keep=3)
    distil_stage.main(parse(distil_stage, '--resume', resumed.path))
    got, wanted = resumed.load_checkpoint().tensors, rounded.load_checkpoint().tensors
    assert set(got) == set(wanted)
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_rounding_changes_what_is_learned(scenes, plain, tmp_path):
    start = f'model.initial={plain.path}'
    with_it = run_of(train_stage, scenes, tmp_path / 'a', start, *QUANT)
    without = run_of(train_stage, scenes, tmp_path / 'b', start)
    assert all(losses(with_it)[step] != value for step, value in losses(without).items())


def test_the_run_exports_like_any_other(rounded, tmp_path):
    pytest.importorskip('onnxruntime', reason='the export is checked there')
    bundle = export(rounded, tmp_path / 'bundle')
    assert [variant.precision for variant in bundle.manifest.variants] == ['fp32']


def test_two_processes_keep_one_set_of_ranges(scenes, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
               '2', '-m', 'offline_train', 'train', '--out', str(tmp_path / 'run'), *TINY, *QUANT,
               f'data.train=[{scenes}]', 'optim.batch=4', 'optim.freeze_batch_norm=true',
               'optim.accumulate=2']
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    seen = RunDir.open(tmp_path / 'run').load_checkpoint().part('quant')['seen']
    assert seen.tolist() == [6.0] * 30  # three steps of two parts


def test_a_cut_run_of_a_rounded_one_does_not_round(rounded, tmp_path):
    network = build_model(rounded.config().model, 14)
    cut = write_cut_run(tmp_path / 'cut', rounded, network, ())
    assert not cut.config().quant.enabled
    train_stage.main(parse(train_stage, '--resume', cut.path))


@pytest.mark.parametrize('override, named', [
    ('quant.observe=300', 'quant.observe'), ('quant.observe=-1', 'quant.observe'),
    ('quant.freeze=0', 'quant.freeze'), ('quant.freeze=1.5', 'quant.freeze'),
    ('quant.range_decay=1', 'quant.range_decay')])
def test_impossible_schedules_are_named(override, named):
    overrides = ['optim.steps=400', override]
    with pytest.raises(ConfigError, match=named):
        load_config(None, ['quant.enabled=true', *overrides])
    load_config(None, overrides)  # without rounding they mean nothing
