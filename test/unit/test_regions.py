# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from evit_seg.core.alerts import AlertRule, find_regions
from evit_seg.core.errors import ConfigError
from evit_seg.core.preprocess import frame_geometry
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

# 1280x720 on a grid of 20x12: cells of 64x60 source pixels.
STRETCH = frame_geometry((720, 1280), (96, 160), 8, 'stretch')
CELL_PX = 64 * 60
PERSON, VEHICLE = 2, 3


def person(**changes):
    return AlertRule(PERSON, 'person', **changes)


def background(classes=4, grid_hw=(12, 20), margin=10.0):
    logits = np.zeros((classes, *grid_hw), np.float32)
    logits[0] = margin
    return logits


def regions_of(logits, *rules, geometry=STRETCH, temperature=1.0):
    return find_regions(logits, geometry, rules or (person(),), temperature)


def test_nothing_there():
    assert regions_of(background()) == {PERSON: []}


def test_box_area_and_confidence_in_source_pixels():
    logits = background()
    logits[PERSON, 3:5, 7:10] = 12.0
    ((region,),) = regions_of(logits).values()
    assert (region.x, region.y, region.w, region.h) == (7 * 64, 180, 192, 120)
    assert region.pixels == pytest.approx(6 * CELL_PX)
    # softmax of (10, 0, 12, 0)
    assert region.confidence == pytest.approx(
        np.exp(12) / (np.exp(12) + np.exp(10) + 2), abs=1e-6)


def test_temperature_divides_the_logits():
    logits = background()
    logits[PERSON, 3, 7] = 12.0
    ((region,),) = regions_of(logits, temperature=4.0).values()
    assert region.confidence == pytest.approx(
        np.exp(3) / (np.exp(3) + np.exp(2.5) + 2), abs=1e-6)


def test_corners_connect_and_the_largest_comes_first():
    logits = background()
    logits[PERSON, 0, 0] = 20.0
    logits[PERSON, [5, 6, 7], [5, 6, 5]] = 20.0
    first, second = regions_of(logits)[PERSON]
    assert first.pixels == pytest.approx(3 * CELL_PX)
    assert (first.x, first.y, first.w, first.h) == (5 * 64, 300, 128, 180)
    assert (second.x, second.y, second.w, second.h) == (0, 0, 64, 60)


def test_small_or_uncertain_regions_are_no_evidence():
    logits = background()
    logits[PERSON, 3, 7] = 10.5  # p = 0.62
    assert len(regions_of(logits, person(min_pixels=CELL_PX))[PERSON]) == 1
    assert regions_of(logits, person(min_pixels=CELL_PX + 1))[PERSON] == []
    assert len(regions_of(logits, person(min_confidence=0.6))[PERSON]) == 1
    assert regions_of(logits, person(min_confidence=0.65))[PERSON] == []


def test_confidence_is_the_mean_over_the_region():
    logits = background()
    logits[PERSON, 3, 7], logits[PERSON, 3, 8] = 10.5, 30.0
    ((region,),) = regions_of(logits).values()
    p = np.exp(10.5) / (np.exp(10.5) + np.exp(10) + 2)
    assert region.confidence == pytest.approx((p + 1.0) / 2, abs=1e-6)


