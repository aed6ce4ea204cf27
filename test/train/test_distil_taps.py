# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Feature maps of every network at every stride, without a trace in the network."""
from __future__ import annotations

import copy
import functools
import gc
import importlib.util
import unittest.mock
import weakref

import pytest

torch = pytest.importorskip('torch', reason='the networks need torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.distillation import taps  # noqa: E402
from offline_train.distillation.taps import FeatureTap, find_places  # noqa: E402
from offline_train.models.zoo import build_model, MODELS  # noqa: E402

# Strides, and channels of their maps, as the networks' papers and timm's tables have them.
CHANNELS = {
    'bilateral': {4: 32, 8: 64, 16: 112, 32: 128},
    'pidnet_s': {4: 32, 8: 64, 16: 128, 32: 256, 64: 512},
    'token_pyramid': {4: 16, 8: 32, 16: 64, 32: 96},
    'fanet_resnet18': {4: 64, 8: 128, 16: 256, 32: 512},
    'deeplabv3_mobilevit_s': {4: 64, 8: 640},
    'upernet_resnet18': {4: 64, 8: 128, 16: 256, 32: 512},
    'upernet_mobilevit_s': {4: 64, 8: 96, 16: 128, 32: 640},
    'upernet_swinv2_t': {4: 96, 8: 192, 16: 384, 32: 768},
    'segformer_b0': {4: 32, 8: 64, 16: 160, 32: 256},
    'lraspp_mobilenetv3_l': {8: 40, 16: 960},
}
OWN = ['bilateral', 'pidnet_s', 'token_pyramid']
LARGE = ['upernet_swinv2_b', 'segformer_b5']  # slow; their small sisters are built alike
needs_zoo = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ('timm', 'segmentation_models_pytorch')),
    reason='timm and segmentation_models.pytorch are not installed')
NAMES = [name if name in OWN else pytest.param(name, marks=needs_zoo)
         for name in MODELS if name not in LARGE]


pytestmark = pytest.mark.usefixtures('one_thread')


def on_meta(name):
    """Build a network that has shapes and no values; SegFormer reads its drop path rates."""
    rates = functools.partial(torch.linspace, device='cpu')
    with unittest.mock.patch.object(torch, 'linspace', rates), torch.device('meta'):
        return build_model(name, 5)


