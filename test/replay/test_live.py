# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the real node, over real ROS 2, in another process."""
from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import cv2
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.places import NO_POSITION
import numpy as np
import pytest
from rosbags.rosbag2 import Reader, Writer
from rosbags.typesys import get_typestore, Stores
from tiny_bundle import anchor_colours, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')
ROOT = Path(__file__).resolve().parents[2]
BACKGROUND, PERSON = 0, 10
DEADLINE_S = 240.0


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def paint_flight(folder: Path) -> Path:
    """Write 3 s at 5 Hz; a person fills frames 4 to 10, in the last of them the mask says not."""
    (folder / 'IMG').mkdir(parents=True)
    (folder / 'GT').mkdir()
    rows, boxes = ['file,time_s'], ['frame,class,instance,x,y,w,h']
    for i in range(15):
        class_id = PERSON if 4 <= i <= 10 else BACKGROUND
        image = np.full((48, 64, 3), anchor_colours()[class_id][::-1], np.uint8)
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), image)
        truth = np.full((48, 64), class_id if i != 10 else BACKGROUND, np.uint8)
        cv2.imwrite(str(folder / 'GT' / f'f{i:03}.png'), truth)
        rows.append(f'f{i:03}.png,{i / 5}')
        if class_id == PERSON:
            boxes.append(f'f{i:03},person,1,0,0,64,48')
    (folder / 'frames.csv').write_text('\n'.join(rows))
    (folder / 'objects.csv').write_text('\n'.join(boxes))
    return folder