def test_bias_finds_more_of_its_class_and_takes_nothing_from_another():
    logits = background()
    logits[PERSON, 3, 7] = 9.0
    logits[VEHICLE, 8, 9] = 10.5
    logits[PERSON, 8, 9], logits[0, 8, 9] = 10.0, 0.0
    vehicle = AlertRule(VEHICLE, 'vehicle')
    plain = regions_of(logits, person(), vehicle)
    assert (len(plain[PERSON]), len(plain[VEHICLE])) == (0, 1)
    biased = regions_of(logits, person(logit_bias=2.0, min_confidence=0.4), vehicle)
    assert [(r.x // 64, r.y // 60) for r in biased[PERSON]] == [(7, 3), (9, 8)]
    assert biased[VEHICLE] == plain[VEHICLE]
    assert biased[PERSON][0].confidence == pytest.approx(
        np.exp(11) / (np.exp(11) + np.exp(10) + 2), abs=1e-6)


def test_negative_bias_finds_less():
    logits = background()
    logits[PERSON, 3, 7], logits[PERSON, 8, 9] = 11.0, 15.0
    (region,) = regions_of(logits, person(logit_bias=-2.0))[PERSON]
    assert (region.x, region.y) == (9 * 64, 480)


def test_the_lowest_id_wins_a_tie():
    logits = np.zeros((4, 12, 20), np.float32)
    assert regions_of(logits, person(min_confidence=0.0))[PERSON] == []
    rule = AlertRule(0, 'background', min_confidence=0.0)
    assert len(regions_of(logits, rule)[0]) == 1


def test_a_class_may_fill_the_grid():
    logits = background()
    logits[PERSON] = 30.0
    ((region,),) = regions_of(logits).values()
    assert (region.x, region.y, region.w, region.h) == (0, 0, 1280, 720)
    assert region.pixels == pytest.approx(1280 * 720)


def test_the_padding_of_a_letterbox_holds_nothing():
    geometry = frame_geometry((720, 1280), (160, 160), 8, 'letterbox')
    y0, y1, x0, x1 = geometry.content_cells()
    assert (x0, x1) == (0, 20) and y0 > 0 and y1 < 20
    logits = background(grid_hw=(20, 20))
    logits[PERSON, :y0], logits[PERSON, y1:] = 30.0, 30.0
    assert regions_of(logits, geometry=geometry)[PERSON] == []
    logits[PERSON, y0, 4] = 30.0
    (region,) = regions_of(logits, geometry=geometry)[PERSON]
    assert region.pixels == pytest.approx(geometry.grid_cell_area_px())
    assert (region.x, region.y, region.w, region.h) == geometry.grid_box_to_source(
        4, y0, 5, y0 + 1)


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match=r'expected the grid \(12, 20\)'):
        regions_of(background(grid_hw=(20, 12)))
    with pytest.raises(ConfigError, match='id below 4'):
        regions_of(background(), AlertRule(4, 'ghost'))
    with pytest.raises(ConfigError, match='temperature'):
        regions_of(background(), temperature=0.0)


def slow_regions(logits, rule, temperature):
    """Flood fill over a full softmax, cell by cell: an independent way to the same answer."""
    shifted = logits.astype(np.float64)
    shifted[rule.class_id] += rule.logit_bias
    odds = np.exp(shifted / temperature)
    p = odds[rule.class_id] / odds.sum(axis=0)
    todo = set(map(tuple, np.argwhere(shifted.argmax(axis=0) == rule.class_id).tolist()))
    found = []
    while todo:
        blob, edge = [], [todo.pop()]
        while edge:
            y, x = edge.pop()
            blob.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            edge += near
        mean = np.mean([p[y, x] for y, x in blob])
        if len(blob) * CELL_PX >= rule.min_pixels and mean >= rule.min_confidence:
            ys, xs = zip(*blob)
            found.append((min(xs) * 64, min(ys) * 60, (max(xs) - min(xs) + 1) * 64,
                          (max(ys) - min(ys) + 1) * 60, len(blob) * CELL_PX, mean))
    return sorted(found, key=lambda r: (-r[4], r[1], r[0]))


@given(st.integers(0, 2 ** 32 - 1), st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
       st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([0, 2 * CELL_PX]),
       st.sampled_from([0.5, 1.0, 3.0]))
def test_against_a_flood_fill(seed, bias, min_confidence, min_pixels, temperature):
    logits = np.random.default_rng(seed).normal(size=(4, 12, 20)).astype(np.float32)
    rule = person(logit_bias=bias, min_confidence=min_confidence, min_pixels=min_pixels)
    expected = slow_regions(logits, rule, temperature)
    got = regions_of(logits, rule, temperature=temperature)[PERSON]
    assert [(r.x, r.y, r.w, r.h) for r in got] == [r[:4] for r in expected]
    np.testing.assert_allclose([(r.pixels, r.confidence) for r in got],
                               [r[4:] for r in expected], rtol=1e-5)


def test_cells_that_are_not_a_number_hold_nothing():
    logits = background()
    logits[PERSON, 3, 7] = 20.0
    logits[:, 3, 8] = np.nan
    logits[PERSON, 8, 9] = np.nan
    (region,) = regions_of(logits)[PERSON]
    assert region.pixels == pytest.approx(CELL_PX)
