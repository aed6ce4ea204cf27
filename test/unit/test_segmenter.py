# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The Segmenter over real ONNX Runtime: known colours in, known classes out."""
from __future__ import annotations

from evit_seg.core.bundle import open_bundle
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError, ConfigError, LabelMapMismatch
from evit_seg.core.segmenter import Segmenter
import numpy as np
import pytest
from tiny_bundle import anchor_colours, painted_frame, tiny_onnx, write_tiny_bundle


@pytest.fixture(scope='module')
def segmenter(tmp_path_factory):
    folder = write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')
    return Segmenter.open(str(folder), threads=1)


def test_block_centres_have_their_class(segmenter):
    image_HWC, ids_HW = painted_frame(hw=(256, 256))
    result = segmenter(image_HWC)
    centres = (slice(32, None, 64), slice(32, None, 64))
    np.testing.assert_array_equal(result.mask_HW[centres], ids_HW[centres])
    assert result.mask_HW.shape == (256, 256) and result.mask_HW.dtype == np.uint8
    assert result.confidence_HW is None
    assert set(result.stage_ms) == {'pre', 'infer', 'post'}


def test_bgr_and_rgb_give_the_same_mask(segmenter):
    image_HWC, _ = painted_frame(hw=(96, 128))
    np.testing.assert_array_equal(segmenter(image_HWC, 'rgb').mask_HW,
                                  segmenter(image_HWC[..., ::-1], 'bgr').mask_HW)


def test_mask_size_on_request(segmenter):
    image_HWC, _ = painted_frame(hw=(96, 128))
    assert segmenter(image_HWC, mask_hw=(64, 64)).mask_HW.shape == (64, 64)


def test_confidence_is_high_where_one_colour_fills_the_frame(segmenter):
    image_HWC = np.broadcast_to(anchor_colours()[5], (64, 64, 3)).copy()
    result = segmenter(image_HWC, confidence=True)
    assert (result.mask_HW == 5).all()
    assert result.confidence_HW.dtype == np.uint8 and result.confidence_HW.min() > 200


def test_letterbox_covers_the_frame_only(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'letterbox', resize='letterbox')
    image_HWC = np.broadcast_to(anchor_colours()[7], (50, 200, 3)).copy()
    result = Segmenter.open(str(folder))(image_HWC)
    assert result.mask_HW.shape == (50, 200)
    assert (result.mask_HW[:, 20:-20] == 7).mean() > 0.9


def test_threads_and_providers_are_checked(tmp_path):
    bundle = open_bundle(write_tiny_bundle(tmp_path / 'tiny'))
    with pytest.raises(ConfigError, match="no engine 'tensorflow'"):
        load_engine(bundle, 'tensorflow')
    with pytest.raises(ConfigError, match="there is no 'gpu'"):
        load_engine(bundle, provider='gpu')
    with pytest.raises(ConfigError, match=r'has no TensorrtExecutionProvider'):
        load_engine(bundle, provider='tensorrt')


def test_a_closed_engine_says_so(tmp_path):
    segmenter = Segmenter.open(str(write_tiny_bundle(tmp_path / 'tiny')))
    segmenter.close()
    with pytest.raises(BundleError, match='closed'):
        segmenter.warm_up(1)


@pytest.mark.parametrize('classes, hw, error', [
    (9, (64, 64), LabelMapMismatch), (14, (128, 64), BundleError)])
def test_an_engine_that_answers_out_of_shape(tmp_path, classes, hw, error):
    bundle = open_bundle(write_tiny_bundle(tmp_path / 'good'))
    other = write_tiny_bundle(tmp_path / 'other', num_classes=classes, hw=hw)
    engine = load_engine(open_bundle(other))
    engine.input_hw = (64, 64)
    engine.infer = lambda image_HWC: np.zeros((classes, hw[0] // 8, hw[1] // 8), np.float32)
    with pytest.raises(error):
        Segmenter(bundle, engine).warm_up(1)


def test_a_model_of_another_input_size_is_refused(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'tiny')
    bundle = open_bundle(folder)
    (folder / 'tiny.onnx').write_bytes(tiny_onnx(hw=(128, 128)))
    with pytest.raises(BundleError, match='expected input uint8'):
        load_engine(bundle)
    (folder / 'tiny.onnx').write_bytes(b'not a model')
    with pytest.raises(BundleError, match='cannot load'):
        load_engine(bundle)
