# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from offline_train.config import LossConfig  # noqa: E402, I100
from offline_train.losses import hard_cross_entropy, training_loss  # noqa: E402


def random_case(classes=5, size=8):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, classes, size, size, generator=generator)
    target = torch.randint(0, classes, (2, size, size), generator=generator).byte()
    return logits, target


def test_without_mining_it_is_the_weighted_cross_entropy_of_torch():
    logits, target = random_case()
    target[0, :3] = 255
    weights = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0])
    expected = torch.nn.functional.cross_entropy(
        logits, target.long(), weight=weights, ignore_index=255)
    torch.testing.assert_close(hard_cross_entropy(logits, target, weights, 0.7, 1.0), expected)


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


def test_a_batch_without_labels_costs_nothing_and_has_a_gradient():
    logits, _ = random_case()
    logits.requires_grad_()
    target = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    loss = hard_cross_entropy(logits, target, torch.ones(5), 0.7, 0.2)
    loss.backward()
    assert loss.item() == 0 and torch.count_nonzero(logits.grad) == 0


def test_the_auxiliary_map_adds_its_weighted_loss():
    logits, target = random_case()
    config = LossConfig(ohem_keep=1.0, auxiliary_weight=0.4)
    weights = torch.ones(5)
    alone = training_loss(logits, target, weights, config)
    both = training_loss((logits, logits), target, weights, config)
    torch.testing.assert_close(both, alone * 1.4)
