# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The sections `frames` and `worst` and the time lines, against values worked out by hand."""
from __future__ import annotations

import base64
from typing import Any

import cv2
from evit_seg.core.alert_rule import AlertRule
from evit_seg.core.alerts import Alert
from evit_seg.core.decode import Frame
from evit_seg.core.labels import load_label_map
from evit_seg.core.preprocess import preprocess
from evit_seg.core.segmenter import SegResult
from evit_seg.replay.certainty import Certainty
from evit_seg.replay.frame_line import FrameLine
from evit_seg.replay.observer import SeenFrame
from evit_seg.replay.time_line import frames_per_point, latency_line, MOST_POINTS
from evit_seg.replay.truth import WAITING_LIMIT
from evit_seg.replay.worst import BY_CONFIDENCE, BY_TRUTH, WorstFrames
import numpy as np
import pytest

LABELS = load_label_map()
BACKGROUND, PERSON, ROAD = 0, 10, 12
RULE = AlertRule(PERSON, 'person', min_pixels=4)
FIRST_NS = 1_700_000_000 * 10**9


def seen(index: int, mask_HW: np.ndarray, *, t_s: float | None = None, margin: float = 2.0,
         active: tuple[str, ...] = (), colour: str = 'bgr') -> SeenFrame:
    """Return a frame whose logits lead by `margin` in class 0 everywhere."""
    image_HWC = np.full((*mask_HW.shape, 3), (10, 20, 200), np.uint8)
    _, geometry = preprocess(image_HWC, colour, input_hw=(16, 16), stride=4, resize='stretch',
                             colour_wanted='rgb')
    logits_CHW = np.zeros((len(LABELS), 4, 4), np.float32)
    logits_CHW[0] = margin
    stamp_ns = FIRST_NS + round((index / 10 if t_s is None else t_s) * 1e9)
    alerts = tuple(Alert(name, PERSON, 'person', (), stamp_ns, stamp_ns) for name in active)
    return SeenFrame(index, stamp_ns, Frame(image_HWC, colour),
                     SegResult(mask_HW, None, logits_CHW, geometry, {}), {}, [], alerts, FIRST_NS)


def mask(*persons: tuple[int, int], size: int = 16) -> np.ndarray:
    ids_HW = np.zeros((size, size), np.uint8)
    for y, x in persons:
        ids_HW[y, x] = PERSON
    return ids_HW


def test_certainty_is_the_mean_of_the_highest_probability():
    # e^2 / (e^2 + 13) with T = 1, e / (e + 13) with T = 2
    frame = seen(0, mask())
    assert Certainty(1.0)(frame) == pytest.approx(np.exp(2) / (np.exp(2) + 13))
    assert Certainty(2.0)(frame) == pytest.approx(np.e / (np.e + 13))


def test_certainty_looks_at_each_frame_and_not_at_the_padding():
    certainty = Certainty(1.0)
    assert certainty(seen(0, mask())) < certainty(seen(1, mask(), margin=9.0))
    wide = np.zeros((8, 16, 3), np.uint8)
    _, geometry = preprocess(wide, 'bgr', input_hw=(16, 16), stride=4, resize='letterbox',
                             colour_wanted='rgb')
    y0, y1, x0, x1 = geometry.content_cells()
    logits_CHW = np.zeros((14, 4, 4), np.float32)
    logits_CHW[0, y0:y1, x0:x1] = 30.0
    assert (y1 - y0) * (x1 - x0) == 8
    frame = seen(2, mask())
    result = SegResult(frame.result.mask_HW, None, logits_CHW, geometry, {})
    assert certainty(SeenFrame(2, 0, frame.frame, result, {}, [], ())) == pytest.approx(1.0)


def test_logits_that_are_no_numbers_are_no_certainty():
    assert Certainty(1.0)(seen(0, mask(), margin=float('nan'))) == 0.0


