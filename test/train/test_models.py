# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Networks by name: sizes of the papers, shapes, local weights, errors with a way out."""
from __future__ import annotations

import functools
import importlib.util
import unittest.mock

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the networks need torch')
safetensors = pytest.importorskip('safetensors.torch', reason='weights are safetensors files')

from evit_seg.core.errors import ConfigError, InputError  # noqa: E402, I100
from offline_train.models.backbones import load_weights  # noqa: E402
from offline_train.models.pooling import pool_to  # noqa: E402
from offline_train.models.zoo import build_model, describe, MODELS  # noqa: E402

OWN = ['bilateral', 'pidnet_s', 'token_pyramid']
BORROWED = sorted(set(MODELS) - set(OWN))
LARGE = ['upernet_swinv2_b', 'segformer_b5']  # their small sisters run, they are only counted


def has(package):
    return importlib.util.find_spec(package) is not None


needs_zoo = pytest.mark.skipif(
    not (has('timm') and has('segmentation_models_pytorch')),
    reason='timm and segmentation_models.pytorch are not installed')
NAMES = [*OWN, *(pytest.param(name, marks=needs_zoo) for name in BORROWED)]
RUNNABLE = [*OWN, *(pytest.param(name, marks=needs_zoo) for name in BORROWED
                    if name not in LARGE)]


pytestmark = pytest.mark.usefixtures('one_thread')


def on_meta(name, classes=14):
    """Build a network that has shapes and no values; SegFormer reads its drop path rates."""
    rates = functools.partial(torch.linspace, device='cpu')
    with unittest.mock.patch.object(torch, 'linspace', rates), torch.device('meta'):
        return build_model(name, classes)


@pytest.mark.parametrize('name', NAMES)
def test_a_network_has_the_size_of_the_paper_and_a_cost(name):
    spec = MODELS[name]
    description = describe(on_meta(name), 128)
    if spec.paper_parameters_m is not None:
        assert description.parameters / 1e6 == pytest.approx(spec.paper_parameters_m, rel=0.03)
    assert description.gflops > 0.05 and description.stride == spec.stride
    assert f'stride {spec.stride}' in str(description) and 'GFLOP at 128x128' in str(description)


# Totals of the networks' own papers, at their numbers of classes (Cityscapes 19, ADE20K 150);
# LR-ASPP as torchvision publishes it (21 classes).
@pytest.mark.parametrize(('name', 'classes', 'millions'), [
    ('pidnet_s', 19, 7.6), ('token_pyramid', 150, 1.4),
    pytest.param('segformer_b0', 150, 3.8, marks=needs_zoo),
    pytest.param('lraspp_mobilenetv3_l', 21, 3.22, marks=needs_zoo)])
def test_a_network_has_the_size_of_its_own_paper(name, classes, millions):
    network = on_meta(name, classes)
    used = sum(p.numel() for key, p in network.named_parameters() if 'auxiliary' not in key)
    assert used / 1e6 == pytest.approx(millions, rel=0.03)


def test_the_decoder_has_the_width_that_was_asked_for():
    pytest.importorskip('timm', reason='the backbones come from timm')
    networks = [build_model('lraspp_mobilenetv3_l', 5, width=width) for width in (0, 128, 24)]
    assert [n.project[0].out_channels for n in networks] == [128, 128, 24]
    with pytest.raises(ConfigError, match=r"decoder_width: expected 0, 'pidnet_s' has none"):
        build_model('pidnet_s', 5, width=24)
    with pytest.raises(ConfigError, match='decoder_width: expected 0 or more, got -8'):
        build_model('lraspp_mobilenetv3_l', 5, width=-8)


def test_gflops_are_counted_as_by_hand():
    convolution = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
    convolution.stride = 2
    assert describe(convolution, (8, 12)).gflops == pytest.approx(2 * 27 * 8 * 4 * 6 / 1e9)


@pytest.mark.parametrize('name', RUNNABLE)
def test_logits_come_at_the_networks_own_stride_and_it_learns(name):
    torch.manual_seed(3)
    network = build_model(name, 5, image_size=64)
    image = torch.randn(2, 3, 64, 96)
    outputs = network.train()(image)
    main, *auxiliary = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    shape = (2, 5, 64 // network.stride, 96 // network.stride)
    assert main.shape == shape and all(o.shape[:2] == (2, 5) for o in auxiliary)
    loss = sum(o.square().mean() for o in (main, *auxiliary))
    loss.backward()
    idle = [key for key, p in network.named_parameters() if p.grad is None]
    assert idle == []
    with torch.no_grad():
        logits = network.eval()(image)
    assert logits.shape == shape and torch.isfinite(logits).all()


@pytest.mark.parametrize(('cells', 'bins'), [((16, 16), (6, 6)), ((9, 12), (5, 6)),
                                             ((12, 20), (3, 3)), ((2, 3), (6, 6)),
                                             ((8, 8), (2, 4))])
def test_pooling_is_torchs_adaptive_pooling(cells, bins):
    x = torch.randn(2, 3, *cells)
    np.testing.assert_allclose(pool_to(x, bins), torch.nn.functional.adaptive_avg_pool2d(x, bins),
                               atol=1e-6)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ConfigError, match="'pidnet_m'; did you mean 'pidnet_s'"):
        build_model('pidnet_m', 14)


