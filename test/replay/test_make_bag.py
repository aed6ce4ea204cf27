# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""make_bag: what stands in the folder stands in the bag, read back with rosbags alone."""
from __future__ import annotations

import csv
from pathlib import Path

import cv2
from evit_seg.replay.bag import bag_sha256
from evit_seg.replay.make_bag import main
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

BRIGHTON = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'brighton_beach'
HEADER = ('file,time_s,latitude_deg,longitude_deg,altitude_m,relative_altitude_m,yaw_deg,'
          'gimbal_pitch_deg,focal_length_mm,sensor_width_mm')


def write_flight(folder: Path, frames: int = 4, *, masks: bool = True, suffix: str = 'png',
                 table: bool = True) -> Path:
    """Write a layout A split folder of noise images; frame i is at i x 0.1 s."""
    rng = np.random.default_rng(0)
    (folder / 'IMG').mkdir(parents=True)
    rows = [HEADER]
    for i in range(frames):
        image = rng.integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.{suffix}'), image)
        rows.append(f'f{i:03}.{suffix},{i / 10},46.8{i},-91.9{i},{200 + i},{40 + i},{-90 + i},'
                    '-90,3.61,6.2')
        if masks:
            (folder / 'GT').mkdir(exist_ok=True)
            mask = rng.integers(0, 14, (48, 64), np.uint8)
            cv2.imwrite(str(folder / 'GT' / f'f{i:03}.png'), mask)
    if table:
        (folder / 'frames.csv').write_text('\n'.join(rows) + '\n')
    return folder


