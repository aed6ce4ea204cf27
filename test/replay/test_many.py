# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Several bags, several bundles, gates, and the processes that they run in."""
from __future__ import annotations

from collections.abc import Callable
import contextlib
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import cv2
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.gates import Gate, hold_gates, known_numbers
from evit_seg.replay.many import find_bags, open_models
from evit_seg.replay.pool import WorkerDied, Workers
import numpy as np
import psutil
import pytest
from spawned import shout
from tiny_bundle import anchor_colours, write_tiny_bundle

BACKGROUND, PERSON, ROAD = 0, 10, 12
DEADLINE_S = 60.0


@pytest.fixture(scope='module')
def bundles(tmp_path_factory) -> list[str]:
    """Return two bundles that answer alike, on grids of 8 x 8 and 16 x 16 cells."""
    folder = tmp_path_factory.mktemp('bundles')
    return [str(write_tiny_bundle(folder / name, stride=stride))
            for name, stride in (('coarse', 8), ('fine', 4))]


def paint(folder: Path, seen: list[int], truth: list[int] | None = None) -> Path:
    """Write 10 Hz frames of one class each, and masks that say another."""
    (folder / 'IMG').mkdir(parents=True)
    rows = ['file,time_s']
    for i, class_id in enumerate(seen):
        image = np.full((64, 64, 3), anchor_colours()[class_id][::-1], np.uint8)
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), image)
        rows.append(f'f{i:03}.png,{i / 10}')
        if truth:
            (folder / 'GT').mkdir(exist_ok=True)
            cv2.imwrite(str(folder / 'GT' / f'f{i:03}.png'), np.full((64, 64), truth[i], np.uint8))
    (folder / 'frames.csv').write_text('\n'.join(rows))
    return folder


