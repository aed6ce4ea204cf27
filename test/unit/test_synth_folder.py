# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from offline_train.data.synth_draw import Picture
from offline_train.data.synth_folder import appearances, MIN_VISIBLE_PX, ObjectRow, objects_of
from offline_train.data.synth_palette import class_ids


def _row(frame, instance, tall, slug='person'):
    return ObjectRow(frame, slug, instance, 0, 0, 5, tall)


def test_an_appearance_ends_when_the_instance_is_gone_for_a_frame():
    times = {f'f{i}': i / 10 for i in range(8)}
    rows = [_row(f'f{i}', 4, 10 + i) for i in (0, 1, 2, 5, 6)] + [_row('f1', 9, 30)]
    assert appearances(rows, times) == [('person', 4, 0.0, 0.2, 12), ('person', 9, 0.1, 0.1, 30),
                                        ('person', 4, 0.5, 0.6, 16)]


def test_an_appearance_lasting_to_the_end_is_kept():
    times = {f'f{i}': float(i) for i in range(3)}
    assert appearances([_row('f1', 1, 7), _row('f2', 1, 8)], times) == [('person', 1, 1.0, 2.0, 8)]


def test_no_objects_make_no_appearances():
    assert appearances([], {'f0': 0.0}) == []


def test_boxes_hold_the_visible_pixels_and_tiny_rests_are_left_out():
    ids = np.zeros((40, 60), np.uint8)
    instances = np.zeros((40, 60), np.int32)
    ids[10:20, 30:34] = class_ids()['person']
    instances[10:20, 30:34] = 7
    instances[0, :MIN_VISIBLE_PX - 1] = 8
    ids[0, :MIN_VISIBLE_PX - 1] = class_ids()['vehicle']
    picture = Picture(np.zeros((40, 60, 3), np.uint8), ids, instances)
    assert objects_of('a', picture) == [ObjectRow('a', 'person', 7, 30, 10, 4, 10)]
