# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
from offline_train.cli import main
from offline_train.data.synth_palette import class_ids
import pytest

SMALL = ('--size', '320x180')


def _digest(folder):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    assert files
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _table(path):
    with path.open(encoding='utf-8') as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope='module')
def flight(tmp_path_factory):
    """Render a minute's flight, small and at 2 Hz."""
    out = tmp_path_factory.mktemp('flight') / 'out'
    assert main(['synth', '--out', str(out), '--seed', '31', '--seconds', '60', '--rate', '2',
                 *SMALL]) == 0
    return out


def test_scenes_are_the_same_bytes_for_a_seed_whatever_the_processes(tmp_path):
    for name, jobs, seed in (('one', '1', '4'), ('two', '2', '4'), ('other', '1', '5')):
        assert main(['synth', '--out', str(tmp_path / name), '--scenes', '6', '--seed', seed,
                     '--jobs', jobs, '--val-share', '0.5', *SMALL]) == 0
    assert _digest(tmp_path / 'one') == _digest(tmp_path / 'two')
    assert _digest(tmp_path / 'one') != _digest(tmp_path / 'other')
    assert len(list((tmp_path / 'one/train/IMG').iterdir())) == 4
    assert len(list((tmp_path / 'one/val/GT').iterdir())) == 2


def test_a_flight_is_the_same_bytes_for_a_seed_whatever_the_processes(tmp_path):
    for name, jobs in (('one', '1'), ('two', '2')):
        assert main(['synth', '--out', str(tmp_path / name), '--seconds', '3', '--rate', '5',
                     '--seed', '8', '--jobs', jobs, *SMALL]) == 0
    assert _digest(tmp_path / 'one') == _digest(tmp_path / 'two')


def test_a_minute_passes_over_every_class(flight):
    shares = json.loads((flight / 'scene.json').read_text())['class_pixel_share']['flight']
    assert list(shares) == sorted(class_ids(), key=class_ids().get)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-4)
    for slug, share in shares.items():
        least = {'person': 0.0003, 'fire_flare': 0.0005, 'vehicle': 0.001}.get(slug, 0.003)
        assert share >= least, slug


def test_a_minute_meets_many_people_and_also_nobody(flight):
    rows = [row for row in _table(flight / 'flight/events.csv') if row['class'] == 'person']
    # 3 of 180 rows of pixels are 12 of 720; 2 s hold at least 5 frames at any rate from 2 Hz on
    tall = [row for row in rows if float(row['max_height_px']) >= 3
            and float(row['t_to']) - float(row['t_from']) >= 2.0]
    assert len(tall) >= 15
    busy = {row['frame'] for row in _table(flight / 'flight/objects.csv')
            if row['class'] == 'person'}
    frames = [row['file'].rsplit('.', 1)[0] for row in _table(flight / 'flight/frames.csv')]
    quiet = ''.join('x' if frame in busy else '.' for frame in frames)
    assert '.' * 8 in quiet  # four seconds


def test_objects_are_what_the_masks_show(flight):
    rows = _table(flight / 'flight/objects.csv')
    by_frame = {}
    for row in rows:
        by_frame.setdefault(row['frame'], []).append(row)
    for stem, objects in list(by_frame.items())[::9]:
        mask = cv2.imread(str(flight / f'flight/GT/{stem}.png'), cv2.IMREAD_UNCHANGED)
        covered = np.zeros(mask.shape, bool)
        for row in objects:
            x, y, w, h = (int(row[key]) for key in 'xywh')
            mine = mask[y:y + h, x:x + w] == class_ids()[row['class']]
            assert mine.shape == (h, w)
            assert mine[0].any() and mine[-1].any() and mine[:, 0].any() and mine[:, -1].any()
            if row['class'] == 'person':
                covered[y:y + h, x:x + w] = True
        left = (mask == class_ids()['person']) & ~covered  # only rests too small to count
        _, _, stats, _ = cv2.connectedComponentsWithStats(left.astype(np.uint8), connectivity=8)
        assert (stats[1:, cv2.CC_STAT_AREA] < 8).all()


def test_events_are_the_runs_of_the_objects(flight):
    times = {row['file'].rsplit('.', 1)[0]: float(row['time_s'])
             for row in _table(flight / 'flight/frames.csv')}
    seen = {}
    for row in _table(flight / 'flight/objects.csv'):
        seen.setdefault((row['class'], row['instance']), {})[times[row['frame']]] = int(row['h'])
    events = _table(flight / 'flight/events.csv')
    counted = 0
    for event in events:
        heights = seen[event['class'], event['instance']]
        inside = {t: h for t, h in heights.items()
                  if float(event['t_from']) <= t <= float(event['t_to'])}
        span = [t for t in times.values() if float(event['t_from']) <= t <= float(event['t_to'])]
        assert sorted(inside) == span
        assert max(inside.values()) == int(event['max_height_px'])
        counted += len(inside)
    assert counted == sum(len(v) for v in seen.values())


def test_masks_and_images_fit_and_hold_known_ids(flight):
    for path in sorted((flight / 'flight/GT').iterdir())[::20]:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(flight / f'flight/IMG/{path.stem}.jpg'))
        assert mask.dtype == np.uint8 and mask.shape == (180, 320) == image.shape[:2]
        assert mask.max() < len(class_ids())


@pytest.mark.parametrize(('extra', 'code', 'said'), [
    (('--seed', '-1'), 1, '--seed'),
    (('--jobs', '0'), 1, '--jobs'),
    (('--scenes', '-3'), 1, '--scenes'),
    (('--scenes', '3', '--val-share', '1.5'), 1, '--val-share'),
    (('--seconds', '4000'), 1, 'different seeds'),
    (('--rate', '0'), 1, '--rate'),
])
def test_arguments_that_do_not_fit_are_said_in_one_line(tmp_path, capsys, extra, code, said):
    assert main(['synth', '--out', str(tmp_path / 'x'), *extra]) == code
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1


def test_a_folder_with_files_is_refused(tmp_path, capsys):
    (tmp_path / 'kept.txt').write_text('mine')
    assert main(['synth', '--out', str(tmp_path), '--scenes', '1']) == 2
    assert 'kept.txt' in {p.name for p in tmp_path.iterdir()}
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize('size', ['640', '640x', 'axb', '10x10', '640x99999'])
def test_a_bad_size_is_refused(tmp_path, size):
    with pytest.raises(SystemExit) as stop:
        main(['synth', '--out', str(tmp_path / 'x'), '--size', size])
    assert stop.value.code == 2


def test_rendering_imports_no_torch(tmp_path):
    script = ('import sys\nfrom offline_train.cli import main\n'
              f'code = main(["synth", "--out", {str(tmp_path / "x")!r}, "--scenes", "1", '
              '"--size", "160x96"])\n'
              'heavy = {"torch", "timm", "rclpy", "onnxruntime"} & set(sys.modules)\n'
              'sys.exit(code or (f"imported {heavy}" if heavy else 0))')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_lists_the_stages_without_importing_them():
    script = ('import sys\nfrom offline_train.cli import main\n'
              'try:\n    main(["--help"])\nexcept SystemExit:\n    pass\n'
              'sys.exit("cv2" in sys.modules or "torch" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for stage in ('synth', 'train', 'export', 'evaluate'):
        assert stage in done.stdout


def test_a_stage_whose_package_is_missing_says_so_in_one_line():
    script = ('import sys\nsys.modules["accelerate"] = None\n'  # the first that train wants
              'from offline_train.cli import main\nsys.exit(main(["train"]))')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 1
    assert "'accelerate'" in done.stderr and done.stderr.count('\n') == 1
