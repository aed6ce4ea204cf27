# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Layers in two factors: the best of their rank, chosen by energy, rebuilt, exported."""
from __future__ import annotations

from evit_seg.core.errors import ConfigError
import numpy as np
import pytest
from tiny_runs import parse, TINY, write_scenes

torch = pytest.importorskip('torch', reason='surgery needs torch')

from offline_train import low_rank, train  # noqa: E402, I100
from offline_train.compression.ranks import (  # noqa: E402
    layer_names,
    plan_layer,
    rank_for_energy,
)
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut, parse_cuts  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')


def of_rank(layer, rank):
    """Give a layer weights of a rank and return it."""
    generator = torch.Generator().manual_seed(3)
    matrix = layer.weight.detach().flatten(1)
    product = (torch.randn(matrix.shape[0], rank, generator=generator)
               @ torch.randn(rank, matrix.shape[1], generator=generator))
    layer.weight.data.copy_(product.view_as(layer.weight) / rank)
    return layer


@pytest.mark.parametrize(('layer', 'example'), [
    (nn.Linear(48, 40), (2, 5, 48)), (nn.Linear(40, 48, bias=False), (7, 40)),
    (nn.Conv2d(48, 40, 1), (2, 48, 5, 6)),
    (nn.Conv2d(40, 48, 1, stride=2, padding=1, bias=False), (2, 40, 5, 6)),
    (nn.Conv2d(40, 48, 1, padding=1), (2, 40, 5, 6))], ids=str)
def test_a_layer_of_that_rank_gives_what_it_gave(layer, example):
    network = nn.Sequential(of_rank(layer, 8)).eval()
    image = torch.randn(example)
    with torch.no_grad():
        before = network(image)
        apply_cuts(network, parse_cuts(['rank 0 8']))
        torch.testing.assert_close(network(image), before, atol=1e-4, rtol=1e-4)
    weights = sum(p.numel() for name, p in network.named_parameters() if 'weight' in name)
    assert weights == 8 * (40 + 48) and not network[0].training
    assert (network[0][1].bias is None) == (layer.bias is None) and network[0][0].bias is None


def test_the_factors_are_the_best_of_their_rank_and_of_equal_size():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(64, 40))
    whole = network[0].weight.detach().numpy().astype(np.float64)
    apply_cuts(network, [Cut('rank', '0', (16,))])
    first, second = (network[0][i].weight.detach().numpy().astype(np.float64) for i in (0, 1))
    values = np.linalg.svd(whole, compute_uv=False)
    assert np.linalg.norm(whole - second @ first) == pytest.approx(
        np.sqrt((values[16:] ** 2).sum()), rel=1e-4)  # Eckart and Young: no product is nearer
    for factor in (first, second):
        assert np.linalg.svd(factor, compute_uv=False) == pytest.approx(np.sqrt(values[:16]),
                                                                        rel=1e-4)


@pytest.mark.parametrize(('line', 'message'), [
    ('rank 0 20', 'fewer weights than one'), ('rank 0 4,6', "expected one rank .*'4,6'"),
    ('rank 1 2', 'a Conv2d of groups or of a kernel other than 1x1'),
    ('rank 2 2', 'a Conv2d of groups'), ('rank 3 2', 'got a BatchNorm2d'),
    ('rank 4 2', 'no module')])
def test_what_cannot_be_factored_is_refused(line, message):
    network = nn.Sequential(nn.Linear(40, 40), nn.Conv2d(40, 40, 3),
                            nn.Conv2d(40, 40, 1, groups=40), nn.BatchNorm2d(40))
    with pytest.raises(ConfigError, match=message):
        apply_cuts(network, parse_cuts([line]))


@pytest.mark.parametrize(('energy', 'multiple', 'rank'), [
    (0.64, 1, 1), (0.641, 1, 2), (0.8, 1, 2), (0.96, 1, 3), (0.97, 1, 4), (1.0, 1, 4),
    (0.5, 2, 2), (0.9, 2, 4), (0.5, 8, 6)])
