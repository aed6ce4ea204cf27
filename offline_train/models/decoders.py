# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Networks with a decoder of segmentation_models.pytorch over a backbone of timm.

Every network takes normalised float (N, 3, H, W), H and W multiples of 32, and returns raw logits
(N, classes, H / stride, W / stride): the decoders' last upscaling is the mask's business.
"""
from __future__ import annotations

from typing import Any, Dict, List, Tuple

from offline_train.models.backbones import mix_transformer, smp_module, timm_features
from offline_train.models.pooling import GridPool
from offline_train.models.unfolding import patched
from torch import nn, Tensor


class DecodedNet(nn.Module):
    """A backbone, a decoder over its maps and a 1x1 classifier."""

    def __init__(self, backbone: nn.Module, decoder: nn.Module, width: int, classes: int,
                 stride: int, channels_last: bool = False) -> None:
        """Join the parts; `channels_last`: the backbone answers with (N, H, W, C)."""
        super().__init__()
        self.stride = stride
        self.backbone = patched(backbone)
        self.decoder = decoder
        self.head = nn.Conv2d(width, classes, 1)
        self.channels_last = channels_last
        initialise = smp_module('base.initialization')
        initialise.initialize_decoder(self.decoder)
        initialise.initialize_head(self.head)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return raw logits (N, classes, H / stride, W / stride)."""
        maps: List[Tensor] = list(self.backbone(image_NCHW))
        if self.channels_last:
            maps = [x_NHWC.permute(0, 3, 1, 2).contiguous() for x_NHWC in maps]
        if len(maps) < 6:  # the decoders expect the image and a map at stride 2 in front
            maps = [image_NCHW, image_NCHW[:, :0, ::2, ::2], *maps]
        return self.head(self.decoder(maps))


def upernet(classes: int, backbone: str, width: int, pretrained: bool,
            image_size: Tuple[int, int]) -> nn.Module:
    """
    Return UPerNet (Xiao et al. 2018, arXiv 1807.10221): pyramid pooling and an FPN, stride 4.

    `width` is the number of channels of pyramid, FPN and fusion.
    """
    swin = backbone.startswith('swin')
    levels = (0, 1, 2, 3) if swin else (1, 2, 3, 4)  # those at strides 4, 8, 16 and 32
    options: Dict[str, Any] = {'img_size': image_size, 'strict_img_size': False} if swin else {}
    features, channels = timm_features(backbone, levels, pretrained, **options)
    decoder = smp_module('decoders.upernet.decoder').UPerNetDecoder([3, 0, *channels],
                                                                    decoder_channels=width)
    for block in decoder.psp.blocks:
        block[0] = GridPool(block[0].output_size)
    return DecodedNet(features, decoder, width, classes, stride=4, channels_last=swin)


def deeplabv3(classes: int, backbone: str, width: int, pretrained: bool) -> nn.Module:
    """
    Return DeepLabV3 (Chen et al. 2017, arXiv 1706.05587), atrous to stride 8.

    MobileViT instead of ResNet as in arXiv 2110.02178, dense atrous convolutions.
    """
    features, channels = timm_features(backbone, (1, 2, 3, 4), pretrained, output_stride=8)
    decoder = smp_module('decoders.deeplabv3.decoder').DeepLabV3Decoder(
        channels[-1], width, atrous_rates=(12, 24, 36), aspp_separable=False, aspp_dropout=0.5)
    return DecodedNet(features, decoder, width, classes, stride=8)


def segformer(classes: int, backbone: str, width: int, pretrained: bool) -> nn.Module:
    """
    Return SegFormer (Xie et al. 2021, arXiv 2105.15203): a mix transformer and an MLP head.

    `width` is the decoder's C in the paper: 256 for B0, 768 for B5.
    """
    features, channels = mix_transformer(backbone, pretrained)
    decoder = smp_module('decoders.segformer.decoder').SegformerDecoder(
        channels, segmentation_channels=width)
    return DecodedNet(features, decoder, width, classes, stride=4)