def read_all(bag: Path) -> dict[str, list]:
    """Return topic -> [(bag time, message)]."""
    content: dict[str, list] = {}
    with AnyReader([bag]) as reader:
        for connection, bag_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            content.setdefault(connection.topic, []).append((bag_ns, message))
    return content


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_a_split_folder_becomes_a_bag(tmp_path, capsys, storage):
    folder = write_flight(tmp_path / 'flight')
    assert main([str(folder), '--out', str(tmp_path / 'bag'), '--storage', storage,
                 '--quiet']) == 0
    assert 'note' not in capsys.readouterr().out
    content = read_all(tmp_path / 'bag')
    assert {topic: len(rows) for topic, rows in content.items()} == dict.fromkeys(
        ['/camera/image_raw', '/camera/label', '/camera/camera_info', '/fix', '/heading',
         '/height'], 4)
    for i in range(4):
        bag_ns, image = content['/camera/image_raw'][i]
        assert (image.encoding, image.height, image.width, image.step) == ('bgr8', 48, 64, 192)
        pixels = cv2.imread(str(folder / 'IMG' / f'f{i:03}.png'))
        np.testing.assert_array_equal(image.data.reshape(48, 64, 3), pixels)
        assert stamp_ns(image) == bag_ns == 1_700_000_000 * 10**9 + i * 10**8
        _, label = content['/camera/label'][i]
        assert (label.encoding, label.step, stamp_ns(label)) == ('mono8', 64, bag_ns)
        mask = cv2.imread(str(folder / 'GT' / f'f{i:03}.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(label.data.reshape(48, 64), mask)
        assert content['/heading'][i][1].data == pytest.approx(270 + i)
        assert content['/height'][i][1].data == 40 + i
        fix = content['/fix'][i][1]
        assert (fix.latitude, fix.longitude, fix.altitude) == \
            pytest.approx((float(f'46.8{i}'), float(f'-91.9{i}'), 200 + i))
        info = content['/camera/camera_info'][i][1]
        assert info.k[0] == info.k[4] == pytest.approx(3.61 / 6.2 * 64)
        assert (info.k[2], info.k[5], info.width) == (31.5, 23.5, 64)
        assert info.header == image.header


def test_the_same_folder_gives_the_same_bag(tmp_path):
    folder = write_flight(tmp_path / 'flight')
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        main([str(folder), '--out', str(tmp_path / name / 'bag'), '--quiet'])
    assert bag_sha256(tmp_path / 'a' / 'bag') == bag_sha256(tmp_path / 'b' / 'bag')


def test_jpeg_files_go_into_a_jpeg_bag_untouched(tmp_path):
    folder = write_flight(tmp_path / 'flight', suffix='jpg')
    assert main([str(folder), '--out', str(tmp_path / 'bag'), '--compressed', 'jpeg',
                 '--topic', '/uav/cam/image', '--quiet']) == 0
    content = read_all(tmp_path / 'bag')
    assert '/uav/cam/label' in content
    _, message = content['/uav/cam/image/compressed'][2]
    assert message.format == 'bgr8; jpeg compressed bgr8'
    assert message.data.tobytes() == (folder / 'IMG' / 'f002.jpg').read_bytes()


def test_png_bag_of_jpeg_files_is_lossless(tmp_path):
    folder = write_flight(tmp_path / 'flight', frames=1, suffix='jpg')
    main([str(folder), '--out', str(tmp_path / 'bag'), '--compressed', 'png', '--quiet'])
    _, message = read_all(tmp_path / 'bag')['/camera/image_raw/compressed'][0]
    decoded = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, cv2.imread(str(folder / 'IMG' / 'f000.jpg')))


def test_a_rate_that_differs_from_the_times_is_said(tmp_path, capsys):
    folder = write_flight(tmp_path / 'flight')
    assert main([str(folder), '--out', str(tmp_path / 'bag'), '--rate', '5', '--quiet']) == 0
    assert 're-timed: in frames.csv the frames are 0.1 s apart, in the bag 0.2 s' in \
        capsys.readouterr().out
    images = read_all(tmp_path / 'bag')['/camera/image_raw']
    assert [stamp_ns(m) - stamp_ns(images[0][1]) for _, m in images] == \
        [i * 2 * 10**8 for i in range(4)]


def test_a_rate_that_equals_the_times_is_not_re_timing(tmp_path, capsys):
    folder = write_flight(tmp_path / 'flight')
    main([str(folder), '--out', str(tmp_path / 'bag'), '--rate', '10', '--quiet'])
    assert 're-timed' not in capsys.readouterr().out
    assert 'evit_seg.time_zero_ns' in (tmp_path / 'bag' / 'metadata.yaml').read_text()


def test_a_flat_folder_without_table_gets_the_default_rate(tmp_path, capsys):
    folder = write_flight(tmp_path / 'flight', masks=False, table=False)
    assert main([str(folder / 'IMG'), '--out', str(tmp_path / 'bag'), '--quiet']) == 0
    out = capsys.readouterr().out
    assert 'no times; the bag has 10 Hz' in out
    assert 'no camera_info is written, and geotags need it' in out
    assert list(read_all(tmp_path / 'bag')) == ['/camera/image_raw']


def test_a_video_keeps_its_frame_rate(tmp_path):
    video = cv2.VideoWriter(str(tmp_path / 'v.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 25,
                            (64, 48))
    for i in range(5):
        video.write(np.full((48, 64, 3), 40 * i, np.uint8))
    video.release()
    assert main([str(tmp_path / 'v.avi'), '--out', str(tmp_path / 'bag'), '--quiet']) == 0
    images = read_all(tmp_path / 'bag')['/camera/image_raw']
    assert [stamp_ns(m) - stamp_ns(images[0][1]) for _, m in images] == \
        [i * 4 * 10**7 for i in range(5)]
    assert abs(float(images[3][1].data.mean()) - 120) < 5


@pytest.mark.parametrize(('break_it', 'message'), [
    (lambda f: (f / 'IMG' / 'f001.png').write_bytes(b'none'), 'f001.png'),
    (lambda f: (f / 'IMG' / 'f001.png').unlink(), 'names 1 images that are not in'),
    (lambda f: cv2.imwrite(str(f / 'GT' / 'f001.png'), np.zeros((8, 8), np.uint8)),
     'expected the size of its image'),
    (lambda f: cv2.imwrite(str(f / 'GT' / 'f001.png'), np.zeros((48, 64, 3), np.uint8)),
     'expected a mask of one uint8 channel'),
    (lambda f: (f / 'frames.csv').write_text('name,time\n'), 'expected a column `file`'),
    (lambda f: (f / 'frames.csv').write_text('file,time_s\nf000.png,soon\n'), 'soon'),
    (lambda f: (f / 'frames.csv').write_text('file,time_s\nf000.png,1\nf001.png,0\n'),
     'do not increase'),
])
def test_a_bad_source_leaves_no_bag(tmp_path, capsys, break_it, message):
    folder = write_flight(tmp_path / 'flight')
    break_it(folder)
    assert main([str(folder), '--out', str(tmp_path / 'bag'), '--quiet']) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert not (tmp_path / 'bag').exists()


def test_what_is_no_source_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / 'flight').mkdir()
    write_flight(tmp_path / 'scene' / 'train')
    (tmp_path / 'note.txt').write_text('hello')
    for source, message in [('absent', 'does not exist'), ('flight', 'holds no images'),
                            ('scene', 'splits train'), ('note.txt', 'neither a folder nor')]:
        assert main([str(tmp_path / source), '--out', str(tmp_path / 'bag'), '--quiet']) == 2
        assert message in capsys.readouterr().err


def test_an_existing_bag_is_not_overwritten(tmp_path, capsys):
    folder = write_flight(tmp_path / 'flight')
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'precious').write_text('x')
    assert main([str(folder), '--out', str(tmp_path / 'bag'), '--quiet']) == 2
    assert 'exists already' in capsys.readouterr().err
    assert (tmp_path / 'bag' / 'precious').exists()


