# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Heads, hidden units and branches that are cut out are as good as zeroed ones, and gone."""
from __future__ import annotations

import collections
import copy
import functools

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
onnx = pytest.importorskip('onnx', reason='export needs onnx')
pytest.importorskip('timm', reason='the networks with heads are over backbones of timm')
pytest.importorskip('segmentation_models_pytorch', reason='the decoders are of this package')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.config import InputConfig, ModelConfig  # noqa: E402
from offline_train.deployed import Deployed, export_onnx, onnx_runner, plain_attention  # noqa: E402, E501
from offline_train.models import build_model  # noqa: E402
from offline_train.surgery.attention_forms import CutWindowAttention  # noqa: E402
from offline_train.surgery.blocks import attention_blocks, hidden_cuts, mlp_blocks  # noqa: E402
from offline_train.surgery.branches import Nothing  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut, parse_cuts, replace_module  # noqa: E402
import onnxruntime  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')

MOBILEVIT, SWIN, SEGFORMER, TOKENS = NAMES = (
    'upernet_mobilevit_s', 'upernet_swinv2_t', 'segformer_b0', 'token_pyramid')
SIZE = InputConfig(height=64, width=64)
# (channels, heads) of the blocks in order, and the hidden units per channel, from the papers.
SHAPES = {
    MOBILEVIT: ([(144, 4)] * 2 + [(192, 4)] * 4 + [(240, 4)] * 3, 2),
    SWIN: ([(96, 3)] * 2 + [(192, 6)] * 2 + [(384, 12)] * 6 + [(768, 24)] * 2, 4),
    SEGFORMER: ([(32, 1)] * 2 + [(64, 2)] * 2 + [(160, 5)] * 2 + [(256, 8)] * 2, 4),
    TOKENS: ([(208, 4)] * 4, 2)}


@functools.lru_cache(maxsize=None)
def whole(name):
    """Return a network with nothing at zero or one, in eval mode."""
    with plain_attention():
        network = build_model(ModelConfig(name=name), 14, SIZE)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for at, buffer in network.named_buffers():
            if at.endswith('running_mean'):
                buffer.normal_(0, 0.1, generator=generator)
            elif at.endswith('running_var'):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(12))


def odd(count):
    """Return every second index, beginning with 1: not the first ones, not in a row."""
    return tuple(range(1, count, 2))


def head_cuts(network):
    return [Cut('heads', block.name, odd(block.heads))
            for block in attention_blocks(network) if block.heads > 1]


def unit_cuts(network):
    return [cut for block in mlp_blocks(network)
            for cut in hidden_cuts(block, odd(block.hidden))]


def zero_columns(network, project, width, count, kept):
    weight = network.get_submodule(project).weight.data
    for index in set(range(count)) - set(kept):
        weight[:, index * width:(index + 1) * width] = 0


def assert_near(got, wanted):
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def weights_of_a_head(name, channels, heads):
    """Return how many parameters go with one head, counted by hand."""
    depth = channels // heads
    if name == TOKENS:  # a convolution to 16 + 16 + 32 channels, their norm, the projection
        return 64 * channels + 2 * 64 + 32 * channels
    if name == SWIN:  # no bias in qkv, but two apart; a scale; a row of the position MLP
        return depth * (3 * channels + 2 + channels) + 1 + 512
    return depth * (3 * (channels + 1) + channels)


def weights_of_a_unit(name, channels):
    if name == TOKENS:  # no biases, a norm, a depthwise 3x3 convolution with a bias
        return channels + 2 + 10 + channels
    return (channels + 1) + channels + (10 if name == SEGFORMER else 0)


