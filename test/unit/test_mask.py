# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The boundary-only mask is the plain mask in every pixel, whatever the logits and the sizes."""
from __future__ import annotations

import tracemalloc

from evit_seg.bench import synthetic_logits
from evit_seg.core.bilinear import argmax_at, axis_table
from evit_seg.core.errors import ConfigError
from evit_seg.core.mask import confidence, textbook_mask, upscale_argmax
from evit_seg.core.preprocess import frame_geometry
from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

# (grid, stride, mask): integer and broken scales, up, down, one axis each, tiny grids
CASES = [((64, 64), 8, (512, 512)), ((64, 64), 8, (1080, 1920)), ((48, 80), 8, (720, 1280)),
         ((45, 80), 8, (333, 777)), ((36, 36), 8, (288, 288)), ((128, 128), 4, (512, 512)),
         ((64, 64), 8, (37, 51)), ((64, 64), 8, (200, 40)), ((64, 64), 8, (64, 64)),
         ((7, 5), 8, (301, 299)), ((2, 2), 8, (50, 50)), ((1, 5), 8, (40, 50))]


def stretched(grid_hw, stride, out_hw):
    return frame_geometry(out_hw, (grid_hw[0] * stride, grid_hw[1] * stride), stride, 'stretch')


def weights(grid, out, scale, offset):
    """Return the (out, grid) bilinear matrix in float64: clamped half-pixel centres."""
    at = np.clip((np.arange(out) + 0.5) * scale + offset - 0.5, 0, grid - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(grid)))


def close_calls(logits, geometry, mask_HW):
    """
    Return how many pixels another class than the mask's wins, and fail on a clear one.

    Independent of the shipped arithmetic: float64, two matrix products.
    """
    matrices = []
    for axis, out in enumerate(mask_HW.shape):
        per_cell = geometry.input_hw[axis] / geometry.grid_hw[axis]
        content = geometry.source_hw[axis] * geometry.scale_yx[axis]
        matrices.append(weights(geometry.grid_hw[axis], out, content / out / per_cell,
                                geometry.offset_yx[axis] / per_cell))
    best = np.full(mask_HW.shape, -np.inf)
    own = np.empty(mask_HW.shape)
    winner = np.zeros(mask_HW.shape, np.uint8)
    for class_id, plane in enumerate(logits.astype(np.float64)):
        full = matrices[0] @ plane @ matrices[1].T
        own[mask_HW == class_id] = full[mask_HW == class_id]
        winner[full > best] = class_id
        np.maximum(best, full, out=best)
    wrong = winner != mask_HW
    assert (best - own)[wrong].max(initial=0) < 1e-5
    return int(wrong.sum())


@pytest.mark.parametrize(('grid_hw', 'stride', 'out_hw'), CASES)
def test_equal_to_an_independent_float64_reference(grid_hw, stride, out_hw):
    geometry = stretched(grid_hw, stride, out_hw)
    logits, _ = synthetic_logits(14, grid_hw, 0.3, seed=3)
    mask_HW = upscale_argmax(logits, geometry, out_hw)
    assert mask_HW.shape == out_hw and mask_HW.dtype == np.uint8 and mask_HW.flags.c_contiguous
    assert close_calls(logits, geometry, mask_HW) <= max(2, 1e-5 * mask_HW.size)


@pytest.mark.parametrize(('grid_hw', 'stride', 'out_hw'), CASES)
@pytest.mark.parametrize('step', [None, 0.25])
def test_equal_to_torch(grid_hw, stride, out_hw, step, record_property):
    torch = pytest.importorskip('torch', reason='torch is not installed: the numpy reference runs')
    geometry = stretched(grid_hw, stride, out_hw)
    excused = 0
    for seed, share in enumerate((0.15, 0.6)):
        logits, _ = synthetic_logits(14, grid_hw, share, seed)
        if step is not None:  # as an int8 network answers: exact ties
            logits = (np.round(logits / step) * step).astype(np.float32)
        upscaled = torch.nn.functional.interpolate(
            torch.from_numpy(logits)[None], size=out_hw, mode='bilinear', align_corners=False)[0]
        theirs = upscaled.argmax(0).numpy()
        ours = upscale_argmax(logits, geometry, out_hw)
        # Torch has several loops; some shapes and processors round otherwise in the last bit.
        # Only ties to 1e-5 are excused, and they are counted.
        differ = np.nonzero(theirs != ours)
        upscaled = upscaled.numpy()
        gap = upscaled.max(axis=0)[differ] - upscaled[(ours[differ], *differ)]
        assert gap.max(initial=0) < 1e-5
        excused += len(gap)
    record_property('excused_pixels', excused)
    assert excused <= 0.01 * ours.size


