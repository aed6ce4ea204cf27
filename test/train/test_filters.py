# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which channels go together, which of them go, and that a cut is what Torch-Pruning makes."""
from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.compression.channel_groups import (  # noqa: E402
    find_groups,
    group_cuts,
    kept_count,
)
from offline_train.compression.filters import prune_filters  # noqa: E402
from offline_train.compression.importance import choose_units, group_scores  # noqa: E402
from offline_train.compression.latency_ratios import Choice, pick, prune_to_latency  # noqa: E402
from offline_train.config import InputConfig  # noqa: E402
from offline_train.models.bilateral import BilateralNet, ConvBn  # noqa: E402
from offline_train.models.zoo import build_model  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, parse_cuts  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope='module')
def bilateral():
    torch.manual_seed(0)
    return BilateralNet(14, (16, 16, 24, 24, 32)).eval()


class Chain(nn.Module):
    """Image -> 16 channels -> 24 channels -> 5 classes, 24 channels of two parts."""

    def __init__(self):
        super().__init__()
        self.first = ConvBn(3, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left = nn.Conv2d(16, 16, 1)
        self.right = nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x_NCHW):
        x_NCHW = self.depthwise(self.first(x_NCHW))
        return self.head(torch.cat([self.left(x_NCHW), self.right(x_NCHW)], dim=1))


def test_groups_follow_batch_norm_depthwise_and_concatenation():
    groups = {group.name: group for group in find_groups(Chain().eval(), IMAGE)}
    assert {name: len(group) for name, group in groups.items()} == \
        {'first.0': 16, 'left': 16, 'right': 8}
    first, left = groups['first.0'], groups['left']
    assert first.layers == (('in', 'left'), ('in', 'right'), ('out', 'depthwise'),
                            ('out', 'first.0'), ('out', 'first.1'))
    assert left.layers == (('in', 'head'), ('out', 'left'))


def test_concatenated_channels_are_cut_at_their_own_places():
    network = Chain().eval()
    right = next(g for g in find_groups(network, IMAGE) if g.name == 'right')
    assert {str(cut) for cut in group_cuts(network, [(right, [0, 3])])} == \
        {'out right 0,3', 'in head 0-16,19'}


def test_residual_sums_go_together(bilateral):
    group = next(g for g in find_groups(bilateral, IMAGE) if ('out', 'stem.1.0') in g.layers)
    makers = {layer for kind, layer in group.layers if kind == 'out' and layer.endswith('0')}
    assert makers == {'stem.1.0', 'stem.2.second.0', 'detail.second.0', 'reduce8.0'}


