# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A small dense convolutional two-path network for real-time segmentation.

The field calls the family bilateral or dual-resolution networks: a detail path stays at stride 4
so that a person of three by six pixels survives, a context path goes down to stride 32 where
convolutions are cheap, and pyramid pooling gives each pixel a look at most of the image.

Sources: BiSeNetV2 (Yu et al. 2020, arXiv 2004.02147) for the two paths and the auxiliary head,
DDRNet (Hong et al. 2021, arXiv 2101.06085) for residual blocks in both paths and the pooling
module DAPPM, PIDNet (Xu et al. 2022, arXiv 2206.02066) for running its branches in parallel
(PAPPM). Unlike them the paths meet once, at the end, and there is no boundary branch: at one
million parameters the calculations are better spent on the detail path.
"""
from __future__ import annotations

from typing import Tuple

import torch
from torch import nn, Tensor
import torch.nn.functional as functional

#: (kernel, stride) of the average pools on the stride-32 map, after DAPPM (table 2 of its paper).
#: Fixed windows, not adaptive ones: static shapes export to plain ONNX AveragePool.
POOLS: Tuple[Tuple[int, int], ...] = ((5, 2), (9, 4))


class Relu(nn.Module):
    """
    ReLU in place; while training, as a leaky ReLU of slope 0, which is the same function.

    Its backward pass takes 0.24 ms where that of ReLU takes 4.5 ms (bfloat16, channels last,
    8x32x72x120, two cores of a Zen 4, torch 2.13): a fifth of a training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0), written over x."""
        if self.training:
            return functional.leaky_relu(x, 0.0, inplace=True)
        return functional.relu(x, inplace=True)


class ConvBn(nn.Sequential):
    """Convolution, batch normalisation and, unless told otherwise, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1,
                 relu: bool = True) -> None:
        layers = [
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        if relu:
            layers.append(Relu())
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a short cut (He et al. 2015, arXiv 1512.03385, fig. 2)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvBn(channels_in, channels_out, 3, stride)
        self.second = ConvBn(channels_out, channels_out, 3, relu=False)
        self.relu = Relu()
        self.short_cut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.short_cut = ConvBn(channels_in, channels_out, 1, stride, relu=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        out_NCHW = self.second(self.first(x_NCHW)) + self.short_cut(x_NCHW)
        return self.relu(out_NCHW)


class PyramidPooling(nn.Module):
    """Context of several window sizes and of the whole image, joined by one 1x1 convolution."""

    def __init__(self, channels: int, branch: int, channels_out: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvBn(channels, branch, 1) for _ in range(len(POOLS) + 1))
        joined = channels + branch * (len(POOLS) + 1)
        self.join = ConvBn(joined, channels_out, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C_out, h, w)."""
        parts = [x_NCHW]
        for (kernel, stride), branch in zip(POOLS, self.branches, strict=False):
            pooled = functional.avg_pool2d(x_NCHW, kernel, stride, kernel // 2,
                                           count_include_pad=False)
            parts.append(_resize(branch(pooled), x_NCHW))
        whole = x_NCHW.mean(dim=(2, 3), keepdim=True)
        parts.append(self.branches[-1](whole).expand(-1, -1, *x_NCHW.shape[2:]))
        return self.join(torch.cat(parts, dim=1))


class BilateralNet(nn.Module):
    """
    Detail path at stride 4, context path to stride 32, joined at stride 4.

    Input: normalised float (N, 3, H, W), H and W multiples of 32. Output: logits
    (N, classes, H / 4, W / 4); in training mode a second map of the auxiliary head on the context
    path at stride 8, (N, classes, H / 8, W / 8).
    """

    stride = 4

    def __init__(self, classes: int, widths: Tuple[int, ...] = (32, 32, 64, 112, 128)) -> None:
        """Build the network; `widths` are the channels at strides 2, 4, 8, 16 and 32."""
        super().__init__()
        at2, at4, at8, at16, at32 = widths
        self.stem = nn.Sequential(ConvBn(3, at2, 3, 2), ConvBn(at2, at4, 3, 2),
                                  ResidualBlock(at4, at4))
        self.detail = ResidualBlock(at4, at4)
        self.context8 = nn.Sequential(ResidualBlock(at4, at8, 2), ResidualBlock(at8, at8))
        self.context16 = nn.Sequential(ResidualBlock(at8, at16, 2), ResidualBlock(at16, at16))
        self.context32 = ResidualBlock(at16, at32, 2)
        self.pooling = PyramidPooling(at32, at32 // 4, at16)
        self.lateral16 = ConvBn(at16, at16, 1, relu=False)
        self.reduce16 = ConvBn(at16, at8, 1, relu=False)
        self.lateral8 = ConvBn(at8, at8, 1, relu=False)
        self.reduce8 = ConvBn(at8, at4, 1, relu=False)
        self.relu = Relu()
        self.fuse = ConvBn(at4, at4, 3)
        self.head = nn.Conv2d(at4, classes, 1)
        self.auxiliary = nn.Conv2d(at8, classes, 1)

    def forward(self, image_NCHW: Tensor) -> Tensor | Tuple[Tensor, Tensor]:
        """Return logits at stride 4; while training also the auxiliary ones at stride 8."""
        at4 = self.stem(image_NCHW)
        at8 = self.context8(at4)
        at16 = self.context16(at8)
        pooled = self.pooling(self.context32(at16))
        up16 = self.relu(self.lateral16(at16) + _resize(pooled, at16))
        up8 = self.relu(self.lateral8(at8) + _resize(self.reduce16(up16), at8))
        joined = self.detail(at4) + _resize(self.reduce8(up8), at4)
        logits = self.head(self.fuse(self.relu(joined)))
        if self.training:
            return logits, self.auxiliary(up8)
        return logits


def _resize(x_NCHW: Tensor, like_NCHW: Tensor) -> Tensor:
    size = (int(like_NCHW.shape[2]), int(like_NCHW.shape[3]))
    return functional.interpolate(x_NCHW, size=size, mode='bilinear', align_corners=False)
