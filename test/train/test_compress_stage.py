# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`offline_train compress`: steps in order, guards that fail, what is resumed and what is not."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch', reason='compression needs torch')
pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import open_bundle  # noqa: E402, I100
from evit_seg.core.errors import ConfigError, InputError  # noqa: E402
from evit_seg.core.onnx_graph import Graph, Node  # noqa: E402
from offline_train import compress, evaluate  # noqa: E402
from offline_train.config import load_config  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402
import yaml  # noqa: E402

CLASSES = 14
GRAPH = Graph(13, 7, (), (), (Node('a', 'Conv', 10**9),), 0, 0)


def add_prune_arguments(parser):
    parser.add_argument('--run', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--filters', type=float, default=0.0)


def forget_background(args):
    """Stand in for a pruning that takes a class away: its logit is far below the others."""
    run = RunDir.open(args.run)
    network = load_network(run, CLASSES)
    with torch.no_grad():
        network.head.bias[0] -= 100.0
    write_run(args.out, run.config(), network)
    return 0


def write_run(path, config, network):
    run = RunDir.create(path, config)
    run.save_checkpoint(0, {f'{part}.{name}': value.clone() for part in ('model', 'ema')
                            for name, value in network.state_dict().items()}, keep=1)
    return path


def compressed(recipe, run, out, *words):
    return compress.main(parse(compress, '--recipe', recipe, '--run', run, '--out', out, *words))


def stages(out):
    return json.loads((out / 'stages.json').read_text())


def write_start(path, scenes):
    """Write a run that answers `background` everywhere: its recall is 1."""
    config = load_config(None, [*TINY, f'data.train=[{scenes}]', f'data.validation=[{scenes}]'])
    torch.manual_seed(0)
    network = build_model(config.model, CLASSES, config.input)
    with torch.no_grad():
        network.head.bias[0] += 50.0
    return write_run(path, config, network)


# --- real stages on a tiny network ---------------------------------------------------------------

@pytest.fixture(scope='module')
def real(tmp_path_factory):
    """Return folder, exit code and result of a recipe whose pruning loses a class, twice."""
    root = tmp_path_factory.mktemp('compress')
    scenes = write_scenes(root / 'scenes', count=2)
    content = {
        'data': {'folder': str(root / 'scenes'), 'split': 'train'},
        'bench': {'runs': 3, 'warm_up': 1, 'threads': 1, 'energy_seconds': 1, 'idle_seconds': 0},
        'stages': [{'stage': 'prune', 'filters': 0.25}, {'stage': 'export'}],
        'budgets': {'size_mb': 1, 'latency_ms': {'here': 10000, 'orin-nano': 1000},
                    'eager_ratio': 1000},
        'floors': {'background': 5}}
    (root / 'strict.yaml').write_text(yaml.safe_dump(content))
    (root / 'loose.yaml').write_text(yaml.safe_dump({**content, 'floors': {}}))
    start = write_start(root / 'start', scenes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'offline_train.prune', SimpleNamespace(
            add_arguments=add_prune_arguments, main=forget_background))
        strict = compressed(root / 'strict.yaml', start, root / 'out'), stages(root / 'out')
        loose = compressed(root / 'loose.yaml', start, root / 'out', '--resume'), \
            stages(root / 'out')
    torch.set_num_threads(threads)
    return root, strict, loose


def test_a_lost_class_fails_the_recipe(real):
    _, (code, content), _ = real
    assert (code, content['verdict'], content['stopped_at']) == (1, 'failed', '2_bundle')
    guard, = content['guards']
    assert guard['status'] == 'failed'
    assert 'background is lost at 2_bundle; it died in 1_prune, from 1.000 to 0.000' in \
        guard['text']


def test_without_the_floor_the_same_steps_pass(real):
    _, (_, before), (code, content) = real
    assert (code, content['verdict'], content['stopped_at']) == (0, 'passed', None)
    states = {guard['name']: guard['status'] for guard in content['guards']}
    assert states == {'latency here': 'passed', 'latency on orin-nano': 'not measured',
                      'latency ratio to eager PyTorch': 'passed', 'size': 'passed'}
    eager = content['eager']
    assert eager['frame'] == [720, 1280] and min(eager['ratio'], eager['eager_ms']) > 0
    assert before['eager'] is None
    assert content['steps'] == before['steps']  # not one was made or measured again


def test_every_step_is_scored_and_timed_beside_the_first(real):
    root, _, (_, content) = real
    assert [s['step'] for s in content['steps']] == ['0_start', '1_prune', '2_bundle']
    first, prune, bundle = content['steps']
    assert [s['classes']['background']['recall'] for s in content['steps']] == [1.0, 0.0, 0.0]
    assert first['miou'] > prune['miou'] == bundle['miou']
    assert first['latency_ratio']['p50'] == 1.0
    variant = open_bundle(root / 'out' / '2_bundle').manifest.variants[0]
    assert bundle['file_mb'] == round(variant.bytes / 1e6, 3)
    for step in content['steps']:
        assert step['latency_ms']['p50'] > 0 and step['latency_ratio']['p50'] > 0
        assert step['peak_rss_mb'] > 10 and step['parameters'] == first['parameters'] > 1000
        scored = json.loads((root / 'out' / f'{step["step"]}.evaluate.json').read_text())
        assert step['bundle']['sha256'] == scored['bundle']['sha256']
        assert step['miou'] == scored['scores']['dataset']['miou']


def test_the_table_shows_the_steps(real):
    root, _, (_, content) = real
    text = (root / 'out' / 'stages.md').read_text()
    rows = [line.split('|')[1:-1] for line in text.splitlines() if line.startswith('| ')]
    head = [cell.strip() for cell in rows[0]]
    assert head[:4] == ['step', 'precision', 'mIoU', 'parameters']
    prune = dict(zip(head, (cell.strip() for cell in rows[3]), strict=True))
    assert prune['step'] == '1_prune' and prune['mIoU'] == f'{content["steps"][1]["miou"]:.4f}'
    recall, = (line.split('|')[2:5] for line in text.splitlines() if '| background' in line)
    assert [cell.split('/')[0].strip() for cell in recall] == ['1.000', '0.000', '0.000']
    assert prune['parameters'] == f'{content["steps"][1]["parameters"]:,}'
    assert 'verdict: passed; not measured: latency on orin-nano' in text


# --- the order of things, with stages that write a word ------------------------------------------

@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a recipe's folder where all stages are fakes; `made` lists what they were given."""
    made = []
    recall = {'0_start': 900, '1_prune': 100, '2_recover': 880, '3_bundle': 880, '4_int8': 870}

    def stage(name, *options, write=lambda args: None):
        def add_arguments(parser):
            for option in options:
                parser.add_argument(option, nargs=1 if name == 'distil' else '*')
            if name == 'distil':
                parser.add_argument('overrides', nargs='*')

        def main(args):
            made.append((name, vars(args)))
            for out in args.out or args.resume:
                Path(out).mkdir(parents=True, exist_ok=True)
                (Path(out) / 'config.yaml').write_text('')
            return write(args) or 0

        monkeypatch.setitem(sys.modules, f'offline_train.{name}',
                            SimpleNamespace(add_arguments=add_arguments, main=main))

    def measure(recipe, bundle, precision, first, out):
        step = out.name.split('.')[0]
        made.append(('measure', step))
        classes = {'person': {'recall': recall[step] / 1000, 'iou': 0.5, 'hit_px': recall[step],
                              'truth_px': 1000},
                   'fire': {'recall': None, 'iou': None, 'hit_px': 0, 'truth_px': 0}}
        return {'bundle': {'name': bundle.name}, 'precision': precision or 'fp32',
                'data': {'name': 'scenes'}, 'miou': 0.5, 'classes': classes, 'parameters': 1000,
                'gmacs': 1.0, 'file_mb': 2.0, 'latency_ms': {'p50': 5.0},
                'latency_ratio': {'p50': 0.5}, 'peak_rss_mb': 100.0, 'energy_mj_per_frame': None}

    stage('prune', '--run', '--out', '--filters', '--closed-gates')
    stage('distil', '--config', '--out', '--resume')
    stage('export', '--run', '--out', '--opset', '--precision')
    stage('quantize', '--bundle', '--run', '--out', '--calibration')
    monkeypatch.setattr(compress, 'measure_step', measure)
    monkeypatch.setattr(compress, 'graph_of', lambda bundle, precision: GRAPH)
    start = RunDir.create(tmp_path / 'start', load_config(None, TINY))
    start.save_checkpoint(0, {'ema.a': torch.zeros(1)}, keep=1)
    content = {'data': {'folder': 'scenes'}, 'export': {'opset': 13}, 'floors': {'person': 5},
               'stages': [{'stage': 'prune', 'filters': 0.25},
                          {'stage': 'distil', 'teacher': '$start',
                           'config': {'optim.learning_rate': 0.00001}},
                          {'stage': 'export', 'precision': ['fp32', 'fp16']},
                          {'stage': 'quantize', 'calibration': 'minmax'}]}

    def run(*words, **sections):
        recipe = tmp_path / 'recipe.yaml'
        recipe.write_text(yaml.safe_dump({**content, **sections}))
        made.clear()
        return compressed(recipe, tmp_path / 'start', tmp_path / 'out', *words)

    return SimpleNamespace(run=run, made=made, recall=recall, out=tmp_path / 'out', stage=stage,
                           start=tmp_path / 'start', stages=content['stages'])


def names(fake):
    return [f'measure {args}' if name == 'measure' else name for name, args in fake.made]


def test_the_stages_get_what_a_person_would_type(fake):
    assert fake.run() == 0
    assert names(fake) == ['export', 'measure 0_start', 'prune', 'export', 'measure 1_prune',
                           'distil', 'export', 'measure 2_recover', 'export',
                           'measure 3_bundle', 'quantize', 'measure 4_int8']
    given = {name: args for name, args in fake.made if name != 'measure'}
    out, start = str(fake.out), str(fake.start)
    assert given['prune'] == {'run': [start], 'out': [f'{out}/1_prune'], 'filters': ['0.25'],
                              'closed_gates': None}
    assert given['distil']['config'] == [f'{out}/1_prune/config.yaml']
    words = given['distil']['overrides']
    assert {f'model.initial={out}/1_prune', f'teacher.path={start}', "model.weights=''"} <= \
        set(words)
    config = load_config(None, [*words, 'distil.mse=1'])  # each is an override of its right type
    assert config.optim.learning_rate == 1e-5 and config.model.weights == ''
    assert given['export'] == {'run': [f'{out}/2_recover'], 'out': [f'{out}/3_bundle'],
                               'opset': ['13'], 'precision': ['fp32', 'fp16']}
    assert given['quantize'] == {'bundle': [f'{out}/3_bundle'], 'run': [f'{out}/2_recover'],
                                 'out': [f'{out}/4_int8'], 'calibration': ['minmax']}
    assert stages(fake.out)['verdict'] == 'passed'
    assert [s['checked'] for s in stages(fake.out)['steps']] == [False, False, True, False, True]


def test_a_prune_stage_is_reported_and_only_a_checked_one_fails(fake, capsys):
    assert fake.run() == 0  # person at 0.1 after 1_prune
    text = capsys.readouterr().out
    assert '0.100 at 1_prune (not checked)' in text


def test_it_stops_where_a_class_is_lost(fake, capsys):
    fake.recall['2_recover'] = 840
    assert fake.run(budgets={'miou': 0.1}) == 1
    assert 'quantize' not in names(fake) and 'measure 3_bundle' not in names(fake)
    content = stages(fake.out)
    assert (content['verdict'], content['stopped_at']) == ('failed', '2_recover')
    text = capsys.readouterr().out
    for part in ('verdict: failed', 'person is lost at 2_recover', 'from 0.900 to 0.100',
                 '0.840 at 2_recover; 6.0 points lost, 5 allowed', 'stopped at 2_recover'):
        assert part in text


def test_a_broken_budget_fails_at_the_end(fake):
    assert fake.run(budgets={'latency_ratio': 0.4}) == 1
    content = stages(fake.out)
    assert content['verdict'] == 'failed' and content['stopped_at'] is None
    assert len(content['steps']) == 5


def test_what_was_not_measured_has_not_passed(fake):
    assert fake.run(floors={}, budgets={'latency_ms': {'jetson-nano-4gb': 1e9}}) == 1
    assert stages(fake.out)['verdict'] == 'not measured'


@pytest.mark.parametrize(('recall', 'floor', 'message'), [
    (0, 'person', 'its recall is 0 before anything'), (900, 'fire', 'not a pixel of it'),
    (900, 'persn', "did you mean 'person'")])
def test_a_class_that_cannot_be_lost_is_an_error_before_any_stage(fake, recall, floor, message):
    fake.recall['0_start'] = recall
    with pytest.raises(ConfigError, match=message):
        fake.run(floors={floor: 5})
    assert names(fake) == ['export', 'measure 0_start']


def test_resume_makes_nothing_twice(fake):
    fake.stage('quantize', '--bundle', '--run', '--out', '--calibration', write=lambda args: 3)
    with pytest.raises(ConfigError, match='4_int8: `offline_train quantize` ended with exit'):
        fake.run()
    with pytest.raises(ConfigError, match=r'4_int8: was left unfinished .* delete it'):
        fake.run('--resume')
    (fake.out / '4_int8' / 'config.yaml').unlink()
    fake.stage('quantize', '--bundle', '--run', '--out', '--calibration')
    assert fake.run('--resume') == 0
    assert names(fake) == ['quantize', 'measure 4_int8']
    assert [s['step'] for s in stages(fake.out)['steps']][-1] == '4_int8'
    assert fake.run('--resume') == 0 and not fake.made


def test_an_interrupted_training_goes_on(fake):
    fake.stage('distil', '--config', '--out', '--resume', write=lambda args: 1)
    with pytest.raises(ConfigError, match='2_recover'):
        fake.run()
    fake.stage('distil', '--config', '--out', '--resume')
    assert fake.run('--resume') == 0
    assert fake.made[0][1]['resume'] == [f'{fake.out}/2_recover']
    assert fake.made[0][1]['out'] is None


def test_a_changed_recipe_is_refused(fake):
    assert fake.run() == 0
    with pytest.raises(ConfigError, match='is not overwritten; name another folder'):
        fake.run()
    with pytest.raises(ConfigError, match=r'1_prune: was made by .* take a new --out'):
        fake.run('--resume', '1_prune.filters=0.5')
    with pytest.raises(ConfigError, match='2_recover: was made by'):
        fake.run('--resume', '2_recover.config.optim.steps=7')
    with pytest.raises(ConfigError, match='holds the step 4_int8, which the recipe has not'):
        fake.run('--resume', stages=fake.stages[:3])
    with pytest.raises(ConfigError, match='0_start was measured with other settings'):
        fake.run('--resume', 'bench.runs=7')
    with pytest.raises(ConfigError, match='0_start: was made by'):
        fake.run('--resume', 'export.opset=17')
    assert not fake.made
    assert fake.run('--resume', 'floors.person=1') == 1  # what must hold may change


def test_another_start_is_refused(fake):
    assert fake.run() == 0
    RunDir.open(fake.start).save_checkpoint(0, {'ema.a': torch.ones(1)}, keep=1)
    with pytest.raises(ConfigError, match='0_start: was made by'):
        fake.run('--resume')


def test_nothing_to_resume(fake):
    with pytest.raises(InputError, match='expected a folder with steps'):
        fake.run('--resume')


def test_a_dry_run_prints_commands_and_writes_nothing(fake, capsys):
    assert fake.run('--dry-run') == 0
    assert not fake.made and not fake.out.exists()
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith('offline_train ')]
    assert f'offline_train prune --run {fake.start} --out {fake.out}/1_prune --filters 0.25' in \
        commands
    assert [c.split()[1] for c in commands] == [
        'export', 'evaluate', 'prune', 'export', 'evaluate', 'distil', 'export', 'evaluate',
        'export', 'evaluate', 'quantize', 'evaluate']
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    for command in commands:
        if command.split()[1] == 'evaluate':
            parser.parse_args(command.split()[2:])  # a command that can be typed
    assert '# 4_int8' in lines


