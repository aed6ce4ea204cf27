# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Attention modules that may have fewer heads than their width suggests.

Those of Swin v2 in timm and of the mix transformer in segmentation_models.pytorch take for granted
that heads times channels per head is the width of their input. These hold the same parts under
the same names, give the same numbers, and take nothing for granted.
"""
from __future__ import annotations

import math
from typing import Any, Optional, Tuple

import torch
from torch import nn, Tensor


class CutWindowAttention(nn.Module):
    """Cosine attention within windows (Swin v2, Liu et al. 2022, 2111.09883, sec. 3.3)."""

    k_bias: Optional[Tensor]
    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, whole: Any) -> None:
        """Take over the parts of a WindowAttention of timm's Swin v2."""
        super().__init__()
        self.num_heads = int(whole.num_heads)
        self.window_size: Tuple[int, int] = tuple(whole.window_size)
        self.pretrained_window_size: Tuple[int, int] = tuple(whole.pretrained_window_size)
        self.logit_scale = whole.logit_scale  # (heads, 1, 1)
        self.cpb_mlp = whole.cpb_mlp
        self.qkv = whole.qkv
        self.q_bias: Optional[nn.Parameter] = whole.q_bias
        self.v_bias: Optional[nn.Parameter] = whole.v_bias
        self.attn_drop, self.proj, self.proj_drop = whole.attn_drop, whole.proj, whole.proj_drop
        for name in ('k_bias', 'relative_coords_table', 'relative_position_index'):
            self.register_buffer(name, getattr(whole, name), persistent=False)
        self.train(whole.training)

    def set_window_size(self, window_size: Tuple[int, int]) -> None:
        """Lay the positions out for another window, (height, width) in tokens."""
        if tuple(window_size) == self.window_size:
            return
        before = self.relative_coords_table
        self.window_size = (int(window_size[0]), int(window_size[1]))
        trained = self.pretrained_window_size
        trained = trained if trained[0] > 0 else self.window_size
        self.relative_coords_table = _log_coordinates(self.window_size, trained).to(before)
        self.relative_position_index = _pair_index(self.window_size).to(before.device)

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Map (windows * N, tokens, C) to the same; mask: (windows, tokens, tokens), added."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x)
        if self.q_bias is not None and self.k_bias is not None and self.v_bias is not None:
            qkv = qkv + torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # (N, heads, tokens, d)
        query, key = nn.functional.normalize(query, dim=-1), nn.functional.normalize(key, dim=-1)
        logits = query @ key.transpose(-2, -1)
        logits = logits * self.logit_scale.clamp(max=math.log(100.0)).exp() + self._bias(tokens)
        if mask is not None:
            windows = mask.shape[0]
            logits = logits.view(-1, windows, self.num_heads, tokens, tokens) + mask[None, :, None]
            logits = logits.view(-1, self.num_heads, tokens, tokens)
        attended = self.attn_drop(logits.softmax(dim=-1)) @ value
        joined = attended.transpose(1, 2).reshape(batch, tokens, -1)
        return self.proj_drop(self.proj(joined))

    def _bias(self, tokens: int) -> Tensor:
        """Return what the distance of two tokens adds, (1, heads, tokens, tokens)."""
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        bias = table[self.relative_position_index.view(-1)].view(tokens, tokens, -1)
        return 16 * torch.sigmoid(bias.permute(2, 0, 1).contiguous())[None]


class CutReducedAttention(nn.Module):
    """Attention to a map of fewer tokens (SegFormer, Xie et al. 2021, 2105.15203, sec. 3.1)."""

    def __init__(self, whole: Any) -> None:
        """Take over the parts of an Attention of the mix transformer."""
        super().__init__()
        self.num_heads, self.scale = int(whole.num_heads), float(whole.scale)
        self.sr_ratio = int(whole.sr_ratio)
        self.q, self.kv, self.sr, self.norm = whole.q, whole.kv, whole.sr, whole.norm
        self.attn_drop, self.proj, self.proj_drop = whole.attn_drop, whole.proj, whole.proj_drop
        self.train(whole.training)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map (N, height * width, C) to the same."""
        batch, tokens, channels = x.shape
        query = self.q(x).reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)
        if self.sr_ratio > 1:
            map_NCHW = self.sr(x.transpose(1, 2).reshape(batch, channels, height, width))
            x = self.norm(map_NCHW.flatten(2).transpose(1, 2))
        kv = self.kv(x).reshape(batch, x.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        key, value = kv[0], kv[1]  # (N, heads, fewer tokens, d)
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)
        attended = self.attn_drop(weights) @ value
        return self.proj_drop(self.proj(attended.transpose(1, 2).reshape(batch, tokens, -1)))


def _log_coordinates(window: Tuple[int, int], trained: Tuple[int, int]) -> Tensor:
    """Return distances in tokens on a log scale, (1, 2h - 1, 2w - 1, 2) (sec. 3.4 there)."""
    axes = [torch.arange(1 - side, side, dtype=torch.float32) / max(reference - 1, 1)
            for side, reference in zip(window, trained, strict=True)]
    distance = 8 * torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)[None]
    return distance.sign() * torch.log2(distance.abs() + 1) / math.log2(8)


def _pair_index(window: Tuple[int, int]) -> Tensor:
    """Return which row of the flat table belongs to two tokens, (tokens, tokens)."""
    height, width = window
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width),
                                                      indexing='ij'))
    down = y[:, None] - y[None] + height - 1
    return down * (2 * width - 1) + x[:, None] - x[None] + width - 1
