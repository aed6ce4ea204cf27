# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`make demo-real`: anybody's pictures through the real node."""
from __future__ import annotations

from pathlib import Path

import cv2
from evit_seg.replay import demo_real, make_bag
import numpy as np
import pytest
from tiny_bundle import anchor_colours, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')
PERSON = 10


def paint(folder: Path, count: int) -> Path:
    folder.mkdir()
    image_HWC = np.full((48, 64, 3), anchor_colours()[PERSON][::-1], np.uint8)
    for index in range(count):
        cv2.imwrite(str(folder / f'p{index}.png'), image_HWC)
    return folder


def test_a_folder_and_a_bag_are_answered_frame_by_frame(tmp_path, capsys):
    model = write_tiny_bundle(tmp_path / 'tiny')
    pictures = paint(tmp_path / 'pictures', 6)
    words = ['--model', str(model), '--out', str(tmp_path / 'out')]
    assert demo_real.main([str(pictures), *words, '--rate', '4']) == 0
    said = capsys.readouterr().out
    assert '6 of 6 frames answered' in said and 'no ground truth' in said
    assert '0.50 s  person-1' in said  # the third of five frames
    assert (tmp_path / 'out' / 'live' / 'overlay.mp4').stat().st_size > 0

    assert make_bag.main([str(paint(tmp_path / 'more', 3)), '--out', str(tmp_path / 'b')]) == 0
    assert demo_real.main([str(tmp_path / 'b'), *words]) == 0  # over what the first has left
    assert '3 of 3 frames answered' in capsys.readouterr().out


def test_what_cannot_be_shown_is_said_in_a_sentence(tmp_path, capfd):
    assert demo_real.main([str(tmp_path / 'none'), '--out', str(tmp_path / 'out')]) != 0
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'letter.txt').write_text('keep me')
    assert demo_real.main([str(paint(tmp_path / 'p', 1)), '--out', str(tmp_path / 'mine')]) != 0
    said = capfd.readouterr().err
    assert 'none does not exist' in said and 'name another folder' in said
    assert (tmp_path / 'mine' / 'letter.txt').is_file()