@pytest.mark.parametrize('name', NAMES)
def test_every_network_gives_every_map_it_has_in_both_modes(name, monkeypatch):
    network = on_meta(name)
    places = find_places(network)
    assert {stride: place.channels for stride, place in places.items()} == CHANNELS[name]
    monkeypatch.setattr(taps, 'find_places', lambda _network: places)  # one dry run is enough
    tapped = {stride: FeatureTap(network, stride) for stride in CHANNELS[name]}
    for training in (True, False):
        network.train(training)
        network(torch.empty(2, 3, 64, 128, device='meta'))
        for stride, tap in tapped.items():
            taken = tap.pop()
            assert taken.shape == (2, tap.channels, 64 // stride, 128 // stride)
            assert taken.dtype == torch.float32


def reference_bilateral(network, image):
    at8 = network.context8(network.stem(image))
    return {8: at8, 16: network.context16(at8)}


def reference_token_pyramid(network, image):
    at4 = network.blocks[2](network.blocks[1](network.blocks[0](network.stem(image))))
    return {4: at4, 8: network.blocks[4](network.blocks[3](at4))}


def reference_pidnet(network, image):
    at16 = network.context16(network.stem(image))
    return {8: network.stem(image), 16: at16, 32: network.context32(at16.relu())}


def reference_deeplab(network, image):
    maps = network.backbone(image)
    assert [x.shape[2] for x in maps] == [16, 8, 8, 8]
    return {4: maps[0], 8: maps[3]}  # the deepest of the three at stride 8


def reference_segformer(network, image):
    return dict(zip((4, 8, 16, 32), network.backbone(image)[2:], strict=True))


@pytest.mark.parametrize(('name', 'reference'), [
    ('bilateral', reference_bilateral), ('token_pyramid', reference_token_pyramid),
    ('pidnet_s', reference_pidnet),
    pytest.param('deeplabv3_mobilevit_s', reference_deeplab, marks=needs_zoo),
    pytest.param('segformer_b0', reference_segformer, marks=needs_zoo)])
@torch.no_grad()
def test_a_map_is_what_the_network_computes_and_its_answer_stays(name, reference):
    torch.manual_seed(1)
    network = build_model(name, 5, image_size=64).eval()
    image = torch.randn(1, 3, 64, 96)
    plain = network(image)
    expected = reference(network, image)
    tapped = {stride: FeatureTap(network, stride) for stride in expected}
    torch.testing.assert_close(network(image), plain, rtol=0, atol=0)
    for stride, tap in tapped.items():
        taken = tap.pop()
        assert taken.shape[2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(taken, expected[stride], rtol=0, atol=0)


def test_finding_the_maps_changes_nothing():
    torch.manual_seed(1)
    network = build_model('bilateral', 5).train()
    network.context8.eval()  # such as a frozen part
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    drawn = torch.get_rng_state()
    FeatureTap(network, 8).close()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize('name', ['bilateral', 'token_pyramid', 'pidnet_s',
                                  pytest.param('upernet_mobilevit_s', marks=needs_zoo)])
def test_a_map_carries_the_gradient_to_the_layers_before_it(name):
    network = build_model(name, 5).train()
    tap = FeatureTap(network, 8)
    outputs = network(torch.randn(2, 3, 64, 96))
    logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    taken = tap.pop()
    (taken.square().mean() + logits.square().mean()).backward(retain_graph=True)
    network.zero_grad()
    taken.square().mean().backward()
    reached = {key for key, p in network.named_parameters() if p.grad is not None}
    first = next(key for key, _ in network.named_parameters())
    assert first in reached and not any(key.startswith('head') for key in reached)


def test_a_map_of_half_precision_is_given_in_float32():
    network = build_model('bilateral', 5).eval()
    tap = FeatureTap(network, 16)
    with torch.autocast('cpu', torch.bfloat16):
        network(torch.randn(1, 3, 64, 64))
    assert tap.pop().dtype == torch.float32


def test_taking_a_map_forgets_it_and_the_newest_pass_counts():
    network = build_model('bilateral', 5).train()
    tap = FeatureTap(network, 32)
    network(torch.randn(2, 3, 64, 64))
    network(torch.randn(4, 3, 64, 96))
    taken = tap.pop()
    assert taken.shape == (4, 128, 2, 3)
    kept = weakref.ref(taken)
    del taken
    gc.collect()
    assert kept() is None
    with pytest.raises(RuntimeError, match='has not run since'):
        tap.pop()


def test_a_closed_tap_forgets_and_leaves_a_network_that_can_be_copied():
    network = build_model('bilateral', 5).train()
    tap = FeatureTap(network, 8)
    seen = []
    network.context8.register_forward_hook(lambda _m, _i, output: seen.append(output))
    network(torch.randn(2, 3, 64, 64))
    kept = weakref.ref(seen.pop())
    assert kept() is not None
    tap.close()
    tap.close()
    gc.collect()
    assert kept() is None
    network.context8._forward_hooks.clear()
    copied = copy.deepcopy(network)
    copied(torch.randn(2, 3, 64, 64))
    network(torch.randn(2, 3, 64, 64))
    with pytest.raises(RuntimeError):
        tap.pop()


def test_a_copy_of_a_tapped_network_does_not_feed_the_tap():
    network = build_model('bilateral', 5)
    tap = FeatureTap(network, 8)
    copy.deepcopy(network)(torch.randn(2, 3, 64, 64))
    with pytest.raises(RuntimeError):
        tap.pop()


@pytest.mark.parametrize(('name', 'stride', 'strides'), [
    ('bilateral', 64, '4, 8, 16, 32'), ('pidnet_s', 2, '4, 8, 16, 32, 64'),
    pytest.param('lraspp_mobilenetv3_l', 32, '8, 16', marks=needs_zoo),
    pytest.param('deeplabv3_mobilevit_s', 32, '4, 8', marks=needs_zoo),
    pytest.param('segformer_b0', 2, '4, 8, 16, 32', marks=needs_zoo),
    pytest.param('segformer_b0', 1, '4, 8, 16, 32', marks=needs_zoo)])
def test_a_stride_the_network_has_not_names_those_it_has(name, stride, strides):
    with pytest.raises(ConfigError, match=f'no feature map at stride {stride}, .*of {strides}$'):
        FeatureTap(on_meta(name), stride)


def test_a_network_of_nobody_is_refused():
    with pytest.raises(ConfigError, match="BilateralNet, PidNet, TokenPyramid, got 'Linear'"):
        FeatureTap(torch.nn.Linear(2, 3), 8)
