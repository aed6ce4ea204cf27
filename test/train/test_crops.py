# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Crops: the frames they come from, the windows they are cut at, and what they repeat."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('torchvision', reason='the augmentation needs torchvision')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from evit_seg.core.labels import load_label_map  # noqa: E402
from offline_train.config import load_config  # noqa: E402
from offline_train.data.crops import class_weights, CropDataset  # noqa: E402
from tiny_runs import MemoryFrames  # noqa: E402

TINY = ['input.height=64', 'input.width=96', 'augment.crop_height=32', 'augment.crop_width=64',
        'optim.steps=20', 'optim.batch=2']
PLAIN = [*TINY, 'augment.tone=0', 'augment.brightness=0', 'augment.saturation=0',
         'augment.degrade=0', 'loss.stride=1']
LABELS = load_label_map()


def blocks(seed, count=4, size=(6, 8)):
    """Return frames of 16-pixel blocks, one class each: noise around a colour per class."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        mask = np.repeat(rng.integers(0, 14, size), 16, axis=0).repeat(16, axis=1).astype(np.uint8)
        image = (mask[..., None] * 17 + rng.integers(0, 17, (*mask.shape, 3))).astype(np.uint8)
        pairs.append((image, mask))
    return MemoryFrames(*pairs)


@pytest.mark.parametrize('rotate', [0, 30])
def test_crops_depend_on_seed_and_index_alone(rotate):
    overrides = [*TINY, f'augment.rotate={rotate}', 'augment.degrade=0.5']
    config = load_config(None, overrides)
    first, second = (CropDataset(blocks(5), LABELS, config, blocks(6)) for _ in range(2))
    ahead = {index: second[index] for index in reversed(range(8))}
    for index in range(8):
        sample = first[index]
        assert sorted(sample) == ['frame', 'image', 'target', 'window']
        for key, value in sample.items():
            assert torch.equal(value, ahead[index][key]), key
    config = load_config(None, [*overrides, 'run.seed=2'])
    other = CropDataset(blocks(5), LABELS, config, blocks(6))
    assert not torch.equal(first[0]['image'], other[0]['image'])


def test_a_sample_has_the_shapes_and_types_of_the_interface():
    sample = CropDataset(blocks(5), LABELS, load_config(None, TINY))[0]
    assert sample['image'].shape == (32, 64, 3) and sample['image'].dtype == torch.uint8
    assert sample['target'].shape == (16, 32) and sample['target'].dtype == torch.uint8
    assert sample['frame'].shape == () and sample['frame'].dtype == torch.int64
    assert sample['window'].shape == (6,) and sample['window'].dtype == torch.float32


@pytest.mark.parametrize('rotate', [0, 180])
def test_focus_crops_hold_their_class(rotate):
    config = load_config(None, [*TINY, 'augment.focus_fraction=1.0', 'augment.focus=[person]',
                                'loss.stride=1', 'optim.batch=20', f'augment.rotate={rotate}'])
    person = LABELS.by_slug('person').id
    assert blocks(5).counts[:, person].any()
    dataset = CropDataset(blocks(5), LABELS, config)
    assert all((dataset[index]['target'] == person).any() for index in range(20))


@pytest.mark.parametrize('overrides', [
    ['augment.flip=0'], ['augment.flip=1'], ['augment.flip=0', 'augment.rotate=180'],
    ['augment.flip=1', 'augment.rotate=30']])
def test_the_window_leads_back_to_the_frame(overrides):
    frames = blocks(7)
    dataset = CropDataset(frames, LABELS, load_config(None, [*PLAIN, *overrides]))
    for index in range(10):
        sample = dataset[index]
        image, mask = frames.read(int(sample['frame']))
        matrix = sample['window'].numpy().reshape(2, 3)
        size, back = (64, 32), cv2.WARP_INVERSE_MAP
        wanted = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR | back,
                                borderMode=cv2.BORDER_REFLECT_101)
        truth = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST | back, borderValue=255)
        inner = np.s_[1:-1, 1:-1]  # at a window's edge, resizing does not look beyond it
        difference = np.abs(wanted.astype(int) - sample['image'].numpy())[inner]
        assert difference.max() <= 6
        assert (truth == sample['target'].numpy()).mean() > 0.99


def test_unlabelled_crops_have_no_target_and_count_on_after_the_labelled():
    config = load_config(None, [*TINY, 'data.unlabeled_fraction=0.5'])
    dataset = CropDataset(blocks(5), LABELS, config, blocks(6, count=2))
    samples = [dataset[index] for index in range(40)]
    unlabelled = [s for s in samples if int(s['frame']) >= 4]
    assert 10 < len(unlabelled) < 30
    assert {int(s['frame']) for s in unlabelled} == {4, 5}
    assert all((s['target'] == 255).all() for s in unlabelled)
    assert all((s['target'] != 255).all() for s in samples if int(s['frame']) < 4)


def test_without_labelled_frames_all_crops_are_unlabelled():
    dataset = CropDataset(None, LABELS, load_config(None, TINY), blocks(6, count=2))
    assert {int(dataset[index]['frame']) for index in range(10)} == {0, 1}
    assert all((dataset[index]['target'] == 255).all() for index in range(10))
    with pytest.raises(ConfigError, match='got neither'):
        CropDataset(None, LABELS, load_config(None, TINY))


def test_frames_without_any_label_are_refused():
    frames = MemoryFrames((np.zeros((64, 96, 3), np.uint8), np.full((64, 96), 255, np.uint8)))
    with pytest.raises(ConfigError, match='every mask is ignored'):
        CropDataset(frames, LABELS, load_config(None, TINY))


def test_rare_classes_weigh_more_up_to_the_bound():
    weights = class_weights(np.array([900_000, 90_000, 10, 0]), 0.5, 2.0)
    assert weights[0] < weights[1] < weights[2] == 2.0
    assert weights[3] == 1.0
