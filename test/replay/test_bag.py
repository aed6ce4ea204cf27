# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reading bags: made here with rosbags, and recorded by others."""
from __future__ import annotations

from pathlib import Path
import shutil

import cv2
from evit_seg.core.errors import FrameError, InputError
from evit_seg.replay.bag import Bag, bag_sha256, decode_frame, decode_label
import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import Writer
from rosbags.typesys import get_typestore, Stores

ROS1_BAGS = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'ros1_bags'
NEEDS_ROS1_BAGS = pytest.mark.skipif(not ROS1_BAGS.is_dir(), reason=f'{ROS1_BAGS} is not there')
TYPES = get_typestore(Stores.ROS2_HUMBLE)
T = TYPES.types


def image(stamp_ns: int, pixels: np.ndarray, encoding: str, padding: int = 0):
    """Return a sensor_msgs/Image whose rows end in `padding` bytes of 77."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    header = T['std_msgs/msg/Header'](
        stamp=T['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec), frame_id='camera')
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return T['sensor_msgs/msg/Image'](
        header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
        is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1))


def compressed(stamp_ns: int, data: bytes, format_: str):
    header = image(stamp_ns, np.zeros((1, 1), np.uint8), 'mono8').header
    return T['sensor_msgs/msg/CompressedImage'](
        header=header, format=format_, data=np.frombuffer(data, np.uint8))


def write_bag(folder: Path, rows: list) -> Path:
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


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
COLOUR = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)


def test_image_and_label_are_told_apart(tmp_path):
    write_bag(tmp_path / 'bag', [('/cam/image', 1, image(5, COLOUR, 'bgr8')),
                                 ('/cam/label', 1, image(5, GREY, 'mono8', padding=3))])
    with Bag(tmp_path / 'bag') as bag:
        assert bag.choose_image_topic().name == '/cam/image'
        truth = bag.choose_truth_topic()
        assert truth.name == '/cam/label'
        frames = list(bag.messages(['/cam/image']))
        assert [(m.stamp_ns, m.bag_ns) for m in frames] == [(5, 1)]
        np.testing.assert_array_equal(decode_frame(frames[0]).image_HWC, COLOUR)
        [label] = bag.messages(['/cam/label'])
        np.testing.assert_array_equal(decode_label(label), GREY)


def test_a_mono_camera_named_label_maker_is_an_image(tmp_path):
    write_bag(tmp_path / 'bag', [('/label_maker/image', 1, image(5, GREY, 'mono8'))])
    with Bag(tmp_path / 'bag') as bag:
        assert bag.choose_image_topic().name == '/label_maker/image'
        assert bag.choose_truth_topic() is None


def test_several_image_topics_are_listed(tmp_path):
    write_bag(tmp_path / 'bag', [('/left/image', 1, image(5, COLOUR, 'bgr8')),
                                 ('/right/image', 2, image(6, COLOUR, 'rgb8'))])
    with Bag(tmp_path / 'bag') as bag:
        with pytest.raises(InputError, match=r'--image-topic: /left/image \(bgr8, 1 message\), '
                                             r'/right/image \(rgb8'):
            bag.choose_image_topic()
        assert bag.choose_image_topic('/right/image').encoding == 'rgb8'
        with pytest.raises(InputError, match="no image topic '/up/image'; it has /left/image"):
            bag.choose_image_topic('/up/image')


def test_two_label_topics_ask_for_one(tmp_path):
    write_bag(tmp_path / 'bag', [('/a/label', 1, image(5, GREY, 'mono8')),
                                 ('/b/label', 2, image(6, GREY, 'mono8'))])
    with Bag(tmp_path / 'bag') as bag:
        with pytest.raises(InputError, match='--truth-topic'):
            bag.choose_truth_topic()
        with pytest.raises(InputError, match='no image topic that can be read'):
            bag.choose_image_topic()


def test_labels_as_png_are_read_and_as_jpeg_refused(tmp_path):
    png = cv2.imencode('.png', GREY)[1].tobytes()
    jpeg = cv2.imencode('.jpg', GREY)[1].tobytes()
    write_bag(tmp_path / 'bag', [
        ('/a/label/compressed', 1, compressed(5, png, 'mono8; png compressed ')),
        ('/a/label/compressed', 2, compressed(6, jpeg, 'mono8; jpeg compressed ')),
        ('/a/label/compressed', 3, compressed(7, png[:40], 'mono8; png compressed '))])
    with Bag(tmp_path / 'bag') as bag:
        labels = list(bag.messages([bag.choose_truth_topic().name]))
    np.testing.assert_array_equal(decode_label(labels[0]), GREY)
    for label in labels[1:]:
        with pytest.raises(FrameError):
            decode_label(label)


def test_labels_of_a_wrong_size_are_refused(tmp_path):
    short = image(5, GREY, 'mono8')
    short.data = short.data[:-1]
    coloured = image(6, COLOUR, 'bgr8')
    write_bag(tmp_path / 'bag', [('/a/label', 1, short), ('/a/label', 2, coloured)])
    with Bag(tmp_path / 'bag') as bag:
        for label in bag.messages(['/a/label']):
            with pytest.raises(FrameError, match='expected a label of mono8'):
                decode_label(label)


def test_a_damaged_message_does_not_end_the_bag(tmp_path):
    good = image(5, COLOUR, 'bgr8')
    with Writer(tmp_path / 'bag', version=8) as writer:
        connection = writer.add_connection('/cam/image', good.__msgtype__, typestore=TYPES)
        data = TYPES.serialize_cdr(good, good.__msgtype__)
        writer.write(connection, 1, data)
        writer.write(connection, 2, bytes(data)[:20])
        writer.write(connection, 3, data)
    with Bag(tmp_path / 'bag') as bag:
        messages = list(bag.messages(['/cam/image']))
    assert [m.bag_ns for m in messages] == [1, 2, 3]
    with pytest.raises(FrameError, match='deserialised'):
        decode_frame(messages[1])
    np.testing.assert_array_equal(decode_frame(messages[2]).image_HWC, COLOUR)


def test_a_ros1_bag_written_here(tmp_path):
    types = get_typestore(Stores.ROS1_NOETIC)
    header = types.types['std_msgs/msg/Header'](
        seq=1, stamp=types.types['builtin_interfaces/msg/Time'](sec=9, nanosec=8), frame_id='c')
    message = types.types['sensor_msgs/msg/Image'](
        header=header, height=6, width=8, encoding='rgb8', is_bigendian=1, step=24,
        data=COLOUR.reshape(-1))
    with Writer1(tmp_path / 'x.bag') as writer:
        connection = writer.add_connection('/image', message.__msgtype__, typestore=types)
        writer.write(connection, 7, types.serialize_ros1(message, message.__msgtype__))
    with Bag(tmp_path / 'x.bag') as bag:
        [read] = bag.messages([bag.choose_image_topic().name])
    assert (read.stamp_ns, read.bag_ns) == (9_000_000_008, 7)
    frame = decode_frame(read)
    assert frame.colour == 'rgb'
    np.testing.assert_array_equal(frame.image_HWC, COLOUR)


def test_a_ros1_bag_is_read_in_the_order_of_time_as_rosbags_does(tmp_path):
    types = get_typestore(Stores.ROS1_NOETIC)
    float64 = types.types['std_msgs/msg/Float64']
    writer = Writer1(tmp_path / 'x.bag')
    writer.chunk_threshold = 200
    with writer:
        connections = [writer.add_connection(topic, 'std_msgs/msg/Float64', typestore=types)
                       for topic in ('/a', '/b')]
        for number, time_ns in enumerate([5, 3, 3, 9, 1, 7, 3, 8, 2, 6] * 3):
            data = types.serialize_ros1(float64(data=float(number)), float64.__msgtype__)
            writer.write(connections[number % 2], time_ns, data)
    with Reader1(tmp_path / 'x.bag') as reader:
        wanted = [(connection.topic, time_ns, types.deserialize_ros1(data, float64.__msgtype__))
                  for connection, time_ns, data in reader.messages()]
    with Bag(tmp_path / 'x.bag') as bag:
        read = [(m.topic, m.bag_ns, m.content.data) for m in bag.messages(['/a', '/b'])]
    assert len(read) == 30
    assert read == [(topic, time_ns, content.data) for topic, time_ns, content in wanted]


def test_a_ros2_folder_with_the_ending_of_ros1(tmp_path):
    write_bag(tmp_path / 'flight.bag', [('/image', 1, image(5, COLOUR, 'bgr8'))])
    with Bag(tmp_path / 'flight.bag') as bag:
        [message] = bag.messages([bag.choose_image_topic().name])
        assert message.stamp_ns == 5


def test_what_is_no_bag_is_said_in_one_line(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty.bag').write_bytes(b'')
    for suffix in ('bag', 'mcap', 'db3', 'txt'):
        (tmp_path / f'noise.{suffix}').write_bytes(bytes(range(256)))
    for name in ('absent.bag', 'folder', 'empty.bag', 'noise.bag', 'noise.mcap', 'noise.db3',
                 'noise.txt'):
        with pytest.raises(InputError) as caught:
            Bag(tmp_path / name)
        assert name in str(caught.value)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('keep', [0.3, 0.7, 0.95])
def test_a_truncated_bag_is_an_input_error(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    folder = write_bag(tmp_path / 'bag', [('/image', i, image(i, noise, 'bgr8'))
                                          for i in range(1, 30)])
    [data] = folder.glob('*.db3')
    with data.open('r+b') as stream:
        stream.truncate(int(data.stat().st_size * keep))
    with pytest.raises(InputError), Bag(folder) as bag:
        list(bag.messages(['/image']))


def test_sha256_of_a_folder_is_that_of_its_listing(tmp_path):
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'b').write_bytes(b'')
    (tmp_path / 'bag' / 'a').write_bytes(b'abc')
    # printed by: cd bag; sha256sum * | sha256sum
    assert bag_sha256(tmp_path / 'bag') == \
        '09c7e0b8a02d027d95ec0375a600ed4ad4d6b26a1c93f16d9150cab5fec761a6'


@NEEDS_ROS1_BAGS
@pytest.mark.parametrize(('name', 'suffix'), [('raw', ''), ('compressed', '/compressed')])
def test_every_topic_of_recorded_ros1_bags(name, suffix):
    sizes = {'/spot/camera/frontleft/image': (480, 640),
             '/spot/camera/hand_color/image': (480, 640),
             '/spot/camera/hand_mono/image': (171, 224),
             '/spot/depth/frontleft/image': (240, 424)}
    with Bag(ROS1_BAGS / f'{name}.bag') as bag:
        assert {topic.name for topic in bag.image_topics} == {key + suffix for key in sizes}
        with pytest.raises(InputError, match='4 image topics'):
            bag.choose_image_topic()
        for topic, hw in sizes.items():
            [message] = bag.messages([topic + suffix])
            image_HWC = decode_frame(message).image_HWC
            assert image_HWC.shape == (*hw, 3)
            assert image_HWC.std() > 10
            assert message.stamp_ns // 10**9 in (1648052478, 1648052479)


@NEEDS_ROS1_BAGS
def test_compressed_depth_is_not_taken_for_an_image():
    with Bag(ROS1_BAGS / 'compressedDepth.bag') as bag:
        with pytest.raises(InputError, match='no image topic that can be read, only /spot'):
            bag.choose_image_topic()
        with pytest.raises(InputError, match='cannot be decoded'):
            bag.choose_image_topic('/spot/depth/frontleft/image/compressedDepth')


@NEEDS_ROS1_BAGS
def test_a_recorded_bag_without_its_index(tmp_path):
    whole = ROS1_BAGS / 'raw.bag'
    shutil.copyfile(whole, tmp_path / 'cut.bag')
    with (tmp_path / 'cut.bag').open('r+b') as stream:
        stream.truncate(whole.stat().st_size // 2)
    with pytest.raises(InputError, match='rosbag reindex'):
        Bag(tmp_path / 'cut.bag')