def people(folder: Path, frames: range) -> Path:
    """Write objects.csv and events.csv of one person in these frames, and frames.csv with it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ''.join(f'f{i:03},person,1,10,10,5,20\n' for i in frames)
    (folder / 'objects.csv').write_text(f'frame,class,instance,x,y,w,h\n{rows}')
    (folder / 'events.csv').write_text(
        'class,instance,t_from,t_to,max_height_px\n'
        f'person,1,{frames[0] / 10},{frames[-1] / 10},20\n')
    return folder


@pytest.fixture(scope='module')
def flights(tmp_path_factory) -> Path:
    """
    Return a folder of two bags, one of them deeper in it, and their annotations.

    day: 4 s, a person in frames 3 to 7, all masks right. night: 10 frames of road, of which 4 are
    persons in truth; nobody is annotated but one whom no frame shows.
    """
    root = tmp_path_factory.mktemp('flights')
    person = [BACKGROUND] * 3 + [PERSON] * 5 + [BACKGROUND] * 32
    paint(root / 'day', person, person)
    paint(root / 'night', [ROAD] * 10, [ROAD] * 6 + [PERSON] * 4)
    bags = root / 'bags'
    for name, place in (('day', bags / 'day'), ('night', bags / 'later' / 'night')):
        place.parent.mkdir(parents=True, exist_ok=True)
        assert make_bag.main([str(root / name), '--out', str(place), '--quiet']) == 0
        shutil.copytree(root / name, root / 'people' / name)
    people(root / 'people' / 'day', range(3, 8))
    people(root / 'people' / 'night', range(9))
    return root


def report(tmp_path: Path, *command: str, code: int = 0) -> dict:
    out = tmp_path / 'report.json'
    assert bag_eval.main([*command, '--json', str(out), '--quiet']) == code
    return json.loads(out.read_text())


def without_times(content: dict) -> str:
    for part in content['runs'] + content['models']:
        assert part.pop('timing')['frames_per_s'] > 0
    return json.dumps(content)


def test_parallel_and_serial_runs_give_the_same_json(tmp_path, flights, bundles, capsys):
    command = [str(flights / 'bags'), '--model', bundles[0], '--model', bundles[1],
               '--objects', str(flights / 'people'), '--threads', '1', '--fail-under', 'miou=0.1']
    serial = report(tmp_path, *command)
    lines = capsys.readouterr().out
    found = [without_times(serial), without_times(report(tmp_path, *command)),
             without_times(report(tmp_path, *command, '--jobs', '3'))]
    assert found[0] == found[1] == found[2]
    assert [(run['bag']['name'], run['model']['sha256'][:6]) for run in serial['runs']] == [
        (bag, entry['sha256'][:6]) for bag in ('day', 'night') for entry in serial['models']]
    assert [(entry['bag'], entry['frames']) for entry in serial['disagreement']] == [
        ('day', 40), ('night', 10)]
    assert (serial['schema'], serial['failed'], len(serial['models'])) == (2, [], 2)
    assert [gate['held'] for gate in serial['gates']] == [True, True]
    assert '2 bags' in lines
    assert 'gate held   ' in lines


def test_bags_are_pooled_by_their_pixels(tmp_path, flights, bundles):
    content = report(tmp_path, str(flights / 'bags'), '--model', bundles[0],
                     '--objects', str(flights / 'people'))
    [pooled] = content['models']
    rows = {row['slug']: row for row in pooled['scores']['classes']}
    # persons: 5 frames right by day, 4 missed by night; road: 6 right, 4 false
    assert rows['person']['iou'] == pytest.approx(5 / 9)
    assert rows['road_railway_bridge']['iou'] == pytest.approx(6 / 10)
    assert pooled['scores']['dataset']['miou'] == pytest.approx((1 + 5 / 9 + 6 / 10) / 3)
    assert pooled['scores']['lpcv']['dice'] == pytest.approx(46 / 50)
    assert pooled['counts']['processed'] == pooled['counts']['scored'] == 50
    assert pooled['class_shares']['person'] == pytest.approx(5 / 50)
    person = next(row for row in pooled['events']['classes'] if row['slug'] == 'person')
    assert (person['appearances'], person['hits'], person['recall']) == (2, 1, 0.5)
    # raised by the third of five frames that show the person
    assert person['time_to_alert_s'] == pytest.approx(
        {'count': 1, 'median': 0.2, 'p90': 0.2, 'max': 0.2})
    assert person['annotated_minutes'] == pytest.approx(5 / 60)
    [first] = [row for row in pooled['appearances'] if row['slug'] == 'person']
    assert (first['appearances'], first['hits'], first['false_alerts']) == (2, 1, 0)
    flicker = {row['slug']: row for row in pooled['flicker']['classes']}
    assert pooled['flicker']['frame_pairs'] == 39 + 9
    assert flicker['road_railway_bridge']['flicker'] == 0.0


def test_one_bag_pooled_has_the_numbers_of_its_run(tmp_path, flights, bundles):
    content = report(tmp_path, str(flights / 'bags' / 'day'), '--model', bundles[0])
    [run], [pooled] = content['runs'], content['models']
    assert pooled['scores'] == run['scores']
    assert pooled['counts'] == run['counts']
    assert pooled['class_shares'] == run['class_shares']
    assert pooled['appearances'] is run['appearances'] is None


def test_gates_decide_the_exit_code(tmp_path, flights, bundles, capsys):
    command = [str(flights / 'bags'), '--model', bundles[0], '--objects', str(flights / 'people')]
    held = ['--fail-under', 'person.iou=0.55', '--fail-under', 'person.appearance_recall=0.5',
            '--fail-over', 'person.false_alerts_per_min=0', '--fail-over',
            'person.time_to_alert_s=0.3', '--fail-over', 'flicker.person=0.5']
    assert all(gate['held'] for gate in report(tmp_path, *command, *held)['gates'])
    content = report(tmp_path, *command, *held, '--fail-under', 'person.recall=0.56', code=1)
    assert [(gate['gate'], gate['held']) for gate in content['gates']][3] == \
        ('person.false_alerts_per_min', True)
    missed = [gate for gate in content['gates'] if not gate['held']]
    assert missed == [{'model': bundles[0], 'gate': 'person.recall', 'relation': '>=',
                       'wanted': 0.56, 'got': pytest.approx(5 / 9), 'held': False, 'why': ''}]
    assert f'gate MISSED {bundles[0]}: person.recall >= 0.56, got 0.556' in capsys.readouterr().out


def test_a_gate_without_ground_truth_is_not_held(tmp_path, bundles):
    bag = tmp_path / 'bag'
    make_bag.main([str(paint(tmp_path / 'f', [ROAD] * 3)), '--out', str(bag), '--quiet'])
    content = report(tmp_path, str(bag), '--model', bundles[0], '--fail-under', 'miou=0',
                     '--fail-under', 'person.recall=0', '--fail-over',
                     'person.false_alerts_per_min=99', '--fail-over', 'flicker.fire_flare=1',
                     code=1)
    assert [(gate['got'], gate['held'], gate['why']) for gate in content['gates']] == [
        (None, False, 'no ground truth'), (None, False, 'no ground truth'),
        (None, False, 'nothing says when a person was there (--objects, --event-times)'),
        (None, False, 'no fire_flare in two masks in a row')]


@pytest.mark.parametrize(('option', 'message'), [
    ('persn.recall=0.5', r"'persn.recall'.*did you mean person.recall"),
    ('flicker.persn=0.5', 'did you mean flicker.person'),
    ('quite.another.thing=1', r"no number 'quite.another.thing'.*there are miou, "),
    ('road_railway_bridge.appearance_recall=1', 'did you mean'),
    ('miou', 'expected KEY=VALUE'), ('miou=', 'expected KEY=VALUE'), ('miou=nan', 'KEY=VALUE'),
])
def test_an_unknown_gate_is_refused_before_anything_runs(flights, bundles, option, message):
    with pytest.raises(ConfigError, match=message):
        [model] = open_models(bundles[:1], None)
        known_numbers([Gate.parse(option, upper=False)], model.labels, model.rules)


def test_a_gate_on_nothing_is_not_held():
    [row] = hold_gates([Gate('miou', 0.5, False)], 'demo', None)
    assert (row['got'], row['held'], row['why']) == (None, False, 'no bag could be read')


def test_a_bag_that_cannot_be_read_does_not_keep_the_others(tmp_path, flights, bundles, capsys):
    bags = tmp_path / 'bags'
    shutil.copytree(flights / 'bags' / 'later' / 'night', bags / 'night')
    (bags / 'a.bag').write_text('no bag')
    command = [str(bags), '--model', bundles[0], '--model', bundles[1]]
    contents = [report(tmp_path, *command, *more, code=1)
                for more in (['--threads', '1'], ['--jobs', '2'])]
    for content in contents:
        assert [run['bag']['name'] for run in content['runs']] == ['night', 'night']
        assert [(row['bag'], row['model']) for row in content['failed']] == \
            [(str(bags / 'a.bag'), bundle) for bundle in bundles]
    assert without_times(contents[0]) == without_times(contents[1])
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if 'a.bag is not a bag that can be read' in line]) == 2


def test_a_bundle_that_is_not_there_ends_all(flights, bundles, capsys):
    assert bag_eval.main([str(flights / 'bags'), '--model', bundles[0], '--model', 'absent']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_a_bundle_is_named_once(bundles):
    with pytest.raises(ConfigError, match='each bundle once'):
        open_models(bundles[:1] * 2, None)


def test_annotations_of_one_flight_are_refused_for_several(flights, bundles, capsys):
    objects = flights / 'people' / 'day' / 'objects.csv'
    assert bag_eval.main([str(flights / 'bags'), '--model', bundles[0], '--objects',
                          str(objects)]) == 1
    assert 'name a folder that holds' in capsys.readouterr().err


def test_bags_are_found_in_folders(tmp_path, flights):
    bags = tmp_path / 'bags'
    for name in ('b.mcap', 'a.bag', 'z/c.db3', 'z/notes.txt', 'recorded/metadata.yaml',
                 'recorded/recorded_0.db3'):
        (bags / name).parent.mkdir(parents=True, exist_ok=True)
        (bags / name).touch()
    (bags / 'z' / 'loop').symlink_to(bags)
    names = ['a.bag', 'b.mcap', 'recorded', 'z/c.db3']
    assert find_bags([bags]) == [bags / name for name in names]
    assert find_bags([bags / 'b.mcap', bags]) == [bags / name for name in
                                                  ('b.mcap', 'a.bag', 'recorded', 'z/c.db3')]
    (tmp_path / 'nothing').mkdir()
    with pytest.raises(InputError, match='holds no bag'):
        find_bags([tmp_path / 'nothing'])
    with pytest.raises(InputError, match='does not exist'):
        find_bags([tmp_path / 'absent'])


@pytest.mark.parametrize('options', [['--jobs', '0'], ['--threads', '-1']])
def test_numbers_of_processes_and_threads_are_checked(flights, options, capsys):
    assert bag_eval.main([str(flights / 'bags'), *options]) == 1
    assert 'or more, got' in capsys.readouterr().err


def test_more_threads_than_cores_are_said(tmp_path, flights, bundles, capsys):
    cores = len(os.sched_getaffinity(0))
    content = report(tmp_path, str(flights / 'bags' / 'day'), '--model', bundles[0], '--jobs',
                     str(cores), '--threads', '2')
    assert content['runs'][0]['model']['threads'] == 2
    assert f'{cores} jobs of 2 threads want {2 * cores} cores' in capsys.readouterr().err


def test_engines_beside_others_have_one_thread_unless_told(flights, bundles):
    def threads(*options: str) -> int:
        args = bag_eval._parser().parse_args([str(flights), *options])
        return bag_eval._options(args).threads
    assert threads() == 0
    assert threads('--jobs', '2') == 1
    assert threads('--jobs', '2', '--threads', '3') == 3


def test_workers_answer_fail_and_die():
    results: dict[int, object] = {}
    with Workers(shout, 2) as workers:
        workers.run(['a', 'fail', 'die', 'b'], results.__setitem__)
    assert (results[0], results[3]) == ('A', 'B')
    assert isinstance(results[1], InputError)
    assert isinstance(results[2], WorkerDied)
    assert 'was ended by SIGKILL (was there memory enough' in str(results[2])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look until it is so; AssertionError after the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f'waited for {what}'
        time.sleep(0.02)


def open_for_writing(pipe: Path, opened: list[int]) -> bool:
    """Return whether somebody has begun to read the pipe, who now waits for what never comes."""
    try:
        opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path, bundles, how):
    """Neither after Ctrl-C, which a terminal sends to all of them, nor without any warning."""
    bags = [tmp_path / 'a.bag', tmp_path / 'b.bag']
    for bag in bags:
        os.mkfifo(bag)
    parent = subprocess.Popen(
        [sys.executable, '-m', 'evit_seg.replay.bag_eval', *map(str, bags), '--model', bundles[0],
         '--jobs', '2'], stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A test run in the background of a shell may ignore it, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    opened: list[int] = []
    try:
        for bag in bags:
            wait_until(lambda bag=bag: open_for_writing(bag, opened), f'a worker to read {bag}')
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)
        else:
            parent.send_signal(how)
        _, error = parent.communicate(timeout=DEADLINE_S)
        if how == signal.SIGINT:
            assert (parent.returncode, error) == (130, 'bag_eval: interrupted\n')
        wait_until(lambda: not any(worker.is_running() for worker in workers), 'workers to end')
    finally:
        for descriptor in opened:
            os.close(descriptor)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
