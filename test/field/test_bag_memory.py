# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Memory of `bag_eval` does not grow with the bag: a bag of 2 GB takes what one of 200 MB does.

Frames of 640 x 360 with labels, a position, and an alert that comes and goes; every measure is
taken, each bag in a process of its own. The bags are written here and removed at once.
"""
from __future__ import annotations

import json
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from tiny_bundle import anchor_colours

SMALL_MB, LARGE_MB = 200, 2000
PERSON, ROAD = 10, 12
SCENE_FRAMES = 50
FIXES_PER_FRAME = 10
RATE_HZ = 10
# VmHWM begins anew with the process's own program; rusage would count what forked it.
CHILD = ('import json, sys; from evit_seg.replay.bag_eval import main; '
         'from evit_seg.core.machine import process_memory_mb; '
         'code = main(sys.argv[1:]); '
         'print(json.dumps({"code": code, **process_memory_mb()}), file=sys.stderr)')


class FlightWriter:
    """Writes images, labels and fixes of any length to a bag of one of the three formats."""

    def __init__(self, path: Path, kind: str) -> None:
        self.ros1 = kind == 'ros1'
        self.types = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_HUMBLE)
        self.writer = Writer1(path) if self.ros1 else \
            Writer(path, version=8, storage_plugin=StoragePlugin[kind.upper()])
        noise = np.random.default_rng(0).integers(0, 20, (2, 360, 640, 3))
        self.scenes = []
        for class_id, grain in zip((ROAD, PERSON), noise):
            mask_HW = np.full((360, 640), ROAD, np.uint8)
            mask_HW[100:260, 200:440] = class_id
            image_HWC = anchor_colours()[mask_HW].astype(int)
            self.scenes.append((np.clip(image_HWC + grain, 0, 255).astype(np.uint8), mask_HW))

    def write(self, megabytes: int) -> int:
        """Write a bag of about that size; return its number of frames."""
        frames = round(megabytes * 1e6 / sum(part.nbytes for part in self.scenes[0]))
        with self.writer as writer:
            connections = {topic: writer.add_connection(topic, f'sensor_msgs/msg/{kind}',
                                                        typestore=self.types)
                           for topic, kind in (('/camera/image_raw', 'Image'),
                                               ('/camera/label', 'Image'), ('/fix', 'NavSatFix'))}
            for index in range(frames):
                stamp_ns = 1_700_000_000 * 10 ** 9 + index * 10 ** 9 // RATE_HZ
                image_HWC, mask_HW = self.scenes[index // SCENE_FRAMES % len(self.scenes)]
                messages = [('/camera/image_raw', self.image(stamp_ns, image_HWC, 'rgb8')),
                            ('/camera/label', self.image(stamp_ns, mask_HW, 'mono8')),
                            *[('/fix', self.fix(stamp_ns, index))] * FIXES_PER_FRAME]
                for topic, message in messages:
                    kind = message.__msgtype__
                    data = self.types.serialize_ros1(message, kind) if self.ros1 else \
                        self.types.serialize_cdr(message, kind)
                    writer.write(connections[topic], stamp_ns, data)
        return frames

    def header(self, stamp_ns: int):
        parts = self.types.types
        sec, nanosec = divmod(stamp_ns, 10 ** 9)
        stamp = parts['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
        return parts['std_msgs/msg/Header'](stamp=stamp, frame_id='camera',
                                            **{'seq': 0} if self.ros1 else {})

    def image(self, stamp_ns: int, pixels: np.ndarray, encoding: str):
        return self.types.types['sensor_msgs/msg/Image'](
            header=self.header(stamp_ns), height=360, width=640, encoding=encoding,
            is_bigendian=0, step=pixels.nbytes // 360, data=pixels.reshape(-1))

    def fix(self, stamp_ns: int, index: int):
        parts = self.types.types
        return parts['sensor_msgs/msg/NavSatFix'](
            header=self.header(stamp_ns), latitude=46.8 + index * 1e-6, longitude=-91.9,
            altitude=200.0, position_covariance=np.zeros(9), position_covariance_type=0,
            status=parts['sensor_msgs/msg/NavSatStatus'](status=0, service=1))


@pytest.mark.parametrize('kind', ['sqlite3', 'mcap', 'ros1'])
def test_memory_does_not_grow_with_the_bag(field, tiny, tmp_path, kind):
    if kind != 'sqlite3' and not field.whole:
        pytest.skip('the other formats are read in `make field` alone, for their time')
    numbers = {}
    for name, megabytes in (('small', SMALL_MB), ('large', LARGE_MB)):
        bag = tmp_path / (f'{name}.bag' if kind == 'ros1' else name)
        frames = FlightWriter(bag, kind).write(field.scaled(megabytes))
        report = tmp_path / 'report.json'
        child = subprocess.run(
            [sys.executable, '-c', CHILD, str(bag), '--model', str(tiny), '--threads', '1',
             '--quiet', '--json', str(report)], check=True, capture_output=True, text=True)
        memory = json.loads(child.stderr.splitlines()[-1])
        size = sum(file.stat().st_size for file in bag.rglob('*')) if bag.is_dir() else \
            bag.stat().st_size
        shutil.rmtree(bag) if bag.is_dir() else bag.unlink()
        [run] = json.loads(report.read_text())['runs']
        numbers |= {f'{name}_bag_mb': round(size / 1e6), f'{name}_frames': frames,
                    f'{name}_peak_rss_mb': memory['peak_rss'],
                    f'{name}_frames_per_s': round(run['timing']['frames_per_s'], 1)}
        assert memory['code'] == 0
        assert run['counts']['scored'] == run['counts']['processed'] == frames
    numbers['growth_percent'] = round(
        100 * (numbers['large_peak_rss_mb'] / numbers['small_peak_rss_mb'] - 1), 2)
    field.hold(f'bag_eval: memory, {kind}', numbers, {}, {'growth_percent': ('<=', 5.0)})
