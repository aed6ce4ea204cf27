# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Zeros where cuts would be: the fraction they say, and that a cut network answers the same."""
from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.compression.filters import prune_filters  # noqa: E402
from offline_train.compression.masks import zero_instead, zero_weights  # noqa: E402
from offline_train.models.bilateral import BilateralNet  # noqa: E402
from offline_train.models.zoo import build_model  # noqa: E402
from offline_train.surgery.cuts import Cut  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')


def lively(network):
    """Give BatchNorm statistics and scales as after training: zeros must be cut there too."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def build(name):
    torch.manual_seed(2)
    if name == 'bilateral':
        return lively(BilateralNet(14, (16, 16, 24, 24, 32)))
    pytest.importorskip('timm', reason='a backbone of timm')
    pytest.importorskip('segmentation_models_pytorch', reason='its decoder')
    return lively(build_model(name, 14, image_size=64))


@pytest.mark.parametrize('name', ['bilateral', 'upernet_mobilevit_s', 'token_pyramid'])
@torch.no_grad()
def test_cut_and_zeroed_answer_the_same(name):
    zeroed = build(name)
    cut = copy.deepcopy(zeroed)
    cuts = prune_filters(cut, torch.zeros(1, 3, 64, 64), 0.4, 'l1', norms='none')
    image = torch.randn(1, 3, 64, 64)
    whole = zeroed(image)
    zero_instead(zeroed, cuts)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in zeroed.parameters())
    torch.testing.assert_close(cut(image), zeroed(image), rtol=1e-4,
                               atol=1e-4 * float(whole.abs().max()))
    assert not torch.allclose(cut(image), whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


@torch.no_grad()
def test_behind_a_normalised_map_zeroed_means_normalised_over_what_stays():
    zeroed = build('upernet_mobilevit_s')
    cut = copy.deepcopy(zeroed)
    cuts = prune_filters(cut, torch.zeros(1, 3, 64, 64), 0.4, 'l1')
    image = torch.randn(1, 3, 64, 64)
    zero_instead(zeroed, cuts)
    plain = zeroed(image)
    kept = {c.at: list(c.numbers) for c in cuts if c.at.startswith('decoder.feature_norms.')}
    assert len(kept) == 4
    for name, channels in kept.items():
        norm = zeroed.get_submodule(name)
        norm.forward = normalised_over(channels, norm.weight, norm.bias, norm.eps)
    assert torch.allclose(cut(image), zeroed(image), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(cut(image), plain, rtol=1e-2, atol=1e-2)


def normalised_over(channels, weight, bias, eps):
    """Return a LayerNorm of maps that sees only these channels, and leaves the others zero."""
    def forward(x_NCHW):
        seen = x_NCHW[:, channels]
        spread = seen - seen.mean(1, keepdim=True)
        scaled = spread / (seen.var(1, unbiased=False, keepdim=True) + eps).sqrt()
        out = torch.zeros_like(x_NCHW)
        out[:, channels] = scaled * weight[channels, None, None] + bias[channels, None, None]
        return out
    return forward


def weights(network):
    return [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_unstructured_takes_the_smallest_of_all():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.arange(1., 7.).view(2, 3, 1, 1))
        network[1].weight.copy_(torch.tensor([[0.5, -0.1], [2.5, -9.]]))
    assert zero_weights(network, 'unstructured', 0.4, 14) == pytest.approx(0.4)
    assert network[0].weight.flatten().tolist() == [0, 0, 3, 4, 5, 6]  # 1, 2 and
    assert network[1].weight.flatten().tolist() == [0, 0, 2.5, -9]  # 0.5, 0.1 are the least


@pytest.mark.parametrize(('kind', 'gone'), [('filter', (1, slice(None))),
                                            ('channel', (slice(None), 2))])
def test_slices_of_a_convolution_go_by_l1(kind, gone):
    layer = nn.Conv2d(4, 2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3., 4., -1., 5.], [2., 2., 1., -2.]])[..., None, None])
    expected = layer.weight.detach().clone()
    expected[gone] = 0
    sparsity = 0.5 if kind == 'filter' else 0.25
    part = zero_weights(nn.Sequential(layer), kind, sparsity, 14)
    assert torch.equal(layer.weight, expected)
    assert part == pytest.approx(sparsity)
    assert (layer.bias == 0).tolist() == [False, kind == 'filter']


def test_linear_rows_leave_convolutions_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(4) * torch.tensor([4., 1., 3., 2.])[:, None])
    before = network[0].weight.clone()
    zero_weights(network, 'linear', 0.5, 14)
    assert network[1].weight.abs().sum(1).tolist() == [4, 0, 3, 0]
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize('kind', ['filter', 'channel'])
def test_image_and_classes_are_left_alone(kind):
    network = build('bilateral')
    first, last = network.stem[0][0].weight.clone(), network.head.weight.clone()
    zero_weights(network, kind, 0.5, 14)
    if kind == 'channel':
        assert torch.equal(network.stem[0][0].weight, first)
    else:
        assert torch.equal(network.head.weight, last)
        assert (network.stem[0][0].weight.flatten(1).abs().sum(1) == 0).sum() == 8


def test_no_sparsity_changes_nothing():
    network = build('bilateral')
    before = [w.clone() for w in weights(network)]
    assert zero_weights(network, 'filter', 0.0, 14) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(network), strict=True))


@pytest.mark.parametrize('sparsity', [-0.1, 1.0])
def test_sparsity_out_of_range_is_an_error(sparsity):
    with pytest.raises(ConfigError, match='not including, 1'):
        zero_weights(nn.Conv2d(1, 1, 1), 'filter', sparsity, 14)


def test_only_slices_can_be_zeroed_instead():
    with pytest.raises(ConfigError, match='out and in cuts'):
        zero_instead(nn.Sequential(nn.Conv2d(1, 1, 1)), [Cut('drop', '0')])