class Tokens(nn.Module):
    """Image -> 16 channels, normalised over them -> a residual linear layer -> 5 classes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 1)
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x_NCHW):
        x_NHWC = self.embed(x_NCHW).permute(0, 2, 3, 1)
        return self.head(x_NHWC + self.mix(self.norm(x_NHWC))).permute(0, 3, 1, 2)


def test_the_width_of_tokens_is_cut_only_when_asked_for():
    network = Tokens().eval()
    assert find_groups(network, IMAGE) == []
    (group,) = find_groups(network, IMAGE, norms='tokens')
    assert len(group) == 16 and group.layers == (
        ('in', 'head'), ('in', 'mix'), ('out', 'embed'), ('out', 'mix'), ('out', 'norm'))
    assert all(len({channel for _, _, channel in unit}) == 1 for unit in group.units)
    with torch.no_grad():
        network.embed.weight[8:] *= 100
    cuts = prune_filters(network, IMAGE, 0.5, 'l1', norms='tokens')
    assert {str(cut).split()[2] for cut in cuts} == {'8-15'} and len(cuts) == 5
    rebuilt = Tokens().eval()
    apply_cuts(rebuilt, cuts)
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert rebuilt(IMAGE).shape == (1, 5, 32, 32) and network.norm.normalized_shape == (8,)


def test_filters_whose_map_is_normalised_over_its_channels_are_cut_without_being_asked():
    """Four groups of the backbone feed maps that the decoder of UPerNet normalises so."""
    network = build_model('upernet_mobilevit_s', 14, width=16).eval()
    image = torch.zeros(1, 3, 64, 64)
    groups = {g.name: g for g in find_groups(network, image)}
    residual = groups['backbone.stages_1.0.conv3_1x1.conv']
    assert len(residual) == 64 and {
        ('out', 'backbone.stages_1.2.conv3_1x1.conv'),
        ('in', 'backbone.stages_2.0.conv1_1x1.conv'),
        ('out', 'decoder.feature_norms.0'),
        ('in', 'decoder.fpn_lateral_blocks.2.conv_norm_relu.0')} <= set(residual.layers)
    exact = {g.name for g in find_groups(network, image, norms='none')}
    assert set(groups) - exact == {
        'backbone.stages_1.0.conv3_1x1.conv', 'backbone.stages_2.1.conv_fusion.conv',
        'backbone.stages_3.1.conv_fusion.conv', 'backbone.final_conv.conv'}
    assert len(groups['backbone.final_conv.conv']) == 640
    tokens = {len(g) for g in find_groups(network, image, norms='tokens')} - {
        len(g) for g in groups.values()}
    assert tokens == {144, 192, 240}  # of the transformers: only when asked for
    cuts = prune_filters(network, image, 0.25, 'l1')
    rebuilt = build_model('upernet_mobilevit_s', 14, width=16).eval()
    apply_cuts(rebuilt, cuts)
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert network.decoder.feature_norms[0].normalized_shape == (48,)
    assert torch.equal(rebuilt(image), network(image))


def test_nobody_cuts_the_image_or_the_classes(bilateral):
    sides = {side for group in find_groups(bilateral, IMAGE) for side in group.layers}
    assert ('in', 'stem.0.0') not in sides
    assert ('out', 'head') not in sides and ('out', 'auxiliary') not in sides
    assert ('in', 'head') in sides and ('in', 'auxiliary') in sides


def test_a_cut_is_what_torch_pruning_makes(bilateral):
    tp = pytest.importorskip('torch_pruning', reason='compares with torch-pruning')
    ours, theirs = copy.deepcopy(bilateral), copy.deepcopy(bilateral)
    cuts = prune_filters(ours, IMAGE, 0.4, 'l1')
    wanted = {cut.at: cut.numbers for cut in cuts if cut.kind == 'out'}
    whole = {name: m.out_channels for name, m in bilateral.named_modules()
             if isinstance(m, nn.Conv2d)}
    roots = {group.name for group in find_groups(bilateral, IMAGE)} & set(wanted)
    graph = tp.DependencyGraph().build_dependency(theirs, IMAGE, verbose=False)
    for name in roots:
        gone = sorted(set(range(whole[name])) - set(wanted[name]))
        graph.get_pruning_group(theirs.get_submodule(name), tp.prune_conv_out_channels,
                                gone).prune()
    skipped = 'auxiliary'  # Torch-Pruning sees the network as it is evaluated, without it
    expected = {k: v for k, v in theirs.state_dict().items() if not k.startswith(skipped)}
    got = {k: v for k, v in ours.state_dict().items() if not k.startswith(skipped)}
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in expected.items()}
    assert all(torch.equal(got[k], expected[k]) for k in expected)


@pytest.mark.parametrize(('size', 'ratio', 'kept'), [
    (48, 0.25, 32), (64, 0.25, 48), (16, 0.25, 8), (16, 0.2, 16), (8, 0.9, 8), (24, 0.99, 8),
    (20, 0.1, 16), (37, 0.0, 37)])
def test_kept_channels_are_the_nearest_multiple_of_8(size, ratio, kept):
    assert kept_count(size, ratio) == kept


@pytest.mark.parametrize('criterion', ['l1', 'l2', 'taylor', 'lamp'])
def test_the_weakest_channels_go(criterion):
    """Half of a layer and of what listens to it is made a thousandth."""
    torch.manual_seed(1)
    network = Chain().eval()
    weak = [0, 3, 5, 6, 9, 11, 12, 15]
    with torch.no_grad():
        for weight in (network.left.weight, network.head.weight[:, :16].transpose(0, 1)):
            weight[weak] *= 1e-3
    image, target = torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    prune_cuts = prune_filters(network, IMAGE, 0.5, criterion, [(image, target)])
    left = next(c for c in prune_cuts if (c.kind, c.at) == ('out', 'left'))
    assert set(left.numbers) == set(range(16)) - set(weak)


def test_scores_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1., -2., 3.], [0., 1., 0.]])[..., None, None])
        network[1].weight.copy_(torch.tensor([[4., -1.]])[..., None, None])
    groups = find_groups(network, IMAGE)
    assert len(groups) == 1
    assert group_scores(network, groups, 'l1')[0].tolist() == [10 / 6, 2 / 6]
    assert group_scores(network, groups, 'l2')[0].tolist() == [30 / 16, 2 / 16]
    assert group_scores(network, groups, 'lamp')[0].tolist() == [1.0, 2 / 32]
    image, target = torch.ones(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)
    # One class: its probability is 1 whatever the weights, so that no weight matters.
    assert group_scores(network, groups, 'taylor', [(image, target)])[0].tolist() == [0.0, 0.0]


def test_taylor_is_weight_times_gradient():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)).eval()
    groups = find_groups(network, IMAGE)
    image = torch.randn(1, 3, 4, 4)
    target = torch.randint(0, 2, (1, 4, 4)).byte()
    target[0, 0] = 255
    labelled = (target != 255)
    loss = nn.functional.cross_entropy(
        network(image).movedim(1, -1)[labelled], target[labelled].long())
    loss.backward()
    parts = [(w.grad * w).abs().detach() for w in (network[0].weight, network[1].weight)]
    expected = parts[0].sum((1, 2, 3)) + parts[1].sum((0, 2, 3))
    got = group_scores(network, groups, 'taylor', [(image, target)])[0]
    torch.testing.assert_close(got.float(), expected / expected.mean())


def test_lamp_takes_more_where_the_channels_are_uneven():
    even, uneven = torch.full((32,), 0.5), torch.linspace(0.0, 1.0, 32)
    kept = choose_units([even, uneven], 0.25, 'lamp')
    assert len(kept[0]) == 32 and len(kept[1]) == 16
    assert kept[1] == list(range(16, 32))


def test_latency_picks_the_most_saved_per_importance():
    cheap = [Choice(24, 1.0, {'a': 0.9}), Choice(16, 2.0, {'a': 0.5})]
    dear = [Choice(24, 1.0, {'b': 0.4}), Choice(16, 4.0, {'b': 0.3})]
    layer_ms = {'a': 10.0, 'b': 10.0}
    assert pick([cheap, dear], layer_ms, 25.0, 0.8) == ([-1, 0], pytest.approx(19.0))
    assert pick([cheap, dear], layer_ms, 25.0, 0.6) == ([1, 0], pytest.approx(14.0))
    assert pick([cheap, dear], layer_ms, 25.0, 0.1) == ([1, 1], pytest.approx(13.0))


def test_a_layer_between_two_groups_shrinks_by_both():
    one = [Choice(8, 1.0, {'a': 0.5})]
    assert pick([one, one], {'a': 8.0}, 10.0, 0.1) == ([0, 0], pytest.approx(4.0))


def test_latency_cuts_a_network_and_says_what_it_measured(capsys):
    network = BilateralNet(14, (16, 16, 24, 24, 32)).eval()
    before = sum(p.numel() for p in network.parameters())
    prune_to_latency(network, IMAGE, InputConfig(height=128, width=128), 0.95, 0.75, repeats=3)
    assert sum(p.numel() for p in network.parameters()) < before
    printed = capsys.readouterr().out
    assert 'predicted 0.' in printed and 'ms saved' in printed and '*' in printed


def test_an_impossible_latency_is_an_error():
    network = Chain().eval()
    network.stride = 1
    with pytest.raises(ConfigError, match=r'latency-ratio 0\.001'):
        prune_to_latency(network, IMAGE, InputConfig(height=64, width=64), 0.001, 0.5, repeats=1)


def test_nothing_left_to_cut_is_an_error():
    with pytest.raises(ConfigError, match='nothing to cut'):
        prune_filters(BilateralNet(14, (8, 8, 8, 8, 8)).eval(), IMAGE, 0.5, 'l1')


def test_unknown_criterion_is_an_error(bilateral):
    with pytest.raises(ConfigError, match="got 'attention'"):
        group_scores(bilateral, [], 'attention')


def test_a_shape_written_into_the_forward_pass_is_left_alone():
    class Stale(nn.Module):

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
            self.head = nn.Conv2d(16, 5, 1)

        def forward(self, x_NCHW):
            return self.head(self.second(self.first(x_NCHW)).view(-1, 16, *x_NCHW.shape[2:]))

    assert [g.name for g in find_groups(Stale().eval(), IMAGE)] == ['first']


def test_the_cuts_written_down_make_the_same_network(bilateral):
    one, other = copy.deepcopy(bilateral), copy.deepcopy(bilateral)
    lines = [str(cut) for cut in prune_filters(one, IMAGE, 0.4, 'l2')]
    apply_cuts(other, parse_cuts(lines))
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(one(image), other(image))
    widths = {m.out_channels for m in one.modules() if isinstance(m, nn.Conv2d)} - {14}
    assert all(width % 8 == 0 for width in widths)