def test_a_rank_keeps_the_energy_and_is_rounded_up(energy, multiple, rank):
    values = torch.tensor([4.0, 2.0, 2.0, 1.0, 0.0, 0.0])  # squares 16 4 4 1 of 25
    assert rank_for_energy(values, energy, multiple) == rank


@pytest.mark.parametrize('energy', [0.0, -1.0, 1.01, float('nan')])
def test_an_energy_is_a_share(energy):
    with pytest.raises(ConfigError, match='above 0 and at most 1'):
        rank_for_energy(torch.ones(3), energy)


def test_a_plan_says_what_is_kept_and_why_a_layer_is_left_alone():
    torch.manual_seed(2)
    network = nn.ModuleDict({'low': of_rank(nn.Linear(96, 64), 12), 'full': nn.Linear(64, 64),
                             'narrow': nn.Conv2d(64, 31, 1), 'kernel': nn.Conv2d(64, 64, 3)})
    assert layer_names(network, 'all') == ['low', 'full', 'narrow']
    low = plan_layer(network, 'low', 1.0)
    assert (low.rank, low.before, low.after, low.reason) == (16, 96 * 64, 16 * 160, '')
    assert low.kept == pytest.approx(1.0) and str(low.cut) == 'rank low 16'
    some = plan_layer(network, 'low', 0.5)
    values = np.linalg.svd(network['low'].weight.detach().numpy(), compute_uv=False) ** 2
    assert some.rank == 8 and some.kept == pytest.approx(values[:8].sum() / values.sum(), rel=1e-4)
    full, narrow = (plan_layer(network, name, 0.99) for name in ('full', 'narrow'))
    assert (full.rank, full.after) == (0, 64 * 64) and 'rank 56 would save nothing' in full.reason
    assert narrow.rank == 0 and 'fewer than 32 channels' in narrow.reason
    with pytest.raises(ConfigError, match='kernel: expected a linear layer'):
        plan_layer(network, 'kernel', 0.5)


def mobile_block():
    vision = pytest.importorskip('timm.models.vision_transformer', reason='a block of timm')
    torch.manual_seed(4)
    return nn.ModuleDict({'block': vision.Block(64, 4, qkv_bias=True),
                          'head': nn.Conv2d(64, 40, 1)}).eval()


def test_layers_are_chosen_by_where_they_are():
    network = mobile_block()
    assert layer_names(network, 'attention') == ['block.attn.qkv', 'block.attn.proj']
    assert layer_names(network, 'mlp') == ['block.mlp.fc1', 'block.mlp.fc2']
    assert layer_names(network, 'all') == [*layer_names(network, 'attention'),
                                           *layer_names(network, 'mlp'), 'head']
    apply_cuts(network, parse_cuts(['linear block.attn']))
    assert layer_names(network, 'attention') == ['block.attn.qkv', 'block.attn.proj']
    with pytest.raises(ConfigError, match='attention, mlp, all'):
        layer_names(network, 'heads')


def test_heads_that_were_cut_before_stay_cut():
    network = mobile_block()
    network['block'].attn.qkv = of_rank(network['block'].attn.qkv, 8)
    apply_cuts(network, parse_cuts(['heads block.attn 1,3']))
    tokens = torch.randn(2, 9, 64)
    with torch.no_grad():
        before = network['block'](tokens)
        apply_cuts(network, parse_cuts(['rank block.attn.qkv 8']))
        torch.testing.assert_close(network['block'](tokens), before, atol=1e-4, rtol=1e-4)
    assert tuple(network['block'].attn.qkv[1].weight.shape) == (96, 8)


