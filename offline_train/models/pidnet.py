# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
PIDNet-S: a dense convolutional network of three paths, named after a PID controller.

Source: Xu et al. 2022, arXiv 2206.02066, the small model. P keeps detail at stride 8, I goes down
to stride 64 for context, D finds boundaries and decides at the end, pixel by pixel, which of the
two is believed. Convolutions are plain 3x3 and 1x1, batch normalisation folds into them at
export, nothing else is left to re-parameterise. The paper trains D with a boundary loss; here it
learns from the segmentation alone.
"""
from __future__ import annotations

from typing import Tuple

from offline_train.models.bilateral import ConvBn
from offline_train.models.pooling import resize_like
import torch
from torch import nn, Tensor
import torch.nn.functional as functional

#: (kernel, stride) of the average pools on the stride-64 map.
POOLS: Tuple[Tuple[int, int], ...] = ((5, 2), (9, 4), (17, 8))


class Residual(nn.Module):
    """Convolutions around a short cut, without the last ReLU: the paths add before it."""

    def __init__(self, layers: nn.Sequential, channels_in: int, channels_out: int,
                 stride: int) -> None:
        super().__init__()
        self.layers = layers
        self.short_cut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.short_cut = ConvBn(channels_in, channels_out, 1, stride, relu=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        return self.layers(x_NCHW) + self.short_cut(x_NCHW)


def basic(channels_in: int, channels_out: int, stride: int = 1) -> Residual:
    """Return two 3x3 convolutions with a short cut."""
    layers = nn.Sequential(ConvBn(channels_in, channels_out, 3, stride),
                           ConvBn(channels_out, channels_out, 3, relu=False))
    return Residual(layers, channels_in, channels_out, stride)


def bottleneck(channels_in: int, inner: int, stride: int = 1) -> Residual:
    """Return 1x1, 3x3, 1x1 with a short cut; twice `inner` channels come out."""
    layers = nn.Sequential(ConvBn(channels_in, inner, 1), ConvBn(inner, inner, 3, stride),
                           ConvBn(inner, inner * 2, 1, relu=False))
    return Residual(layers, channels_in, inner * 2, stride)


def chain(*blocks: nn.Module) -> nn.Sequential:
    """Return the blocks with a ReLU between each two, none after the last."""
    layers = [blocks[0]]
    for block in blocks[1:]:
        layers += [nn.ReLU(), block]
    return nn.Sequential(*layers)


class PixelAttention(nn.Module):
    """Take context into the detail path where both agree (the paper's Pag)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.detail = ConvBn(channels, inner, 1, relu=False)
        self.context = ConvBn(channels, inner, 1, relu=False)

    def forward(self, detail_NCHW: Tensor, context_NCHW: Tensor) -> Tensor:
        """Blend (N, C, H, W) with a smaller (N, C, h, w) to (N, C, H, W)."""
        product = self.detail(detail_NCHW) * resize_like(self.context(context_NCHW), detail_NCHW)
        trust_N1HW = torch.sigmoid(product.sum(dim=1, keepdim=True))
        context = resize_like(context_NCHW, detail_NCHW)
        return detail_NCHW + trust_N1HW * (context - detail_NCHW)


class PreNormConv(nn.Sequential):
    """Batch normalisation, ReLU, convolution: the order of pyramid pooling and heads."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1,
                 groups: int = 1) -> None:
        super().__init__(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True),
                         nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2,
                                   groups=groups, bias=False))


class ParallelPooling(nn.Module):
    """Context of four window sizes, processed side by side (the paper's PAPPM)."""

    def __init__(self, channels: int, branch: int, channels_out: int) -> None:
        super().__init__()
        self.same = PreNormConv(channels, branch)
        self.branches = nn.ModuleList(PreNormConv(channels, branch)
                                      for _ in range(len(POOLS) + 1))
        count = len(self.branches)
        self.process = PreNormConv(branch * count, branch * count, 3, groups=count)
        self.compress = PreNormConv(branch * (count + 1), channels_out)
        self.short_cut = PreNormConv(channels, channels_out)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C_out, h, w)."""
        same = self.same(x_NCHW)
        pooled = [functional.avg_pool2d(x_NCHW, kernel, stride, kernel // 2)
                  for kernel, stride in POOLS]
        pooled.append(x_NCHW.mean(dim=(2, 3), keepdim=True))
        scales = [resize_like(branch(x), same) + same
                  for branch, x in zip(self.branches, pooled, strict=True)]
        processed = self.process(torch.cat(scales, dim=1))
        return self.compress(torch.cat([same, processed], dim=1)) + self.short_cut(x_NCHW)


class BoundaryBlend(nn.Module):
    """Believe detail on boundaries and context elsewhere (the paper's Light-Bag)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = ConvBn(channels, channels, 1, relu=False)
        self.context = ConvBn(channels, channels, 1, relu=False)

    def forward(self, detail_NCHW: Tensor, context_NCHW: Tensor, edge_NCHW: Tensor) -> Tensor:
        """Blend three maps of one shape."""
        edge = torch.sigmoid(edge_NCHW)
        return (self.detail(detail_NCHW + (1 - edge) * context_NCHW)
                + self.context(context_NCHW + edge * detail_NCHW))


class PidNet(nn.Module):
    """
    The small network, 7.6 million parameters.

    Input: normalised float (N, 3, H, W), H and W multiples of 64 (other multiples of 8 work).
    Output: raw logits (N, classes, H / 8, W / 8); in training mode a second map of the auxiliary
    head on the detail path, of the same shape.
    """

    stride = 8

    def __init__(self, classes: int, width: int = 32) -> None:
        """Build the network; `width` is the channels of the stem, all others follow from it."""
        super().__init__()
        c1, c2, c4, c8 = width, width * 2, width * 4, width * 8
        self.stem = nn.Sequential(ConvBn(3, c1, 3, 2), ConvBn(c1, c1, 3, 2),
                                  chain(basic(c1, c1), basic(c1, c1)), nn.ReLU(),
                                  chain(basic(c1, c2, 2), basic(c2, c2)), nn.ReLU())
        self.context16 = chain(basic(c2, c4, 2), basic(c4, c4), basic(c4, c4))
        self.context32 = chain(basic(c4, c8, 2), basic(c8, c8), basic(c8, c8))
        self.context64 = chain(bottleneck(c8, c8, 2), bottleneck(c8 * 2, c8))
        self.pooling = ParallelPooling(c8 * 2, 3 * c1, c4)

        self.detail_a = chain(basic(c2, c2), basic(c2, c2))
        self.squeeze16 = ConvBn(c4, c2, 1, relu=False)
        self.attend16 = PixelAttention(c2, c1)
        self.detail_b = chain(basic(c2, c2), basic(c2, c2))
        self.squeeze32 = ConvBn(c8, c2, 1, relu=False)
        self.attend32 = PixelAttention(c2, c1)
        self.detail_c = bottleneck(c2, c2)

        self.edge_a = basic(c2, c1)
        self.differ16 = ConvBn(c4, c1, 3, relu=False)
        self.edge_b = bottleneck(c1, c1)
        self.differ32 = ConvBn(c8, c2, 3, relu=False)
        self.edge_c = bottleneck(c2, c2)

        self.blend = BoundaryBlend(c4)
        self.head = self._head(c4, c4, classes)
        self.auxiliary = self._head(c2, c4, classes)

    @staticmethod
    def _head(channels: int, inner: int, classes: int) -> nn.Sequential:
        return nn.Sequential(PreNormConv(channels, inner, 3), nn.BatchNorm2d(inner),
                             nn.ReLU(inplace=True), nn.Conv2d(inner, classes, 1))

    def forward(self, image_NCHW: Tensor) -> Tensor | Tuple[Tensor, Tensor]:
        """Return logits at stride 8; while training also those of the detail path."""
        at8 = self.stem(image_NCHW)
        at16 = torch.relu(self.context16(at8))
        detail = self.attend16(self.detail_a(at8), self.squeeze16(at16))
        edge = self.edge_a(at8)
        edge = edge + resize_like(self.differ16(at16), edge)

        at32 = torch.relu(self.context32(at16))
        middle = self.attend32(self.detail_b(torch.relu(detail)), self.squeeze32(at32))
        edge = self.edge_b(torch.relu(edge))
        edge = edge + resize_like(self.differ32(at32), edge)

        final = self.detail_c(torch.relu(middle))
        edge = self.edge_c(torch.relu(edge))
        context = resize_like(self.pooling(self.context64(at32)), final)
        logits = self.head(self.blend(final, context, edge))
        if self.training:
            return logits, self.auxiliary(detail)
        return logits
