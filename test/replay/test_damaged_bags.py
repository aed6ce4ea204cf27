# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bags that broke off, hold something else, or nothing: one sentence, or what is left of them."""
from __future__ import annotations

import json
from pathlib import Path
import re
import sqlite3
import struct

from evit_seg.core.errors import InputError
from evit_seg.replay import bag_eval
from evit_seg.replay.bag import Bag
import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from tiny_bundle import write_tiny_bundle

FRAMES = 60
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)


def image(types, stamp: int):
    parts = types.types
    extra = {'seq': stamp} if types is ROS1 else {}
    header = parts['std_msgs/msg/Header'](
        stamp=parts['builtin_interfaces/msg/Time'](sec=stamp, nanosec=0), frame_id='c', **extra)
    return parts['sensor_msgs/msg/Image'](
        header=header, height=64, width=64, encoding='bgr8', is_bigendian=0, step=192,
        data=NOISE.reshape(-1))


def write_ros1(path: Path, compression: str | None = None) -> Path:
    writer = Writer1(path)
    writer.set_compression(Writer1.CompressionFormat[compression]) if compression else None
    writer.chunk_threshold = 100_000  # a chunk of 9 frames
    with writer:
        connection = writer.add_connection('/image', 'sensor_msgs/msg/Image', typestore=ROS1)
        for stamp in range(1, FRAMES + 1):
            writer.write(connection, stamp * 10**9,
                         ROS1.serialize_ros1(image(ROS1, stamp), connection.msgtype))
    return path


