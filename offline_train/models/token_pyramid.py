# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A token-pyramid transformer: convolutions make tokens, attention sees them at stride 64 only.

Source: TopFormer (Zhang et al. 2022, arXiv 2204.05525), its tiny model; SeaFormer (Wan et al.
2023, arXiv 2301.13156) is of the same family. Maps of strides 4 to 32 are averaged to stride 64,
where a few hundred tokens at most meet in attention; what comes out gates the maps at strides 8,
16 and 32, which are summed.
"""
from __future__ import annotations

from typing import List, Tuple

from offline_train.models.pooling import pool_to, resize_like
import torch
from torch import nn, Tensor

#: (kernel, expansion, channels, stride) of the inverted residuals of TopFormer-tiny.
BLOCKS: Tuple[Tuple[int, int, int, int], ...] = (
    (3, 1, 16, 1), (3, 4, 16, 2), (3, 3, 16, 1), (5, 3, 32, 2), (5, 3, 32, 1),
    (3, 3, 64, 2), (3, 3, 64, 1), (5, 6, 96, 2), (5, 6, 96, 1))
TOKENS_AT = (2, 4, 6, 8)  # the blocks whose outputs, at strides 4, 8, 16 and 32, are tokens
HEADS = 4
KEY = 16  # channels of a query or key per head; values have twice as many
DEPTH = 4


class ConvNorm(nn.Sequential):
    """Convolution (grouped if asked), batch normalisation and, if asked, ReLU6."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1,
                 groups: int = 1, relu: bool = False) -> None:
        layers: List[nn.Module] = [
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups,
                      bias=False),
            nn.BatchNorm2d(channels_out)]
        if relu:
            layers.append(nn.ReLU6(inplace=True))
        super().__init__(*layers)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (MobileNetV2, Sandler et al. 2018, arXiv 1801.04381, fig. 4)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int,
                 expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        expand = [ConvNorm(channels_in, inner, relu=True)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, ConvNorm(inner, inner, kernel, stride, groups=inner, relu=True),
            ConvNorm(inner, channels_out))
        self.short_cut = stride == 1 and channels_in == channels_out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        out_NCHW = self.layers(x_NCHW)
        return x_NCHW + out_NCHW if self.short_cut else out_NCHW


class TokenBlock(nn.Module):
    """Attention between all tokens, then a convolutional MLP, each beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads, self.key = HEADS, KEY  # fewer heads in a cut network, none: no attention
        self.query_key_value = ConvNorm(channels, HEADS * KEY * 4)
        self.project = nn.Sequential(nn.ReLU6(), ConvNorm(HEADS * KEY * 2, channels))
        self.mlp = nn.Sequential(
            ConvNorm(channels, channels * 2),
            nn.Conv2d(channels * 2, channels * 2, 3, padding=1, groups=channels * 2),
            nn.ReLU6(inplace=True), ConvNorm(channels * 2, channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, h, w)."""
        if self.heads:
            x_NCHW = x_NCHW + self.project(self._attend(x_NCHW))
        return x_NCHW + self.mlp(x_NCHW)

    def _attend(self, x_NCHW: Tensor) -> Tensor:
        """Return what the heads give, (N, heads * 2 * key, h, w)."""
        batch, _, height, width = x_NCHW.shape
        joint = self.query_key_value(x_NCHW).reshape(batch, self.heads, self.key * 4,
                                                     height * width)
        query, key, value = joint.split([self.key, self.key, self.key * 2], dim=2)
        weights = (query.transpose(2, 3) @ key * self.key ** -0.5).softmax(dim=3)
        attended = value @ weights.transpose(2, 3)  # (N, heads, 2 * key, tokens)
        return attended.reshape(batch, -1, height, width)


class Injection(nn.Module):
    """Gate a local map by the global semantics and add them (TopFormer's injection)."""

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        self.local = ConvNorm(channels, channels_out)
        self.gate = ConvNorm(channels, channels_out)
        self.offset = ConvNorm(channels, channels_out)
        self.squash = nn.Hardsigmoid()

    def forward(self, local_NCHW: Tensor, semantics_NCHW: Tensor) -> Tensor:
        """Map (N, C, H, W) and (N, C, H / 64, W / 64) maps to (N, C_out, H, W)."""
        gate = resize_like(self.squash(self.gate(semantics_NCHW)), local_NCHW)
        offset = resize_like(self.offset(semantics_NCHW), local_NCHW)
        return self.local(local_NCHW) * gate + offset


class TokenPyramid(nn.Module):
    """
    The tiny network, 1.4 million parameters.

    Input: normalised float (N, 3, H, W), H and W multiples of 32. Output: raw logits
    (N, classes, H / 8, W / 8).
    """

    stride = 8

    def __init__(self, classes: int, width: int = 128) -> None:
        """Build the network; `width` is the channels of injection and head."""
        super().__init__()
        channels = 16
        self.stem = ConvNorm(3, channels, 3, 2, relu=True)
        self.blocks = nn.ModuleList()
        for kernel, expansion, channels_out, stride in BLOCKS:
            self.blocks.append(InvertedResidual(channels, channels_out, kernel, stride,
                                                expansion))
            channels = channels_out
        self.token_channels = [BLOCKS[index][2] for index in TOKENS_AT]
        self.attention = nn.Sequential(*(TokenBlock(sum(self.token_channels))
                                         for _ in range(DEPTH)))
        self.injections = nn.ModuleList(Injection(c, width) for c in self.token_channels[1:])
        self.fuse = ConvNorm(width, width, relu=True)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return raw logits at stride 8."""
        # A side that is no multiple of 64 gets one more, narrower row or column of tokens.
        grid = (-(-int(image_NCHW.shape[2]) // 64), -(-int(image_NCHW.shape[3]) // 64))
        x_NCHW = self.stem(image_NCHW)
        maps = []
        for index, block in enumerate(self.blocks):
            x_NCHW = block(x_NCHW)
            if index in TOKENS_AT:
                maps.append(x_NCHW)
        tokens = self.attention(torch.cat([pool_to(x, grid) for x in maps], dim=1))
        semantics = tokens.split(self.token_channels, dim=1)
        joined = self.injections[0](maps[1], semantics[1])
        for inject, local, meaning in zip(self.injections[1:], maps[2:], semantics[2:],
                                          strict=True):
            joined = joined + resize_like(inject(local, meaning), joined)
        return self.head(self.fuse(joined))
