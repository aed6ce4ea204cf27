# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What goes out for a frame: masks, headers, sizes; and what bad input does not do."""
from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from ros_rig import FakeClock, mask_of, raw_message, wait_until  # noqa: E402, I100
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402


def block_centres(ids_HW, blocks=4):
    """Return the ids at the middle of each block, away from the borders that blur."""
    step_y, step_x = ids_HW.shape[0] // blocks, ids_HW.shape[1] // blocks
    return ids_HW[step_y // 2::step_y, step_x // 2::step_x]


def test_a_mask_per_frame_with_the_very_header(rig):
    rig.start_node(namespace='/drone1')
    masks = rig.record(Image, '/drone1/seg_node/mask')
    publish = rig.camera(topic='/drone1/image_raw')
    image_HWC, ids_HW = painted_frame()
    stamps_ns = (1, 999_999_999, 1_700_000_000_123_456_789, 2 ** 31 * 10 ** 9 - 1)
    for stamp_ns in stamps_ns:
        publish(raw_message(image_HWC, stamp_ns))
        wait_until(lambda: len(masks) and rig.count('in_work') == 0, 'the mask')
    wait_until(lambda: len(masks) == len(stamps_ns), 'a mask per frame')
    for mask, stamp_ns in zip(masks, stamps_ns):
        assert mask.header == raw_message(image_HWC, stamp_ns).header
        assert (mask.encoding, mask.step, mask.height, mask.width) == ('mono8', 64, 64, 64)
        assert (block_centres(mask_of(mask)) == block_centres(ids_HW)).all()
    assert rig.node.counters.balanced()


@pytest.mark.parametrize('size_hw, mask_size, expected_hw', [
    ((48, 100), 'source', (48, 100)), ((48, 100), 'network', (64, 64))])
def test_mask_size_and_padded_rows(rig, size_hw, mask_size, expected_hw):
    rig.start_node(mask__size=mask_size)
    masks = rig.record(Image, '/seg_node/mask')
    image_HWC, ids_HW = painted_frame(hw=size_hw)
    # The padding has the colour of class 13: read as pixels it would skew every row.
    rig.camera()(raw_message(image_HWC, padding=37))
    wait_until(lambda: masks, 'the mask')
    mask_HW = mask_of(masks[0])
    assert (mask_HW.shape, masks[0].step) == (expected_hw, expected_hw[1])
    assert (block_centres(mask_HW) == block_centres(ids_HW)).all()


def test_compressed_images_on_the_remapped_topic(rig):
    rig.start_node(image__transport='compressed')
    masks = rig.record(Image, '/seg_node/mask')
    publish = rig.camera(CompressedImage, 'image_raw/compressed')
    image_HWC, ids_HW = painted_frame()
    header = raw_message(image_HWC).header
    whole = cv2.imencode('.jpg', image_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    for content in (whole[:-40], b'', b'no image', whole):
        publish(CompressedImage(header=header, format='jpeg', data=array.array('B', content)))
        wait_until(lambda: rig.count('in_work') == 0, 'the frame')
    wait_until(lambda: masks, 'the mask')
    assert masks[0].header == header
    assert (block_centres(mask_of(masks[0])) == block_centres(ids_HW)).all()
    assert (rig.count('malformed'), rig.count('processed'), len(masks)) == (3, 1, 1)


def bad_messages():
    image_HWC, _ = painted_frame()
    short = raw_message(image_HWC)
    short.data = short.data[:-1]
    empty = raw_message(image_HWC)
    empty.height = empty.width = empty.step = 0
    empty.data = array.array('B')
    huge = raw_message(image_HWC)
    huge.height = huge.width = 100_000
    narrow = raw_message(image_HWC)
    narrow.step = 10
    return {'short': short, 'unknown encoding': raw_message(image_HWC, encoding='hsv8'),
            '0x0': empty, 'huge': huge, 'step': narrow,
            '16 bit without a scale': raw_message(image_HWC[..., :2], encoding='mono16')}


def test_bad_input_is_counted_and_said_and_survived(rig):
    rig.start_node()
    masks = rig.record(Image, '/seg_node/mask')
    publish = rig.camera()
    said = {'short': 'expected 12288 bytes', 'unknown encoding': "got 'hsv8'; cv_bridge",
            '0x0': 'at least 1x1', 'huge': 'at most', 'step': 'at least 192 bytes',
            '16 bit without a scale': 'image.scale_16bit'}
    for number, (name, message) in enumerate(bad_messages().items(), 1):
        publish(message)
        rig.wait_count('malformed', number)
        assert said[name] in rig.node.pipeline.last_complaint
        assert not masks
    publish(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 1)
    wait_until(lambda: masks, 'the mask of the good frame')
    assert rig.node.counters.balanced()


def test_a_failing_engine_is_counted_and_the_next_frame_served(rig):
    rig.start_node()
    publish = rig.camera()
    image_HWC, _ = painted_frame()
    rig.gates.engine.failing = RuntimeError('out of memory')
    publish(raw_message(image_HWC))
    rig.wait_count('failed', 1)
    assert rig.node.pipeline.fault == 'RuntimeError: out of memory'
    rig.gates.engine.failing = None
    publish(raw_message(image_HWC))
    rig.wait_count('processed', 1)
    assert rig.node.pipeline.fault == ''
    assert rig.node.counters.balanced()


def test_frames_too_old_by_the_nodes_clock(rig):
    clock = FakeClock()
    rig.start_node(clock=clock, image__max_age_s=0.5)
    publish = rig.camera()
    image_HWC, _ = painted_frame()
    for age_s in (0.6, 0.4, -3.0):  # an image from the future is not old
        publish(raw_message(image_HWC, clock.ns - round(age_s * 1e9)))
        wait_until(lambda: rig.count('in_work') == 0, 'the frame')
    assert (rig.count('too_old'), rig.count('processed')) == (1, 2)
    rig.gates.engine.shut()
    publish(raw_message(image_HWC, clock.ns))
    wait_until(lambda: rig.node.pipeline.started_s is not None, 'the engine')
    publish(raw_message(image_HWC, clock.ns))
    clock.advance(0.6)  # what waits in the slot gets old there
    rig.gates.engine.open()
    rig.wait_count('too_old', 2)
    assert rig.count('processed') == 3


def test_confidence_only_when_switched_on(rig):
    rig.start_node()
    masks, sure = rig.record(Image, '/seg_node/mask'), rig.record(Image, '/seg_node/confidence')
    publish = rig.camera()
    message = raw_message(painted_frame()[0])
    publish(message)
    rig.wait_count('processed', 1)
    assert rig.set_parameters(mask__confidence=True)[0].successful
    publish(message)
    wait_until(lambda: len(masks) == 2 and sure, 'the confidence')
    assert len(sure) == 1
    assert (sure[0].header, sure[0].encoding, sure[0].step) == (message.header, 'mono8', 64)
    assert mask_of(sure[0]).min() > 200
    halfway_HWC = np.full((64, 64, 3), (0, 0, 64), np.uint8)  # between the classes 0 and 1
    publish(raw_message(halfway_HWC))
    wait_until(lambda: len(sure) == 2, 'the confidence of a doubtful frame')
    assert 120 < mask_of(sure[1]).max() < 160


def test_overlay_only_while_somebody_listens_capped_in_rate_and_width(rig, monkeypatch):
    import evit_seg.ros.outputs as outputs
    drawn = []
    draw = outputs.draw_overlay
    monkeypatch.setattr(outputs, 'draw_overlay', lambda *a, **k: drawn.append(1) or draw(*a, **k))
    clock = FakeClock()
    rig.start_node(clock=clock, overlay__width=32, overlay__max_rate_hz=5.0)
    publish = rig.camera()
    message = raw_message(painted_frame()[0])
    publish(message)
    rig.wait_count('processed', 1)
    assert not drawn
    raw = rig.record(Image, '/seg_node/overlay', reliable=False)
    jpeg = rig.record(CompressedImage, '/seg_node/overlay/compressed', reliable=False)
    for number, pause_s in enumerate((0.0, 0.1, 0.11), 2):
        clock.advance(pause_s)
        publish(message)
        rig.wait_count('processed', number)
    wait_until(lambda: len(raw) == 2 and len(jpeg) == 2, 'two overlays')
    assert len(drawn) == 2
    assert (raw[0].header, raw[0].encoding, raw[0].height, raw[0].width, raw[0].step) == (
        message.header, 'bgr8', 32, 32, 96)
    picture = cv2.imdecode(np.frombuffer(jpeg[0].data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (32, 32, 3)
    assert jpeg[0].header == message.header
    assert rig.set_parameters(overlay__max_rate_hz=0)[0].successful
    clock.advance(10)
    publish(message)
    rig.wait_count('processed', 5)
    assert len(drawn) == 2


def test_camera_info_follows_the_mask(rig):
    rig.start_node(mask__size='network')
    infos = rig.record(CameraInfo, '/seg_node/camera_info')
    publish = rig.camera()
    calibration = rig.client.create_publisher(CameraInfo, 'camera_info', 1)
    wait_until(lambda: calibration.get_subscription_count() > 0, 'the node to hear camera_info')
    image_HWC, _ = painted_frame(hw=(32, 128))
    publish(raw_message(image_HWC))  # without a calibration there is none to publish
    rig.wait_count('processed', 1)
    calibration.publish(CameraInfo(
        height=32, width=128, k=[100.0, 0.0, 63.5, 0.0, 90.0, 15.5, 0.0, 0.0, 1.0],
        p=[100.0, 0.0, 63.5, -7.0, 0.0, 90.0, 15.5, 0.0, 0.0, 0.0, 1.0, 0.0]))
    wait_until(lambda: rig.node.pipeline.camera_info, 'the calibration')
    publish(raw_message(image_HWC))
    wait_until(lambda: infos, 'the rescaled calibration')
    assert len(infos) == 1
    assert infos[0].header == raw_message(image_HWC).header
    assert (infos[0].height, infos[0].width) == (64, 64)
    assert list(infos[0].k) == [50, 0, 31.5, 0, 180, 31.5, 0, 0, 1]
    assert list(infos[0].p) == [50, 0, 31.5, -3.5, 0, 180, 31.5, 0, 0, 0, 1, 0]
