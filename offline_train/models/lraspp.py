# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
MobileNetV3-Seg: LR-ASPP over MobileNetV3-Large.

Source: Howard et al. 2019, arXiv 1905.02244, sec. 6.4 and fig. 10, 128 channels. As in
torchvision the gate is the mean of the whole map; the paper's 49x49 window is one at its size.
"""
from __future__ import annotations

from offline_train.models.backbones import timm_features
from offline_train.models.bilateral import ConvBn
from offline_train.models.pooling import resize_like
import torch
from torch import nn, Tensor


class LrAspp(nn.Module):
    """
    A gated map at stride 16 and a skip at stride 8.

    Input: normalised float (N, 3, H, W), H and W multiples of 16. Output: raw logits
    (N, classes, H / 8, W / 8).
    """

    stride = 8

    def __init__(self, classes: int, backbone: str = 'mobilenetv3_large_100', width: int = 128,
                 pretrained: bool = False) -> None:
        super().__init__()
        self.backbone, (at8, at16) = timm_features(backbone, (2, 4), pretrained,
                                                   output_stride=16)
        self.project = ConvBn(at16, width, 1)
        self.gate = nn.Conv2d(at16, width, 1, bias=False)
        self.low = nn.Conv2d(at8, classes, 1)
        self.high = nn.Conv2d(width, classes, 1)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return raw logits at stride 8."""
        at8, at16 = self.backbone(image_NCHW)
        gate = torch.sigmoid(self.gate(at16.mean(dim=(2, 3), keepdim=True)))
        gated = self.project(at16) * gate
        return self.low(at8) + self.high(resize_like(gated, at8))
