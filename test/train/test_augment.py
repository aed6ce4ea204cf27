# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Tones, flips and rotations of training crops."""
from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('torchvision', reason='the augmentation needs torchvision')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from evit_seg.core.labels import load_label_map  # noqa: E402
from offline_train.config import AugmentConfig, load_config  # noqa: E402
from offline_train.data import tones  # noqa: E402
from offline_train.data.crops import CropDataset  # noqa: E402

OFF = {'tone': 0.0, 'brightness': 0.0, 'saturation': 0.0, 'degrade': 0.0}
PLAIN = ['input.height=64', 'input.width=96', 'augment.crop_height=32', 'augment.crop_width=64',
         'optim.steps=20', 'optim.batch=2', 'loss.stride=1',
         *(f'augment.{key}=0' for key in OFF)]


def noise(seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (24, 40, 3)).astype(np.uint8)


def changed(crop, seed=0, **settings):
    """Return the changed crop as (h, w, 3), every change off that is not named."""
    config = AugmentConfig(**{**OFF, **settings})
    return tones.change_tones(crop, config, np.random.default_rng(seed)).permute(1, 2, 0).numpy()


def test_nothing_changes_where_all_is_off():
    np.testing.assert_array_equal(changed(noise()), noise())


def test_brightness_shifts_all_levels_by_the_same():
    shifts = set()
    for seed in range(20):
        shift = np.unique(changed(noise(low=60, high=190), seed, brightness=20.0).astype(int)
                          - noise(low=60, high=190))
        assert len(shift) == 1 and abs(shift[0]) <= 20
        shifts.add(int(shift[0]))
    assert min(shifts) < -5 and max(shifts) > 5


def test_tone_curves_rise_and_differ_between_channels_and_crops():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    curves = [changed(ramp, seed, tone=0.3)[0] for seed in range(10)]
    for curve in curves:
        assert (np.diff(curve.astype(int), axis=0) >= 0).all()
        assert (curve[:, 0] != curve[:, 1]).any()
    middles = [int(curve[128].mean()) for curve in curves]
    assert max(middles) - min(middles) > 20
    assert all(128 / 1.8 < middle < 128 * 1.8 for middle in middles)


class Scripted:
    """Draws what it is told: `parts` of the ranges, then `chances`; gains are at `gain`."""

    def __init__(self, parts=(), chances=(1.0, 1.0, 1.0), gain=0.5):
        self._parts, self._chances, self._gain = list(parts), list(chances), gain

    def uniform(self, low, high, size=None):
        part = self._gain if size is not None else self._parts.pop(0) if self._parts else 0.5
        drawn = low + part * (high - low)
        return drawn if size is None else np.full(size, drawn)

    def random(self):
        return self._chances.pop(0)

    def integers(self, low, high=None):
        return low


def scripted(crop, generator, **settings):
    config = AugmentConfig(**{**OFF, **settings})
    return tones.change_tones(crop, config, generator).permute(1, 2, 0).numpy()


def test_gamma_contrast_and_gain_by_hand():
    crop = noise(low=20, high=200).astype(float)
    for parts, gain, expected in (
            ([1.0, 0.5], 0.5, 255 * (crop / 255) ** np.exp(0.3)),
            ([0.5, 1.0], 0.5, (crop - 127.5) * 1.3 + 127.5),
            ([0.5, 0.5], 1.0, crop * 1.1)):
        got = scripted(crop.astype(np.uint8), Scripted(parts, gain=gain), tone=0.3)
        np.testing.assert_allclose(got, expected.clip(0, 255), atol=0.501)


def test_saturation_leaves_grey_and_moves_colours_about_their_grey():
    grey = noise()[..., :1].repeat(3, axis=2)
    assert np.abs(changed(grey, saturation=0.4).astype(int) - grey).max() <= 1
    crop = noise(low=80, high=170).astype(float)
    level = crop @ [0.2989, 0.587, 0.114]
    factors = []
    for seed in range(10):
        got = changed(crop.astype(np.uint8), seed, saturation=0.4).astype(float)
        away, before = got - level[..., None], crop - level[..., None]
        factor = (away * before).sum() / (before ** 2).sum()
        np.testing.assert_allclose(away, factor * before, atol=3)
        factors.append(factor)
    assert 0.59 < min(factors) < 0.9 and 1.1 < max(factors) < 1.41


def test_blur_mixes_neighbours():
    crop = np.zeros((24, 40, 3), np.uint8)
    crop[12, 20] = (200, 100, 50)
    got = scripted(crop, Scripted(chances=[0.0, 1.0, 1.0]), degrade=0.5).astype(int)
    assert (got[11:14, 19:22] > 0).all() and got.sum() == got[11:14, 19:22].sum()
    np.testing.assert_allclose(got.sum(axis=(0, 1)), (200, 100, 50), atol=5)


