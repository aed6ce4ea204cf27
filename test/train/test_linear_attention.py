# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of linear cost: the numbers of its quadratic form, rebuilt, exported, refused."""
from __future__ import annotations

import copy

from evit_seg.core.errors import ConfigError
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='surgery needs torch')
vision = pytest.importorskip('timm.models.vision_transformer', reason='attention of timm')
mix = pytest.importorskip('segmentation_models_pytorch.encoders.mix_transformer',
                          reason='attention of SegFormer')

from offline_train.compression.ranks import plan_attention  # noqa: E402, I100
from offline_train.config import InputConfig, ModelConfig  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, parse_cuts  # noqa: E402
from offline_train.surgery.linear_attention import linear_attention  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')


def quadratic(query, key, value):
    """Return the same attention with all its weights written out: (N, heads, T, d), numpy."""
    def positive(x):
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    weights = positive(query) @ positive(key).swapaxes(2, 3)  # (N, heads, queries, keys)
    return (weights / weights.sum(axis=3, keepdims=True)) @ value


def apart(tokens, layer, parts, heads):
    """Return a projection of tokens as `parts` arrays (N, heads, T, d), float64."""
    joint = tokens @ layer.weight.detach().double().numpy().T
    if layer.bias is not None:
        joint = joint + layer.bias.detach().double().numpy()
    batch, count, width = joint.shape
    return joint.reshape(batch, count, parts, heads, width // parts // heads).transpose(
        2, 0, 3, 1, 4)


def together(attended, proj):
    batch, heads, count, width = attended.shape
    joined = attended.transpose(0, 2, 1, 3).reshape(batch, count, heads * width)
    return joined @ proj.weight.detach().double().numpy().T + proj.bias.detach().double().numpy()


def test_it_is_the_quadratic_form_with_the_same_weights():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 3, count, width, generator=generator).double()
                         for count, width in ((11, 5), (7, 5), (7, 6)))
    got = linear_attention(query, key, value)
    assert got.shape == (2, 3, 11, 6)
    np.testing.assert_allclose(got.numpy(), quadratic(*(x.numpy() for x in (query, key, value))),
                               rtol=1e-12)


def test_half_precision_holds_thousands_of_keys():
    generator = torch.Generator().manual_seed(2)
    query, key, value = (20 + torch.randn(1, 1, 4096, 4, generator=generator) for _ in range(3))
    got = linear_attention(query.half(), key.half(), value.half())
    np.testing.assert_allclose(got.float().numpy(), linear_attention(query, key, value).numpy(),
                               rtol=0.01)


@pytest.mark.parametrize('heads', [[], ['heads attn 1,2']])
def test_mobilevits_keeps_its_parameters_and_computes_the_linear_form(heads):
    torch.manual_seed(3)
    network = nn.ModuleDict({'attn': vision.Attention(24, 3, qkv_bias=True)}).eval()
    apply_cuts(network, parse_cuts(heads))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    apply_cuts(network, parse_cuts(['linear attn']))
    assert list(network.state_dict()) == list(before)
    network.load_state_dict(before, strict=True)
    attn, tokens = network['attn'], torch.randn(2, 10, 24)
    expected = together(quadratic(*apart(tokens.double().numpy(), attn.qkv, 3,
                                         2 if heads else 3)), attn.proj)
    np.testing.assert_allclose(attn(tokens, attn_mask=None, is_causal=False).detach().numpy(),
                               expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match='expected no mask'):
        attn(tokens, attn_mask=torch.ones(10, 10))


@pytest.mark.parametrize('heads', [[], ['heads attn 0,3']])
@pytest.mark.parametrize('ratio', [1, 2])
def test_segformers_keeps_its_parameters_and_its_fewer_keys(ratio, heads):
    torch.manual_seed(4)
    network = nn.ModuleDict({'attn': mix.Attention(32, 4, qkv_bias=True, sr_ratio=ratio)}).eval()
    apply_cuts(network, parse_cuts(heads))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    apply_cuts(network, parse_cuts(['linear attn']))
    assert set(network.state_dict()) == set(before)
    network.load_state_dict(before, strict=True)
    attn, tokens, count = network['attn'], torch.randn(2, 4 * 6, 32), 2 if heads else 4
    fewer = tokens
    if ratio > 1:
        with torch.no_grad():
            grid = attn.sr(tokens.reshape(2, 4, 6, 32).permute(0, 3, 1, 2))
            fewer = attn.norm(grid.flatten(2).permute(0, 2, 1))
        assert fewer.shape == (2, 6, 32)
    query, = apart(tokens.double().numpy(), attn.q, 1, count)
    expected = together(quadratic(query, *apart(fewer.double().numpy(), attn.kv, 2, count)),
                        attn.proj)
    np.testing.assert_allclose(attn(tokens, 4, 6).detach().numpy(), expected, rtol=1e-4,
                               atol=1e-6)


