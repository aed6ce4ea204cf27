# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
FANet: a U-shaped network whose lateral connections are fast attention.

Source: Hu et al. 2020, "Real-time Semantic Segmentation with Fast Attention", arXiv 2007.03815.
Attention without softmax: queries and keys of length 1 let K V be multiplied first, so that the
cost grows with the number of pixels and not with its square. Without the paper's extra
spatial reduction, which is for frames of 2048x1024.
"""
from __future__ import annotations

from offline_train.models.backbones import timm_features
from offline_train.models.bilateral import ConvBn
from offline_train.models.pooling import resize_like
import torch
from torch import nn, Tensor
import torch.nn.functional as functional

KEY = 32  # channels of queries and keys


class FastAttention(nn.Module):
    """Linear spatial attention with a short cut; channels and size stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = ConvBn(channels, KEY, 1, relu=False)
        self.key = ConvBn(channels, KEY, 1, relu=False)
        self.value = ConvBn(channels, channels, 1)
        self.project = ConvBn(channels, channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        query = functional.normalize(self.query(x_NCHW).flatten(2), dim=1)  # (N, 32, H * W)
        key = functional.normalize(self.key(x_NCHW).flatten(2), dim=1)
        value = self.value(x_NCHW).flatten(2)  # (N, C, H * W)
        # The paper's 1 / n, taken before the sum so that half precision does not overflow.
        context = (value / int(value.shape[2])) @ key.transpose(1, 2)  # (N, C, 32)
        attended = (context @ query).reshape(x_NCHW.shape)
        return x_NCHW + self.project(attended)


class FaNet(nn.Module):
    """
    ResNet18, fast attention at strides 4 to 32, fused from coarse to fine.

    Input: normalised float (N, 3, H, W), H and W multiples of 32. Output: raw logits
    (N, classes, H / 4, W / 4). The levels at strides 32 and 8 join those at 16 and 4 before the
    classifier, so that all parameters of the paper's total are at work.
    """

    stride = 4

    def __init__(self, classes: int, backbone: str = 'resnet18', width: int = 128,
                 pretrained: bool = False) -> None:
        super().__init__()
        self.backbone, channels = timm_features(backbone, (1, 2, 3, 4), pretrained)
        self.attention = nn.ModuleList(FastAttention(c) for c in channels)
        self.up = nn.ModuleList(ConvBn(coarse, fine, 1)
                                for fine, coarse in zip(channels, channels[1:], strict=False))
        self.smooth = nn.ModuleList(ConvBn(c, width, 3) for c in channels)
        self.fuse = ConvBn(2 * width, 2 * width, 3)
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return raw logits at stride 4."""
        maps = [attend(x) for attend, x in zip(self.attention, self.backbone(image_NCHW),
                                               strict=True)]
        for level in (2, 1, 0):
            maps[level] = maps[level] + resize_like(self.up[level](maps[level + 1]), maps[level])
        at4, at8, at16, at32 = (smooth(x) for smooth, x in zip(self.smooth, maps, strict=True))
        coarse = at16 + resize_like(at32, at16)
        fine = at4 + resize_like(at8, at4)
        return self.head(self.fuse(torch.cat([resize_like(coarse, fine), fine], dim=1)))
