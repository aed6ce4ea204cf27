# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Where attention and MLP blocks are in a network, whole or cut, and what their parts are called.

Known: the blocks of timm's MobileViT and Swin v2, of segmentation_models.pytorch's mix
transformer (SegFormer) and of the token pyramid. They are told by the names of their classes,
so that neither package has to be there. A layer that has become two factors is found at the
factor that counts.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from offline_train.surgery.cuts import Cut
from torch import nn

ATTENTION = frozenset((
    'Attention', 'WindowAttention', 'CutWindowAttention', 'CutReducedAttention',
    'LinearAttention', 'LinearReducedAttention'))
"""Names of the classes that have num_heads and proj: of the packages, and of this one."""


@dataclass(frozen=True)
class AttentionBlock:
    """One attention module and the layer that joins its heads."""

    name: str
    """Dotted name of the attention module, the one that a `heads` or `drop` cut names."""
    heads: int
    head_dim: int
    """Channels of a query or key per head."""
    value_dim: int
    """Channels of a value per head."""
    project: str
    """Layer whose input channels are heads * value_dim, head by head."""
    branch: str
    """Module whose output the residual adds: the attention, or the norm after it (Swin v2)."""


@dataclass(frozen=True)
class MlpBlock:
    """One MLP and the layers that its hidden units pass."""

    name: str
    """Dotted name of the MLP, the one that a `drop` cut names."""
    hidden: int
    expand: str
    """Layer whose outputs are the hidden units."""
    between: Tuple[str, ...]
    """Layers that carry them on channel by channel: depthwise convolutions, norms."""
    project: str
    """Layer whose inputs are the hidden units."""
    branch: str
    """Module whose output the residual adds: the MLP, or the norm after it (Swin v2)."""


def attention_blocks(network: nn.Module) -> List[AttentionBlock]:
    """Return the network's attention blocks in the order of its modules."""
    found = (attention_at(network, name) for name, _ in network.named_modules())
    return [block for block in found if block is not None]


def mlp_blocks(network: nn.Module) -> List[MlpBlock]:
    """Return the network's MLP blocks in the order of its modules."""
    found = (mlp_at(network, name) for name, _ in network.named_modules())
    return [block for block in found if block is not None]


def hidden_cuts(block: MlpBlock, kept: Sequence[int]) -> List[Cut]:
    """Return the cuts that leave an MLP the hidden units `kept` (rising indices)."""
    numbers = tuple(kept)
    return [*(Cut('out', at, numbers) for at in (block.expand, *block.between)),
            Cut('in', block.project, numbers)]


def attention_at(network: nn.Module, name: str) -> Optional[AttentionBlock]:
    """Return the attention block whose module has this dotted name; None if it is none."""
    module = network.get_submodule(name)
    kind = type(module).__name__
    if kind == 'TokenBlock' and module.heads:  # without heads: its attention is dropped
        key = int(module.key)  # type: ignore[arg-type]
        return AttentionBlock(name, int(module.heads),  # type: ignore[arg-type]
                              key, 2 * key, f'{name}.project.1.0', f'{name}.project')
    if kind not in ATTENTION:
        return None
    heads = int(module.num_heads)  # type: ignore[arg-type]
    project = first_layer(network, f'{name}.proj')
    head_dim = int(network.get_submodule(project).in_features) // heads  # type: ignore[arg-type]
    return AttentionBlock(name, heads, head_dim, head_dim, project,
                          _branch(network, name, 'norm1'))


def mlp_at(network: nn.Module, name: str) -> Optional[MlpBlock]:
    """Return the MLP block whose module has this dotted name; None if it is none."""
    module = network.get_submodule(name)
    parent, _, child = name.rpartition('.')
    if child == 'mlp' and type(network.get_submodule(parent)).__name__ == 'TokenBlock':
        if not isinstance(module, nn.Sequential):
            return None  # dropped
        expand, between, project = f'{name}.0.0', (f'{name}.0.1', f'{name}.1'), f'{name}.3.0'
        hidden = int(network.get_submodule(expand).out_channels)  # type: ignore[arg-type]
        return MlpBlock(name, hidden, expand, between, project, name)
    if type(module).__name__ != 'Mlp':
        return None
    expand, project = last_layer(network, f'{name}.fc1'), first_layer(network, f'{name}.fc2')
    layers = (f'{name}.dwconv.dwconv',) if hasattr(module, 'dwconv') else ()
    hidden = int(network.get_submodule(project).in_features)  # type: ignore[arg-type]
    return MlpBlock(name, hidden, expand, layers, project, _branch(network, name, 'norm2'))


def head_inputs(network: nn.Module, block: AttentionBlock) -> List[Tuple[str, int, int]]:
    """
    Return the layers that make queries, keys and values of a block, and how they are laid out.

    Each is (dotted name, parts, width): its outputs are (parts, heads, width).
    """
    module = network.get_submodule(block.name)
    if hasattr(module, 'query_key_value'):
        return [(f'{block.name}.query_key_value.0', 1, 2 * block.head_dim + block.value_dim)]
    names = (('q', 1), ('kv', 2)) if hasattr(module, 'kv') else (('qkv', 3),)
    return [(last_layer(network, f'{block.name}.{name}'), parts, block.head_dim)
            for name, parts in names]


def first_layer(network: nn.Module, name: str) -> str:
    """Return the name of the layer that takes what a (factored) layer takes."""
    layer = network.get_submodule(name)
    return f'{name}.0' if isinstance(layer, nn.Sequential) else name


def last_layer(network: nn.Module, name: str) -> str:
    """Return the name of the layer that gives what a (factored) layer gives."""
    layer = network.get_submodule(name)
    return f'{name}.{len(layer) - 1}' if isinstance(layer, nn.Sequential) else name


def _branch(network: nn.Module, name: str, norm: str) -> str:
    """Return the norm after a block of Swin v2 (2111.09883, sec. 3.2), else the block itself."""
    parent = name.rpartition('.')[0]
    after = type(network.get_submodule(parent)).__name__ == 'SwinTransformerV2Block'
    return f'{parent}.{norm}' if after else name
