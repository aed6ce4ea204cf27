# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Which layers become two factors, and of which rank: the least that keeps a share of the energy.

The energy of a layer is the sum of its squared singular values, that is of its squared weights.
The joint projection qkv is taken as one matrix and not as q, k and v apart: at equal kept energy
that saves more. Of a MobileViT-S in training (500 steps) 0.9 of the energy takes 424 thousand
weights against 467 apart (of 1085 whole), 0.8 takes 164 against 224; and it is two products in the
place of one, not six.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from offline_train.surgery.blocks import attention_blocks, mlp_blocks
from offline_train.surgery.cuts import Cut
from offline_train.surgery.linear_attention import (
    is_cheaper,
    LinearAttention,
    LinearReducedAttention,
    why_not,
)
from offline_train.surgery.low_rank import can_factor, matrix_of, saves
import torch
from torch import nn, Tensor

MULTIPLE = 8
"""Ranks are rounded up to this: engines work on so many channels at once."""
LEAST_SIDE = 32
"""Layers with fewer inputs or outputs are left alone: little work, and the classes are there."""
LAYERS = ('attention', 'mlp', 'all')
"""Which layers: those of attention, of MLPs, or both and all other linear and 1x1 layers."""


@dataclass(frozen=True)
class Plan:
    """What becomes of one layer."""

    name: str
    outputs: int
    inputs: int
    rank: int
    """0 where the layer is left alone."""
    kept: float
    """Share of the energy that stays; 1 where it is left alone."""
    reason: str
    """Why it is left alone, '' where it is not."""

    @property
    def before(self) -> int:
        """Return the weights of the layer, its bias not counted."""
        return self.outputs * self.inputs

    @property
    def after(self) -> int:
        """Return the weights of the factors, or of the layer where it is left alone."""
        return self.rank * (self.outputs + self.inputs) or self.before

    @property
    def cut(self) -> Cut:
        """Return the line that makes it so."""
        return Cut('rank', self.name, (self.rank,))


def rank_for_energy(values: Tensor, energy: float, multiple: int = MULTIPLE) -> int:
    """
    Return the least rank, rounded up, whose singular values keep a share of the energy.

    values: singular values, falling. The result is at most their number.
    """
    if not 0 < energy <= 1:
        raise ConfigError(f'energy: expected above 0 and at most 1, got {energy!r}')
    kept = values.double().square().cumsum(0)
    wanted = energy * float(kept[-1]) * (1 - 1e-9)  # rounding must not ask for one rank more
    rank = int((kept < wanted).sum()) + 1
    return min(-(-rank // multiple) * multiple, len(values))


def plan_layer(network: nn.Module, name: str, energy: float) -> Plan:
    """Return the plan of a layer that can be factored, as its weights are now."""
    layer = network.get_submodule(name)
    if not can_factor(layer):
        raise ConfigError(f'{name}: expected a linear layer or a dense 1x1 convolution, got a '
                          f'{type(layer).__name__}')
    matrix = matrix_of(layer)
    outputs, inputs = matrix.shape
    if min(outputs, inputs) < LEAST_SIDE:
        return Plan(name, outputs, inputs, 0, 1.0, f'a side of fewer than {LEAST_SIDE} channels')
    values = torch.linalg.svdvals(matrix.float())
    rank = rank_for_energy(values, energy)
    if not saves(rank, inputs, outputs):
        return Plan(name, outputs, inputs, 0, 1.0, f'rank {rank} would save nothing')
    squares = values.double().square()
    return Plan(name, outputs, inputs, rank, float(squares[:rank].sum() / squares.sum()), '')


def layer_names(network: nn.Module, which: str) -> List[str]:
    """Return the names of the layers `which` (one of LAYERS) that can be factored, in order."""
    if which not in LAYERS:
        raise ConfigError(f'layers: expected one of {", ".join(LAYERS)}, got {which!r}')
    names = [name for name, layer in network.named_modules() if can_factor(layer)]
    if which == 'all':
        return names
    mlps = [block.name for block in mlp_blocks(network)]
    if which == 'mlp':
        return [name for name in names if _inside(name, mlps)]
    attention = [block.name for block in attention_blocks(network)]
    attention += [name for name, module in network.named_modules()
                  if isinstance(module, (LinearAttention, LinearReducedAttention))]
    return [name for name in names if _inside(name, attention) and not _inside(name, mlps)]


@dataclass(frozen=True)
class AttentionPlan:
    """What becomes of one attention module, asked to be of linear cost."""

    name: str
    queries: int
    """Tokens that ask, at the network's input size; 0 where it was not looked at."""
    keys: int
    """Tokens that are asked."""
    head_dim: int
    reason: str
    """Why softmax stays, '' where it does not."""

    @property
    def cut(self) -> Cut:
        """Return the line that makes it so."""
        return Cut('linear', self.name)


def plan_attention(network: nn.Module, size_hw: Tuple[int, int]) -> List[AttentionPlan]:
    """Return, for each attention block, whether its linear form is possible and is cheaper."""
    blocks = attention_blocks(network)
    reasons = {b.name: why_not(network.get_submodule(b.name)) for b in blocks}
    counts = _token_counts(network, [name for name, reason in reasons.items() if not reason],
                           size_hw)
    plans = []
    for block in blocks:
        queries, keys = counts.get(block.name, (0, 0))
        reason = reasons[block.name]
        if not reason and not is_cheaper(queries, keys, block.head_dim):
            reason = (f'no fewer products: {queries} queries and {keys} keys of '
                      f'{block.head_dim} channels')
        plans.append(AttentionPlan(block.name, queries, keys, block.head_dim, reason))
    return plans


def _token_counts(network: nn.Module, names: Sequence[str], size_hw: Tuple[int, int]
                  ) -> Dict[str, Tuple[int, int]]:
    """Return (queries, keys) of attention modules, from shapes alone: nothing is computed."""
    shell = copy.deepcopy(network).to('meta').eval()
    seen: Dict[Tuple[str, str], int] = {}

    def look(name: str, part: str) -> None:
        def hook(_layer: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
            seen[name, part] = int(inputs[0].shape[1])  # (N, tokens, C)
        shell.get_submodule(f'{name}.{part}').register_forward_pre_hook(hook)

    parts = {name: ('q', 'kv') if hasattr(shell.get_submodule(name), 'kv') else ('qkv', 'qkv')
             for name in names}
    for name, (query, key) in parts.items():
        for part in {query, key}:
            look(name, part)
    with torch.no_grad():
        shell(torch.empty(1, 3, *size_hw, device='meta'))
    return {name: (seen[name, query], seen[name, key]) for name, (query, key) in parts.items()}


def _inside(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f'{module}.') for module in modules)
