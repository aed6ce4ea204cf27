# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Take a residual branch out: its block passes on what it gets.

The norm that belongs to the branch goes with it. The block's code still adds something, so what is
left in the branch's place is a constant zero of one element: nothing before it is in an exported
graph, and ONNX Runtime removes the addition.
"""
from __future__ import annotations

from typing import Any, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from offline_train.surgery.blocks import attention_at, mlp_at
from offline_train.surgery.cuts import replace_module
import torch
from torch import nn, Tensor


class Nothing(nn.Module):
    """What a residual adds when its branch is taken out."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Swin v2's block asks the norm after its attention for the device of this name.
        self.register_buffer('weight', torch.zeros(1), persistent=False)

    def forward(self, x: Tensor, *_args: Any, **_options: Any) -> Tensor:
        """Return a zero with as many axes as x, each of length one."""
        return self.weight.to(x.dtype).view((1,) * x.ndim)


class NoAttention(nn.Module):
    """What is left of a window attention whose norm gives nothing: the shape of its output."""

    def set_window_size(self, _window_size: Tuple[int, int]) -> None:
        """Accept any window."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return x."""
        return x


def cut(network: nn.Module, kind: str, at: str, _numbers: Sequence[int]) -> None:
    """Take the attention or the MLP at a dotted name out; ConfigError where there is none."""
    attention = attention_at(network, at)
    block = attention or mlp_at(network, at)
    if block is None:
        raise ConfigError(f'model.cuts: {kind} expects an attention module or an MLP beside a '
                          f'short cut, {at} is a {type(network.get_submodule(at)).__name__}')
    module, parent = network.get_submodule(at), at.rpartition('.')[0]
    if hasattr(module, 'query_key_value'):  # the token pyramid's block knows how to do without
        module.heads = 0  # type: ignore[assignment]
        module.query_key_value = module.project = nn.Identity()
    elif block.branch != at:  # a norm comes after it
        replace_module(network, at, NoAttention() if attention else nn.Identity())
        replace_module(network, block.branch, Nothing())
    else:
        replace_module(network, at, Nothing())
        norm = f'{parent}.{"norm1" if attention else "norm2"}'
        if hasattr(network.get_submodule(parent), 'norm1'):
            replace_module(network, norm, nn.Identity())
