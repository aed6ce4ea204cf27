# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Preprocessing keeps pixels, colours and places; the Geometry leads back."""
from __future__ import annotations

from evit_seg.core.errors import ConfigError, FrameError
from evit_seg.core.preprocess import frame_geometry, LETTERBOX_GREY, preprocess
from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

RESIZES = ('stretch', 'letterbox')
sizes = st.tuples(st.integers(8, 400), st.integers(8, 400))
geometries = st.builds(frame_geometry, sizes, sizes, st.sampled_from((1, 2, 4, 8)),
                       st.sampled_from(RESIZES))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('resize', RESIZES)
@pytest.mark.parametrize('colour', ['bgr', 'rgb'])
@pytest.mark.parametrize('wanted', ['bgr', 'rgb'])
def test_colour_order_is_the_wanted_one(colour, wanted, resize):
    red = np.zeros((30, 50, 3), np.uint8)
    red[..., colour.index('r')] = 200
    small, _ = preprocess(red, colour, input_hw=(16, 16), stride=8, resize=resize,
                          colour_wanted=wanted)
    np.testing.assert_array_equal(np.argmax(small[8, 8]), wanted.index('r'))
    assert small[8, 8].max() == 200 and small[8, 8].min() == 0


def test_swapping_before_or_after_the_resize_is_the_same():
    frame = noise(77, 101)
    swapped = np.ascontiguousarray(frame[..., ::-1])
    np.testing.assert_array_equal(preprocess(frame, 'bgr', input_hw=(32, 48), stride=8)[0],
                                  preprocess(swapped, 'rgb', input_hw=(32, 48), stride=8)[0])


def test_halving_averages_four_pixels():
    frame = noise(40, 60)
    small, _ = preprocess(frame, 'rgb', input_hw=(20, 30), stride=1)
    mean = frame.reshape(20, 2, 30, 2, 3).astype(float).mean(axis=(1, 3))
    assert small.dtype == np.uint8 and np.abs(small - mean).max() <= 1


def test_a_fitting_frame_comes_back_without_a_copy():
    frame = noise(32, 48)
    small, geometry = preprocess(frame, 'rgb', input_hw=(32, 48), stride=8)
    assert np.shares_memory(small, frame)
    assert geometry.scale_yx == (1.0, 1.0) and geometry.offset_yx == (0.0, 0.0)


@pytest.mark.parametrize('resize', RESIZES)
@pytest.mark.parametrize('input_hw', [(32, 48), (16, 16), (64, 100)])
@pytest.mark.parametrize('colour', ['bgr', 'rgb'])
def test_padded_rows_and_read_only_frames(colour, input_hw, resize):
    padded = noise(32, 55)
    view = padded[:, :48]
    view.flags.writeable = False
    small, _ = preprocess(view, colour, input_hw=input_hw, stride=8, resize=resize)
    again, _ = preprocess(view.copy(), colour, input_hw=input_hw, stride=8, resize=resize)
    assert small.flags.c_contiguous and small.shape == (*input_hw, 3)
    np.testing.assert_array_equal(small, again)


def test_letterbox_pads_evenly_with_grey():
    frame = np.full((50, 200, 3), 7, np.uint8)
    small, geometry = preprocess(frame, 'bgr', input_hw=(64, 64), stride=8, resize='letterbox')
    assert (small[24:40] == 7).all()
    assert (small[:24] == LETTERBOX_GREY).all() and (small[40:] == LETTERBOX_GREY).all()
    assert geometry.offset_yx == (24.0, 0.0)
    assert geometry.scale_yx == (pytest.approx(0.32), pytest.approx(0.32))
    assert geometry.content_cells() == (3, 5, 0, 8)