def test_projections_may_be_factors():
    torch.manual_seed(5)
    lines = ['linear attn', 'rank attn.qkv 8', 'rank attn.proj 8']
    network = nn.ModuleDict({'attn': vision.Attention(48, 3, qkv_bias=True)}).eval()
    other = copy.deepcopy(network)
    apply_cuts(network, parse_cuts(lines))
    apply_cuts(other, parse_cuts([*lines[1:], lines[0]]))  # in the other order: the same
    tokens = torch.randn(2, 10, 48)
    assert torch.equal(network['attn'](tokens), other['attn'](tokens))


def test_attention_that_gains_nothing_or_cannot_is_refused_with_the_reason():
    swin = pytest.importorskip('timm.models.swin_transformer_v2')
    pyramid = pytest.importorskip('offline_train.models.token_pyramid')
    network = nn.ModuleDict({
        'swin': swin.WindowAttention(32, (4, 4), 2), 'token': pyramid.TokenBlock(16),
        'norm': vision.Attention(32, 2, qk_norm=True, norm_layer=nn.LayerNorm),
        'mlp': nn.Linear(3, 3)})
    for line, message in (
            ('linear swin', 'WindowAttention stays as it is: the 64 tokens of a window'),
            ('linear token', 'TokenBlock stays as it is: its tokens lie at stride 64'),
            ('linear norm', 'has q_norm, k_norm, which has no linear form'),
            ('linear mlp', 'expected attention with qkv .*got a Linear')):
        with pytest.raises(ConfigError, match=message):
            apply_cuts(network, parse_cuts([line]))


INPUT = InputConfig(height=256, width=192)


@pytest.fixture(scope='module')
def mobilevit():
    from offline_train.deployed import plain_attention
    with plain_attention():
        return build_model(ModelConfig(name='upernet_mobilevit_s'), 14, INPUT).eval()


def test_only_blocks_with_more_tokens_than_channels_become_linear(mobilevit):
    plans = plan_attention(mobilevit, (256, 192))
    # Strides 8, 16, 32; each of four patches has a quarter of the positions as tokens.
    assert [(p.queries, p.keys, p.head_dim) for p in plans] == \
        [(192, 192, 36)] * 2 + [(48, 48, 48)] * 4 + [(12, 12, 60)] * 3
    assert [not p.reason for p in plans] == [True] * 2 + [False] * 7
    assert plans[2].reason == 'no fewer products: 48 queries and 48 keys of 48 channels'


def test_the_network_is_rebuilt_from_its_lines_and_exports_at_opset_13(mobilevit):
    onnxruntime = pytest.importorskip('onnxruntime', reason='the graph is run')
    pytest.importorskip('onnx', reason='export needs onnx')
    from offline_train.deployed import Deployed, export_onnx, plain_attention
    lines = [str(p.cut) for p in plan_attention(mobilevit, (256, 192)) if not p.reason]
    network = copy.deepcopy(mobilevit)
    apply_cuts(network, parse_cuts(lines))
    with plain_attention():
        fresh = build_model(ModelConfig(name='upernet_mobilevit_s', cuts=tuple(lines)), 14, INPUT)
    fresh.load_state_dict(network.state_dict(), strict=True)
    small = InputConfig(height=64, width=64)
    deployed = Deployed(fresh, small).eval()
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected, softmax = deployed(image), Deployed(mobilevit, small)(image)
    session = onnxruntime.InferenceSession(export_onnx(deployed, small, 13))
    got, = session.run(None, {'image': image.numpy()})
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
    assert float((expected - softmax).abs().max()) > 1e-3  # it does compute something else
