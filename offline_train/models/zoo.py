# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every network by name: how it is built, its stride, its source and its size in the papers."""
from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import nearest
from offline_train.models.backbones import load_weights
from offline_train.models.bilateral import BilateralNet
from offline_train.models.decoders import deeplabv3, segformer, upernet
from offline_train.models.fanet import FaNet
from offline_train.models.lraspp import LrAspp
from offline_train.models.pidnet import PidNet
from offline_train.models.token_pyramid import TokenPyramid
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Size = Tuple[int, int]
Builder = Callable[[int, bool, Size, int], nn.Module]
"""(classes, pretrained, (height, width) of the image, width of the decoder) -> the network."""

SWIN_T = 'swinv2_tiny_window8_256'
SWIN_B = 'swinv2_base_window8_256'


@dataclass(frozen=True)
class ModelSpec:
    """One network of the zoo."""

    name: str
    """What a config calls it."""
    build: Builder
    """Makes it with random weights, or with a pretrained backbone where there is one."""
    stride: int
    """Input pixels per cell of its logits."""
    source: str
    """arXiv numbers of the network and its backbone."""
    backbone: str = ''
    """Name of the ImageNet backbone in timm (mit_*: segmentation_models.pytorch); '': none."""
    width: int = 0
    """Channels of its decoder unless the config says otherwise; 0: it has none to choose."""
    paper_parameters_m: Optional[float] = None
    """Millions of parameters in arXiv 2309.02617, table 2; of SegFormer-B5 in its own paper."""


def _upernet(backbone: str) -> Builder:
    return lambda classes, pretrained, size, width: upernet(classes, backbone, width, pretrained,
                                                            size)


def _segformer(backbone: str) -> Builder:
    return lambda classes, pretrained, _size, width: segformer(classes, backbone, width,
                                                               pretrained)


def _deeplabv3(classes: int, pretrained: bool, _size: Size, width: int) -> nn.Module:
    return deeplabv3(classes, 'mobilevit_s', width, pretrained)


def _fanet(classes: int, pretrained: bool, _size: Size, width: int) -> nn.Module:
    return FaNet(classes, 'resnet18', width, pretrained)


def _lraspp(classes: int, pretrained: bool, _size: Size, width: int) -> nn.Module:
    return LrAspp(classes, width=width, pretrained=pretrained)


def _plain(network: Callable[[int], nn.Module]) -> Builder:
    return lambda classes, _pretrained, _size, _width: network(classes)


# Decoder widths are those that meet the paper's totals; it does not give them.
SPECS: Tuple[ModelSpec, ...] = (
    ModelSpec('bilateral', _plain(BilateralNet), 4,
              'BiSeNetV2 2004.02147, DDRNet 2101.06085, PIDNet 2206.02066'),
    ModelSpec('fanet_resnet18', _fanet, 4, 'FANet 2007.03815, ResNet 1512.03385', 'resnet18', 128,
              13.9),
    ModelSpec('deeplabv3_mobilevit_s', _deeplabv3, 8,
              'DeepLabV3 1706.05587, MobileViT 2110.02178', 'mobilevit_s', 72, 6.4),
    ModelSpec('upernet_resnet18', _upernet('resnet18'), 4,
              'UPerNet 1807.10221, ResNet 1512.03385', 'resnet18', 196, 16.4),
    ModelSpec('upernet_mobilevit_s', _upernet('mobilevit_s'), 4,
              'UPerNet 1807.10221, MobileViT 2110.02178', 'mobilevit_s', 48, 5.6),
    ModelSpec('upernet_swinv2_t', _upernet(SWIN_T), 4,
              'UPerNet 1807.10221, Swin v2 2111.09883', SWIN_T, 304, 40.0),
    ModelSpec('upernet_swinv2_b', _upernet(SWIN_B), 4,
              'UPerNet 1807.10221, Swin v2 2111.09883', SWIN_B, 400, 108.0),
    ModelSpec('segformer_b0', _segformer('mit_b0'), 4, 'SegFormer 2105.15203', 'mit_b0', 256),
    ModelSpec('segformer_b5', _segformer('mit_b5'), 4, 'SegFormer 2105.15203', 'mit_b5', 768,
              84.7),
    ModelSpec('lraspp_mobilenetv3_l', _lraspp, 8, 'MobileNetV3 1905.02244',
              'mobilenetv3_large_100', 128),
    ModelSpec('token_pyramid', _plain(TokenPyramid), 8,
              'TopFormer 2204.05525, SeaFormer 2301.13156'),
    ModelSpec('pidnet_s', _plain(PidNet), 8, 'PIDNet 2206.02066'),
)
MODELS: Dict[str, ModelSpec] = {spec.name: spec for spec in SPECS}