def test_noise_has_its_spread_and_no_mean():
    crop = np.full((96, 128, 3), 128, np.uint8)
    got = scripted(crop, Scripted(chances=[1.0, 0.0, 1.0]), degrade=0.5).astype(float) - crop
    assert 0.8 < got.std() / (255 * 0.0275) < 1.1  # the middle of the range
    assert np.abs(got.mean(axis=(0, 1))).max() < 0.5
    assert abs(np.corrcoef(got[..., 0].ravel(), got[..., 1].ravel())[0, 1]) < 0.1


def test_jpeg_loses_detail_and_keeps_every_channel_in_its_place():
    crop = np.full((24, 40, 3), (60, 120, 180), np.uint8)
    crop[8:16, 10:30] = (180, 120, 60)
    got = scripted(crop, Scripted(chances=[1.0, 1.0, 0.0]), degrade=0.5).astype(int) - crop
    assert 1 < got.std() < 30
    assert np.abs(got.mean(axis=(0, 1))).max() < 4


def test_torch_generators_neither_decide_nor_move():
    torch.manual_seed(1)
    first = changed(noise(), degrade=1.0)
    following = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), following)
    np.testing.assert_array_equal(changed(noise(), degrade=1.0), first)
    assert (changed(noise(), 1, degrade=1.0) != first).any()


class ColouredFrames:
    """Frames whose red is 17 times the class and whose other channels are x and y."""

    def __init__(self):
        rng = np.random.default_rng(3)
        mask = np.repeat(rng.integers(0, 14, (6, 8)), 16, axis=0).repeat(16, axis=1)
        self.mask = mask.astype(np.uint8)
        y, x = np.mgrid[:96, :128]
        self.image = np.dstack([mask * 17, x, y]).astype(np.uint8)
        self.counts = np.bincount(mask.ravel(), minlength=14)[None].astype(np.int64)

    def __len__(self):
        return 1

    def read(self, index):
        return self.image, self.mask


def crops(count, *overrides):
    dataset = CropDataset(ColouredFrames(), load_label_map(),
                          load_config(None, [*PLAIN, *overrides]))
    return [(s['image'].numpy(), s['target'].numpy()) for s in map(dataset.__getitem__,
                                                                   range(count))]


@pytest.mark.parametrize('overrides', [
    ['augment.flip=0'], ['augment.flip=1'], ['augment.rotate=180', 'augment.flip=0'],
    ['augment.rotate=40', 'augment.flip=1']])
def test_the_mask_moves_with_the_image(overrides):
    for image, target in crops(10, *overrides):
        inside = target != 255
        assert inside.mean() > 0.3
        agree = np.abs(image[..., 0].astype(int) - target.astype(int) * 17)[inside] <= 1
        assert agree.mean() > 0.75  # edges of classes are interpolated in the image
        assert agree.mean() > 0.9 or len(np.unique(target)) > 4


def test_a_flip_mirrors_the_columns_alone():
    for (image, _), (flipped, _) in zip(crops(5, 'augment.flip=0'), crops(5, 'augment.flip=1'),
                                        strict=True):
        assert (np.diff(image[..., 1].astype(int), axis=1) >= 0).all()
        assert (np.diff(flipped[..., 1].astype(int), axis=1) <= 0).all()
        np.testing.assert_array_equal(image[:, ::-1], flipped)


def test_rotated_crops_are_filled_with_reflections_that_have_no_label():
    # a crop of the whole frame: turned, its corners leave the frame
    whole = ['augment.crop_height=64', 'augment.crop_width=96', 'augment.scale_min=1',
             'augment.scale_max=1', 'augment.rotate=45', 'augment.focus_fraction=0',
             'augment.balanced_fraction=0']
    seen = 0
    for image, target in crops(5, *whole):
        outside = target == 255
        assert outside.mean() < 0.6
        if outside.any():
            seen += 1
            assert image[outside][:, 1:].any(axis=1).mean() > 0.95
    assert seen >= 4


def test_rotations_reach_both_ways_up_to_the_bound():
    angles = []
    for image, _ in crops(20, 'augment.rotate=30', 'augment.flip=0', 'augment.scale_min=2',
                          'augment.scale_max=2'):
        # x and y of the frame are channels 1 and 2; the frame is stretched by 96/128 and 64/96
        step_x = (int(image[16, 60, 1]) - int(image[16, 4, 1])) * 96 / 128
        step_y = (int(image[16, 60, 2]) - int(image[16, 4, 2])) * 64 / 96
        angles.append(np.degrees(np.arctan2(step_y, step_x)))
    assert -33 < min(angles) < -10 and 10 < max(angles) < 33


def test_a_missing_torchvision_is_named_only_when_crops_are_cut(monkeypatch):
    for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    importlib.reload(tones)  # exporting and scoring import it and go on
    config = load_config(None, PLAIN)
    with pytest.raises(ConfigError, match='pip install torchvision'):
        CropDataset(ColouredFrames(), load_label_map(), config)