def test_options_that_cannot_be_met_are_refused():
    with pytest.raises(ConfigError, match='no ImageNet backbone'):
        build_model('pidnet_s', 14, pretrained=True)
    with pytest.raises(ConfigError, match='got both'):
        build_model('pidnet_s', 14, pretrained=True, weights='x.safetensors')
    with pytest.raises(ConfigError, match='classes: expected 1 or more'):
        build_model('pidnet_s', 0)


@needs_zoo
@pytest.mark.parametrize(('name', 'backbone'), [('upernet_resnet18', 'resnet18'),
                                                ('segformer_b0', 'mit_b0')])
def test_pretrained_without_a_network_says_how_to_give_a_file(name, backbone, monkeypatch,
                                                              tmp_path):
    constants = importlib.import_module('huggingface_hub').constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(InputError, match=rf"'{backbone}' could not be .* weights = "):
        build_model(name, 14, pretrained=True)


def save(state, path):
    safetensors.save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def test_weights_of_a_whole_network_are_loaded_strictly(tmp_path):
    given = build_model('token_pyramid', 3).state_dict()
    loaded = build_model('token_pyramid', 3, weights=save(given, tmp_path / 'a.safetensors'))
    assert all(torch.equal(value, given[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(InputError, match=r'a\.safetensors.*size mismatch for head\.weight'):
        build_model('token_pyramid', 4, weights=tmp_path / 'a.safetensors')
    less = {key: value for key, value in given.items() if key != 'head.bias'}
    with pytest.raises(InputError, match=r'Missing key.*head\.bias'):
        build_model('token_pyramid', 3, weights=save(less, tmp_path / 'b.safetensors'))


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r'none\.safetensors: expected a safetensors file'):
        build_model('token_pyramid', 3, weights=tmp_path / 'none.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{"a":')
    with pytest.raises(InputError, match=r'cut\.safetensors: expected a safetensors file'):
        build_model('token_pyramid', 3, weights=tmp_path / 'cut.safetensors')


@needs_zoo
@pytest.mark.parametrize(('name', 'backbone'), [('upernet_mobilevit_s', 'mobilevit_s'),
                                                ('lraspp_mobilenetv3_l', 'mobilenetv3_large_100'),
                                                ('upernet_swinv2_t', 'swinv2_tiny_window8_256')])
def test_a_backbone_file_as_timm_publishes_it_is_loaded(name, backbone, tmp_path):
    timm = importlib.import_module('timm')
    published = timm.create_model(backbone, num_classes=1000).state_dict()
    network = build_model(name, 3, weights=save(published, tmp_path / 'whole.safetensors'))
    loaded = network.backbone.state_dict()
    given = {key.replace('.', '_'): (key, value) for key, value in published.items()}
    assert loaded and all(torch.equal(value, given[key.replace('.', '_')][1])
                          for key, value in loaded.items())


@needs_zoo
def test_a_backbone_file_that_is_not_timms_is_refused(tmp_path):
    timm = importlib.import_module('timm')
    published = timm.create_model('mobilenetv3_large_100').state_dict()
    less = {key: value for key, value in published.items() if key != 'conv_stem.weight'}
    with pytest.raises(InputError, match=r'mobilenetv3_large_100.*Missing key.*conv_stem\.weight'):
        build_model('lraspp_mobilenetv3_l', 3, weights=save(less, tmp_path / 'less.safetensors'))
    more = {**published, 'stem.surprise': torch.zeros(1)}
    with pytest.raises(InputError, match=r'Unexpected key.*stem\.surprise'):
        build_model('lraspp_mobilenetv3_l', 3, weights=save(more, tmp_path / 'more.safetensors'))


@needs_zoo
def test_a_file_for_segformers_encoder_may_hold_its_classifier(tmp_path):
    given = build_model('segformer_b0', 3).backbone.state_dict()
    published = {**given, 'head.weight': torch.zeros(1000, 256), 'head.bias': torch.zeros(1000)}
    network = build_model('segformer_b0', 3, weights=save(published, tmp_path / 'b0.safetensors'))
    assert all(torch.equal(value, given[key])
               for key, value in network.backbone.state_dict().items())
    with pytest.raises(InputError, match=r"'mit_b5', got other tensors"):
        load_weights(network, 'mit_b5', save({'x': torch.zeros(1)}, tmp_path / 'x.safetensors'))