@settings(max_examples=150, deadline=None)
@given(num_classes=st.integers(1, 20), grid_hw=st.tuples(st.integers(1, 12), st.integers(1, 12)),
       source_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
       out_hw=st.none() | st.tuples(st.integers(1, 90), st.integers(1, 90)),
       resize=st.sampled_from(('stretch', 'letterbox')), step=st.sampled_from((0, 0.5, 1, 4)),
       scale=st.sampled_from((1e-38, 1e-3, 1, 1e20)), seed=st.integers(0, 1 << 16))
# A third class ties with the winner at the end of a line, far from the crossing.
@example(num_classes=9, grid_hw=(6, 3), source_hw=(1, 1), out_hw=(78, 3), resize='stretch',
         step=0.5, scale=1e20, seed=9729)
def test_equal_to_the_definition(num_classes, grid_hw, source_hw, out_hw, resize, step, scale,
                                 seed):
    geometry = frame_geometry(source_hw, (grid_hw[0] * 4, grid_hw[1] * 4), 4, resize)
    logits = np.random.default_rng(seed).normal(size=(num_classes, *grid_hw)) * 3
    if step:
        logits = np.round(logits / step) * step
    logits = (logits * scale).astype(np.float32)
    out_hw = out_hw or source_hw
    np.testing.assert_array_equal(upscale_argmax(logits, geometry, out_hw),
                                  textbook_mask(logits, geometry, out_hw))


def test_equal_to_the_definition_where_every_cell_is_mixed():
    # More lines than are drawn at once.
    grid_hw, out_hw = (96, 96), (400, 480)
    logits = np.random.default_rng(0).normal(size=(14, *grid_hw)).astype(np.float32)
    geometry = stretched(grid_hw, 4, out_hw)
    np.testing.assert_array_equal(upscale_argmax(logits, geometry, out_hw),
                                  textbook_mask(logits, geometry, out_hw))


def test_two_classes_by_hand():
    # Differences of -3 and 1 at the ends: zero at 3/4 of the way, so pixel centres at
    # 1/8, 3/8, 5/8 stay with class 0 and 7/8 goes to class 1; half a cell is clamped on each side.
    logits = np.zeros((2, 2, 2), np.float32)
    logits[1] = [[-3, 1], [-3, 1]]
    mask_HW = upscale_argmax(logits, stretched((2, 2), 4, (2, 8)), (2, 8))
    np.testing.assert_array_equal(mask_HW, [[0, 0, 0, 0, 0, 1, 1, 1]] * 2)


def test_a_class_that_wins_at_no_corner_can_win_inside():
    logits = np.zeros((3, 1, 2), np.float32)
    logits[:, 0] = [[4, -4], [-4, 4], [1, 1]]
    mask_HW = upscale_argmax(logits.repeat(2, axis=1), stretched((2, 2), 8, (16, 16)), (16, 16))
    assert set(np.unique(mask_HW[8])) == {0, 1, 2}
    assert (mask_HW[8, [0, 7, 8, 15]] == [0, 2, 2, 1]).all()


def test_the_lowest_id_wins_ties():
    geometry = stretched((8, 8), 8, (64, 64))
    assert (upscale_argmax(np.zeros((5, 8, 8), np.float32), geometry, (64, 64)) == 0).all()
    logits, _ = synthetic_logits(3, (8, 8), 0.5)
    np.testing.assert_array_equal(
        upscale_argmax(np.concatenate([logits, logits]), geometry, (64, 64)),
        upscale_argmax(logits, geometry, (64, 64)))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_without_a_difference_go_the_plain_way(bad):
    geometry = stretched((8, 8), 8, (40, 56))
    logits, _ = synthetic_logits(4, (8, 8), 0.5)
    logits[2, 3:5, 4] = bad
    with np.errstate(invalid='ignore', over='ignore'):
        np.testing.assert_array_equal(upscale_argmax(logits, geometry, (40, 56)),
                                      textbook_mask(logits, geometry, (40, 56)))


@pytest.mark.parametrize(('source_hw', 'cut'), [((64, 128), (slice(32, 96), slice(None))),
                                                ((128, 50), (slice(None), slice(39, 89)))])