@pytest.mark.parametrize('name', NAMES)
def test_cut_heads_are_as_good_as_zeroed_ones(name):
    zeroed, cut = copy.deepcopy(whole(name)), copy.deepcopy(whole(name))
    for block in attention_blocks(zeroed):
        if block.heads > 1:
            zero_columns(zeroed, block.project, block.value_dim, block.heads, odd(block.heads))
    apply_cuts(cut, head_cuts(cut))
    with torch.no_grad():
        wanted = zeroed(images())
        assert_near(cut(images()), wanted)
        assert (whole(name)(images()) - wanted).abs().max() > 1e-2 * wanted.abs().max()
    gone = sum((heads - max(heads // 2, 1)) * weights_of_a_head(name, channels, heads)
               for channels, heads in SHAPES[name][0])
    assert parameters(cut) == parameters(whole(name)) - gone
    assert [block.heads for block in attention_blocks(cut)] \
        == [max(heads // 2, 1) for _, heads in SHAPES[name][0]]


@pytest.mark.parametrize('name', NAMES)
def test_cut_hidden_units_are_as_good_as_zeroed_ones(name):
    zeroed, cut = copy.deepcopy(whole(name)), copy.deepcopy(whole(name))
    for block in mlp_blocks(zeroed):
        zero_columns(zeroed, block.project, 1, block.hidden, odd(block.hidden))
    apply_cuts(cut, unit_cuts(cut))
    with torch.no_grad():
        wanted = zeroed(images())
        assert_near(cut(images()), wanted)
        assert (whole(name)(images()) - wanted).abs().max() > 1e-2 * wanted.abs().max()
    shapes, ratio = SHAPES[name]
    gone = sum(ratio * channels // 2 * weights_of_a_unit(name, channels)
               for channels, _ in shapes)
    assert parameters(cut) == parameters(whole(name)) - gone
    assert [block.hidden for block in mlp_blocks(cut)] \
        == [ratio * channels // 2 for channels, _ in shapes]


@pytest.mark.parametrize('name', NAMES)
def test_heads_are_cut_again(name):
    once, again = copy.deepcopy(whole(name)), copy.deepcopy(whole(name))
    block = attention_blocks(once)[-1]  # of 4, 24, 8 and 4 heads
    apply_cuts(once, [Cut('heads', block.name, (0, 3))])
    apply_cuts(again, parse_cuts([f'heads {block.name} 0,2-3', f'heads {block.name} 0,2']))
    assert attention_blocks(again)[-1].heads == 2
    with torch.no_grad():
        torch.testing.assert_close(again(images()), once(images()), rtol=0, atol=0)
    assert {key: value.shape for key, value in again.state_dict().items()} \
        == {key: value.shape for key, value in once.state_dict().items()}


@pytest.mark.parametrize('name', NAMES)
def test_a_dropped_branch_adds_nothing(name):
    attention, mlp = attention_blocks(whole(name))[::2], mlp_blocks(whole(name))[1::2]
    zeroed, cut = copy.deepcopy(whole(name)), copy.deepcopy(whole(name))
    for block in (*attention, *mlp):
        zeroed.get_submodule(block.branch).register_forward_hook(
            lambda _module, _inputs, output: torch.zeros_like(output))
    apply_cuts(cut, [Cut('drop', block.name) for block in (*attention, *mlp)])
    with torch.no_grad():
        wanted = zeroed(images())
        assert_near(cut(images()), wanted)
        assert (whole(name)(images()) - wanted).abs().max() > 1e-2 * wanted.abs().max()
    assert attention_blocks(cut) == attention_blocks(whole(name))[1::2]
    assert mlp_blocks(cut) == mlp_blocks(whole(name))[::2]
    prefixes = tuple(f'{block.branch}.' for block in (*attention, *mlp))
    assert not [key for key in cut.state_dict() if key.startswith(prefixes)]
    cut.train()(images())  # stochastic depth asks for the shape of what is added


def everything(network, name):
    """Return cuts of all kinds; of Swin's 12 blocks one is left, so that it exports soon."""
    attention, mlp = attention_blocks(network), mlp_blocks(network)
    left = slice(1, 2) if name == SWIN else slice(1, None, 2)  # the shifted one of Swin's first
    dropped = [block for kind in (attention, mlp)
               for block in kind if block not in kind[left]]
    return [*head_cuts(network), *unit_cuts(network),
            *(Cut('drop', block.name) for block in dropped)]


@pytest.mark.parametrize('name', NAMES)
def test_a_cut_network_is_built_again_and_exported(name):
    cut = copy.deepcopy(whole(name))
    cuts = everything(cut, name)
    apply_cuts(cut, cuts)
    with plain_attention():
        config = ModelConfig(name=name, cuts=tuple(map(str, cuts)))
        fresh = build_model(config, 14, SIZE)
    fresh.load_state_dict(cut.state_dict(), strict=True)
    deployed = Deployed(fresh, SIZE).eval()
    frame = np.random.default_rng(13).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        torch.testing.assert_close(fresh(images()), cut(images()), rtol=0, atol=0)
        wanted = deployed(torch.from_numpy(frame)).numpy()
    for opset in (13, 17):
        content = export_onnx(deployed, SIZE, opset)
        got = onnx_runner(content)(frame)
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    nodes = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert nodes.count('Softmax') == len(attention_blocks(fresh))
    assert nodes.count('LayerNormalization') \
        == sum(isinstance(module, nn.LayerNorm) for module in fresh.modules())


@pytest.mark.parametrize('opset', [13, 17])
def test_nothing_costs_nothing_in_onnx_runtime(opset, tmp_path):
    cut, without = copy.deepcopy(whole(TOKENS)), copy.deepcopy(whole(TOKENS))
    apply_cuts(cut, parse_cuts(['drop attention.2', 'drop attention.2.mlp']))
    replace_module(without, 'attention.2', nn.Identity())
    assert sum(isinstance(module, Nothing) for module in cut.modules()) == 1
    assert operators(cut, opset, tmp_path) == operators(without, opset, tmp_path)


def operators(network, opset, folder):
    """Return how many of each operator are left by ONNX Runtime's basic optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / 'optimised.onnx')
    onnxruntime.InferenceSession(export_onnx(Deployed(network, SIZE).eval(), SIZE, opset), options,
                                 providers=['CPUExecutionProvider'])
    graph = onnx.load(folder / 'optimised.onnx').graph
    return collections.Counter(node.op_type for node in graph.node)


@pytest.mark.parametrize('trained', [(0, 0), (6, 6)])
def test_the_own_window_attention_gives_what_timm_gives(trained):
    from timm.models.swin_transformer_v2 import WindowAttention
    torch.manual_seed(14)
    wanted = WindowAttention(12, (4, 4), 3, pretrained_window_size=trained).eval()
    for parameter in wanted.parameters():
        parameter.data.normal_(0, 0.5)
    own = CutWindowAttention(copy.deepcopy(wanted))
    assert set(own.state_dict()) == set(wanted.state_dict()) and not own.training
    for window in ((4, 4), (3, 5)):
        own.set_window_size(window)
        wanted.set_window_size(window)
        tokens = window[0] * window[1]
        mask = torch.randn(2, tokens, tokens)
        x = torch.randn(6, tokens, 12)
        torch.testing.assert_close(own(x, mask), wanted(x, mask))
        torch.testing.assert_close(own(x), wanted(x))


def test_a_cut_swin_takes_other_windows():
    zeroed, cut = copy.deepcopy(whole(SWIN)), copy.deepcopy(whole(SWIN))
    for block in attention_blocks(zeroed):
        zero_columns(zeroed, block.project, block.value_dim, block.heads, odd(block.heads))
    dropped = attention_blocks(zeroed)[1]
    zeroed.get_submodule(dropped.branch).register_forward_hook(
        lambda _module, _inputs, output: torch.zeros_like(output))
    apply_cuts(cut, [*head_cuts(cut), Cut('drop', dropped.name)])
    for network in (zeroed, cut):
        for level, side in enumerate((24, 12, 6, 3)):
            stage = network.get_submodule(f'backbone.layers_{level}')
            stage.set_input_size((side, side), 4)
    image_NCHW = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(15))
    with torch.no_grad():
        assert_near(cut(image_NCHW), zeroed(image_NCHW))


def test_heads_and_units_are_cut_out_of_factors():
    factored = copy.deepcopy(whole(SEGFORMER))
    at = 'backbone.block4.0'
    apply_cuts(factored, parse_cuts([f'rank {at}.{layer} 40' for layer in (
        'attn.q', 'attn.kv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')]))
    zeroed, cut = copy.deepcopy(factored), copy.deepcopy(factored)
    attention, mlp = attention_blocks(cut)[-2], mlp_blocks(cut)[-2]
    assert (attention.name, attention.project) == (f'{at}.attn', f'{at}.attn.proj.0')
    assert (mlp.expand, mlp.project) == (f'{at}.mlp.fc1.1', f'{at}.mlp.fc2.0')
    zero_columns(zeroed, attention.project, 32, 8, odd(8))
    zero_columns(zeroed, mlp.project, 1, 1024, odd(1024))
    apply_cuts(cut, [Cut('heads', attention.name, odd(8)), *hidden_cuts(mlp, odd(1024))])
    with torch.no_grad():
        assert_near(cut(images()), zeroed(images()))


def test_a_frozen_head_stays_frozen():
    network = copy.deepcopy(whole(SWIN)).requires_grad_(False)
    block = attention_blocks(network)[0]
    apply_cuts(network, [Cut('heads', block.name, (1, 2))])
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize('line, reason', [
    ('heads attention.0 4', 'has 4 heads, got index 4'),
    ('heads attention.0.mlp 0', 'expects an attention module with heads'),
    ('drop stem', 'expects an attention module or an MLP'),
    ('heads attention.9 0', 'no module')])
def test_a_cut_that_cannot_be_is_refused(line, reason):
    with pytest.raises(ConfigError, match=reason):
        apply_cuts(copy.deepcopy(whole(TOKENS)), parse_cuts([line]))


@pytest.mark.parametrize('name', NAMES)
def test_what_is_dropped_cannot_be_cut_again(name):
    network = copy.deepcopy(whole(name))
    block = attention_blocks(network)[-1]
    apply_cuts(network, [Cut('drop', block.name)])
    with pytest.raises(ConfigError, match='expects an attention module'):
        apply_cuts(network, [Cut('heads', block.name, (0,))])
    with pytest.raises(ConfigError, match='expects an attention module or an MLP'):
        apply_cuts(network, [Cut('drop', block.name)])


def test_a_norm_over_all_heads_is_refused():
    from timm.layers import Attention
    network = nn.Sequential(Attention(8, 2, scale_norm=True, norm_layer=nn.LayerNorm))
    with pytest.raises(ConfigError, match='a norm or a gate over all its heads'):
        apply_cuts(network, [Cut('heads', '0', (1,))])