def run_live(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-m', 'evit_seg.replay.live', *arguments], cwd=ROOT,
                          capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.parametrize('options', [[], ['--compressed', 'png']])
def test_the_node_answers_as_bag_eval_does(tmp_path, tiny, options):
    flight, bag = paint_flight(tmp_path / 'flight'), tmp_path / 'flight.bag'
    assert make_bag.main([str(flight), '--out', str(bag), *options]) == 0
    common = [str(bag), '--model', str(tiny), '--objects', str(flight / 'objects.csv')]
    result = run_live(*common, '--out', str(tmp_path / 'live'), '--reliable',
                      '--lockstep', '--rate', '10')
    assert result.returncode == 0, result.stderr
    live = json.loads((tmp_path / 'live' / 'report.json').read_text())

    counts = live['counts']
    assert (counts['sent'], counts['answered'], counts['wrong_headers']) == (15, 15, 0)
    assert counts['lost_on_the_way'] == counts['node']['in_work'] == 0
    assert counts['node']['received'] == counts['node']['processed'] == 15
    assert (counts['images'], counts['not_sent'], counts['unexplained']) == (15, 0, 0)
    # background: 8 of 9 right, union 9; person: 6 of 7 found, union 7
    assert live['scores']['dataset']['miou'] == pytest.approx((8 / 9 + 6 / 7) / 2)
    assert live['timing']['latency_ms']['p50'] > 0
    assert live['timing']['node_rss_mb'] > 20

    assert bag_eval.main([*common, '--json', str(tmp_path / 'replay.json'), '--quiet']) == 0
    [replay] = json.loads((tmp_path / 'replay.json').read_text())['runs']
    assert live['scores'] == replay['scores']
    assert [(e['t_s'], e['kind'], e['alert_id']) for e in live['alerts']] == \
        [(e['t_s'], e['kind'], e['alert_id']) for e in replay['alerts']] == \
        [(1.2, 'raised', 'person-1')]
    assert live['appearances'] == replay['appearances']
    assert next(s['hits'] for s in live['appearances'] if s['slug'] == 'person') == 1

    assert live['places'] is None
    assert NO_POSITION in live['notes']
    assert live['comparison'] == {
        'comparable': True, 'why': [], 'same_alerts': True, 'differences': [],
        'confirm_n': {'person': 5, 'vehicle': 5, 'fire_flare': 5}}
    assert 'compare  the same alerts as bag_eval, on the same frames' in result.stdout
    assert live['mode_timeline'][0] == {'t_s': 0.0, 'source': 'mode', 'mode': 'nominal',
                                        'reason': ''}
    assert live['timing']['age_ms']['max'] >= live['timing']['latency_ms']['p50']
    assert live['timing']['alert_latency_ms']['max'] > 0

    capture = cv2.VideoCapture(str(tmp_path / 'live' / 'overlay.mp4'))
    assert [capture.read()[0] for _ in range(16)] == [True] * 15 + [False]
    assert cv2.imread(str(tmp_path / 'live' / 'poster.png')).shape == (48, 3 * 64 + 12, 3)
    assert 'headers  all as sent' in result.stdout


def stamp_back(bag: Path, number: int, by_s: int) -> Path:
    """Return a copy of a bag in which one image is stamped earlier than it was recorded."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    out = bag.with_name('stamped')
    with Reader(bag) as reader, Writer(out, version=8) as writer:
        connections = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=types)
                       for c in reader.connections}
        images = 0
        for connection, bag_ns, data in reader.messages():
            if connection.topic == '/camera/image_raw':
                message = types.deserialize_cdr(data, connection.msgtype)
                if images == number:
                    message.header.stamp.sec -= by_s
                images += 1
                data = types.serialize_cdr(message, connection.msgtype)
            writer.write(connections[connection.id], bag_ns, data)
    return out


def test_a_run_that_dropped_a_frame_is_not_compared(tmp_path, tiny):
    flight = paint_flight(tmp_path / 'flight')
    make_bag.main([str(flight), '--out', str(tmp_path / 'bag')])
    bag = stamp_back(tmp_path / 'bag', 13, 3600)
    params = tmp_path / 'p.yaml'
    params.write_text('/**: {ros__parameters: {image.max_age_s: 1000.0}}')
    result = run_live(str(bag), '--model', str(tiny), '--out', str(tmp_path / 'live'),
                      '--params', str(params), '--reliable', '--lockstep', '--rate', '10')
    assert result.returncode == 0, result.stderr
    live = json.loads((tmp_path / 'live' / 'report.json').read_text())
    assert live['counts']['node']['too_old'] == 1
    assert (live['counts']['answered'], live['counts']['unexplained']) == (14, 0)
    assert live['comparison']['comparable'] is False
    assert live['comparison']['why'] == ['1 of 15 frames were too old for the node '
                                         '(image.max_age_s)']
    assert live['comparison']['same_alerts'] is None
    assert 'compare  not comparable with bag_eval: 1 of 15 frames were too old' in result.stdout


def test_a_node_that_will_not_start_is_said_with_its_own_words(tmp_path, tiny):
    flight, bag = paint_flight(tmp_path / 'flight'), tmp_path / 'bag'
    make_bag.main([str(flight), '--out', str(bag)])
    params = tmp_path / 'p.yaml'
    params.write_text('/**: {ros__parameters: {mask.sise: source}}')
    result = run_live(str(bag), '--model', str(tiny), '--out', str(tmp_path / 'live'),
                      '--params', str(params))
    assert result.returncode == 1
    assert 'seg_node ended with exit code 1' in result.stderr
    assert "did you mean 'mask.size'" in result.stderr


def test_what_cannot_be_played_is_refused_before_the_node_starts(
        tmp_path, tiny, capsys, monkeypatch):
    from evit_seg.replay import live
    for name in (*live.DEFAULT_ENVIRONMENT, *live.FIXED_ENVIRONMENT):
        monkeypatch.setenv(name, 'restored after this test')
    flight, bag = paint_flight(tmp_path / 'flight'), tmp_path / 'bag'
    make_bag.main([str(flight), '--out', str(bag)])
    (tmp_path / 'there').mkdir()
    for arguments, code, message in [
            ([str(bag), '--model', 'absent', '--out', str(tmp_path / 'a')], 2, 'absent'),
            ([str(bag), '--out', str(tmp_path / 'there')], 2, 'exists already'),
            ([str(tmp_path / 'no.bag'), '--out', str(tmp_path / 'b')], 2, 'does not exist'),
            ([str(bag), '--out', str(tmp_path / 'd'), '--compare', str(bag / 'metadata.yaml')], 2,
             'metadata.yaml cannot be read'),
            ([str(bag), '--out', str(tmp_path / 'c'), '--rate', '0'], 1, 'rate')]:
        assert live.main(arguments) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1