def test_a_letterbox_mask_is_the_picture_cut_out_of_the_input(source_hw, cut):
    # The scale is 1, so the mask of the whole input holds the letterbox's mask as a part.
    logits, _ = synthetic_logits(14, (16, 16), 0.5)
    whole = frame_geometry((128, 128), (128, 128), 8, 'stretch')
    boxed = frame_geometry(source_hw, (128, 128), 8, 'letterbox')
    np.testing.assert_array_equal(upscale_argmax(logits, boxed, source_hw),
                                  upscale_argmax(logits, whole, (128, 128))[cut])
    difference = confidence(logits, boxed, source_hw).astype(int) \
        - confidence(logits, whole, (128, 128))[cut]
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize('out_hw', [(1080, 1920), (720, 1280), (100, 90)])
@pytest.mark.parametrize('source_hw', [(1080, 1920), (1920, 1080)])
def test_letterbox_against_the_float64_reference(source_hw, out_hw):
    geometry = frame_geometry(source_hw, (384, 512), 8, 'letterbox')
    logits, _ = synthetic_logits(14, geometry.grid_hw, 0.3)
    mask_HW = upscale_argmax(logits, geometry, out_hw)
    assert mask_HW.shape == out_hw
    assert close_calls(logits, geometry, mask_HW) <= 1e-5 * mask_HW.size


def test_the_caller_owns_the_mask():
    geometry = stretched((16, 16), 8, (128, 128))
    logits, _ = synthetic_logits(14, (16, 16), 0.4)
    first = upscale_argmax(logits, geometry, (128, 128))
    kept = first.copy()
    first[:] = 255
    np.testing.assert_array_equal(upscale_argmax(logits, geometry, (128, 128)), kept)


def test_4k_in_bounded_memory():
    # Noise, nearly every cell mixed: the plain way takes 14 x 2160 x 3840 x 4 bytes = 464 MB.
    geometry = stretched((108, 192), 4, (2160, 3840))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(14, 108, 192)).astype(np.float32)
    tracemalloc.start()
    try:
        mask_HW = upscale_argmax(logits, geometry, (2160, 3840))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 60e6
    y, x = rng.integers(0, 2160, 20000), rng.integers(0, 3840, 20000)
    rows, cols = axis_table(geometry, 0, 2160), axis_table(geometry, 1, 3840)
    expected = argmax_at(logits, rows, cols, y, x)
    np.testing.assert_array_equal(mask_HW[y, x], expected)


@pytest.mark.parametrize('step', [upscale_argmax, textbook_mask, confidence])
def test_wrong_shapes_are_refused(step):
    geometry = stretched((8, 8), 8, (64, 64))
    for shape in ((14, 8, 9), (8, 8), (0, 8, 8), (255, 8, 8), (1, 14, 8, 8)):
        with pytest.raises(ConfigError, match='expected logits of shape'):
            step(np.zeros(shape, np.float32), geometry, (64, 64))
    with pytest.raises(ConfigError, match='mask size'):
        step(np.zeros((14, 8, 8), np.float32), geometry, (64, 0))


@pytest.mark.parametrize('temperature', [1.0, 2.5])
@pytest.mark.parametrize('out_hw', [(64, 96), (333, 250), (5, 7)])
def test_confidence_is_the_upscaled_softmax(out_hw, temperature):
    logits, _ = synthetic_logits(14, (12, 18), 0.5)
    geometry = stretched((12, 18), 8, out_hw)
    power = np.exp(logits.astype(np.float64) / temperature)
    best = (power / power.sum(0)).max(0)
    expected = 255 * weights(12, out_hw[0], 12 / out_hw[0], 0) @ best \
        @ weights(18, out_hw[1], 18 / out_hw[1], 0).T
    found = confidence(logits, geometry, out_hw, temperature)
    assert found.dtype == np.uint8 and found.shape == out_hw
    assert np.abs(found - expected).max() < 0.51


def test_confidence_of_the_undecided_and_the_decided():
    geometry = stretched((4, 4), 8, (32, 32))
    logits = np.zeros((5, 4, 4), np.float32)
    assert (confidence(logits, geometry, (32, 32), 1.0) == 51).all()
    logits[2] = 1e4
    assert (confidence(logits, geometry, (32, 32), 1.0) == 255).all()
    with pytest.raises(ConfigError, match='temperature'):
        confidence(logits, geometry, (32, 32), 0.0)