@pytest.mark.parametrize(('stage', 'message'), [
    ({'stage': 'prune', 'fliters': 1}, "1_prune: prune has no option 'fliters'; did you mean "
                                       "'filters'"),
    ({'stage': 'quantize'}, '1_int8: quantize works on a bundle'),
    ({'stage': 'prune', 'filters': {'a': 1}}, 'filters: expected a number, a text or a list'),
    ({'stage': 'distil', 'teacher': 'nowhere'}, 'nowhere: expected a run folder')])
def test_a_wrong_option_is_found_before_the_first_stage(fake, stage, message):
    with pytest.raises(ConfigError, match=message):
        fake.run(stages=[stage, {'stage': 'export'}])
    assert not fake.made


def test_a_flag_is_a_word_of_its_own(fake):
    stages = [{'stage': 'prune', 'closed_gates': True}, {'stage': 'export'}]
    fake.recall.update({'1_prune': 900, '2_bundle': 900})
    assert fake.run(stages=stages) == 0
    assert fake.made[2][1]['closed_gates'] == []
    fake.recall.clear()
    with pytest.raises(ConfigError, match='1_prune: was made by'):
        fake.run('--resume', '1_prune.closed_gates=false', stages=stages)


def test_a_fresh_student_takes_nothing_from_the_teacher_but_its_data(fake):
    student = {'stage': 'distil', 'fresh': True, 'teacher': '$start', 'check': False,
               'config': {'model.name': 'token_pyramid'}}
    fake.recall.update({'1_student': 900, '2_bundle': 900})
    assert fake.run(stages=[student, {'stage': 'export'}]) == 0
    words = fake.made[2][1]
    assert words['config'] == [f'{fake.start}/config.yaml']
    assert {'model.cuts=[]', "model.initial=''", 'model.name=token_pyramid'} <= \
        set(words['overrides'])
