# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Grids of stages: which cells there are, what is run and when again, what is joined and drawn."""
from __future__ import annotations

import fcntl
import importlib
import json
from pathlib import Path
import sys

from evit_seg.core.errors import ConfigError, InputError
import pytest
from tiny_runs import parse
import yaml

pytest.importorskip('tqdm', reason='the sweep shows a bar')

from offline_train import sweep  # noqa: E402, I100
from offline_train.compression.grid import load_grid, read_value  # noqa: E402

SHIPPED = sorted((Path(__file__).parents[2] / 'config' / 'sweeps').glob('*.yaml'))
FAKE = """\
import json, os, pathlib, sys, time
kind, cell, ratio, *rest = sys.argv[1:]
with open(cell + '/calls', 'a') as file:
    file.write(kind + ' ')
print('working on', ratio)
if ratio in rest:
    sys.exit('fake: cannot do ' + ratio)
value = {'scores': {'miou': None if kind == 'empty' else 1 - float(ratio)},
         'classes': [{'slug': 'person', 'recall': 0.25}], 'threads': os.environ['OMP_NUM_THREADS']}
pathlib.Path(cell, 'e.json').write_text(json.dumps(value))
"""
RESULTS = {'miou': 'e.json:scores.miou', 'recall': 'e.json:classes.person.recall',
           'threads': 'e.json:threads'}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Let steps begin with `fake` or `empty` and run a small script in the place of a stage."""
    script = tmp_path / 'fake.py'
    script.write_text(FAKE)
    monkeypatch.setattr(sweep, 'COMMAND', (sys.executable, str(script)))
    monkeypatch.setattr(sweep, 'STAGES', {'fake': '', 'empty': ''})
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    return tmp_path


def write_grid(folder, **content):
    path = folder / 'grid.yaml'
    path.write_text(yaml.safe_dump({
        'axes': {'ratio': [0.1, 0.3]}, 'steps': ['fake {cell} {ratio}'], 'results': RESULTS,
        **content}))
    return path


def run(folder, *words, **content):
    """Run the stage on a grid; return its exit code."""
    grid = write_grid(folder, **content)
    return sweep.main(parse(sweep, '--grid', grid, '--out', folder / 'out', *words))


def calls(folder):
    """Return the commands that each cell's folder has seen."""
    return {path.parent.name: path.read_text().split()
            for path in (folder / 'out' / 'cells').glob('*/calls')}


def joined(folder):
    return json.loads((folder / 'out' / 'results.json').read_text())


def grid_of(folder, *overrides, **content):
    return load_grid(write_grid(folder, **content), overrides, ('fake', 'empty'))


def test_cells_are_all_combinations_the_first_axis_slowest(tmp_path):
    grid = grid_of(tmp_path, 'run=runs/my run', names={'run': 'a'},
                   axes={'kind': ['x', 'y'], 'n': [1, 2]},
                   steps=['fake {run} --{kind} {n} {cell}/p{n}'])
    cells = grid.cells()
    assert [c.name for c in cells] == ['kind-x_n-1', 'kind-x_n-2', 'kind-y_n-1', 'kind-y_n-2']
    assert cells[1].commands == (('fake', 'runs/my run', '--x', '2', '{cell}/p2'),)
    assert cells[1].values == {'kind': 'x', 'n': 2}


def test_a_value_sets_further_names_and_a_step_may_be_for_some_cells(tmp_path):
    grid = grid_of(tmp_path, names={'run': 'r'},
                   axes={'way': ['bulk', 'slow'],
                         'ratio': [{'ratio': 0.4, 'part': '{run}/0.1'}]},
                   steps=[{'when': {'way': 'bulk'}, 'do': 'fake {ratio}'},
                          {'when': {'way': ['slow']}, 'do': 'fake {part}'}, 'empty'])
    assert [c.commands for c in grid.cells()] == [(('fake', '0.4'), ('empty',)),
                                                  (('fake', 'r/0.1'), ('empty',))]