def test_frame_line_tells_when_alerts_were_on_and_the_class_in_view():
    line = FrameLine([RULE], Certainty(1.0))
    person = mask((0, 0), (0, 1), (1, 0), (1, 1))
    for index in range(10):
        there = person if 2 <= index < 6 else mask()
        line.take_frame(seen(index, there, active=('person-1',) if 4 <= index < 8 else ()))
        if index != 3:  # one label is missing: no end of a span
            line.take_pair(index, there, there)
    section = line.section()
    assert section['every'] == 1
    assert section['t_s'] == pytest.approx([i / 10 for i in range(10)])
    part = section['classes']['person']
    assert part['on'] == [{'from_s': 0.4, 'to_s': 0.8, 'alert_id': 'person-1'}]
    assert part['in_view'] == [{'from_s': 0.2, 'to_s': 0.5}]
    assert part['share'] == pytest.approx([4 / 256 if 2 <= i < 6 else 0 for i in range(10)],
                                          rel=1e-3)


def test_labels_that_come_late_and_in_another_order_give_the_same_spans():
    line = FrameLine([RULE], Certainty(1.0))
    truths = [mask((0, 0)) if index in (1, 2) else mask() for index in range(4)]
    for index in range(4):
        line.take_frame(seen(index, mask()))
    for index in (3, 1, 0, 2):
        line.take_pair(index, truths[index], mask())
    assert line.section()['classes']['person']['in_view'] == [{'from_s': 0.1, 'to_s': 0.2}]


def test_an_alert_that_is_still_on_ends_with_the_bag_and_without_labels_nothing_is_in_view():
    line = FrameLine([RULE], Certainty(1.0))
    for index in range(5):
        line.take_frame(seen(index, mask(), active=('person-1',) if index else ()))
    part = line.section()['classes']['person']
    assert part['on'] == [{'from_s': 0.1, 'to_s': 0.4, 'alert_id': 'person-1'}]
    assert part['in_view'] is None


def test_an_alert_of_an_epoch_that_a_loop_ended_lasts_until_the_frame_before():
    line = FrameLine([RULE], Certainty(1.0))
    for index, t_s in enumerate((5.0, 6.0, 0.0)):
        line.take_frame(seen(index, mask(), t_s=t_s, active=('person-1',) if t_s else ()))
    assert line.section()['classes']['person']['on'] == [
        {'from_s': 5.0, 'to_s': 6.0, 'alert_id': 'person-1'}]


