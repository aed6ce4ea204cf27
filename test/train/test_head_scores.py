# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of heads and hidden units against sums by hand, numpy and finite differences."""
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('timm', reason='the networks with heads are over backbones of timm')
pytest.importorskip('segmentation_models_pytorch', reason='the decoders are of this package')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.compression.head_scores import (  # noqa: E402
    best,
    HEAD_CRITERIA,
    head_scores,
    HIDDEN_CRITERIA,
    hidden_scores,
)
from offline_train.config import InputConfig, ModelConfig  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.models.token_pyramid import TokenBlock  # noqa: E402
from offline_train.surgery.blocks import attention_blocks, mlp_blocks  # noqa: E402
from timm.layers import Attention, Mlp  # noqa: E402
from timm.models.swin_transformer_v2 import SwinTransformerV2Block  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')


class Pixels(nn.Module):
    """A network whose logits are what one block makes of the pixels."""

    stride = 1

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, image_NCHW):
        tokens = image_NCHW.flatten(2).transpose(1, 2)
        return self.block(tokens).transpose(1, 2).reshape_as(image_NCHW)


def frames(channels, classes, size=(2, 3), count=3, seed=21):
    """Return batches of 2 and 1 images, some of their pixels without a label."""
    generator = torch.Generator().manual_seed(seed)
    image_NCHW = torch.randn(count, channels, *size, generator=generator)
    target_NHW = torch.randint(0, classes, (count, *size), generator=generator).to(torch.uint8)
    target_NHW[0, 0, :2] = 255
    return [(image_NCHW[:2], target_NHW[:2]), (image_NCHW[2:], target_NHW[2:])]


