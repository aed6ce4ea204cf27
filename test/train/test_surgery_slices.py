# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Lines of cuts are read and written; kept outputs and inputs of a layer keep their numbers."""
from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.config import ModelConfig  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut, parse_cut, parse_cuts, replace_module  # noqa: E402, E501
from torch import nn  # noqa: E402

KEPT = (0, 2, 3, 5)
GONE = [1, 4]


@pytest.mark.parametrize('line, cut', [
    ('out stem.conv 0-7,9', Cut('out', 'stem.conv', (*range(8), 9))),
    ('in a.b 3', Cut('in', 'a.b', (3,))),
    ('heads attn 0,2', Cut('heads', 'attn', (0, 2))),
    ('heads attn 0-1', Cut('heads', 'attn', (0, 1))),
    ('rank fc1 48', Cut('rank', 'fc1', (48,))),
    ('drop mlp', Cut('drop', 'mlp')),
    ('linear attn', Cut('linear', 'attn')),
])
def test_a_line_is_a_cut_and_back(line, cut):
    assert parse_cut(line) == cut
    assert str(cut) == line


def test_lines_keep_their_order():
    lines = ['out a 0', 'drop b', 'in c 1-3']
    assert [str(cut) for cut in parse_cuts(lines)] == lines


@pytest.mark.parametrize('line', [
    '', 'out', 'out a', 'out a 1 2', 'out a b', 'out a 1-', 'out a 2,1', 'out a 1,1', 'out a 3-1',
    'drop a 1', 'linear a 0', 'halve a 1', 'out a -1'])
def test_a_line_that_is_no_cut_is_refused(line):
    with pytest.raises(ConfigError, match=r'model\.cuts: expected'):
        parse_cut(line)


def small_network():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6),
                            nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(),
                            nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        for tensor in (network[1].weight, network[1].bias, network[1].running_mean):
            tensor.normal_()
        network[1].running_var.uniform_(0.5, 2)
    return network.eval()


def test_cut_channels_are_as_good_as_zeroed_ones():
    whole = small_network()
    zeroed, cut = copy.deepcopy(whole), copy.deepcopy(whole)
    zeroed[4].weight.data[:, GONE] = 0
    apply_cuts(cut, [Cut('out', '0', KEPT), Cut('out', '1', KEPT), Cut('out', '2', KEPT),
                     Cut('in', '4', KEPT)])
    image_NCHW = torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(cut(image_NCHW), zeroed(image_NCHW))
    assert (zeroed(image_NCHW) - whole(image_NCHW)).abs().max() > 0.01
    assert sum(p.numel() for p in cut.parameters()) \
        == (3 * 9 + 1) * 4 + 2 * 4 + (9 + 1) * 4 + (4 + 1) * 4


def test_cut_linear_units_are_as_good_as_zeroed_ones():
    torch.manual_seed(4)
    whole = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3, bias=False))
    zeroed, cut = copy.deepcopy(whole), copy.deepcopy(whole)
    zeroed[2].weight.data[:, GONE] = 0
    apply_cuts(cut, parse_cuts(['out 0 0,2-3,5', 'in 2 0,2-3,5']))
    x = torch.randn(7, 5)
    torch.testing.assert_close(cut(x), zeroed(x))
    assert (cut[0].out_features, cut[2].in_features) == (4, 4)


def test_a_layer_norm_keeps_its_rows_and_normalises_over_them():
    norm = nn.LayerNorm(6)
    norm.weight.data, norm.bias.data = torch.arange(6.0), torch.arange(6.0) + 10
    network = nn.Sequential(norm)
    apply_cuts(network, [Cut('out', '0', KEPT)])
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    by_hand = (x - 3) / (3.5 + 1e-5) ** 0.5 * torch.tensor([0.0, 2, 3, 5]) \
        + torch.tensor([10.0, 12, 13, 15])
    torch.testing.assert_close(network(x), by_hand)


def test_frozen_weights_stay_frozen_and_the_count_of_batches_stays():
    network = small_network()
    network[0].requires_grad_(False)
    network[1].num_batches_tracked.fill_(7)
    apply_cuts(network, [Cut('out', '0', KEPT), Cut('out', '1', KEPT)])
    assert not network[0].weight.requires_grad and not network[0].bias.requires_grad
    assert network[1].weight.requires_grad
    assert int(network[1].num_batches_tracked) == 7


def test_the_second_cut_counts_what_the_first_has_left():
    network = small_network()
    rows = network[0].weight.detach().clone()
    apply_cuts(network, parse_cuts(['out 0 1-5', 'out 0 0,4']))
    torch.testing.assert_close(network[0].weight.detach(), rows[[1, 5]])


@pytest.mark.parametrize('line, reason', [
    ('out 9 0', "no module '9'"), ('out 0 6', 'has 6 of them, got index 6'),
    ('in 0 3', 'has 3 of them'), ('out 3 0', 'is a ReLU, which cannot be cut'),
    ('in 1 0', 'expected a convolution or a linear layer'), ('in 2 0', 'has 6 groups')])
def test_a_cut_that_cannot_be_is_refused(line, reason):
    with pytest.raises(ConfigError, match=reason):
        apply_cuts(small_network(), [parse_cut(line)])


def test_a_grouped_convolution_is_refused():
    network = nn.Sequential(nn.Conv2d(6, 6, 3, groups=2))
    with pytest.raises(ConfigError, match='has 2 groups; only depthwise'):
        apply_cuts(network, [Cut('out', '0', (0,))])


def test_a_module_is_replaced_where_it_is():
    network = nn.Sequential(nn.Sequential(nn.ReLU(), nn.GELU()))
    replace_module(network, '0.1', nn.Identity())
    assert [type(m).__name__ for m in network[0]] == ['ReLU', 'Identity']


def test_a_configuration_with_cuts_builds_the_cut_network():
    plain = ModelConfig(widths=(4, 4, 8, 8, 8))
    whole = build_model(plain, 3)
    name = next(n for n, m in whole.named_modules() if isinstance(m, nn.Conv2d))
    cut = build_model(ModelConfig(widths=plain.widths, cuts=(f'out {name} 0,2',)), 3)
    assert cut.get_submodule(name).weight.shape[0] == 2
    assert whole.get_submodule(name).weight.shape[0] == 4