def test_a_long_flight_is_thinned_to_points_that_keep_the_extremes():
    line = FrameLine([RULE], Certainty(1.0))
    for index in range(1200):
        line.take_frame(seen(index, mask((0, 0)) if index == 700 else mask(),
                             margin=0.5 if index == 900 else 2.0))
    section = line.section()
    assert section['every'] == 3
    assert len(section['t_s']) == len(section['confidence']) == 400 <= MOST_POINTS
    assert section['classes']['person']['share'][700 // 3] == pytest.approx(1 / 256, rel=1e-3)
    assert int(np.argmin(section['confidence'])) == 900 // 3


def run_worst(frames: list[tuple[np.ndarray, np.ndarray | None, float]], *, count: int = 2,
              pictures: bool = False, late: bool = False) -> dict[str, Any]:
    """Return the section of (mask, truth, time in s) frames; `late`: labels come at the end."""
    worst = WorstFrames(LABELS, [RULE], Certainty(1.0), pictures, count)
    labels = []
    for index, (mask_HW, truth_HW, t_s) in enumerate(frames):
        worst.take_frame(seen(index, mask_HW, t_s=t_s, margin=2.0 + index))
        if truth_HW is not None:
            labels.append((index, truth_HW, mask_HW))
            if not late:
                worst.take_pair(*labels[-1])
    for label in labels if late else ():
        worst.take_pair(*label)
    return worst.section()


@pytest.mark.parametrize('late', [False, True], ids=['at once', 'late'])
def test_the_frames_with_the_lowest_mean_iou_are_the_worst(late):
    half = np.zeros((16, 16), np.uint8)
    half[:, 8:] = ROAD
    section = run_worst([
        (mask(), mask(), 0.0),   # all right: 1
        (half, mask(), 1.0),     # half of the background: IoU 0.5; road raises no alerts
        (mask(), half, 2.0),     # background 0.5, road 0: 0.25
        (half, half, 3.0)], late=late)
    assert section['by'] == BY_TRUTH
    assert [(f['index'], f['score']) for f in section['frames']] == [(2, 0.25), (1, 0.5)]
    assert section['frames'][0]['ious'] == {'background': 0.5, 'road_railway_bridge': 0.0}
    assert section['frames'][0]['image'] is None


def test_a_false_person_counts_as_zero_from_min_pixels_on():
    four, three = [(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 0), (0, 1), (1, 0)]
    section = run_worst([(mask(*four), mask(), 0.0), (mask(*three), mask(), 1.0)])
    assert [frame['score'] for frame in section['frames']] == [
        pytest.approx(252 / 256 / 2, abs=1e-4), pytest.approx(253 / 256, abs=1e-4)]


def test_of_each_second_the_worst_frame_is_kept():
    all_road = np.full((16, 16), ROAD, np.uint8)
    half = np.zeros((16, 16), np.uint8)
    half[:, 8:] = ROAD
    section = run_worst([(half, mask(), 0.0), (all_road, mask(), 0.5), (all_road, mask(), 0.9),
                         (half, mask(), 1.2)])
    assert [(f['index'], f['score']) for f in section['frames']] == [(1, 0.0), (3, 0.5)]


def test_without_labels_the_least_certain_frames_are_chosen():
    section = run_worst([(mask(), None, float(index)) for index in range(4)])
    assert section['by'] == BY_CONFIDENCE
    assert [frame['index'] for frame in section['frames']] == [0, 1]
    assert section['frames'][0]['score'] == section['frames'][0]['confidence'] == \
        pytest.approx(np.exp(2) / (np.exp(2) + 13), abs=1e-4)
    assert section['frames'][0]['truth'] is None


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(',')[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_pictures_show_image_truth_and_mask_small():
    wide = np.zeros((60, 960), np.uint8)
    wide[:, 480:] = PERSON
    truth_HW = np.full((60, 960), 255, np.uint8)
    truth_HW[:, :480] = BACKGROUND
    [frame] = run_worst([(wide, truth_HW, 0.0)], pictures=True)['frames']
    assert frame['image'].startswith('data:image/jpeg;base64,')
    image, truth, found = (decoded(frame[key]) for key in ('image', 'truth', 'mask'))
    assert image.shape == truth.shape == found.shape == (30, 480, 3)
    assert image.mean(axis=(0, 1)) == pytest.approx((10, 20, 200), abs=4)
    palette = LABELS.palette_rgb()
    assert (found[:, -1] == palette[PERSON][::-1]).all()
    assert (found[:, 0] == palette[BACKGROUND][::-1]).all()
    assert (truth[:, -1] == 0).all()  # not labelled


def test_pictures_of_rgb_frames_keep_their_colours():
    worst = WorstFrames(LABELS, [RULE], Certainty(1.0), pictures=True)
    worst.take_frame(seen(0, mask(), colour='rgb'))
    [frame] = worst.section()['frames']
    assert decoded(frame['image']).mean(axis=(0, 1)) == pytest.approx((200, 20, 10), abs=4)


def test_frames_that_never_get_a_label_do_not_pile_up():
    worst = WorstFrames(LABELS, [RULE], Certainty(1.0), pictures=True, count=1)
    for index in range(WAITING_LIMIT + 2):
        worst.take_frame(seen(index, mask()))
    worst.take_pair(0, mask(), mask())  # it was given up
    worst.take_pair(2, mask(), mask())
    assert [frame['index'] for frame in worst.section()['frames']] == [2]


def test_latency_line_keeps_the_slowest_and_all_percentiles():
    latency_ms = [10.0] * 1001
    latency_ms[500] = 99.0
    line = latency_line([i / 10 for i in range(1001)], latency_ms)
    assert line['every'] == 3
    assert len(line['t_s']) == len(line['slowest_ms']) == 334
    assert line['slowest_ms'][500 // 3] == 99.0
    assert line['t_s'][1] == 0.3
    assert len(line['percentiles_ms']) == 101
    assert line['percentiles_ms'][0] == line['percentiles_ms'][99] == 10.0
    assert line['percentiles_ms'][100] == 99.0


@pytest.mark.parametrize(('frames', 'every'), [(1, 1), (500, 1), (501, 2), (1000, 2), (1001, 3)])
def test_so_many_frames_share_a_point(frames, every):
    assert frames_per_point(frames) == every