def spread(network, seed=22, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.copy_(size * torch.randn(parameter.shape, generator=generator))
    return network


def test_norms_of_a_head_by_hand():
    attention = Attention(4, 2, qkv_bias=True)
    attention.qkv.weight.data.fill_(1)
    attention.proj.weight.data.fill_(-1)
    for part in range(3):  # rows 2 and 3 of queries, keys and values are head 1's
        attention.qkv.weight.data[4 * part + 2:4 * part + 4] *= 2
    attention.proj.weight.data[:, 2:] *= 3
    network = Pixels(attention)
    blocks = attention_blocks(network)
    # Three times 2 rows of 4 and 2 columns of 4: 24 and 8 weights.
    l1 = head_scores(network, blocks, 'l1', ())['block']
    assert l1.tolist() == [24 + 8, 2 * 24 + 3 * 8]
    l2 = head_scores(network, blocks, 'l2', ())['block']
    assert l2.tolist() == pytest.approx([(24 + 8) ** 0.5, (4 * 24 + 9 * 8) ** 0.5])


def test_norms_find_the_head_in_every_layout():
    for name, head, weights in (('segformer_b0', 3, 4 * 32 * 256), ('token_pyramid', 2, 96 * 208)):
        network = build_model(ModelConfig(name=name), 3, InputConfig(height=64, width=64))
        block = attention_blocks(network)[-1]
        for layer in network.get_submodule(block.name).modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.weight.data.zero_()
        joint = network.get_submodule(block.project)
        width = block.value_dim
        joint.weight.data[:, head * width:(head + 1) * width] = 1
        if name == 'segformer_b0':
            attention = network.get_submodule(block.name)
            attention.q.weight.data[96:128] = attention.kv.weight.data[96:128] = 1
            attention.kv.weight.data[256 + 96:256 + 128] = 1
        else:
            network.get_submodule(f'{block.name}.query_key_value.0').weight.data[128:192] = 1
        scores = head_scores(network, [block], 'l1', ())[block.name]
        assert scores.tolist() == [weights if h == head else 0 for h in range(block.heads)]


def test_norms_of_a_hidden_unit_by_hand():
    mlp = Mlp(2, 3)
    mlp.fc1.weight.data = torch.tensor([[1.0, -2], [0, 1], [2, 2]])
    mlp.fc2.weight.data = torch.tensor([[2.0, 0, 1], [0, 0, -4]])
    network = Pixels(mlp)
    blocks = mlp_blocks(network)
    assert hidden_scores(network, blocks, 'l1', ())['block'].tolist() == [5, 1, 9]
    assert hidden_scores(network, blocks, 'l2', ())['block'].tolist() == [3, 1, 5]


def test_taylor_of_hidden_units_by_numpy():
    network = spread(Pixels(Mlp(3, 5, act_layer=nn.ReLU)))
    batches = frames(3, 3)
    got = hidden_scores(network, mlp_blocks(network), 'taylor', batches)['block']
    first, second = (getattr(network.block, name) for name in ('fc1', 'fc2'))
    wanted = np.zeros(5)
    for image_CHW, target_HW in ((i, t) for batch in batches for i, t in zip(*batch)):
        x = image_CHW.numpy().reshape(3, -1).T
        y = target_HW.numpy().ravel()
        hidden = np.maximum(x @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
        logits = hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()
        slope = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        known = y != 255
        slope[known, y[known]] -= 1
        slope = slope * known[:, None] / known.sum()
        wanted += np.abs((hidden * (slope @ second.weight.detach().numpy())).sum(0)) / 3
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5)


def loss_of(network, image_CHW, target_HW):
    logits = nn.functional.interpolate(network(image_CHW[None]), size=target_HW.shape,
                                       mode='bilinear', align_corners=False)
    return nn.functional.cross_entropy(logits, target_HW[None].long(), ignore_index=255).item()


class Windows(nn.Module):
    """A network of one block of Swin v2, its windows shifted."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.block = SwinTransformerV2Block(8, (8, 8), 4, window_size=4, shift_size=2)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, image_NCHW):
        x_NHWC = self.block(self.stem(image_NCHW).permute(0, 2, 3, 1))
        return self.head(x_NHWC.permute(0, 3, 1, 2))


@pytest.mark.parametrize('name, index', [
    ('upernet_mobilevit_s', 0), ('swin', 0), ('segformer_b0', 4), ('token_pyramid', 3)])
def test_taylor_of_heads_by_finite_differences(name, index):
    """Windows and patches of two images stand in one row; each image has its own sum."""
    torch.manual_seed(23)
    size = InputConfig(height=64, width=64)
    network = Windows() if name == 'swin' else build_model(ModelConfig(name=name), 4, size)
    network.double().eval()
    for parameter in network.parameters():  # else Swin's blocks start as nothing
        parameter.data += 0.05 * torch.randn_like(parameter)
    block = attention_blocks(network)[index]
    image_NCHW, target_NHW = frames(3, 4, (64, 64))[0]
    image_NCHW = image_NCHW.double()
    network.requires_grad_(False)  # a frozen network has scores as well
    scores = head_scores(network, [block], 'taylor', [(image_NCHW, target_NHW)])[block.name]
    weight = network.get_submodule(block.project).weight.data
    head, step, slopes = block.heads - 1, 1e-4, []
    columns = slice(head * block.value_dim, (head + 1) * block.value_dim)
    for image_CHW, target_HW in zip(image_NCHW, target_NHW):
        losses = []
        for factor in (1 + step, (1 - step) / (1 + step), 1 / (1 - step)):
            weight[:, columns] *= factor
            losses.append(loss_of(network, image_CHW, target_HW))
        slopes.append(abs(losses[0] - losses[1]) / (2 * step))
    assert min(slopes) > 1e-6
    assert scores[head].item() == pytest.approx(sum(slopes) / 2, rel=1e-4)


def test_batches_do_not_change_taylor():
    network = spread(Pixels(Attention(6, 3, qkv_bias=True)))
    blocks = attention_blocks(network)
    batches = frames(6, 6)
    joint = [tuple(torch.cat(parts) for parts in zip(*batches))]
    for criterion in ('taylor', 'attention'):
        torch.testing.assert_close(head_scores(network, blocks, criterion, batches)['block'],
                                   head_scores(network, blocks, criterion, joint)['block'])


@pytest.mark.parametrize('build', [lambda: Pixels(Attention(6, 3, qkv_bias=True)),
                                   lambda: nn.Sequential(TokenBlock(6))])
def test_the_contribution_is_the_share_of_the_map(build):
    network = spread(build()).eval()
    block, = attention_blocks(network)
    batches = frames(6, 6)
    got = head_scores(network, [block], 'attention', batches)[block.name]
    layer = network.get_submodule(block.project)
    if layer.bias is not None:
        layer.bias.data.zero_()
    whole, seen = layer.weight.data.clone(), []
    layer.register_forward_hook(lambda _m, _i, output: seen.append(output.detach().numpy()))

    def mean_norm(weight):
        layer.weight.data.copy_(weight)
        seen.clear()
        for image_NCHW, _ in batches:
            network(image_NCHW)
        axis = 1 if isinstance(layer, nn.Conv2d) else 2
        return np.concatenate([np.sqrt((x ** 2).sum(axis)).ravel() for x in seen]).mean()

    wanted = []
    for head in range(block.heads):
        alone = torch.zeros_like(whole)
        columns = slice(head * block.value_dim, (head + 1) * block.value_dim)
        alone[:, columns] = whole[:, columns]
        wanted.append(mean_norm(alone) / mean_norm(whole))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5)


def test_two_heads_of_opposite_sign_contribute_to_a_map_that_is_almost_flat():
    """A head's contribution may exceed one: heads may cancel each other."""
    attention = Attention(2, 2, qkv_bias=True)
    for parameter in attention.parameters():
        parameter.data.zero_()
    attention.qkv.bias.data[4:] = torch.tensor([3.0, 2.0])  # what the heads give everywhere
    attention.proj.weight.data = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    network = Pixels(attention)
    scores = head_scores(network, attention_blocks(network), 'attention', frames(2, 2))
    assert scores['block'].tolist() == pytest.approx([3, 2])


@pytest.mark.parametrize('criterion', HEAD_CRITERIA)
def test_the_head_that_matters_is_the_one_that_is_kept(criterion):
    torch.manual_seed(24)
    network = build_model(ModelConfig(name='token_pyramid'), 4, InputConfig(height=64, width=64))
    blocks = attention_blocks(network)
    for index, block in enumerate(blocks):
        weight = network.get_submodule(block.project).weight.data
        for head in range(block.heads):
            weight[:, 32 * head:32 * (head + 1)] *= 10 if head == index else 1e-3
    network.train()
    network.head.eval()
    scores = head_scores(network, blocks, criterion, frames(3, 4, (64, 64)))
    assert [best(scores[block.name], 1) for block in blocks] == [[0], [1], [2], [3]]
    assert network.training and network.attention.training and not network.head.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.get_submodule(blocks[0].project)._forward_pre_hooks


@pytest.mark.parametrize('criterion', HIDDEN_CRITERIA)
def test_the_unit_that_matters_is_the_one_that_is_kept(criterion):
    torch.manual_seed(25)
    network = build_model(ModelConfig(name='token_pyramid'), 4, InputConfig(height=64, width=64))
    block = mlp_blocks(network)[2]
    scale = torch.full((block.hidden,), 1e-4)
    scale[[7, 300]] = 1
    network.get_submodule(block.project).weight.data *= scale[:, None, None]
    network.get_submodule(block.expand).weight.data[[7, 300]] *= 30
    network.get_submodule(block.between[1]).bias.data[[7, 300]] = 3  # in the middle of ReLU6
    scores = hidden_scores(network, [block], criterion, frames(3, 4, (64, 64)))[block.name]
    assert scores.shape == (block.hidden,)
    assert best(scores, 2) == [7, 300]


def test_images_without_a_label_count_nothing():
    network = spread(Pixels(Attention(6, 3)))
    (image_NCHW, target_NHW), _ = frames(6, 6)
    unlabelled = (image_NCHW, torch.full_like(target_NHW, 255))
    scores = head_scores(network, attention_blocks(network), 'taylor', [unlabelled])
    assert scores['block'].tolist() == [0, 0, 0]


def test_the_best_are_in_rising_order_and_the_first_of_equals():
    assert best(torch.tensor([0.1, 5.0, 3.0, 4.0]), 2) == [1, 3]
    assert best(torch.tensor([1.0, 2.0, 1.0, 1.0]), 3) == [0, 1, 2]
    assert best(torch.tensor([1.0, 2.0]), 2) == [0, 1]
    for keep in (0, 3):
        with pytest.raises(ConfigError, match='keep 1 to 2'):
            best(torch.tensor([1.0, 2.0]), keep)


def test_what_cannot_be_scored_is_refused():
    network = Pixels(Attention(6, 3))
    blocks = attention_blocks(network)
    with pytest.raises(ConfigError, match='expected one of l1, l2, taylor, attention, got'):
        head_scores(network, blocks, 'lamp', frames(6, 6))
    with pytest.raises(ConfigError, match='expected one of l1, l2, taylor, got'):
        hidden_scores(network, mlp_blocks(network), 'attention', frames(6, 6))
    for criterion in ('taylor', 'attention'):
        with pytest.raises(ConfigError, match='labelled images, got none'):
            head_scores(network, blocks, criterion, ())