@settings(max_examples=60, deadline=None)
@given(source_hw=sizes, input_hw=sizes, resize=st.sampled_from(RESIZES), data=st.data())
def test_a_bright_block_is_found_where_the_geometry_says(source_hw, input_hw, resize, data):
    height, width = source_hw
    block_h, block_w = (data.draw(st.integers((side + 2) // 3, side)) for side in source_hw)
    top = data.draw(st.integers(0, height - block_h))
    left = data.draw(st.integers(0, width - block_w))
    frame = np.zeros((height, width, 3), np.uint8)
    frame[top:top + block_h, left:left + block_w] = 255
    small, geometry = preprocess(frame, 'rgb', input_hw=input_hw, stride=8, resize=resize)
    rows, cols = np.nonzero(small[..., 0] > 127)
    assume(len(rows))  # an extreme squeeze may leave less than a pixel of the block
    for axis, (first, size) in enumerate(((top, block_h), (left, block_w))):
        found = (rows, cols)[axis]
        scale, offset = geometry.scale_yx[axis], geometry.offset_yx[axis]
        edges = np.array([first, first + size]) * scale + offset
        if size > 1 and size * scale > 1:
            assert abs(found.min() - edges[0]) <= max(1.0, scale)
            assert abs(found.max() + 1 - edges[1]) <= max(1.0, scale)


@settings(max_examples=200, deadline=None)
@given(geometry=geometries)
def test_grid_boxes_tile_the_source(geometry):
    grid_h, grid_w = geometry.grid_hw
    height, width = geometry.source_hw
    assert geometry.grid_box_to_source(0, 0, grid_w, grid_h) == (0, 0, width, height)
    covered_rows, covered_cols = np.zeros(height, bool), np.zeros(width, bool)
    for cell in range(grid_h):
        x, y, w, h = geometry.grid_box_to_source(0, cell, grid_w, cell + 1)
        assert 0 <= y <= y + h <= height and (x, w) == (0, width)
        covered_rows[y:y + h] = True
    for cell in range(grid_w):
        x, y, w, h = geometry.grid_box_to_source(cell, 0, cell + 1, grid_h)
        assert 0 <= x <= x + w <= width and (y, h) == (0, height)
        covered_cols[x:x + w] = True
    assert covered_rows.all() and covered_cols.all()


@settings(max_examples=200, deadline=None)
@given(geometry=geometries, data=st.data())
def test_a_source_pixel_lies_in_the_box_of_its_cell(geometry, data):
    place = []
    cell = []
    for axis in (0, 1):
        pixel = data.draw(st.integers(0, geometry.source_hw[axis] - 1))
        at_input = (pixel + 0.5) * geometry.scale_yx[axis] + geometry.offset_yx[axis]
        at_grid = at_input * geometry.grid_hw[axis] / geometry.input_hw[axis]
        assert 0 <= at_grid < geometry.grid_hw[axis]
        place.append(pixel)
        cell.append(int(at_grid))
    x, y, w, h = geometry.grid_box_to_source(cell[1], cell[0], cell[1] + 1, cell[0] + 1)
    assert y <= place[0] < y + h and x <= place[1] < x + w


@settings(max_examples=200, deadline=None)
@given(geometry=geometries)
def test_content_cells_have_their_centre_in_the_picture(geometry):
    y0, y1, x0, x1 = geometry.content_cells()
    for axis, (first, stop) in enumerate(((y0, y1), (x0, x1))):
        cell_px = geometry.input_hw[axis] / geometry.grid_hw[axis]
        start = geometry.offset_yx[axis]
        end = start + geometry.source_hw[axis] * geometry.scale_yx[axis]
        for cell in range(geometry.grid_hw[axis]):
            centre = (cell + 0.5) * cell_px
            if min(abs(centre - start), abs(centre - end)) > 1e-5:
                assert (first <= cell < stop) == (start < centre < end)


@settings(max_examples=100, deadline=None)
@given(geometry=geometries)
def test_cells_of_the_picture_cover_its_area(geometry):
    cells = np.prod([geometry.content_px(axis) * geometry.grid_hw[axis] / geometry.input_hw[axis]
                     for axis in (0, 1)])
    assert geometry.grid_cell_area_px() * cells == pytest.approx(np.prod(geometry.source_hw))


def test_stretch_by_hand():
    geometry = frame_geometry((1080, 1920), (512, 512), 8, 'stretch')
    assert geometry.grid_hw == (64, 64) and geometry.content_cells() == (0, 64, 0, 64)
    assert geometry.grid_cell_area_px() == pytest.approx(30 * 16.875)
    assert geometry.grid_box_to_source(1, 1, 2, 2) == (30, 16, 30, 18)


def test_letterbox_padding_has_no_source_box():
    geometry = frame_geometry((50, 200), (64, 64), 8, 'letterbox')
    assert geometry.grid_box_to_source(0, 0, 8, 3)[3] == 0
    assert geometry.grid_box_to_source(0, 6, 8, 8) == (0, 50, 200, 0)


@pytest.mark.parametrize('frame', [
    np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
    np.zeros((0, 4, 3), np.uint8), [[1, 2, 3]]])
def test_other_arrays_are_refused(frame):
    with pytest.raises(FrameError, match='uint8 image of shape'):
        preprocess(frame, 'rgb', input_hw=(16, 16), stride=8)


def test_unknown_names_and_sizes_are_refused():
    frame = noise(8, 8)
    with pytest.raises(ConfigError, match="'gbr'"):
        preprocess(frame, 'gbr', input_hw=(16, 16), stride=8)
    with pytest.raises(ConfigError, match="'crop'"):
        preprocess(frame, 'rgb', input_hw=(16, 16), stride=8, resize='crop')
    with pytest.raises(ConfigError, match='positive'):
        preprocess(frame, 'rgb', input_hw=(16, 0), stride=8)
