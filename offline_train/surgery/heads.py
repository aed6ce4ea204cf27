# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Cut whole attention heads out of the projections before and after them.

Channels per head and the scale of the logits stay as they are, so that the heads that are left
give what they gave. Source of the idea: Michel et al. 2019, arXiv 1905.10650.
"""
from __future__ import annotations

from typing import Any, List, Sequence

from evit_seg.core.errors import ConfigError
from offline_train.surgery import slices
from offline_train.surgery.attention_forms import CutReducedAttention, CutWindowAttention
from offline_train.surgery.blocks import attention_at, AttentionBlock, head_inputs
from offline_train.surgery.cuts import replace_module
from torch import nn


def cut(network: nn.Module, kind: str, at: str, numbers: Sequence[int]) -> None:
    """Keep the heads with these indices; ConfigError where there is no such attention."""
    block = attention_at(network, at)
    if block is None:
        raise ConfigError(f'model.cuts: {kind} expects an attention module with heads, {at} is a '
                          f'{type(network.get_submodule(at)).__name__}')
    if numbers[-1] >= block.heads:
        raise ConfigError(f'model.cuts: {at} has {block.heads} heads, got index {numbers[-1]}')
    module = _prepared(network, at)
    for layer, parts, width in head_inputs(network, block):
        slices.cut(network, 'out', layer, _channels(parts, block.heads, width, numbers))
    slices.cut(network, 'in', block.project, _channels(1, block.heads, block.value_dim, numbers))
    if hasattr(module, 'query_key_value'):  # the token pyramid's, with a norm after it
        slices.cut(network, 'out', f'{at}.query_key_value.1',
                   _channels(1, block.heads, 2 * block.head_dim + block.value_dim, numbers))
        module.heads = len(numbers)
        return
    if isinstance(module, CutWindowAttention):
        _cut_per_head(network, at, module, block, numbers)
    module.num_heads = len(numbers)
    if hasattr(module, 'attn_dim'):
        module.attn_dim = len(numbers) * block.head_dim


def _prepared(network: nn.Module, at: str) -> Any:
    """Return an attention module that may have any number of heads, in the place of what is."""
    module: Any = network.get_submodule(at)
    kind = type(module).__name__
    if kind == 'WindowAttention':
        module = CutWindowAttention(module)
    elif kind == 'Attention' and hasattr(module, 'kv'):
        module = CutReducedAttention(module)
    elif kind == 'Attention':  # timm's
        if not hasattr(module, 'attn_dim'):
            raise ConfigError(f'model.cuts: {at} cannot have fewer heads in this version of timm; '
                              'pip install --upgrade timm')
        if not isinstance(module.norm, nn.Identity) or module.gate is not None:
            raise ConfigError(f'model.cuts: {at} has a norm or a gate over all its heads; only '
                              'attention without can have fewer')
    replace_module(network, at, module)
    return module


def _cut_per_head(network: nn.Module, at: str, module: CutWindowAttention, block: AttentionBlock,
                  kept: Sequence[int]) -> None:
    """Cut what Swin v2 has beside the projections: a scale, a position bias, biases of qkv."""
    slices.cut(network, 'out', f'{at}.cpb_mlp.2', kept)
    module.logit_scale = _rows(module.logit_scale, kept)
    if module.q_bias is not None and module.v_bias is not None and module.k_bias is not None:
        channels = _channels(1, block.heads, block.head_dim, kept)
        module.q_bias = _rows(module.q_bias, channels)
        module.v_bias = _rows(module.v_bias, channels)
        module.k_bias = module.k_bias[channels].clone()


def _rows(parameter: nn.Parameter, kept: Sequence[int]) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[list(kept)].clone(),
                        requires_grad=parameter.requires_grad)


def _channels(parts: int, heads: int, width: int, kept: Sequence[int]) -> List[int]:
    """Return the channels of the kept heads in a layout (parts, heads, width)."""
    return [(part * heads + head) * width + channel
            for part in range(parts) for head in kept for channel in range(width)]