@pytest.mark.parametrize(('content', 'words', 'message'), [
    ({'steps': ['fake {ratoi} {ratio}']}, (), "did you mean 'ratio'"),
    ({'steps': ['bake {ratio}']}, (), "expected a stage .*got 'bake'"),
    ({'steps': ['fake']}, (), 'it changes nothing'),
    ({'steps': [{'when': {'ratio': 7}, 'do': 'fake'}]}, (), 'expected values of an axis'),
    ({'steps': [{'when': {'ratio': 0.1}, 'do': 'fake'}]}, (), 'ratio-0.3 has none'),
    ({'steps': ["fake 'open {ratio}"]}, (), 'expected a command'),
    ({'axes': {'ratio': [True]}}, (), 'in quotes'),
    ({'axes': {'ratio': ['a b', 'a/b']}}, (), 'differ as names of folders'),
    ({'axes': {'ratio': [{'ratio': 1, 'x': 2}, 3]}}, (), 'set the same names'),
    ({'axes': {}}, (), 'one axis'), ({'axis': {}}, (), 'nothing but title'),
    ({'results': {'miou': 'scores.miou'}}, (), 'expected file.json:dotted.path'),
    ({'results': {'ratio': 'e.json:a'}}, (), "each name once .*'ratio'"),
    ({'names': {'run': 'a'}}, ('rum=b',), 'one of run')])
def test_a_grid_that_says_nothing_useful_is_refused(tmp_path, content, words, message):
    with pytest.raises(ConfigError, match=message):
        grid_of(tmp_path, *words, **content)


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_grid_has_steps_that_their_stages_take(path):
    pytest.importorskip('torch', reason='its stages need torch')
    cells = load_grid(path, [], (*sweep.STAGES, 'prune', 'low_rank')).cells()
    assert len(cells) > 3
    for stage, *words in {command for cell in cells for command in cell.commands}:
        parse(importlib.import_module(f'offline_train.{stage}'), *words)  # exits at a wrong one
    for cell in cells:  # what a step reads, one before it has written
        written = set()
        for command in cell.commands:
            outs = {command[i + 1] for i, w in enumerate(command) if w in ('--out', '--json')}
            reads = {w.rpartition('=')[2] for w in command if '{cell}' in w} - outs
            assert reads <= written, (cell.name, command)
            written |= outs


def test_results_of_all_cells_are_joined(fake):
    assert run(fake, title='Figure 3') == 0
    threads = str(len(sweep.os.sched_getaffinity(0)))
    assert joined(fake) == {
        'title': 'Figure 3', 'axes': {'ratio': [0.1, 0.3]}, 'keys': ['miou', 'recall', 'threads'],
        'rows': [{'ratio': 0.1, 'miou': 0.9, 'recall': 0.25, 'threads': threads},
                 {'ratio': 0.3, 'miou': 0.7, 'recall': 0.25, 'threads': threads}], 'missing': []}
    table = (fake / 'out' / 'results.md').read_text()
    assert table.startswith('# Figure 3') and '0.9' in table and 'recall' in table
    log = (fake / 'out' / 'cells' / 'ratio-0.1' / 'log.txt').read_text()
    assert log.splitlines() == [f'$ offline_train fake {fake}/out/cells/ratio-0.1 0.1',
                                'working on 0.1']


def test_a_failing_cell_stops_no_other_and_is_named_with_its_last_line(fake, capsys):
    steps = ['fake {cell} {ratio}', 'fake {cell} {ratio} 0.1', 'fake {cell} {ratio}']
    assert run(fake, steps=steps) == 1
    assert calls(fake) == {'ratio-0.1': ['fake'] * 2, 'ratio-0.3': ['fake'] * 3}
    assert capsys.readouterr().err.splitlines()[-1] == \
        'FAILED ratio-0.1: fake ended with 1: fake: cannot do 0.1'
    assert [r['ratio'] for r in joined(fake)['rows']] == [0.3]
    assert joined(fake)['missing'] == ['ratio-0.1']
    assert 'Not done: ratio-0.1.' in (fake / 'out' / 'results.md').read_text()


