# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
bag_eval against numbers worked out by hand, on a network whose answers are known by hand.

The tiny bundle answers a frame painted in one anchor colour with that class everywhere.
"""
from __future__ import annotations

import json
from pathlib import Path
import shutil

import cv2
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.places import NO_POSITION
import numpy as np
import pytest
from rosbags.rosbag2 import Writer
from rosbags.typesys import get_typestore, Stores
from tiny_bundle import anchor_colours, write_tiny_bundle

SHARED = Path(__file__).resolve().parents[3] / 'shared' / 'data'
BACKGROUND, PERSON, ROAD = 0, 10, 12
START_NS = 1_700_000_000 * 10**9
TYPES = get_typestore(Stores.ROS2_HUMBLE)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def paint_flight(folder: Path, seen: list[int], truth: list[int] | None = None) -> Path:
    """Write 10 Hz frames of one class each: what is painted, and what the mask says."""
    (folder / 'IMG').mkdir(parents=True)
    rows = ['file,time_s']
    for i, class_id in enumerate(seen):
        image = np.full((64, 64, 3), anchor_colours()[class_id][::-1], np.uint8)
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), image)
        rows.append(f'f{i:03}.png,{i / 10}')
        if truth:
            (folder / 'GT').mkdir(exist_ok=True)
            mask = np.full((64, 64), truth[i], np.uint8)
            cv2.imwrite(str(folder / 'GT' / f'f{i:03}.png'), mask)
    (folder / 'frames.csv').write_text('\n'.join(rows))
    return folder


def bag_of(folder: Path, *options: str) -> Path:
    bag = folder.parent / f'{folder.name}_bag'
    assert make_bag.main([str(folder), '--out', str(bag), *options]) == 0
    return bag


def report_of(bag: Path, tiny: Path, tmp_path: Path, *options: str) -> dict:
    out = tmp_path / 'report.json'
    assert bag_eval.main([str(bag), '--model', str(tiny), '--json', str(out), '--threads', '1',
                          *options]) == 0
    [run] = json.loads(out.read_text())['runs']
    return run


def test_the_three_scores_by_hand(tmp_path, tiny, capsys):
    # 10 frames: road 6 of 6 right; person 3 of 4 right, the fourth answered with road.
    seen = [ROAD] * 6 + [PERSON] * 3 + [ROAD]
    truth = [ROAD] * 6 + [PERSON] * 4
    report = report_of(bag_of(paint_flight(tmp_path / 'f', seen, truth)), tiny, tmp_path)
    rows = {row['slug']: row for row in report['scores']['classes']}
    assert rows['road_railway_bridge']['iou'] == pytest.approx(6 / 7)
    assert rows['person']['iou'] == pytest.approx(3 / 4)
    assert report['scores']['dataset']['miou'] == pytest.approx((6 / 7 + 3 / 4) / 2)
    # each right image has Dice 1; in the wrong one both classes have Dice 0
    assert report['scores']['lpcv']['dice'] == pytest.approx(0.9)
    assert report['timing']['paper_score'] == pytest.approx(
        report['scores']['dataset']['miou'] / report['timing']['seconds_per_image'])
    assert report['class_shares']['person'] == pytest.approx(0.3)
    assert report['counts'] == {
        'images': 10, 'processed': 10, 'malformed': 0, 'labels': 10, 'malformed_labels': 0,
        'scored': 10, 'images_without_label': 0, 'labels_without_image': 0,
        'pairs_too_far_apart': 0, 'labels_resized': 0}
    assert report['notes'] == [NO_POSITION]
    out = capsys.readouterr().out
    assert '1. dataset mIoU   0.804' in out
    assert '3. LPCV Dice      0.900' in out


def person_flight(tmp_path: Path) -> Path:
    """Return 4 s at 10 Hz with a person in frames 3 to 7."""
    return paint_flight(tmp_path / 'f', [BACKGROUND] * 3 + [PERSON] * 5 + [BACKGROUND] * 32)


def test_alerts_follow_the_stamps(tmp_path, tiny):
    report = report_of(bag_of(person_flight(tmp_path)), tiny, tmp_path)
    # confirm_k = 3: raised by the third frame, 0.5 s. Frame 8 is the first look that finds
    # nobody; clear_after_s = 2.0 later it clears, 2.8 s.
    assert [(e['kind'], e['class'], e['t_s'], e['stamp_ns'] - START_NS)
            for e in report['alerts']] == [('raised', 'person', 0.5, 500_000_000),
                                           ('cleared', 'person', 2.8, 2_800_000_000)]
    [region] = report['alerts'][0]['regions']
    assert (region['x'], region['y'], region['w'], region['h']) == (0, 0, 64, 64)


def test_rules_come_from_the_parameter_file(tmp_path, tiny):
    params = tmp_path / 'p.yaml'
    params.write_text('/**: {ros__parameters: {alert: {default: {confirm_k: 5}}}}')
    report = report_of(bag_of(person_flight(tmp_path)), tiny, tmp_path, '--params', str(params))
    assert report['alerts'][0]['t_s'] == 0.7
    assert {rule['confirm_k'] for rule in report['rules']} == {5}


def write_people(folder: Path, frames: range, box: str = '10,10,5,20') -> list[str]:
    """Write events.csv and objects.csv of one person; return the options that name them."""
    rows = ''.join(f'f{i:03},person,1,{box}\n' for i in frames)
    (folder / 'objects.csv').write_text(f'frame,class,instance,x,y,w,h\n{rows}')
    (folder / 'events.csv').write_text(
        'class,instance,t_from,t_to,max_height_px\n'
        f'person,1,{frames[0] / 10},{frames[-1] / 10},20\n')
    return ['--objects', str(folder / 'objects.csv'), '--events', str(folder / 'events.csv')]


def test_appearances_by_hand(tmp_path, tiny, capsys):
    flight = person_flight(tmp_path)
    report = report_of(bag_of(flight), tiny, tmp_path, *write_people(flight, range(3, 8)))
    person = next(s for s in report['appearances'] if s['slug'] == 'person')
    assert (person['hits'], person['recall'], person['active_spans'], person['false_alerts']) \
        == (1, 1.0, 1, 0)
    assert person['minutes'] == pytest.approx(4.0 / 60)
    # on from 0.5 s to 2.8 s; the person is in view up to frame 7, the one of 0.7 s
    assert (person['active_s'], person['idle_active_s']) == pytest.approx((2.3, 2.0))
    assert 'person: 1 of 1 appearances of 12 px or more hit, 0 of 1 alerts false' in \
        capsys.readouterr().out


def test_an_alert_where_nobody_is_counts_as_false(tmp_path, tiny):
    flight = person_flight(tmp_path)
    report = report_of(bag_of(flight), tiny, tmp_path, *write_people(flight, range(30, 38)))
    person = next(s for s in report['appearances'] if s['slug'] == 'person')
    assert (person['hits'], len(person['appearances']), person['false_alerts']) == (0, 1, 1)
    assert person['false_alerts_per_min'] == pytest.approx(15.0)


def test_objects_of_a_re_timed_bag_are_refused(tmp_path, tiny, capsys):
    flight = person_flight(tmp_path)
    options = write_people(flight, range(3, 8))
    bag = bag_of(flight, '--rate', '3.7')
    assert bag_eval.main([str(bag), '--model', str(tiny), *options]) == 2
    assert 're-timed' in capsys.readouterr().err


def test_two_runs_differ_in_times_only(tmp_path, tiny):
    flight = person_flight(tmp_path)
    bag = bag_of(flight)
    reports = [report_of(bag, tiny, tmp_path, *write_people(flight, range(3, 8)))
               for _ in range(2)]
    for report in reports:
        assert report.pop('timing')['wall_s'] > 0
    assert json.dumps(reports[0]) == json.dumps(reports[1])


def image_message(stamp_ns: int, pixels: np.ndarray, encoding: str):
    types = TYPES.types
    sec, nanosec = divmod(stamp_ns, 10**9)
    header = types['std_msgs/msg/Header'](
        stamp=types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec), frame_id='c')
    return types['sensor_msgs/msg/Image'](
        header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
        is_bigendian=0, step=pixels.nbytes // pixels.shape[0], data=pixels.reshape(-1))


def write_messages(folder: Path, rows: list) -> Path:
    """Write (topic, bag time in ns, message) rows."""
    with Writer(folder, version=8) as writer:
        connections = {}
        for topic, bag_ns, message in rows:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic, message.__msgtype__, typestore=TYPES)
            data = TYPES.serialize_cdr(message, message.__msgtype__)
            writer.write(connections[topic], bag_ns, data)
    return folder


ROAD_RGB = np.full((64, 64, 3), anchor_colours()[ROAD], np.uint8)
ROAD_MASK = np.full((64, 64), ROAD, np.uint8)


def test_labels_far_from_their_images_in_the_bag_still_meet(tmp_path, tiny):
    rows = [('/label', 1 + i, image_message(100 + i, ROAD_MASK, 'mono8')) for i in range(5)]
    rows += [('/image', 50 + i, image_message(104 - i, ROAD_RGB, 'rgb8')) for i in range(5)]
    report = report_of(write_messages(tmp_path / 'bag', rows), tiny, tmp_path)
    assert report['counts']['scored'] == 5
    assert report['scores']['dataset']['miou'] == 1.0


def test_unmatched_stamps_are_counted_and_may_be_tolerated(tmp_path, tiny, capsys):
    rows = []
    for i, off_ns in enumerate([0, 400_000, 2_000_000, 90_000_000]):
        stamp = 10**9 + i * 10**8
        rows += [('/image', stamp, image_message(stamp, ROAD_RGB, 'rgb8')),
                 ('/label', stamp, image_message(stamp + off_ns, ROAD_MASK, 'mono8'))]
    bag = write_messages(tmp_path / 'bag', rows)
    exact = report_of(bag, tiny, tmp_path)['counts']
    assert (exact['scored'], exact['images_without_label'], exact['labels_without_image']) \
        == (1, 3, 3)
    loose = report_of(bag, tiny, tmp_path, '--tolerance-ms', '1')['counts']
    assert (loose['scored'], loose['images_without_label']) == (2, 2)
    assert bag_eval.main([str(bag), '--model', str(tiny), '--tolerance-ms', '-1']) == 1


def test_labels_that_never_match_are_said(tmp_path, tiny):
    rows = [('/image', 5, image_message(5, ROAD_RGB, 'rgb8')),
            ('/label', 5, image_message(6, ROAD_MASK, 'mono8'))]
    report = report_of(write_messages(tmp_path / 'bag', rows), tiny, tmp_path)
    assert report['scores'] is None
    assert 'no label of /label has the stamp of a frame' in report['notes'][0]


def test_stamps_of_zero_fall_back_to_the_time_of_the_bag(tmp_path, tiny):
    rows = [('/image', 10**9 + i * 10**8, image_message(0, ROAD_RGB, 'rgb8')) for i in range(3)]
    rows += [('/label', t, image_message(0, ROAD_MASK, 'mono8')) for _, t, _ in rows]
    report = report_of(write_messages(tmp_path / 'bag', rows), tiny, tmp_path)
    assert report['bag']['clock'] == 'bag'
    assert report['bag']['duration_s'] == pytest.approx(0.2)
    assert report['counts']['scored'] == 3
    assert "the bag's time is the clock" in report['notes'][0]


def test_malformed_frames_and_labels_are_counted_and_survived(tmp_path, tiny):
    rows = []
    for stamp in range(1, 7):
        image = image_message(stamp, ROAD_RGB, 'rgb8')
        label = image_message(stamp, ROAD_MASK, 'mono8')
        if stamp == 2:
            image.data = image.data[:-1]
        if stamp == 3:
            image.encoding = 'rot13'
        if stamp == 4:
            image.height = image.width = image.step = 0
        if stamp == 5:
            label.data = label.data[:-1]
        rows += [('/image', stamp, image), ('/label', stamp, label)]
    report = report_of(write_messages(tmp_path / 'bag', rows), tiny, tmp_path)
    counts = report['counts']
    assert (counts['images'], counts['processed'], counts['malformed']) == (6, 3, 3)
    assert (counts['malformed_labels'], counts['scored']) == (1, 2)
    assert report['notes'][0].startswith('3 frames cannot be decoded; the first: ')


def test_a_bag_of_undecodable_frames_is_an_input_error(tmp_path, tiny, capsys):
    depth = np.zeros((8, 8), np.float32).view(np.uint8)
    image = image_message(1, depth, '32FC1')
    bag = write_messages(tmp_path / 'bag', [('/depth', 1, image)])
    assert bag_eval.main([str(bag), '--model', str(tiny)]) == 2
    assert 'not one of the 1 frames of /depth can be decoded' in capsys.readouterr().err


def test_labels_of_another_size_are_resized_and_said(tmp_path, tiny):
    rows = [('/image', 5, image_message(5, ROAD_RGB, 'rgb8')),
            ('/label', 5, image_message(5, np.full((32, 16), ROAD, np.uint8), 'mono8'))]
    report = report_of(write_messages(tmp_path / 'bag', rows), tiny, tmp_path)
    assert report['scores']['dataset']['miou'] == 1.0
    assert report['notes'] == ['1 labels were resized (nearest) to their frame', NO_POSITION]


@pytest.mark.parametrize(('options', 'code', 'message'), [
    (['--image-topic', '/absent'], 2, "no image topic '/absent'"),
    (['--truth-topic', '/absent'], 2, "no image topic '/absent'"),
    (['--truth-topic', '/camera/image_raw'], 2, 'cannot be the truth as well'),
    (['--model', 'absent'], 2, 'absent'),
    (['--params', 'absent.yaml'], 2, 'absent.yaml'),
    (['--objects', 'absent.csv'], 2, 'frames.csv'),
    (['--events', 'absent.csv'], 1, 'it needs --objects'),
])
def test_what_is_not_there_is_said_in_one_line(tmp_path, tiny, capsys, options, code, message):
    bag = bag_of(paint_flight(tmp_path / 'f', [ROAD]))
    assert bag_eval.main([str(bag), '--model', str(tiny), *options]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


@pytest.mark.skipif(not (SHARED / 'brighton_beach').is_dir(), reason=f'no data in {SHARED}')
def test_brighton_beach_without_ground_truth(tmp_path, tiny, capsys):
    bag = tmp_path / 'bag'
    make_bag.main([str(SHARED / 'brighton_beach'), '--out', str(bag), '--rate', '5'])
    report = report_of(bag, tiny, tmp_path)
    assert report['counts']['processed'] == 18
    assert report['scores'] is None
    assert sum(report['class_shares'].values()) == pytest.approx(1.0)
    assert report['bag']['duration_s'] == pytest.approx(3.4)
    assert 'no ground truth' in capsys.readouterr().out


@pytest.mark.skipif(not (SHARED / 'ros1_bags').is_dir(), reason=f'no data in {SHARED}')
@pytest.mark.parametrize(('name', 'suffix'), [('raw', ''), ('compressed', '/compressed')])
def test_every_topic_of_recorded_ros1_bags(tmp_path, tiny, name, suffix):
    for topic in ('camera/frontleft', 'camera/hand_color', 'camera/hand_mono', 'depth/frontleft'):
        report = report_of(SHARED / 'ros1_bags' / f'{name}.bag', tiny, tmp_path,
                           '--image-topic', f'/spot/{topic}/image{suffix}')
        assert report['counts']['processed'] == 1
        assert any('16-bit' in note for note in report['notes']) == topic.startswith('depth')


@pytest.mark.skipif(not (SHARED / 'ros1_bags').is_dir(), reason=f'no data in {SHARED}')
def test_compressed_depth_and_truncated_bags_exit_with_2(tmp_path, tiny, capsys):
    shutil.copyfile(SHARED / 'ros1_bags' / 'raw.bag', tmp_path / 'cut.bag')
    with (tmp_path / 'cut.bag').open('r+b') as stream:
        stream.truncate(500_000)
    for bag in (SHARED / 'ros1_bags' / 'compressedDepth.bag', tmp_path / 'cut.bag'):
        assert bag_eval.main([str(bag), '--model', str(tiny)]) == 2
        assert capsys.readouterr().err.count('\n') == 1