@pytest.mark.parametrize('heads', [[], ['heads attn 0,2']])
def test_swins_joint_projection_is_called_and_keeps_its_biases(heads):
    swin = pytest.importorskip('timm.models.swin_transformer_v2', reason='Swin v2 of timm')
    torch.manual_seed(5)
    attention = swin.WindowAttention(48, (4, 4), 3).eval()
    for bias in (attention.q_bias, attention.v_bias):
        nn.init.normal_(bias)
    attention.qkv = of_rank(attention.qkv, 8)
    network = nn.ModuleDict({'attn': attention})
    apply_cuts(network, parse_cuts(heads))
    windows, mask = torch.randn(8, 16, 48), torch.randn(4, 16, 16)
    with torch.no_grad():
        before = network['attn'](windows, mask)
        apply_cuts(network, parse_cuts(['rank attn.qkv 8']))
        torch.testing.assert_close(network['attn'](windows, mask), before, atol=1e-4, rtol=1e-4)
    assert isinstance(network['attn'].qkv, nn.Sequential)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return a run of the token pyramid, which has linear layers as 1x1 convolutions."""
    root = tmp_path_factory.mktemp('low_rank')
    scenes = write_scenes(root)
    train.main(parse(train, '--out', root / 'run', *TINY[:4], *TINY[5:], 'optim.steps=1',
                     'model.name=token_pyramid', f'data.train=[{scenes}]'))
    return RunDir.open(root / 'run')


def low_rank_run(run, name, *words):
    out = run.path.parent / name
    assert low_rank.main(parse(low_rank, '--run', run.path, '--out', out, *words)) == 0
    return RunDir.open(out)


def test_the_stage_writes_a_run_that_loads_strictly_and_gives_the_same(run, capsys):
    new = low_rank_run(run, 'mlp', '--energy', 0.6, '--layers', 'mlp')
    said = capsys.readouterr().out
    cuts = parse_cuts(new.config().model.cuts)
    assert len(cuts) == 8 and {c.kind for c in cuts} == {'rank'}
    whole, cut = load_network(run, 14), load_network(new, 14)
    count = [sum(p.numel() for p in network.parameters()) for network in (whole, cut)]
    assert f'8 of 8 layers in two factors, 0 of 0 attention blocks linear; parameters {count[0]} '\
        f'-> {count[1]}' in said
    for plan_cut in cuts:
        layer = whole.get_submodule(plan_cut.at)
        line = next(line.split() for line in said.splitlines() if line.startswith(plan_cut.at))
        rank, sides = plan_cut.numbers[0], (layer.out_channels, layer.in_channels)
        values = np.linalg.svd(layer.weight.detach().flatten(1).numpy(), compute_uv=False) ** 2
        kept = f'{values[:rank].sum() / values.sum():.4f}'
        assert line == [plan_cut.at, f'{sides[0]}x{sides[1]}', str(rank), kept,
                        str(sides[0] * sides[1]), str(rank * sum(sides))]
    apply_cuts(whole, cuts)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(cut(image), whole(image), atol=1e-4, rtol=1e-4)


def test_its_bundle_flies(run):
    pytest.importorskip('onnx', reason='export needs onnx')
    from evit_seg.core.bundle import self_test
    from evit_seg.core.segmenter import Segmenter
    from offline_train.export import export
    new = low_rank_run(run, 'all', '--energy', 0.8)
    bundle = export(new, opset=13)
    segmenter = Segmenter.open(str(bundle.folder), threads=1)
    assert self_test(segmenter) == 1.0
    parameters = sum(p.numel() for p in load_network(run, 14).parameters())
    assert bundle.manifest.provenance['parameters'] < 0.9 * parameters


def test_a_stage_that_would_change_nothing_says_so(run, capsys):
    with pytest.raises(ConfigError, match='nothing would change'):
        low_rank_run(run, 'none', '--energy', 1, '--layers', 'attention', '--linear-attention')
    said = capsys.readouterr().out
    assert 'softmax stays: TokenBlock stays as it is: its tokens lie at stride 64' in said
    assert 'left alone: rank 208 would save nothing' in said
    assert not (run.path.parent / 'none').exists()