@pytest.mark.parametrize('options', [['--rate', '0'], ['--rate', 'nan'], ['--topic', 'relative'],
                                     ['--sensor-width-mm', '-1']])
def test_bad_options_are_refused(tmp_path, capsys, options):
    folder = write_flight(tmp_path / 'flight', masks=False)
    assert main([str(folder), '--out', str(tmp_path / 'bag'), '--quiet', *options]) == 1
    assert 'expected' in capsys.readouterr().err


@pytest.mark.skipif(not BRIGHTON.is_dir(), reason=f'{BRIGHTON} is not there')
def test_brighton_beach_at_5_hz_says_that_it_is_re_timed(tmp_path, capsys):
    assert main([str(BRIGHTON), '--out', str(tmp_path / 'bag'), '--rate', '5', '--quiet',
                 '--sensor-width-mm', '6.2']) == 0
    assert 'the frames are 7.29 s apart, in the bag 0.2 s' in capsys.readouterr().out
    content = read_all(tmp_path / 'bag')
    with (BRIGHTON / 'frames.csv').open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(content['/camera/image_raw']) == len(content['/fix']) == len(rows) == 18
    assert content['/fix'][6][1].latitude == float(rows[6]['latitude_deg'])
    assert content['/heading'][6][1].data == pytest.approx(360 - 138.7)
    assert content['/camera/camera_info'][0][1].k[0] == pytest.approx(3.61 / 6.2 * 1280)


@pytest.mark.skipif(not BRIGHTON.is_dir(), reason=f'{BRIGHTON} is not there')
def test_brighton_beach_keeps_its_dates_without_a_rate(tmp_path):
    assert main([str(BRIGHTON), '--out', str(tmp_path / 'bag'), '--compressed', 'jpeg',
                 '--quiet']) == 0
    images = read_all(tmp_path / 'bag')['/camera/image_raw/compressed']
    assert images[0][1].header.stamp.sec == 1466699519  # 2016-06-23 16:31:59, as if UTC
    assert images[1][1].header.stamp.sec - images[0][1].header.stamp.sec == 7


def test_the_table_of_a_real_flight_becomes_the_topics_of_geotags(tmp_path, capsys):
    folder = write_flight(tmp_path / 'flight', table=False, masks=False)
    rows = ['file,time_local,latitude_deg,longitude_deg,altitude_m,relative_altitude_m,yaw_deg,'
            'gimbal_pitch_deg,focal_length_mm']
    rows += [f'f{i:03}.png,2016:06:23 16:31:5{i},46.8426071,-91.994559{i},198.309,+39.8{i},'
             f'-138.7{i},-89.90,3.61' for i in range(4)]
    (folder / 'frames.csv').write_text('\n'.join(rows) + '\n')
    assert main([str(folder), '--out', str(tmp_path / 'without'), '--quiet']) == 0
    assert 'no camera_info is written, and geotags need it' in capsys.readouterr().out
    assert '/camera/camera_info' not in read_all(tmp_path / 'without')
    assert main([str(folder), '--out', str(tmp_path / 'with'), '--quiet', '--sensor-width-mm',
                 '6.2']) == 0
    assert 'no camera_info' not in capsys.readouterr().out
    content = read_all(tmp_path / 'with')
    for i, (bag_ns, image) in enumerate(content['/camera/image_raw']):
        rows = {topic: content[topic][i] for topic in ('/fix', '/heading', '/height',
                                                       '/camera/camera_info')}
        assert {at_ns for at_ns, _ in rows.values()} == {bag_ns}
        fix, info = rows['/fix'][1], rows['/camera/camera_info'][1]
        assert fix.header == info.header == image.header
        assert (fix.status.status, fix.position_covariance_type) == (0, 0)
        assert (fix.latitude, fix.longitude) == (46.8426071, float(f'-91.994559{i}'))
        assert rows['/heading'][1].data == pytest.approx(221.3 - i / 100)
        assert rows['/height'][1].data == pytest.approx(39.8 + i / 100)
        assert info.k[0] == pytest.approx(3.61 / 6.2 * 64)
