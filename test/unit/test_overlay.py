# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from evit_seg.core.alerts import Alert, Region
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import load_label_map
from evit_seg.core.overlay import draw_overlay
import numpy as np
import pytest

LABELS = load_label_map()
WATER, PERSON = LABELS.by_slug('flood_water_river_sea'), LABELS.by_slug('person')


def alert(*regions):
    return Alert('person-1', PERSON.id, 'person', regions, 0, 0)


def grey(height=120, width=200):
    return np.full((height, width, 3), (10, 20, 30), np.uint8)


def test_background_and_unlabelled_stay_as_they_are():
    mask = np.zeros((120, 200), np.uint8)
    mask[60:] = 255
    np.testing.assert_array_equal(draw_overlay(grey(), 'bgr', mask, LABELS, []), grey())


def test_classes_are_mixed_in_by_alpha():
    mask = np.full((120, 200), WATER.id, np.uint8)
    picture = draw_overlay(grey(), 'bgr', mask, LABELS, [], alpha=0.25)
    expected = 0.75 * np.array([10, 20, 30]) + 0.25 * np.array(WATER.colour[::-1])
    assert np.abs(picture - expected).max() <= 1


@pytest.mark.parametrize('width', [None, 100])
def test_the_answer_is_bgr_whatever_comes_in(width):
    mask = np.zeros((120, 200), np.uint8)
    rgb = draw_overlay(grey()[..., ::-1].copy(), 'rgb', mask, LABELS, [], width=width)
    assert (rgb == (10, 20, 30)).all()


@pytest.mark.parametrize(('width', 'shape'), [(None, (120, 200)), (100, (60, 100)),
                                              (50, (30, 50)), (500, (120, 200)), (1, (1, 1))])
def test_width_caps_and_never_enlarges(width, shape):
    mask = np.zeros((12, 20), np.uint8)  # the mask may have the network's size
    picture = draw_overlay(grey(), 'bgr', mask, LABELS, [], width=width)
    assert picture.shape == (*shape, 3) and picture.dtype == np.uint8


def test_the_input_is_not_written_and_may_be_a_padded_view():
    memory = np.zeros((120, 640), np.uint8)
    view = np.ndarray((120, 200, 3), np.uint8, memory, strides=(640, 3, 1))
    view.flags.writeable = False
    mask = np.full((120, 200), WATER.id, np.uint8)
    picture = draw_overlay(view, 'bgr', mask, LABELS, [alert(Region(50, 50, 9, 9, 81, 0.9))])
    assert picture.any() and not memory.any()


@pytest.mark.parametrize('width', [None, 100])
def test_boxes_lie_where_the_regions_are(width):
    region = Region(80, 60, 40, 30, 1200.0, 0.9)
    mask = np.zeros((120, 200), np.uint8)
    picture = draw_overlay(grey(), 'bgr', mask, LABELS, [alert(region)], width=width)
    scale = 1 if width is None else 0.5
    left, top = int(80 * scale), int(60 * scale)
    right, bottom = int(120 * scale), int(90 * scale)
    person_bgr = PERSON.colour[::-1]
    for y, x in ((top, (left + right) // 2), (bottom, left), ((top + bottom) // 2, right)):
        assert tuple(picture[y, x]) == person_bgr
    centre = picture[(top + bottom) // 2, (left + right) // 2]
    assert tuple(centre) == (10, 20, 30)  # the box is hollow: what is in it can be seen


@pytest.mark.parametrize('region', [
    Region(0, 0, 8, 8, 64.0, 0.5), Region(192, 112, 8, 8, 64.0, 1.0), Region(0, 0, 200, 120, 1, 1),
    Region(190, 0, 1, 1, 1.0, 0.5), Region(0, 118, 0, 0, 1.0, 0.5)])
@pytest.mark.parametrize('width', [None, 40, 3])
def test_boxes_at_the_rim_do_no_harm(region, width):
    mask = np.zeros((120, 200), np.uint8)
    picture = draw_overlay(grey(), 'bgr', mask, LABELS, [alert(region, region)], width=width)
    assert (picture == PERSON.colour[::-1]).all(axis=-1).any()


@pytest.mark.parametrize(('changes', 'message'), [
    ({'alpha': 1.5}, r'alpha: .*got 1\.5'), ({'width': 0}, 'width: .*got 0'),
    ({'colour': 'yuv'}, "colour: .*got 'yuv'")])
def test_wrong_options_are_said(changes, message):
    options = {'colour': 'bgr', 'mask_HW': np.zeros((120, 200), np.uint8), 'label_map': LABELS,
               'alerts': [], **changes}
    with pytest.raises(ConfigError, match=message):
        draw_overlay(grey(), **options)
