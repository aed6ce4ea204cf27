# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.config import LossConfig  # noqa: E402
from offline_train.losses import (  # noqa: E402
    dice_loss,
    focal_cross_entropy,
    hard_cross_entropy,
    training_loss,
)

WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0])


def random_case(classes=5, size=8):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, classes, size, size, generator=generator)
    target = torch.randint(0, classes, (2, size, size), generator=generator).byte()
    return logits, target


def with_ignored():
    logits, target = random_case()
    target[0, :3] = 255
    return logits, target


def probabilities(logits):
    """Return the softmax over the classes as (pixels, classes), by numpy in float64."""
    flat = np.moveaxis(logits.numpy().astype(np.float64), 1, -1).reshape(-1, logits.shape[1])
    powers = np.exp(flat - flat.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_without_mining_it_is_the_weighted_cross_entropy_of_torch():
    logits, target = with_ignored()
    expected = torch.nn.functional.cross_entropy(
        logits, target.long(), weight=WEIGHTS, ignore_index=255)
    torch.testing.assert_close(hard_cross_entropy(logits, target, WEIGHTS, 0.7, 1.0), expected)


def test_without_weights_and_mining_it_is_the_mean_over_labelled_pixels():
    logits, target = with_ignored()
    every = torch.nn.functional.cross_entropy(logits, target.long(), ignore_index=255,
                                              reduction='none')
    loss = training_loss(logits, target, torch.ones(5), LossConfig(ohem_keep=1.0))
    assert loss.item() == every[target != 255].mean().item()


def test_mining_keeps_the_hard_pixels_and_at_least_the_asked_part():
    # 16 pixels of class 0: four sure ones (p = 0.99), twelve nearly certain (p > 0.9999)
    margin = torch.full((16,), 10.0)
    margin[:4] = 4.595  # log(0.99 / 0.01)
    logits = torch.stack([margin, torch.zeros(16)]).reshape(1, 2, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    loss = hard_cross_entropy(logits, target, torch.ones(2), 0.7, 0.25)
    assert loss.item() == pytest.approx(-torch.log(torch.tensor(0.99)).item(), rel=1e-3)


def test_all_pixels_below_the_threshold_count_however_small_the_kept_part():
    logits = torch.zeros(1, 2, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    loss = hard_cross_entropy(logits, target, torch.ones(2), 0.7, 0.01)
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)


def test_focal_by_hand():
    # true classes with p = 0.8 and p = 0.5, gamma 2: 0.04 * 0.22314 and 0.25 * 0.69315
    logits = torch.tensor([[math.log(4.0), 0.0], [0.0, 0.0]]).T.reshape(1, 2, 1, 2)
    target = torch.zeros(1, 1, 2, dtype=torch.uint8)
    loss = focal_cross_entropy(logits, target, torch.ones(2), 2.0)
    assert loss.item() == pytest.approx((0.0089257 + 0.1732868) / 2, abs=1e-6)


@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_focal_agrees_with_numpy(gamma):
    logits, target = with_ignored()
    truth = target.numpy().ravel()
    labelled = truth != 255
    p = probabilities(logits)[labelled, truth[labelled]]
    weight = WEIGHTS.numpy().astype(np.float64)[truth[labelled]]
    expected = (weight * (1 - p) ** gamma * -np.log(p)).sum() / weight.sum()
    loss = focal_cross_entropy(logits, target, WEIGHTS, gamma)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_focal_without_gamma_is_the_cross_entropy():
    logits, target = with_ignored()
    torch.testing.assert_close(focal_cross_entropy(logits, target, WEIGHTS, 0.0),
                               hard_cross_entropy(logits, target, WEIGHTS, 0.7, 1.0))


def test_focal_has_a_gradient_where_a_pixel_is_certain():
    logits = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    focal_cross_entropy(logits, torch.zeros(1, 1, 1).byte(), torch.ones(2), 0.5).backward()
    assert torch.isfinite(logits.grad).all()


def test_dice_by_hand():
    # class 0: p = 0.8, 0.5 of two pixels, truth on the first; class 1: 0.2, 0.5, the second;
    # 2 * 0.8 / (0.64 + 0.25 + 1) and 2 * 0.5 / (0.04 + 0.25 + 1); class 2 has no truth
    logits = torch.tensor([[math.log(4.0), 0.0, -99.0], [0.0, 0.0, -99.0]]).T.reshape(1, 3, 1, 2)
    target = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    expected = 1 - (1.6 / 1.89 + 1.0 / 1.29) / 2
    assert dice_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_dice_agrees_with_numpy_and_leaves_out_unlabelled_pixels_and_absent_classes():
    logits, target = with_ignored()
    target[target == 3] = 255
    truth = target.numpy().ravel()
    labelled = truth != 255
    p = probabilities(logits)[labelled]
    g = np.eye(5)[truth[labelled]]
    dice = [2 * (p[:, c] * g[:, c]).sum() / ((p[:, c] ** 2).sum() + (g[:, c] ** 2).sum())
            for c in (0, 1, 2, 4)]
    assert dice_loss(logits, target).item() == pytest.approx(1 - np.mean(dice), rel=1e-5)


def test_a_perfect_answer_has_no_dice_loss():
    _, target = random_case()
    logits = torch.nn.functional.one_hot(target.long(), 5).permute(0, 3, 1, 2) * 100.0
    assert dice_loss(logits, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('config', [
    LossConfig(), LossConfig(focal_gamma=2.0), LossConfig(cross_entropy=0.0, dice=1.0)])
def test_a_batch_without_labels_costs_nothing_and_has_a_gradient(config):
    logits, _ = random_case()
    logits.requires_grad_()
    target = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    loss = training_loss(logits, target, torch.ones(5), config)
    loss.backward()
    assert loss.item() == 0 and torch.count_nonzero(logits.grad) == 0


def test_the_terms_add_up_by_their_weights():
    logits, target = with_ignored()
    focal = focal_cross_entropy(logits, target, WEIGHTS, 1.5)
    loss = training_loss(logits, target, WEIGHTS,
                         LossConfig(focal_gamma=1.5, cross_entropy=0.5, dice=2.0))
    torch.testing.assert_close(loss, 0.5 * focal + 2.0 * dice_loss(logits, target))


def test_a_term_of_weight_0_is_not_computed():
    logits, target = with_ignored()
    nothing = None  # a weight per class is only needed by the cross entropy
    loss = training_loss(logits, target, nothing, LossConfig(cross_entropy=0.0, dice=1.0))
    torch.testing.assert_close(loss, dice_loss(logits, target))
    with pytest.raises(ConfigError, match=r'loss\.cross_entropy and loss\.dice'):
        training_loss(logits, target, WEIGHTS, LossConfig(cross_entropy=0.0))


@pytest.mark.parametrize('dice', [0.0, 1.0])
def test_the_auxiliary_map_adds_its_weighted_loss(dice):
    logits, target = random_case()
    config = LossConfig(ohem_keep=1.0, auxiliary_weight=0.4, dice=dice)
    alone = training_loss(logits, target, WEIGHTS, config)
    both = training_loss((logits, logits), target, WEIGHTS, config)
    torch.testing.assert_close(both, alone * 1.4)


def test_the_main_logits_are_upscaled_and_auxiliary_ones_meet_their_own_grid():
    _, target = random_case(size=16)
    coarse = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    config = LossConfig(ohem_keep=1.0, auxiliary_weight=1.0)
    fine = torch.nn.functional.interpolate(coarse, size=16, mode='bilinear')
    main = hard_cross_entropy(fine, target, WEIGHTS, 0.7, 1.0)
    torch.testing.assert_close(training_loss(coarse, target, WEIGHTS, config), main)
    auxiliary = hard_cross_entropy(coarse, target[:, 2::4, 2::4], WEIGHTS, 0.7, 1.0)
    torch.testing.assert_close(training_loss((coarse, coarse), target, WEIGHTS, config),
                               main + auxiliary)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('config', [LossConfig(dice=1.0), LossConfig(focal_gamma=2.0)])
def test_the_gpu_has_the_loss_of_the_cpu(config):
    logits, target = with_ignored()
    expected = training_loss((logits, logits), target, WEIGHTS, config)
    moved = logits.cuda()
    loss = training_loss((moved, moved), target.cuda(), WEIGHTS.cuda(), config)
    assert loss.is_cuda and loss.item() == pytest.approx(expected.item(), rel=1e-5)
