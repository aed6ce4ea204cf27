# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Two factors in the place of one linear layer or 1x1 convolution (cut kind `rank`).

The factors are the best of their rank (Eckart and Young 1936): the singular value decomposition
of the layer's present weights, the square roots of the singular values on both sides. On a fresh
network that only sets shapes. The layer becomes a sequence of two, `layer.0` and `layer.1`; the
bias stays with the second.
"""
from __future__ import annotations

from typing import Any, Dict, Sequence, Tuple, TypeGuard, Union

from evit_seg.core.errors import ConfigError
from offline_train.surgery.cuts import replace_module
import torch
from torch import nn, Tensor

Layer = Union[nn.Linear, nn.Conv2d]


def cut(network: nn.Module, kind: str, at: str, numbers: Sequence[int]) -> None:
    """Put factors of a rank (the one number) in a layer's place; ConfigError if it cannot."""
    layer = network.get_submodule(at)
    if not can_factor(layer):
        what = f'{type(layer).__name__} of groups or of a kernel other than 1x1' \
            if isinstance(layer, nn.Conv2d) else type(layer).__name__
        raise ConfigError(f'model.cuts: {kind} {at}: expected a linear layer or a 1x1 '
                          f'convolution, got a {what}')
    outputs, inputs = matrix_of(layer).shape
    if len(numbers) != 1 or numbers[0] < 1 or not saves(numbers[0], inputs, outputs):
        raise ConfigError(f'model.cuts: {kind} {at}: expected one rank of 1 or more at which two '
                          f'factors of {inputs} to {outputs} hold fewer weights than one, got '
                          f'{",".join(map(str, numbers))!r}')
    replace_module(network, at, factored(layer, numbers[0]))
    parent, _, name = at.rpartition('.')
    if name == 'qkv' and hasattr(network.get_submodule(parent), 'qkv_bias_separate'):
        # timm's Swin v2 multiplies by qkv.weight itself unless it is told to call the layer and
        # to add the biases of queries and values after it.
        network.get_submodule(parent).qkv_bias_separate = True  # type: ignore[assignment]


def can_factor(layer: nn.Module) -> TypeGuard[Layer]:
    """Return whether a layer is one matrix: linear, or a dense 1x1 convolution."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def saves(rank: int, inputs: int, outputs: int) -> bool:
    """Return whether two factors hold fewer weights, and take fewer products, than one matrix."""
    return rank * (inputs + outputs) < inputs * outputs


def matrix_of(layer: Layer) -> Tensor:
    """Return a layer's weights as a matrix (outputs, inputs)."""
    return layer.weight.detach().flatten(1)


def factored(layer: Layer, rank: int) -> nn.Sequential:
    """Return the best two factors of a layer, of a rank, where it was: device, type, bias."""
    left, values, right = torch.linalg.svd(matrix_of(layer).float(), full_matrices=False)
    root = values[:rank].sqrt()
    first, second = _pair(layer, rank)
    with torch.no_grad():
        first.weight.copy_((root[:, None] * right[:rank]).view_as(first.weight))
        second.weight.copy_((left[:, :rank] * root).view_as(second.weight))
        if layer.bias is not None and second.bias is not None:
            second.bias.copy_(layer.bias)
    pair = nn.Sequential(first, second).train(layer.training)
    return pair.requires_grad_(layer.weight.requires_grad)


def _pair(layer: Layer, rank: int) -> Tuple[Layer, Layer]:
    where: Dict[str, Any] = {'device': layer.weight.device, 'dtype': layer.weight.dtype}
    second = {**where, 'bias': layer.bias is not None}
    if isinstance(layer, nn.Linear):
        return (nn.Linear(layer.in_features, rank, bias=False, **where),
                nn.Linear(rank, layer.out_features, **second))
    # The first steps and pads: fewer products, and zeros stay zeros without a bias.
    where.update(stride=layer.stride, padding=layer.padding, padding_mode=layer.padding_mode)
    return (nn.Conv2d(layer.in_channels, rank, 1, bias=False, **where),
            nn.Conv2d(rank, layer.out_channels, 1, **second))
