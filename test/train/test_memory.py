# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The memory that training takes, counted by hand for two layers and held below 16 GB."""
from __future__ import annotations

import importlib.util

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from offline_train.config import load_config  # noqa: E402, I100
from offline_train.memory import ALLOWANCE_GB, saved_bytes, training_memory  # noqa: E402

# As many pixels as 16 crops of 512x512, a quarter of the work to find out.
SETTINGS = ['input.height=256', 'input.width=256', 'augment.crop_height=256',
            'augment.crop_width=256', 'optim.batch=64', 'optim.precision=bf16']


def test_what_two_layers_keep_is_counted_by_hand():
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    image = torch.randn(2, 3, 10, 12)

    def forward():
        return convolution(image).sigmoid()

    kept = 4 * 2 * 10 * 12 * (3 + 8)  # the convolution's input, the sigmoid's output
    assert saved_bytes(forward, convolution.parameters()) == kept
    assert saved_bytes(forward) == kept + 4 * 8 * 27
    assert saved_bytes(forward, [*convolution.parameters(), image]) == 4 * 2 * 10 * 12 * 8


def test_a_storage_that_two_layers_keep_counts_once():
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    assert saved_bytes(lambda: (image * image, image.square())) == 4 * 3 * 64


def test_a_part_of_a_storage_keeps_all_of_it():
    images, factor = torch.randn(4, 3, 8, 8), torch.ones(1, requires_grad=True)
    assert saved_bytes(lambda: images[:1] * factor, [factor]) == 4 * 4 * 3 * 64


def test_activations_grow_with_the_crops_and_shrink_with_parts():
    small = ['input.height=64', 'input.width=96', 'augment.crop_height=64',
             'augment.crop_width=96', 'model.widths=[4, 4, 8, 8, 8]']
    two, eight, parts = (training_memory(load_config(None, [*small, *more])) for more in (
        ['optim.batch=2'], ['optim.batch=8'], ['optim.batch=8', 'optim.accumulate=4']))
    assert two.activations == parts.activations and eight.activations > 3.5 * two.activations
    assert two.copies == eight.copies > 0
    assert two.total_gb == pytest.approx((two.activations + two.copies) / 1e9 + ALLOWANCE_GB)


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None
                        for name in ('timm', 'segmentation_models_pytorch')),
                    reason='timm and segmentation_models.pytorch are not installed')
def test_the_papers_student_trains_in_16_gb():
    memory = training_memory(load_config(None, ['model.name=upernet_mobilevit_s', *SETTINGS]))
    assert 6.0 < memory.activations / 1e9 < 6.6 and memory.total_gb < 16
    assert memory.copies == pytest.approx(6 * 4 * 5.58e6, rel=0.01)
    assert 'computed, not measured' in str(memory)