def write_ros2(folder: Path, storage: str, frames: int = FRAMES) -> Path:
    """Write a rosbag2 folder; return the file in it."""
    with Writer(folder, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connection = writer.add_connection('/image', 'sensor_msgs/msg/Image', typestore=ROS2)
        for stamp in range(1, frames + 1):
            writer.write(connection, stamp * 10**9,
                         ROS2.serialize_cdr(image(ROS2, stamp), connection.msgtype))
    [data] = folder.glob('*.db3' if storage == 'sqlite3' else '*.mcap')
    return data


def cut(path: Path, keep: float) -> Path:
    with path.open('r+b') as stream:
        stream.truncate(int(path.stat().st_size * keep))
    return path


def without_index(path: Path) -> Path:
    """Leave what a ROS 1 recorder leaves that is ended before it closes its file."""
    data = path.read_bytes()
    header_size = struct.unpack_from('<I', data, 13)[0]
    fields = data[17:17 + header_size]
    at = fields.index(b'index_pos=') + len(b'index_pos=')
    index_pos = struct.unpack_from('<Q', fields, at)[0]
    path.write_bytes(data[:17 + at] + struct.pack('<Q', 0) + data[17 + at + 8:index_pos])
    return path


def stamps_read(path: Path) -> tuple[list[int], str | None]:
    with Bag(path, partial=True) as bag:
        found = [message.stamp_ns // 10**9 for message in bag.messages(['/image'])]
        return found, bag.damage


@pytest.mark.parametrize('compression', [None, 'BZ2', 'LZ4'])
def test_a_ros1_bag_without_its_index(tmp_path, compression):
    path = without_index(write_ros1(tmp_path / 'x.bag', compression))
    with pytest.raises(InputError, match=r'not indexed.*`rosbag reindex`.*--partial'):
        Bag(path)
    stamps, damage = stamps_read(path)
    assert stamps == list(range(1, FRAMES + 1))
    assert damage == ('x.bag is whole but for its index (Bag is not indexed, reindex before '
                      'reading)')


@pytest.mark.parametrize('compression', [None, 'LZ4'])
@pytest.mark.parametrize('keep', [0.3, 0.5, 0.999])
def test_a_ros1_bag_that_was_cut_off(tmp_path, keep, compression):
    path = cut(write_ros1(tmp_path / 'x.bag', compression), keep)
    with pytest.raises(InputError, match='rosbag reindex'):
        Bag(path)
    stamps, damage = stamps_read(path)
    # Frames before the cut are read, those of a compressed chunk that is not whole are lost.
    least = keep * FRAMES - (9 if compression else 1) - 1
    assert least <= len(stamps) <= keep * FRAMES + 1
    assert stamps == list(range(1, len(stamps) + 1))
    assert f'of {path.stat().st_size} (' in damage


def test_a_ros1_chunk_that_was_never_closed(tmp_path):
    path = write_ros1(tmp_path / 'x.bag')
    with Reader1(path) as reader:
        last = max(reader.chunks)
        start = reader.chunks[last].datapos
    without_index(path)
    data = path.read_bytes()
    # The recorder writes the length when the chunk is full; it died in its third frame.
    path.write_bytes(data[:start - 4] + struct.pack('<I', 0) + data[start:start + 30_000])
    stamps, damage = stamps_read(path.rename(tmp_path / 'x.bag.active'))
    assert stamps == list(range(1, 54 + 2 + 1))  # six chunks of nine, and two whole frames
    assert 'breaks off' in damage


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
@pytest.mark.parametrize('keep', [0.5, 0.95])
def test_a_ros2_file_that_was_cut_off(tmp_path, storage, keep):
    path = cut(write_ros2(tmp_path / 'bag', storage, frames=200), keep)
    for place in (path, path.parent):
        with pytest.raises(InputError, match='--partial'):
            Bag(place)
        stamps, damage = stamps_read(place)
        # A chunk of MCAP that is not whole is lost; of SQLite a few rows whose pages lie behind.
        assert 200 * keep - 90 <= len(stamps) <= 200 * keep
        assert len(stamps) > 0
        assert stamps == list(range(1, len(stamps) + 1))
        assert damage.startswith(f'{path.name} breaks off ')


def test_a_log_that_was_never_written_back_is_said(tmp_path):
    path = write_ros2(tmp_path / 'bag', 'sqlite3', frames=3)
    recorder = sqlite3.connect(path)
    recorder.execute('PRAGMA journal_mode=WAL')
    with recorder:
        recorder.execute('INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, '
                         'timestamp + 9, data FROM messages')
    for place in (path, path.parent):
        with pytest.raises(InputError, match=r'bag\.db3-wal holds messages that are not in bag'):
            Bag(place)
        stamps, damage = stamps_read(place)
        assert stamps == [1, 2, 3]
        assert damage == 'bag.db3-wal holds messages that are not in bag.db3 yet'
    recorder.close()  # which writes it back
    assert stamps_read(path) == ([1, 1, 2, 2, 3, 3], None)


def test_an_mcap_file_without_its_footer(tmp_path):
    path = write_ros2(tmp_path / 'bag', 'mcap')
    data = path.read_bytes()
    path.write_bytes(data[:data.index(b'\x0f\x04\0\0\0\0\0\0\0')])  # from the end of the data on
    with pytest.raises(InputError, match=r'`mcap recover`'):
        Bag(path)
    stamps, damage = stamps_read(path)
    assert stamps == list(range(1, FRAMES + 1))
    assert damage == f'{path.name} breaks off at byte {path.stat().st_size} of ' \
        f'{path.stat().st_size} (no end of the data)'


def test_damage_in_the_middle_ends_the_bag_there(tmp_path):
    path = write_ros1(tmp_path / 'x.bag')
    with Reader1(path) as reader:
        start = sorted(chunk.datapos for chunk in reader.chunks.values())[3]
    with path.open('r+b') as stream:
        stream.seek(start)
        stream.write(bytes(range(200)))
    with pytest.raises(InputError, match='damaged after 27 messages'), Bag(path) as bag:
        list(bag.messages(['/image']))
    stamps, damage = stamps_read(path)
    assert stamps == list(range(1, 28))
    assert damage.startswith('x.bag breaks off after 27 messages (')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def test_the_report_says_what_was_read(tmp_path, tiny, capsys):
    path = cut(write_ros1(tmp_path / 'x.bag'), 0.5)
    command = [str(path), '--model', str(tiny), '--json', str(tmp_path / 'r.json')]
    assert bag_eval.main(command) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert bag_eval.main([*command, '--partial']) == 0
    [run] = json.loads((tmp_path / 'r.json').read_text())['runs']
    frames = run['counts']['images']
    assert 28 <= frames == run['counts']['processed'] <= 31
    assert run['notes'][0].startswith(
        f'damaged, and read as far as it goes: {run["bag"]["damage"]}; {frames} frames and 0 ')
    assert f'of {path.stat().st_size} (' in run['bag']['damage']
    assert run['notes'][0] in capsys.readouterr().out


def test_a_whole_bag_has_no_damage(tmp_path, tiny):
    path = write_ros2(tmp_path / 'bag', 'mcap', frames=2)
    assert stamps_read(path) == ([1, 2], None)


def write_foreign(folder: Path) -> Path:
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg('uint8[] data\nstring format', 'maker_msgs/msg/Film'))
    with Writer(folder, version=8) as writer:
        connection = writer.add_connection('/film', 'maker_msgs/msg/Film', typestore=types)
        film = types.types['maker_msgs/msg/Film'](data=NOISE.reshape(-1), format='av1')
        writer.write(connection, 1, types.serialize_cdr(film, connection.msgtype))
    return folder


def forget_the_definitions(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE message_definitions SET encoded_message_definition = 'what?'")
    database.close()


def empty_ros1(folder: Path) -> Path:
    with Writer1(folder / 'x.bag'):
        pass
    return folder / 'x.bag'


def text_file(path: Path) -> Path:
    path.write_text('This is where the bag was to go.\n')
    return path


@pytest.mark.parametrize(('make', 'message'), [
    (lambda at: write_foreign(at / 'film'),
     r'only /film \(maker_msgs/msg/Film\); images are sensor_msgs/msg/Image or'),
    (lambda at: write_ros2(at / 'bag', 'sqlite3', frames=0), 'it holds no messages'),
    (lambda at: write_ros2(at / 'bag', 'mcap', frames=0), 'it holds no messages'),
    (empty_ros1, 'it holds no messages'),
    (lambda at: text_file(at / 'x.bag'), r"begins with b'#ROSBAG V2.0.n', this one with b'This"),
    (lambda at: text_file(at / 'x.mcap'), r'begins with .*this one with'),
    (lambda at: text_file(at / 'x.db3'), r'begins with .*this one with'),
    (lambda at: text_file(at / 'x.txt'), r"Unrecognized storage format '.txt'"),
])
@pytest.mark.parametrize('options', [[], ['--partial']])
def test_what_holds_no_images_is_one_sentence(tmp_path, tiny, capsys, make, message, options):
    path = make(tmp_path)
    assert bag_eval.main([str(path), '--model', str(tiny), *options]) == InputError.exit_code
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert str(path) in error
    assert re.search(message, error), error


@pytest.mark.parametrize('as_folder', [True, False])
def test_a_definition_that_cannot_be_read(tmp_path, tiny, capsys, as_folder):
    folder = write_foreign(tmp_path / 'film')
    path = folder if as_folder else folder / 'film.db3'
    forget_the_definitions(folder / 'film.db3')
    for options in ([], ['--partial']):
        assert bag_eval.main([str(path), '--model', str(tiny), *options]) == InputError.exit_code
        error = capsys.readouterr().err
        assert (error.count('\n'), str(path) in error) == (1, True)


def test_images_beside_a_definition_that_cannot_be_read(tmp_path):
    path = write_ros2(tmp_path / 'bag', 'sqlite3', frames=3)
    database = sqlite3.connect(path)
    with database:
        database.execute("INSERT INTO message_definitions VALUES (9, 'maker_msgs/msg/Film', "
                         "'ros2msg', 'what?', '')")
        database.execute("INSERT INTO topics VALUES (9, '/film', 'maker_msgs/msg/Film', 'cdr', "
                         "'', '')")
    database.close()
    with pytest.raises(InputError):
        Bag(path)
    stamps, damage = stamps_read(path)
    assert stamps == [1, 2, 3]
    assert damage.startswith('/film is left out: the definition of maker_msgs/msg/Film cannot be ')
