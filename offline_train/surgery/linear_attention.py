# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Attention whose cost grows with the number of tokens, not with its square (cut kind `linear`).

In the place of softmax(q k^T) v stands phi(q) (phi(k)^T v), divided by the sum of its weights,
with phi(x) = elu(x) + 1 (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 7). The parameters keep
their names and shapes, so that a trained network goes on from its weights, but it computes
something else: it has to be trained on. ReLU as phi (EfficientViT, arXiv 2205.14756) may be zero
for all keys of a query and then needs a guard against dividing by zero, which half precision
rounds away; elu + 1 is positive everywhere and lets gradients through on both sides.
"""
from __future__ import annotations

from typing import Any, Optional, Sequence

from evit_seg.core.errors import ConfigError
from offline_train.surgery.cuts import replace_module
from torch import nn, Tensor

WINDOWS = ('the 64 tokens of a window are too few to gain by it, and the bias of relative '
           'positions, which is added under the softmax, has no linear form')
COARSE = 'its tokens lie at stride 64, a few hundred at most: nothing is gained'
REFUSED = {'WindowAttention': WINDOWS, 'CutWindowAttention': WINDOWS, 'TokenBlock': COARSE}
"""Attention that stays as it is, by the name of its class, and why."""


def cut(network: nn.Module, kind: str, at: str, numbers: Sequence[int]) -> None:
    """Put attention of linear cost in an attention's place; ConfigError where it cannot be."""
    attention = network.get_submodule(at)
    reason = why_not(attention)
    if reason or numbers:
        raise ConfigError(f'model.cuts: {kind} {at}: {reason or "expected no numbers"}')
    replace_module(network, at, LinearReducedAttention(attention) if hasattr(attention, 'kv')
                   else LinearAttention(attention))


def why_not(attention: nn.Module) -> str:
    """Return why an attention module cannot be made linear, '' if it can."""
    name = type(attention).__name__
    if name in REFUSED:
        return f'{name} stays as it is: {REFUSED[name]}'
    parts = dict(attention.named_children())
    if not {'proj', 'qkv'} <= set(parts) and not {'proj', 'q', 'kv'} <= set(parts):
        return f'expected attention with qkv (or q and kv) and proj, got a {name}'
    extra = [part for part in ('q_norm', 'k_norm', 'gate', *(('norm',) if 'qkv' in parts else ()))
             if not isinstance(parts.get(part, nn.Identity()), nn.Identity)]
    return f'{name} has {", ".join(extra)}, which has no linear form here' if extra else ''


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """
    Return phi(q) (phi(k)^T v) over the sum of its weights, (N, heads, queries, value_dim).

    query: (N, heads, queries, d), key: (N, heads, keys, d), value: (N, heads, keys, value_dim).
    """
    query, key = nn.functional.elu(query) + 1, nn.functional.elu(key) + 1
    # Means over the keys in the place of sums, above and below the line: half precision ends at
    # 65504, which a sum over thousands of keys can pass.
    key = key / key.shape[2]
    context = key.transpose(2, 3) @ value  # (N, heads, d, value_dim)
    weights = query @ key.sum(dim=2).unsqueeze(3)  # (N, heads, queries, 1)
    return query @ context / weights


class LinearAttention(nn.Module):
    """The linear form of timm's Attention, over its own layers."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = int(attention.num_heads)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.proj_drop = attention.proj_drop
        self.train(attention.training)

    def forward(self, x_NTC: Tensor, attn_mask: Optional[Tensor] = None,
                is_causal: bool = False) -> Tensor:
        """Map tokens (N, T, C) to (N, T, C); ConfigError for a mask, which it cannot heed."""
        if attn_mask is not None or is_causal:
            raise ConfigError('attention of linear cost sees all tokens: expected no mask')
        batch, tokens, _ = x_NTC.shape
        joint = self.qkv(x_NTC).reshape(batch, tokens, 3, self.num_heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, T, d) each
        attended = linear_attention(query, key, value).transpose(1, 2)
        mixed: Tensor = self.proj_drop(self.proj(attended.reshape(batch, tokens, -1)))
        return mixed


class LinearReducedAttention(nn.Module):
    """The linear form of SegFormer's attention; keys and values stay spatially reduced."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = int(attention.num_heads)
        self.q, self.kv, self.proj = attention.q, attention.kv, attention.proj
        self.sr, self.norm = attention.sr, attention.norm
        self.proj_drop = attention.proj_drop
        self.train(attention.training)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """Map tokens (N, height * width, C) to the same."""
        batch, tokens, channels = x_NTC.shape
        reduced = x_NTC
        if not isinstance(self.sr, nn.Identity):
            grid_NCHW = x_NTC.transpose(1, 2).reshape(batch, channels, height, width)
            reduced = self.norm(self.sr(grid_NCHW).flatten(2).transpose(1, 2))
        query = self.q(x_NTC).reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)
        joint = self.kv(reduced).reshape(batch, reduced.shape[1], 2, self.num_heads, -1)
        key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, keys, d) each
        attended = linear_attention(query, key, value).transpose(1, 2)
        mixed: Tensor = self.proj_drop(self.proj(attended.reshape(batch, tokens, -1)))
        return mixed


def is_cheaper(queries: int, keys: int, head_dim: int) -> bool:
    """
    Return whether the linear form takes fewer products than softmax attention.

    Per head 2 queries keys d against (queries + keys) d d; the sums of the weights are left out.
    """
    return 2 * queries * keys > (queries + keys) * head_dim