def test_done_cells_stay_and_an_unfinished_one_starts_anew_in_a_fresh_folder(fake, capsys):
    assert run(fake) == 0
    folder = fake / 'out' / 'cells' / 'ratio-0.3'
    (folder / 'done.json').unlink()
    (folder / 'half').write_text('what an interrupted step left')
    capsys.readouterr()
    assert run(fake) == 0
    said = capsys.readouterr().out
    assert '1 of 2 cells are done already' in said
    assert f'ratio-0.3: was not finished, starts anew; what there was lies in {fake}' in said
    assert calls(fake) == {'ratio-0.1': ['fake'], 'ratio-0.3': ['fake']}
    assert not (folder / 'half').exists()
    assert (fake / 'out' / 'unfinished' / 'ratio-0.3_1' / 'half').is_file()


def test_a_cell_that_was_made_by_other_commands_is_not_taken_for_this_one(fake):
    assert run(fake) == 0
    with pytest.raises(ConfigError, match='made by other commands'):
        run(fake, steps=['fake {cell} {ratio} 7'])


def test_a_result_that_a_step_did_not_write_fails_the_cell(fake, capsys):
    assert run(fake, results={'miou': 'e.json:scores.mIoU'}) == 1
    assert "found no 'mIoU'; there is miou" in capsys.readouterr().err


def test_one_task_of_an_array_runs_one_cell_and_the_rest_is_joined_after(fake, capsys):
    assert run(fake, '--task', 1) == 0
    assert calls(fake) == {'ratio-0.3': ['fake']}
    assert not (fake / 'out' / 'results.json').exists()
    capsys.readouterr()
    assert run(fake, '--list') == 0
    assert capsys.readouterr().out.split() == ['0', 'open', 'ratio-0.1', '1', 'done', 'ratio-0.3']
    assert run(fake, '--jobs', 0) == 0
    assert calls(fake) == {'ratio-0.3': ['fake']} and joined(fake)['missing'] == ['ratio-0.1']
    with pytest.raises(ConfigError, match='--task: expected 0 to 1, got 2'):
        run(fake, '--task', 2)


def test_two_jobs_run_at_the_same_time_and_share_the_cores(fake, monkeypatch):
    monkeypatch.setattr(sweep.os, 'sched_getaffinity', lambda _: set(range(6)))
    waiting = ('import json, os, pathlib, sys, time\n'
               'cell, ratio = sys.argv[2:]\n'
               'here = pathlib.Path(cell).parent.parent\n'
               '(here / ratio).touch()\n'
               'end = time.monotonic() + 20\n'
               'while len(list(here.glob("0.*"))) < 2:\n'
               '    assert time.monotonic() < end, "alone"\n'
               '    time.sleep(0.01)\n'
               'text = json.dumps(os.environ["OMP_NUM_THREADS"])\n'
               'pathlib.Path(cell, "e.json").write_text("{\\"threads\\": %s}" % text)\n')
    (fake / 'fake.py').write_text(waiting)
    assert run(fake, '--jobs', 2, results={'threads': 'e.json:threads'}) == 0
    assert [r['threads'] for r in joined(fake)['rows']] == ['3', '3']


def test_a_cell_that_another_process_works_on_is_left_to_it(fake, capsys):
    (fake / 'out' / 'locks').mkdir(parents=True)
    with (fake / 'out' / 'locks' / 'ratio-0.1').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(fake) == 1
    assert 'another process is at work on it' in capsys.readouterr().err
    assert calls(fake) == {'ratio-0.3': ['fake']}


def test_a_step_is_a_stage_of_this_program(tmp_path):
    assert run(tmp_path, axes={'name': ['list', 'nonsense']}, steps=['datasets {name}'],
               results={}) == 1
    logs = {path.parent.name: path.read_text()
            for path in (tmp_path / 'out' / 'cells').glob('*/log.txt')}
    assert 'lpcv2023' in logs['name-list'] and 'nonsense' in logs['name-nonsense']
    assert joined(tmp_path)['missing'] == ['name-nonsense']