def find_model(name: str) -> ModelSpec:
    """Return the row of that name; ConfigError names the nearest one and all others."""
    if name in MODELS:
        return MODELS[name]
    close = nearest(name, MODELS)
    hint = f'; did you mean {close!r}?' if close else ''
    raise ConfigError(f'model.name: expected one of {", ".join(MODELS)}, got {name!r}{hint}')


def build_model(name: str, classes: int, *, pretrained: bool = False,
                weights: Optional[str | Path] = None, image_size: int | Size = 512,
                width: int = 0) -> nn.Module:
    """
    Return the network of that name.

    It takes normalised float (N, 3, H, W), H and W multiples of 32, has an attribute `stride`
    and returns raw logits (N, classes, H / stride, W / stride); in training mode it may return a
    tuple, the main logits first, auxiliary ones after.

    `pretrained` downloads the backbone's ImageNet weights; `weights` is a local safetensors file
    of the whole network or of the backbone as timm publishes it. Without them the weights are
    random and nothing is downloaded. `image_size`, in pixels, is one side or (height, width): a
    Swin backbone is laid out for it and runs at other sizes too. `width` is the decoder's number
    of channels, 0 that of the published size. ConfigError for an unknown name or options that
    exclude each other, InputError for weights that cannot be had.
    """
    spec = find_model(name)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if classes < 1:
        raise ConfigError(f'classes: expected 1 or more, got {classes!r}')
    if pretrained and weights is not None:
        raise ConfigError('model: expected pretrained or weights, got both; pretrained = false '
                          f'uses the file {str(weights)!r}')
    if pretrained and not spec.backbone:
        raise ConfigError(f'model.pretrained: {name!r} has no ImageNet backbone, expected false; '
                          'weights = a safetensors file of the whole network works')
    if width < 0 or (width and not spec.width):
        wanted = '0 or more' if spec.width else f'0, {name!r} has none to choose'
        raise ConfigError(f'model.decoder_width: expected {wanted}, got {width!r}')
    network = spec.build(classes, pretrained, size, width or spec.width)
    if weights is not None:
        load_weights(network, spec.backbone, Path(weights))
    return network


@dataclass(frozen=True)
class Description:
    """Size and cost of a network at an image size."""

    parameters: int
    gflops: float
    stride: int
    image_size: Size

    def __str__(self) -> str:
        height, width = self.image_size
        return (f'{self.parameters / 1e6:.2f} M parameters, {self.gflops:.2f} GFLOP at '
                f'{height}x{width}, logits at stride {self.stride}')


def describe(model: nn.Module, image_size: int | Size = 512) -> Description:
    """
    Return parameters, GFLOP of one image in eval mode, and stride of a network.

    A multiply-add counts as two operations; element-wise work is not counted (as torch's
    flop counter does). Auxiliary heads are parameters but take no operations. The pass runs on
    the meta device: nothing is computed, the model itself is not touched.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    shell = copy.deepcopy(model).to('meta').eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shell(torch.empty(1, 3, *size, device='meta'))
    parameters = sum(p.numel() for p in model.parameters())
    stride = int(shell.stride)  # type: ignore[arg-type]
    return Description(parameters, counter.get_total_flops() / 1e9, stride, size)