def test_a_value_is_found_by_key_index_and_name(tmp_path):
    (tmp_path / 'e.json').write_text(
        '{"a": [{"name": "x", "v": 1}, {"slug": "y", "v": null}], "b": [3]}')
    assert [read_value(tmp_path, 'e.json', path) for path in ('a.x.v', 'a.y.v', 'a.1.v', 'b.0')] \
        == [1, None, None, 3]
    for path, message in (('a.z', 'there is 0, 1, x, y'), ('a.x', 'expected one value'),
                          ('b.0.c', "no 'c'; there is 3")):
        with pytest.raises(InputError, match=message):
            read_value(tmp_path, 'e.json', path)
    with pytest.raises(InputError, match='expected a JSON file'):
        read_value(tmp_path, 'f.json', 'a')


ROWS = [{'kind': kind, 'ratio': ratio, 'seed': seed,
         'miou': None if (kind, ratio, seed) == ('b', 0.5, 2) else
         0.6 - (0.4 if kind == 'a' else 0.2) * ratio + 0.01 * seed}
        for kind in 'ab' for ratio in (0.5, 0, 0.25) for seed in (1, 2)]
DRAWN = {'title': 'Sparsity', 'axes': {'kind': ['a', 'b'], 'ratio': [0, 0.25, 0.5],
                                       'seed': [1, 2]},
         'keys': ['miou'], 'rows': ROWS, 'missing': []}


@pytest.fixture
def figures():
    pytest.importorskip('matplotlib', reason='figures are drawn with matplotlib')
    from offline_train.reporting import sweeps
    return sweeps


def test_a_figure_has_a_line_through_the_means_and_a_marker_per_seed(figures):
    roles, fixed = figures.parse_words(['x=ratio', 'y=miou', 'line=kind'], DRAWN)
    ax, = figures.draw_sweep(DRAWN, roles, fixed).axes
    a_line, a_marks, b_line, b_marks = ax.lines
    assert list(a_line.get_xdata()) == [0, 0.25, 0.5]
    assert list(a_line.get_ydata()) == pytest.approx([0.615, 0.515, 0.415])
    assert list(b_line.get_ydata()) == pytest.approx([0.615, 0.565, 0.51])
    assert (len(a_marks.get_xdata()), len(b_marks.get_xdata())) == (6, 5)
    assert [a_line.get_label(), b_line.get_label()] == ['a', 'b']


def test_panels_and_values_held_choose_rows(figures):
    roles, fixed = figures.parse_words(['x=kind', 'y=miou', 'panel=seed', 'ratio=0.25'], DRAWN)
    one, two = figures.draw_sweep(DRAWN, roles, fixed).axes
    assert [text.get_text() for text in one.get_xticklabels()] == ['a', 'b']
    assert list(one.lines[0].get_ydata()) == pytest.approx([0.51, 0.56])
    assert list(two.lines[0].get_ydata()) == pytest.approx([0.52, 0.57])
    assert one.get_title(loc='left') == 'seed: 1'


@pytest.mark.parametrize(('words', 'message'), [
    (['x=ratio', 'y=miou'], "'kind' has several values"), (['x=ratio'], 'expected x=AXIS y=KEY'),
    (['x=miou', 'y=miou'], "got 'x=miou'"), (['x=ratio', 'y=miou', 'kind=c'], "got 'kind=c'")])
def test_a_figure_that_would_mix_or_lack_values_is_refused(figures, words, message):
    with pytest.raises(ConfigError, match=message):
        figures.parse_words(words, DRAWN)


def test_the_stage_draws_what_it_joined(fake, figures, capsys):
    assert run(fake) == 0
    assert sweep.main(parse(sweep, '--plot', fake / 'out', 'x=ratio', 'y=miou')) == 0
    stem = fake / 'out' / 'figures' / 'miou_over_ratio'
    assert f'wrote {stem}.png' in capsys.readouterr().out
    assert all(Path(f'{stem}{suffix}').stat().st_size > 1000 for suffix in ('.png', '.svg'))
    with pytest.raises(InputError, match='expected numbers'):
        sweep.main(parse(sweep, '--plot', fake / 'out', 'x=ratio', 'y=threads'))
    with pytest.raises(InputError, match='expected the results of a sweep'):
        sweep.main(parse(sweep, '--plot', fake, 'x=ratio', 'y=miou'))
